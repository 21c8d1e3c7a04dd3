"""What a comparison of traces has found: differences, findings, a report in words and rows."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from common.parity.order import Order
from common.parity.records import Source
from common.parity.tolerances import ABSOLUTE_FLOOR, STAGES, Tolerance

SCHEMA = 1
"""Of the report's JSON: `docs/port.md` describes its keys."""

TRUTH = "the reference"
"""Why a trace is the reference, where it was given as such."""


@dataclass(frozen=True)
class Excerpt:
    """The code of `module`, which is a `kind`, of one trace; it is empty for the whole network.

    `calls`: what the layers that a difference is about are called in it.
    """

    trace: str
    module: str
    kind: str
    calls: tuple[str, ...]
    source: Source


@dataclass
class Difference:
    """One value of one trace against the reference.

    `error` is the relative L2 difference, `largest` the largest absolute one, at index `where`.
    `ulp_median` and `ulp_max` are given in float32. `status`: `equal` (to the bit), `within` the
    tolerance, `ungated`, and beyond the tolerance `new`, or `follows` from an earlier one, or is
    `healed`, where what the network returns is right again. `own` is what is left of an update's
    error when what its own gradient explains is taken away.
    `vanishes`: the difference is below the absolute floor, whatever its relative size. `place`
    tells in words what made it, `cause` why it differs, where that is known. `modules` is what made
    it, or the two between which it is made; `code` is theirs, in the reference and in the trace.
    """

    trace: str
    name: str
    stage: str
    layer: str | None
    error: float
    norm: float
    largest: float
    where: tuple[int, ...]
    vanishes: bool
    ulp_median: float | None = None
    ulp_max: float | None = None
    own: float | None = None
    tolerance: Tolerance | None = None
    status: str = "equal"
    place: str = ""
    cause: str = ""
    modules: tuple[str, ...] = ()
    code: list[Excerpt] = field(default_factory=list)

    @property
    def margin(self) -> float | None:
        """How many times its error would fit below the tolerance; below 1 it does not hold."""
        if self.tolerance is None:
            return None
        if self.vanishes or not self.error:
            return float("inf")
        return self.tolerance.limit / self.error

    @property
    def where_it_is(self) -> str:
        """Its name, and in words what made it."""
        return f"{self.name}, {self.place}" if self.place else self.name

    @property
    def parted(self) -> bool:
        """Whether its tolerance does not hold."""
        return self.status in ("new", "follows")


@dataclass(frozen=True)
class Finding:
    """What does not match and no number can say: a name, a shape, a dtype, NaN."""

    trace: str
    name: str
    text: str


@dataclass(frozen=True)
class Mask:
    """How many pixels of two class maps differ, and how many of these are clear.

    Clear: in the reference the best class leads the second by more than `noise` in the logits.
    """

    pixels: int
    differ: int
    clear: int
    noise: float


