"""Traces held against each other: how far apart, where first, what follows, who is odd."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.gates import ABSOLUTE_FLOOR, EPS, GATES, STAGES, Gate, fixed_gate
from common.order import execution_order, inherits, layer_of, stage_of
from common.traces import Trace

__all__ = ["GATES", "stage_of"]

Array = NDArray[Any]
GateFor = Callable[["Difference"], Gate | None]

INPUTS = {"weights_sha256": "weights", "batches_sha256": "batches"}
"""Metadata that must agree: without it there is nothing to compare."""

SETTINGS = (
    *("architecture", "num_classes", "dtype", "steps", "schedule", "learning_rate", "momentum"),
    *("weight_decay", "bn_eps", "bn_decay", "device"),
)
"""Metadata whose differences are said before anything else."""


TRUTH = "the truth"
"""Why a trace is the reference, where it was given as such."""


def relative_l2(a: Array, b: Array) -> float:
    """||a - b|| / ||b||, in float64; 0 where both are all zeros, inf where only `b` is.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    distance, norm = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    if norm == 0:
        return 0.0 if distance == 0 else float("inf")
    return distance / norm


def ulps(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many float32 numbers lie between each two values; 0 between 0.0 and -0.0."""
    ordered = []
    for array in (a, b):
        bits = np.ascontiguousarray(array, np.float32).view(np.int32).astype(np.int64)
        ordered.append(np.where(bits < 0, -(bits & 0x7FFFFFFF), bits))
    apart: NDArray[np.int64] = np.abs(ordered[0] - ordered[1])
    return apart


@dataclass
class Difference:
    """One value of one trace against the reference.

    `error` is the relative L2 difference, `largest` the largest absolute one, at index `where`.
    `ulp_median` and `ulp_max` are given in float32. `status`: `equal` (to the bit), `within` the
    gate, `ungated`, and beyond the gate `new`, or `follows` from an earlier one. `own` is what is
    left of an update's error when what its own gradient explains is taken away. `vanishes`: the
    difference is below the absolute floor, whatever its relative size.
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
    gate: Gate | None = None
    status: str = "equal"

    @property
    def margin(self) -> float | None:
        """How many times its error would still fit below the gate; below 1 it does not hold."""
        if self.gate is None:
            return None
        if self.vanishes or not self.error:
            return float("inf")
        return self.gate.limit / self.error

    @property
    def parted(self) -> bool:
        """Whether its gate does not hold."""
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
    findings: list[Finding] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    masks: dict[str, Mask] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every gate holds and nothing was found."""
        return not self.findings and not any(d.parted for d in self.differences)

    @property
    def compared(self) -> list[str]:
        """The labels of the traces that were held against the reference."""
        return [t["label"] for t in self.traces if t["label"] != self.reference]

    def of(self, trace: str) -> list[Difference]:
        """The differences of one trace, in order of execution."""
        return [d for d in self.differences if d.trace == trace]

    def first(self, trace: str) -> Difference | None:
        """The first value of a trace, in order of execution, whose gate does not hold."""
        return next((d for d in self.of(trace) if d.parted), None)

    def worst(self, trace: str) -> dict[str, Difference]:
        """Per stage, the difference with the least margin; ungated ones last, by error."""
        found: dict[str, Difference] = {}
        for d in self.of(trace):
            if d.stage not in found or _severity(d) > _severity(found[d.stage]):
                found[d.stage] = d
        return {stage: found[stage] for stage in STAGES if stage in found}

    def verdict(self) -> str:
        """The result in a sentence or two."""
        return " ".join(self._sentences())

    def _sentences(self) -> list[str]:
        sentences = []
        for trace in self.compared:
            first, faults = self.first(trace), [f for f in self.findings if f.trace == trace]
            if first is not None:
                parted = [d for d in self.of(trace) if d.parted]
                new = sum(d.status == "new" for d in parted)
                limit = first.gate.limit if first.gate else 0
                sentences.append(
                    f"{trace} parts from {self.reference} first at {first.name}:"
                    f" {first.error:.1e}, gate {limit:.1e}. Beyond the gates:"
                    f" {_count(len(parted), 'value')}, of which {new} new, and"
                    f" {len(parted) - new} that follow."
                )
            elif not faults:
                gated = [d for d in self.of(trace) if d.gate]
                tight = min(gated, key=lambda d: d.margin or 0, default=None)
                sentences.append(
                    f"{trace} equals {self.reference} within every gate, {len(gated)} values"
                    + (f"; least margin {tight.margin:.3g}, {tight.name}." if tight else ".")
                )
        if self.findings:
            first_finding = self.findings[0]
            sentences.append(
                f"{_count(len(self.findings), 'finding')}, the first: {first_finding.trace}:"
                f" {first_finding.text}."
            )
        if self.odd and self.reason != TRUTH:
            sentences.append(f"Odd one out: {', '.join(self.odd)}; {self.reason}.")
        return sentences

    def to_dict(self) -> dict[str, Any]:
        """For JSON: numbers that JSON lacks are strings, `nan` and `inf`."""
        stages = {
            trace: {stage: {"tensor": d.name, **_row(d)} for stage, d in self.worst(trace).items()}
            for trace in self.compared
        }
        firsts = {trace: self.first(trace) for trace in self.compared}
        result: dict[str, Any] = {
            "passed": self.passed,
            "verdict": self.verdict(),
            "reference": {"label": self.reference, "why": self.reason},
            "odd": self.odd,
            "traces": self.traces,
            "notes": self.notes,
            "findings": [asdict(finding) for finding in self.findings],
            "first": {trace: d and _row(d) for trace, d in firsts.items()},
            "stages": stages,
            "masks": {trace: asdict(mask) for trace, mask in self.masks.items()},
            "gates": _gates(self.differences),
            "absolute_floor": ABSOLUTE_FLOOR,
            "tensors": [_row(d) for d in self.differences],
        }
        strict: dict[str, Any] = finite(result)
        return strict


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _severity(d: Difference) -> tuple[bool, float, float]:
    """For `max`: a gate comes before none, then the smallest margin, then the largest error."""
    return (d.margin is not None, -(d.margin or 0.0), d.error)


def _row(d: Difference) -> dict[str, Any]:
    gate = d.gate
    return {
        "trace": d.trace,
        "name": d.name,
        "stage": d.stage,
        "layer": d.layer,
        "status": d.status,
        "error": d.error,
        "gate": gate and gate.limit,
        "floor": gate and gate.floor,
        "multiplier": gate and gate.multiplier,
        "margin": d.margin,
        "source": gate and gate.source,
        "note": gate and gate.note,
        "norm": d.norm,
        "largest": d.largest,
        "where": list(d.where),
        "ulp_median": d.ulp_median,
        "ulp_max": d.ulp_max,
        "own": d.own,
    }


def _gates(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """The gates of the stages, each once; an update's own are told by the first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for d in differences:
        if d.gate is not None and (d.stage, d.gate.source) not in found:
            found[d.stage, d.gate.source] = {
                "stage": d.stage,
                "limit": d.gate.limit,
                "floor": d.gate.floor,
                "multiplier": d.gate.multiplier,
                "source": d.gate.source,
                "note": d.gate.note,
            }
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


def values(trace: Trace) -> dict[str, Array]:
    """The arrays of a trace with `loss` taken apart by step: `loss[0]`, `loss[1]`, ..."""
    found = {name: array for name, array in trace.arrays.items() if name != "loss"}
    for step, loss in enumerate(np.atleast_1d(trace.arrays.get("loss", np.zeros(0)))):
        found[f"loss[{step}]"] = np.asarray(loss)
    return found


def check_inputs(traces: Sequence[Trace]) -> None:
    """That all traces say they were made from the same weights and batches.

    Raises:
        InputError: two say otherwise. A trace that does not say is believed.
    """
    for key, what in INPUTS.items():
        told = [(t.label, t.metadata[key]) for t in traces if key in t.metadata]
        for label, digest in told[1:]:
            if digest != told[0][1]:
                raise InputError(
                    f"{label}: made from other {what} than {told[0][0]} (sha256 {digest[:12]},"
                    f" not {told[0][1][:12]}): nothing to compare"
                )


def _notes(traces: Sequence[Trace], truth: Trace | None) -> list[str]:
    """Settings and versions that differ, and what traces leave unsaid or out."""
    notes = []
    for key in SETTINGS:
        told = {t.label: t.metadata[key] for t in traces if key in t.metadata}
        if key == "dtype" and truth is not None:
            told.pop(truth.label, None)
        if len(set(told.values())) > 1:
            notes.append(f"{key}: " + ", ".join(f"{value} ({t})" for t, value in told.items()))
    for package in sorted({package for t in traces for package in t.versions}):
        told = {t.label: t.versions[package] for t in traces if package in t.versions}
        if len(set(told.values())) > 1:
            notes.append(f"{package}: " + ", ".join(f"{value} ({t})" for t, value in told.items()))
    for key, what in INPUTS.items():
        silent = [t.label for t in traces if key not in t.metadata]
        if silent:
            notes.append(f"{', '.join(silent)}: does not say which {what} it was made from")
    partial = [t for t in traces if "groups" in t.metadata]
    notes += [f"{t.label}: holds {t.metadata['groups']} alone" for t in partial]
    return notes


def _own_findings(trace: Trace, order: Sequence[str]) -> list[Finding]:
    """What is wrong with a trace by itself: names, dtypes, NaN."""
    found = values(trace)
    expected = [name for name in order if trace.holds(name)]
    findings = []
    missing = [name for name in expected if name not in found]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        findings.append(Finding(trace.label, missing[0], f"{missing[0]} is missing{more}"))
    for name, array in found.items():
        dtype = "uint8" if name == "eval/mask" else trace.dtype
        if name not in order:
            findings.append(Finding(trace.label, name, f"{name} is not part of a trace"))
        elif array.dtype.name != dtype:
            findings.append(Finding(trace.label, name, f"{name} is {array.dtype}, not {dtype}"))
    spoilt = [name for name in order if name in found and not np.isfinite(found[name]).all()]
    if spoilt:
        name, array = spoilt[0], found[spoilt[0]]
        kind = "NaN" if np.isnan(array).any() else "infinity"
        count = np.count_nonzero(~np.isfinite(array))
        text = f"{kind} first in {name}, {count} of {array.size} values"
        findings.append(Finding(trace.label, name, text))
    return findings


def _difference(
    trace: str, name: str, a: Array, b: Array, dtype: str, layer: str | None
) -> Difference:
    """`a`, of `trace`, against `b`, which has the same shape."""
    if name == "eval/mask":
        differ = a != b
        error, gap = float(np.mean(differ)), differ.astype(np.float64)
    else:
        with np.errstate(invalid="ignore"):
            error = relative_l2(a, b)
            gap = np.abs(a.astype(np.float64) - b)
        error = float("inf") if math.isnan(error) else error
    place = np.unravel_index(int(gap.argmax()), gap.shape) if gap.size else ()
    result = Difference(
        trace,
        name,
        stage_of(name),
        layer,
        error,
        float(np.linalg.norm(b.astype(np.float64))),
        float(gap.max(initial=0.0)),
        tuple(int(index) for index in place),
        vanishes=bool(gap.size and np.sqrt(np.mean(gap**2)) <= ABSOLUTE_FLOOR[dtype]),
    )
    if a.dtype == np.float32 and name != "eval/mask" and np.isfinite(gap).all():
        apart = ulps(a, b.astype(np.float32))
        result.ulp_median, result.ulp_max = float(np.median(apart)), float(apart.max(initial=0))
    return result


def stage_gate(difference: Difference, trace: Trace, against: str) -> Gate | None:
    """The fixed gate of a difference between a trace and a reference of dtype `against`."""
    dtype = "float32" if "float32" in (trace.dtype, against) else "float64"
    if difference.name == "eval/mask":
        return Gate(0.0, 0.0, "no pixel whose best class is clear may differ")
    gate = fixed_gate(dtype, difference.stage)
    if gate is None:
        return None
    limit, floor, source = gate.limit, gate.floor, gate.source
    if against == "float32":  # each may be a gate away from the truth, on either side of it
        limit, floor, source = 2 * limit, 2 * floor, f"between two float32 traces twice: {source}"
    if dtype == "float32" and difference.stage == "update" and difference.norm:
        final = trace.arrays.get(difference.name.replace("update/", "final/", 1))
        if final is not None:
            limit += EPS[dtype] * float(np.linalg.norm(final)) / difference.norm
    return Gate(limit, floor, source, gate.note)


def _own_update_error(a: Trace, b: Trace, name: str) -> float | None:
    """The error of an update beyond what the trace's own gradient explains.

    update = -rate * (gradient + weight_decay * w), so update + rate * gradient is the same in
    both whatever their gradients are.
    """
    gradient = name.replace("update/", "grad/", 1)
    rests = []
    for trace in (a, b):
        rate = trace.learning_rate
        if gradient not in trace.arrays or rate is None:
            return None
        rests.append(trace.arrays[name] + rate * trace.arrays[gradient].astype(np.float64))
    norm = float(np.linalg.norm(b.arrays[name].astype(np.float64)))
    return float(np.linalg.norm(rests[0] - rests[1])) / norm if norm else None


def _mask(a: Trace, reference: Trace) -> Mask:
    """The class maps, where the reference's logits are further apart than the gate allows."""
    logits = reference.arrays["eval/logits"].astype(np.float64)
    dtype = "float32" if "float32" in (a.dtype, reference.dtype) else "float64"
    gate = fixed_gate(dtype, "forward")
    # ten times: an error of the gate's size, as a whole, may be several times larger at a pixel
    noise = 10 * (gate.limit if gate else 0) * float(np.sqrt(np.mean(logits**2)))
    best = np.sort(logits, axis=1)[:, -2:]
    clear = best[:, -1] - best[:, 0] > noise
    differ = a.arrays["eval/mask"] != reference.arrays["eval/mask"]
    return Mask(differ.size, int(differ.sum()), int((differ & clear).sum()), noise)


def _measure(
    trace: Trace, reference: Trace, order: Sequence[str]
) -> tuple[list[Difference], list[Finding], Mask | None]:
    """One trace against the reference: differences in order of execution, and mismatches.

    Gates are the fixed ones of `stage_gate`.
    """
    mine, theirs = values(trace), values(reference)
    dtype = "float32" if "float32" in (trace.dtype, reference.dtype) else "float64"
    differences: list[Difference] = []
    findings: list[Finding] = []
    mask = None
    for name in order:
        if name not in mine or name not in theirs:
            continue
        a, b = mine[name], theirs[name]
        if a.shape != b.shape:
            text = f"{name} is {a.shape}, not {b.shape} as in {reference.label}"
            findings.append(Finding(trace.label, name, text))
            continue
        d = _difference(trace.label, name, a, b, dtype, layer_of(name))
        d.gate = stage_gate(d, trace, reference.dtype)
        if name == "eval/mask":
            logits = theirs.get("eval/logits")
            if logits is None or logits.ndim != 4 or logits[:, 0].shape != b.shape:
                text = f"{name} {b.shape} is not of eval/logits, so no pixel can be called clear"
                findings.append(Finding(reference.label, name, text))
                continue
            mask = _mask(trace, reference)
            d.error = mask.clear / max(mask.pixels, 1)
        if d.stage == "update":
            d.own = _own_update_error(trace, reference, name)
        differences.append(d)
    _judge(differences)
    return differences, findings, mask


def _judge(differences: Sequence[Difference]) -> None:
    """Sets the status of one trace's differences, in order of execution, from their gates."""
    parted: list[str] = []
    for d in differences:
        d.status = _status(d, parted)
        if d.parted:
            parted.append(d.name)


def regate(report: Report, gate_for: GateFor) -> None:
    """Gives each difference of a report another gate, but the masks, and judges anew."""
    for trace in report.compared:
        differences = report.of(trace)
        for d in differences:
            if d.name != "eval/mask":
                d.gate = gate_for(d)
        _judge(differences)
    report.odd = [trace for trace in report.compared if report.first(trace) is not None]


def _status(d: Difference, parted: Sequence[str]) -> str:
    if d.gate is None:
        return "ungated"
    if d.vanishes or d.error <= d.gate.limit:
        return "within" if d.largest else "equal"
    if d.stage == "update":
        explained = d.name.replace("update/", "grad/", 1) in parted
        return "follows" if explained and (d.own or 0) <= d.gate.limit else "new"
    return "follows" if inherits(d.name, parted) else "new"


def _choose(traces: Sequence[Trace], order: Sequence[str]) -> tuple[Trace, str, list[str]]:
    """The trace to measure from, why, and which ones are odd.

    Those that stay together longest in order of execution hold the reference; a trace that leaves
    them earlier is odd, unless there are as many of its own kind.
    """
    first, *others = traces
    if not others:
        return first, "the only one", []
    if len(traces) == 2:
        return first, "the first of two: which one is odd cannot be said without a third", []
    together = {}
    for i, a in enumerate(traces):
        for j in range(i):
            differences, findings, _ = _measure(a, traces[j], order)
            left = [order.index(d.name) for d in differences if d.parted]
            left += [order.index(f.name) for f in findings]
            together[i, j] = together[j, i] = min(left, default=len(order))
    longest = max(together.values())
    (j, i) = min(pair for pair, until in together.items() if until == longest)
    near = [j, *(k for k in range(len(traces)) if k != j and together[j, k] == longest)]
    far = [k for k in range(len(traces)) if k not in near]
    until = "to the end" if longest == len(order) else f"up to {order[longest]}"
    reason = f"{' and '.join(traces[k].label for k in near)} agree {until}"
    if not far:
        alone = longest < len(order)
        return traces[j], "no two agree longer than the others" if alone else "all agree", []
    rival = len(far) >= len(near) and all(
        together[a, b] == longest for a in far for b in far if a != b
    )
    if rival:
        rivals = " and ".join(traces[k].label for k in far)
        return traces[j], f"{reason}, and so do {rivals}: which are odd cannot be said", []
    return traces[j], reason, [traces[k].label for k in far]


def compare(traces: Sequence[Trace], truth: Trace | None = None) -> Report:
    """Holds traces against a truth; without one, against the trace that most others agree with.

    Raises:
        InputError: they were made from other weights or batches, or are other networks.
    """
    everyone = [*traces, truth] if truth is not None else list(traces)
    check_inputs(everyone)
    networks = {t.network for t in everyone}
    if len(networks) > 1:
        told = ", ".join(f"{t.label} {t.network[0]} with {t.network[1]}" for t in everyone)
        raise InputError(f"other networks: {told} classes: nothing to compare")
    steps = max(t.steps for t in everyone)
    order = execution_order(*networks.pop(), steps)
    odd: list[str] = []
    if truth is not None:
        reference, reason = truth, TRUTH
    else:
        reference, reason, odd = _choose(traces, order)
    report = Report(
        reference.label, reason, [t.describe() for t in everyone], _notes(everyone, truth), odd=odd
    )
    if truth is None and len({t.dtype for t in traces}) > 1:
        told = ", ".join(f"{t.dtype} ({t.label})" for t in traces)
        report.findings.append(
            Finding(
                traces[0].label, "", f"dtypes differ: {told}; give the float64 one as the truth"
            )
        )
    for trace in everyone:
        report.findings += _own_findings(trace, order)
    for trace in everyone:
        if trace is not reference:
            differences, findings, mask = _measure(trace, reference, order)
            report.differences += differences
            report.findings += findings
            if mask is not None:
                report.masks[trace.label] = mask
    if truth is not None:
        report.odd = [t for t in report.compared if report.first(t) is not None]
    return report
