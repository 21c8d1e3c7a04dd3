"""The decision: which candidate for which reader, by a rule that can be printed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """A number, and between what it may lie. Two numbers are a tie if their ranges overlap."""

    value: float
    low: float
    high: float

    @classmethod
    def within(cls, value: float, margin: float) -> "Range":
        """A number that was measured once, with a stated margin: 0.1 is a tenth either way."""
        return cls(value, value * (1 - margin), value * (1 + margin))

    def overlaps(self, other: "Range") -> bool:
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Criterion:
    """What candidates are compared by: a key of their numbers, and whether most or least is best.

    `margin` is what a number that is measured once may be off; None: its range is that of rounds.
    """

    key: str
    words: str
    unit: str
    most: bool
    margin: float | None = None

    def say(self, number: Range) -> str:
        """A number with its unit, and its range where that comes of rounds."""
        text = f"{figures(number.value)} {self.unit}".strip()
        if self.margin is None:
            text += f" ({figures(number.low)} to {figures(number.high)})"
        return text

    def best(self, numbers: Iterable[Range]) -> Range:
        return (max if self.most else min)(numbers, key=lambda number: number.value)


@dataclass(frozen=True)
class Rule:
    """What a reader needs: the criteria in their order, each for those that tied by the last."""

    reader: str
    need: str
    criteria: tuple[Criterion, ...]


RULES = (
    Rule(
        "Train much",
        "Many long runs: what counts is images a second.",
        (
            Criterion("training", "images a second in training", "images/s", most=True),
            Criterion("training_mb", "peak memory in training", "MB", most=False, margin=0.1),
        ),
    ),
    Rule(
        "Serve predictions",
        "A trained network behind a service: images a second, then how much there is to ship.",
        (
            Criterion("prediction", "images a second in prediction", "images/s", most=True),
            Criterion("disk_mb", "what it brings on disk", "MB", most=False, margin=0.0),
            Criterion("prediction_mb", "peak memory in prediction", "MB", most=False, margin=0.1),
        ),
    ),
    Rule(
        "Learn",
        "Many small experiments: what counts is the wait for a first step and for each new image"
        " size, then how much code there is to read.",
        (
            Criterion("wait", "first training step and a new size", "s", most=False, margin=0.2),
            Criterion("lines", "our code in the backend", "lines", most=False, margin=0.0),
        ),
    ),
)


@dataclass(frozen=True)
class Candidate:
    """Who can be chosen, and its numbers by the criteria's keys; what it lacks is no candidate.

    `equal` tells that its backend passed the comparison in float64, or that there was none.
    """

    name: str
    maintained: bool
    equal: bool
    numbers: Mapping[str, Range]


@dataclass(frozen=True)
class Decision:
    """Who is left for a reader, several where they tie, and the reason, a sentence a step."""

    reader: str
    need: str
    chosen: list[str]
    reasons: list[str]


def figures(value: float) -> str:
    """Three figures, or a whole number with its thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def decide(rule: Rule, candidates: Sequence[Candidate]) -> Decision:
    """Takes the criteria in turn, and keeps whoever is not measurably behind the best."""
    keys = {criterion.key for criterion in rule.criteria}
    able = [one for one in candidates if keys <= one.numbers.keys()]
    left = [one for one in able if one.equal and one.maintained]
    reasons = [_left_out(one) for one in able if one not in left]
    if not left:
        return Decision(rule.reader, rule.need, [], [*reasons, "Nobody is left to choose."])
    if len(left) == 1:
        reasons.append(f"{left[0].name} is the only candidate.")
    for criterion in rule.criteria:
        if len(left) > 1:
            left, reason = _step(criterion, left)
            reasons.append(reason)
    if len(left) > 1:
        reasons.append("They tie by every criterion: take the one that you know.")
    return Decision(rule.reader, rule.need, [one.name for one in left], reasons)


def _left_out(candidate: Candidate) -> str:
    why = "is no longer maintained" if candidate.equal else "does not compute what the others do"
    return f"{candidate.name} {why} and is left out."


def _step(criterion: Criterion, candidates: Sequence[Candidate]) -> tuple[list[Candidate], str]:
    """Who is left by one criterion, and the sentence that says why."""
    numbers = {one.name: one.numbers[criterion.key] for one in candidates}
    best = criterion.best(numbers.values())
    left = [one for one in candidates if numbers[one.name].overlaps(best)]
    told = " and ".join(f"{one.name} with {criterion.say(numbers[one.name])}" for one in left)
    tie = " are within noise" if len(left) > 1 else " is best"
    text = f"{criterion.words[0].upper()}{criterion.words[1:]}: {told}{tie}"
    others = {one.name: numbers[one.name] for one in candidates if one not in left}
    if others:
        near = criterion.best(others.values())
        name = next(name for name, number in others.items() if number == near)
        text += f"; next is {name} with {criterion.say(near)}"
    return left, f"{text}."


def in_words() -> list[str]:
    """The rule, as it is applied to every reader; one sentence an item."""
    return [
        "A candidate is a backend of this project in float32, in a form that was measured;"
        " the book's forms and bfloat16 are shown for comparison.",
        "Who is no longer maintained, or fails the comparison in float64, is left out. ONNX Runtime"
        " runs PyTorch's export, and is taken to be as equal as PyTorch.",
        "Where pictures are read, training is decided among the candidates that read.",
        "The criteria of a reader are taken in their order. Whoever is measurably behind the best"
        " by one is out; the next one decides among the rest.",
        "A rate is the median of the rounds, and two are a tie if their interquartile ranges"
        " overlap. What is measured once may be off by the margin that is given.",
    ]


def criteria_in_words(rule: Rule) -> list[str]:
    """A reader's criteria in their order."""
    told = []
    for one in rule.criteria:
        text = f"{one.words[0].upper()}{one.words[1:]}: the {'most' if one.most else 'least'}"
        if one.margin is None:
            text += ", a tie if quartiles overlap"
        elif one.margin:
            text += f", each good to {one.margin:.0%}"
        told.append(f"{text}.")
    return told