@dataclass
class Report:
    """What `compare` found; `to_dict` is its JSON."""

    reference: str
    reason: str
    traces: list[dict[str, Any]]
    notes: list[str]
    order: Order
    findings: list[Finding] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    masks: dict[str, Mask] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every tolerance holds and nothing was found."""
        return not self.findings and not any(d.parted for d in self.differences)

    @property
    def layers(self) -> list[str]:
        """The layers of what was compared, in order of execution."""
        return list(dict.fromkeys(d.layer for d in self.differences if d.layer))

    @property
    def compared(self) -> list[str]:
        """The labels of the traces that were held against the reference."""
        return [t["label"] for t in self.traces if t["label"] != self.reference]

    def of(self, trace: str) -> list[Difference]:
        """The differences of one trace, in order of execution."""
        return [d for d in self.differences if d.trace == trace]

    def first(self, trace: str) -> Difference | None:
        """The first value of a trace, in order of execution, whose tolerance does not hold."""
        return next((d for d in self.of(trace) if d.parted), None)

    def _judged(self, trace: str) -> list[Difference]:
        return [d for d in self.of(trace) if d.tolerance and d.status != "healed"]

    def worst(self, trace: str) -> dict[str, Difference]:
        """Per stage, the difference with the least margin; unjudged ones last, by error."""
        return worst_by_stage(self.of(trace), _severity)

    def verdict(self) -> str:
        """The result in a sentence or two."""
        sentences = []
        for trace in self.compared:
            first, faults = self.first(trace), [f for f in self.findings if f.trace == trace]
            if first is not None:
                parted = [d for d in self.of(trace) if d.parted]
                new = sum(d.status == "new" for d in parted)
                limit = first.tolerance.limit if first.tolerance else 0
                sentences.append(
                    f"{trace} parts from {self.reference} first at {first.where_it_is}:"
                    f" {first.error:.1e}, tolerance {limit:.1e}. Beyond the tolerances:"
                    f" {_count(len(parted), 'value')}, of which {new} new, and"
                    f" {len(parted) - new} that follow."
                )
            elif not faults and (judged := self._judged(trace)):
                tight = min(judged, key=lambda d: d.margin or 0)
                how, margin = "to the last bit", ""
                if any(d.largest for d in judged):
                    how, margin = "within every tolerance", f"; least margin {tight.margin:.3g}"
                    margin += f", {tight.name}"
                sentences.append(
                    f"{trace} equals {self.reference} {how}, {len(judged)} values{margin}."
                )
            if healed := [d for d in self.of(trace) if d.status == "healed"]:
                sentences.append(
                    f"{_count(len(healed), 'value')} of {trace} differ, the first"
                    f" {healed[0].where_it_is}, and are healed by what follows."
                )
        if self.findings:
            finding = self.findings[0]
            count = _count(len(self.findings), "finding")
            sentences.append(f"{count}, the first: {finding.trace}: {finding.text}.")
        if self.odd and self.reason != TRUTH:
            sentences.append(f"Odd one out: {', '.join(self.odd)}; {self.reason}.")
        return " ".join(sentences)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: numbers that JSON lacks are strings, `nan` and `inf`."""
        stages = {
            trace: {stage: {"tensor": d.name, **_row(d)} for stage, d in self.worst(trace).items()}
            for trace in self.compared
        }
        firsts = {trace: self.first(trace) for trace in self.compared}
        result = {
            "schema": SCHEMA,
            "passed": self.passed,
            "verdict": self.verdict(),
            "reference": {"label": self.reference, "why": self.reason},
            "odd": self.odd,
            "traces": self.traces,
            "notes": self.notes,
            "findings": [asdict(finding) for finding in self.findings],
            "first": {trace: d and _row(d) for trace, d in firsts.items()},
            "stages": stages,
            "layers": self.layers,
            "masks": {trace: asdict(mask) for trace, mask in self.masks.items()},
            "gates": _tolerances(self.differences),
            "absolute_floor": ABSOLUTE_FLOOR,
            "tensors": [_row(d) for d in self.differences],
        }
        return {key: finite(value) for key, value in result.items()}


def worst_by_stage(
    differences: Sequence[Difference], severity: Callable[[Difference], Any]
) -> dict[str, Difference]:
    """Of each stage that there is, the first of the largest by `severity`."""
    stages = {stage: [d for d in differences if d.stage == stage] for stage in ("local", *STAGES)}
    return {stage: max(found, key=severity) for stage, found in stages.items() if found}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _severity(d: Difference) -> tuple[bool, float, float]:
    """A tolerance comes before none, then the smallest margin, then the largest error."""
    return (d.margin is not None, -(d.margin or 0.0), d.error)


def _row(d: Difference) -> dict[str, Any]:
    """A difference and its tolerance, whose limit is `gate`."""
    row = {
        key: value
        for key, value in vars(d).items()
        if key not in ("tolerance", "vanishes", "modules", "code") and value != ""
    }
    row |= {"code": [asdict(excerpt) for excerpt in d.code]} if d.code else {}
    none: dict[str, Any] = dict.fromkeys(("limit", "floor", "multiplier", "source", "note"))
    tolerance = d.tolerance.to_dict() if d.tolerance else none
    return row | {"margin": d.margin, "gate": tolerance.pop("limit"), **tolerance}


def _tolerances(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """The tolerances of the stages, each once; an update's own are told by the first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for d in differences:
        if d.tolerance is not None and (d.stage, d.tolerance.source) not in found:
            found[d.stage, d.tolerance.source] = {"stage": d.stage, **d.tolerance.to_dict()}
    return list(found.values())


def finite(value: Any) -> Any:
    """`value` with NaN and infinities as strings, for JSON."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
