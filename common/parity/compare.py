"""Traces held against each other: how far apart, where first, what follows, who is odd."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.config import Dtype
from common.errors import InputError
from common.parity.literals import name_literals
from common.parity.order import NetworkOrder, Order, stage_of
from common.parity.records import LOCAL, Record
from common.parity.report import TRUTH, Difference, Finding, Mask, Report
from common.parity.tolerances import (
    ABSOLUTE_FLOOR,
    EPS,
    Tolerance,
    coarser,
    fixed_tolerance,
    noise_tolerance,
)
from common.parity.traces import Trace
from common.protocol import Array

ToleranceFor = Callable[[Difference], Tolerance | None]

INPUTS = {"weights_sha256": "weights", "batches_sha256": "batches"}
"""Metadata that must agree: without it there is nothing to compare."""

SETTINGS = (
    *("architecture", "head", "num_classes", "dtype", "steps", "schedule", "learning_rate"),
    *(
        "accumulate",
        "head_rate",
        "freeze",
        "momentum",
        "weight_decay",
        "bn_eps",
        "bn_decay",
        "device",
    ),
)
"""Metadata whose differences are said before anything else."""


MASKS = {"eval/mask": "eval/logits", "after/mask": "after/logits"}
"""Class maps, and the logits that they are made of."""


def relative_l2(a: Array, b: Array) -> float:
    """||a - b|| / ||b||, in float64; 0 where both are all zeros, inf where only `b` is.

    Where both are the same infinity, as behind a mask of attention, they do not differ.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    a, b = _without_infinities(a.astype(np.float64), b.astype(np.float64))
    distance, norm = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    if norm == 0:
        return 0.0 if distance == 0 else float("inf")
    return distance / norm


def _without_infinities(a: Array, b: Array) -> tuple[Array, Array]:
    """Both with 0 where they are the same infinity."""
    same = np.isinf(b) & (a == b)
    return (np.where(same, 0, a), np.where(same, 0, b)) if same.any() else (a, b)


def ulps(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many float32 numbers lie between each two values; 0 between 0.0 and -0.0."""
    ordered = []
    for array in (a, b):
        bits = np.ascontiguousarray(array, np.float32).view(np.int32).astype(np.int64)
        ordered.append(np.where(bits < 0, -(bits & 0x7FFFFFFF), bits))
    apart: NDArray[np.int64] = np.abs(ordered[0] - ordered[1])
    return apart


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
    facts = {t.label: {**t.metadata, **t.versions} for t in traces}
    if truth is not None:
        facts[truth.label].pop("dtype", None)
    notes = []
    for key in (*SETTINGS, *sorted({package for t in traces for package in t.versions})):
        told = {label: own[key] for label, own in facts.items() if key in own}
        if len(set(told.values())) > 1:
            notes.append(f"{key}: " + ", ".join(f"{value} ({t})" for t, value in told.items()))
    for record in (t for t in traces if isinstance(t, Record)):
        notes += [f"{record.label}: {note}" for note in record.remarks()]
    for key, what in INPUTS.items():
        silent = [t.label for t in traces if key not in t.metadata and not isinstance(t, Record)]
        if silent:
            notes.append(f"{', '.join(silent)}: does not say which {what} it was made from")
    partial = [t for t in traces if "groups" in t.metadata]
    notes += [f"{t.label}: holds {t.metadata['groups']} alone" for t in partial]
    return notes


def _own_findings(trace: Trace, order: Order) -> list[Finding]:
    """What is wrong with a trace by itself: names, dtypes, NaN."""
    found = values(trace)
    if isinstance(trace, Record):  # which holds what its network has
        told = trace.facts.get("findings", {}).items()
        return [Finding(trace.label, name, text) for name, text in told] + _spoilt(trace, order)
    expected = [name for name in order.values if trace.holds(name)]
    findings = []
    missing = [name for name in expected if name not in found]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        findings.append(Finding(trace.label, missing[0], f"{missing[0]} is missing{more}"))
    for name, array in found.items():
        dtype = "uint8" if name in MASKS else Dtype(trace.dtype).storage
        if name not in order.values or name in trace.frozen:
            findings.append(Finding(trace.label, name, f"{name} is not part of a trace"))
        elif array.dtype.name != dtype:
            findings.append(Finding(trace.label, name, f"{name} is {array.dtype}, not {dtype}"))
    if trace.dtype == Dtype.bfloat16:
        text = "bfloat16 has no tolerances: what it differs by is told, and nothing is proven"
        findings.append(Finding(trace.label, "", text))
    return findings + _spoilt(trace, order)


def _spoilt(trace: Trace, order: Order) -> list[Finding]:
    """The first value that is not finite; a record's network may compute with infinities."""
    found = values(trace)
    bad = np.isnan if isinstance(trace, Record) else lambda array: ~np.isfinite(array)
    spoilt = [name for name in order.values if name in found and bad(found[name]).any()]
    if not spoilt:
        return []
    name, array = spoilt[0], found[spoilt[0]]
    kind = "NaN" if np.isnan(array).any() else "infinity"
    count = np.count_nonzero(~np.isfinite(array))
    text = f"{kind} first in {name}, {count} of {array.size} values"
    return [Finding(trace.label, name, text)]


def _difference(trace: str, name: str, a: Array, b: Array, dtype: str, order: Order) -> Difference:
    """`a`, of `trace`, against `b`, which has the same shape."""
    if name in MASKS:
        differ = a != b
        error, gap = float(np.mean(differ)), differ.astype(np.float64)
    else:
        with np.errstate(invalid="ignore"):
            error = relative_l2(a, b)
            gap = np.abs(np.subtract(*_without_infinities(a.astype(np.float64), b)))
        error = float("inf") if math.isnan(error) else error
    rms = np.sqrt(np.mean(gap**2)) if gap.size else np.inf
    place = np.unravel_index(int(gap.argmax()), gap.shape) if gap.size else ()
    result = Difference(
        trace,
        name,
        order.stage_of(name),
        order.layer_of(name),
        error,
        float(np.linalg.norm(b.astype(np.float64))),
        float(gap.max(initial=0.0)),
        tuple(int(index) for index in place),
        vanishes=bool(rms <= ABSOLUTE_FLOOR[Dtype(dtype).storage]),
    )
    if a.dtype == np.float32 and name not in MASKS and np.isfinite(gap).all():
        apart = ulps(a, b.astype(np.float32))
        result.ulp_median, result.ulp_max = float(np.median(apart)), float(apart.max(initial=0))
    return result


def stage_tolerance(difference: Difference, trace: Trace, reference: Trace) -> Tolerance | None:
    """The tolerance of a difference: of records what was measured with them, else a fixed one."""
    if isinstance(trace, Record) and isinstance(reference, Record):
        dtype = coarser(trace.dtype, reference.dtype)
        mine, theirs = (
            r.noise.get(difference.name, 0.0) * EPS[dtype] / EPS[r.dtype]
            for r in (trace, reference)
        )
        return noise_tolerance(difference.stage, mine, theirs, dtype)
    against = reference.dtype
    dtype = coarser(trace.dtype, against)
    if difference.name in MASKS and fixed_tolerance(dtype, stage_of(MASKS[difference.name])):
        return Tolerance(0.0, 0.0, "no pixel whose best class is clear may differ")
    tolerance = fixed_tolerance(dtype, difference.stage)
    if tolerance is None:
        return None
    limit, floor, source = tolerance.limit, tolerance.floor, tolerance.source
    if against == "float32":  # each may be a tolerance from the reference, on either side of it
        limit, floor, source = 2 * limit, 2 * floor, f"between two float32 traces twice: {source}"
    if dtype == "float32" and difference.stage == "update" and difference.norm:
        final = trace.arrays.get(difference.name.replace("update/", "final/", 1))
        if final is not None:
            limit += EPS[dtype] * float(np.linalg.norm(final)) / difference.norm
    return Tolerance(limit, floor, source, tolerance.note)


def _own_update_error(a: Trace, b: Trace, name: str) -> float | None:
    """The error of an update beyond what the trace's own gradient explains.

    update = -rate * (gradient + weight_decay * w), so update + rate * gradient is the same in
    both whatever their gradients are.
    """
    gradient = name.replace("update/", "grad/", 1)
    rests = []
    for trace in (a, b):
        rate = trace.learning_rate(name.partition("/")[2])
        if gradient not in trace.arrays or rate is None:
            return None
        rests.append(trace.arrays[name] + rate * trace.arrays[gradient].astype(np.float64))
    norm = float(np.linalg.norm(b.arrays[name].astype(np.float64)))
    return float(np.linalg.norm(rests[0] - rests[1])) / norm if norm else None


def _lead(trace: Trace, name: str) -> Array | None:
    """By how much the best class of each pixel of a class map leads; None without its logits."""
    logits = trace.arrays.get(MASKS[name])
    shape = trace.arrays[name].shape
    if logits is None or logits.ndim != 4 or logits[:, 0].shape != shape:
        return None
    best = np.sort(logits.astype(np.float64), axis=1)[:, -2:]
    lead: Array = best[:, -1] - best[:, 0]
    return lead


def _mask(a: Trace, reference: Trace, name: str) -> Mask | None:
    """A class map, where the reference's logits are further apart than the tolerance allows.

    Or where the two best are equal to the bit in both traces, and the first of them is meant. None
    where the reference's map is not of its logits.
    """
    lead, own = _lead(reference, name), _lead(a, name)
    if lead is None:
        return None
    dtype = coarser(a.dtype, reference.dtype)
    tolerance = fixed_tolerance(dtype, stage_of(MASKS[name]))
    scale = float(np.sqrt(np.mean(reference.arrays[MASKS[name]].astype(np.float64) ** 2)))
    # ten times: an error of the tolerance's size as a whole may be several times that at a pixel
    noise = 10 * (tolerance.limit if tolerance else 0) * scale
    clear = lead > noise
    if own is not None:
        clear |= (lead == 0) & (own == 0)
    differ = a.arrays[name] != reference.arrays[name]
    return Mask(differ.size, int(differ.sum()), int((differ & clear).sum()), noise)


def _measure(
    trace: Trace, reference: Trace, order: Order
) -> tuple[list[Difference], list[Finding], Mask | None]:
    """One trace against the reference: differences in order of execution, and mismatches.

    Tolerances are the fixed ones of `stage_tolerance`.
    """
    mine, theirs = values(trace), values(reference)
    dtype = coarser(trace.dtype, reference.dtype)
    differences: list[Difference] = []
    findings: list[Finding] = []
    mask = None
    for name in order.values:
        like = name.removeprefix(LOCAL)
        if name not in mine or like not in theirs:
            continue
        a, b = mine[name], theirs[like]
        if a.shape != b.shape:
            text = f"{name} is {a.shape}, not {b.shape} as in {reference.label}"
            findings.append(Finding(trace.label, name, text))
            continue
        d = _difference(trace.label, name, a, b, dtype, order)
        d.tolerance = stage_tolerance(d, trace, reference)
        if name in MASKS:
            found = _mask(trace, reference, name)
            if found is None:
                text = f"{name} {b.shape} is not of {MASKS[name]}, so no pixel can be called clear"
                findings.append(Finding(reference.label, name, text))
                continue
            d.error = found.clear / max(found.pixels, 1)
            mask = mask or found
        if d.stage == "update":
            d.own = _own_update_error(trace, reference, name)
        differences.append(d)
    _judge(differences, order)
    present = {d.name for d in differences}
    for d in differences:
        if d.status in ("new", "healed"):
            place = order.place_of(d.name, present)
            d.place, d.modules = place.words, place.modules
    return differences, findings, mask


def _judge(differences: Sequence[Difference], order: Order) -> None:
    """Sets the status of one trace's differences, in order of execution, from their tolerances."""

    def beyond(d: Difference) -> bool:
        return d.tolerance is not None and not d.vanishes and d.error > d.tolerance.limit

    healed = order.healed({d.name: beyond(d) for d in differences})
    parted: list[str] = []
    for d in differences:
        if d.tolerance is None:
            d.status = "ungated"
        elif not beyond(d):
            d.status = "within" if d.largest else "equal"
        elif d.name in healed:
            d.status = "healed"
        else:
            if d.stage == "update":
                gradient = d.name.replace("update/", "grad/", 1)
                follows = gradient in parted and (d.own or 0) <= d.tolerance.limit
            else:
                follows = order.inherits(d.name, parted)
            d.status = "follows" if follows else "new"
            parted.append(d.name)


def judge_again(report: Report, tolerance_for: ToleranceFor) -> None:
    """Gives each difference of a report another tolerance, but the masks, and judges anew."""
    for trace in report.compared:
        differences = report.of(trace)
        for d in differences:
            if d.name not in MASKS:
                d.tolerance = tolerance_for(d)
        _judge(differences, report.order)
    report.odd = [trace for trace in report.compared if report.first(trace) is not None]


def _choose(traces: Sequence[Trace], order: Order) -> tuple[Trace, str, list[str]]:
    """The trace to measure from, why, and which ones are odd.

    Those that stay together longest in order of execution hold the reference; a trace that leaves
    them earlier is odd, unless there are as many of its own kind.
    """
    if len(traces) < 3:
        return traces[0], "the first of two: which one is odd cannot be said without a third", []
    together = {}
    for i, a in enumerate(traces):
        for j in range(i):
            differences, findings, _ = _measure(a, traces[j], order)
            left = [order.values.index(d.name) for d in differences if d.parted]
            left += [order.values.index(f.name) for f in findings]
            together[i, j] = together[j, i] = min(left, default=len(order.values))
    longest = max(together.values())
    sizes = [len(trace.arrays) for trace in traces]
    # of those, one that holds the most: a reference that lacks values hides the others'
    j = min(
        (k for pair, t in together.items() if t == longest for k in pair),
        key=lambda k: (-sizes[k], k),
    )
    near = [j, *(k for k in range(len(traces)) if k != j and together[j, k] == longest)]
    far = [k for k in range(len(traces)) if k not in near]
    until = "to the end" if longest == len(order.values) else f"up to {order.values[longest]}"
    reason = f"{' and '.join(traces[k].label for k in near)} agree {until}"
    if not far:
        alone = longest < len(order.values)
        return traces[j], "no two agree longer than the others" if alone else "all agree", []
    rival = len(far) >= len(near) and all(
        together[a, b] == longest for a in far for b in far if a != b
    )
    if rival:
        rivals = " and ".join(traces[k].label for k in far)
        return traces[j], f"{reason}, and so do {rivals}: which are odd cannot be said", []
    # only a trace that holds the value where another leaves can say that it is odd
    odd = [
        k
        for k in far
        if any(order.values[together[j, k]] in values(traces[y]) for y in near if y != j)
    ]
    if not odd:
        at = order.values[together[j, far[0]]]
        return traces[j], f"no third trace holds {at}: which one is odd cannot be said", []
    return traces[j], reason, [traces[k].label for k in odd]


def _order_of(traces: Sequence[Trace]) -> Order:
    check_inputs(traces)
    networks = {t.network for t in traces}
    if len(networks) > 1:
        told = ", ".join(f"{t.label} {t.network}" for t in traces)
        raise InputError(f"other networks: {told}: nothing to compare")
    one, steps = traces[0], max(t.steps for t in traces)
    return NetworkOrder(one.architecture, one.num_classes, steps, one.head)


def compare(traces: Sequence[Trace], truth: Trace | None = None) -> Report:
    """Holds traces against a truth; without one, against the trace that most others agree with.

    Raises:
        InputError: they were made from other weights or batches, or are other networks.
    """
    everyone = [*traces, truth] if truth is not None else list(traces)
    report = report_of(everyone, truth, _order_of(everyone))
    name_literals(report, everyone)
    return report


def report_of(everyone: Sequence[Trace], truth: Trace | None, order: Order) -> Report:
    """The report on traces whose values have the names of `order`; `truth` is one of them."""
    traces = [trace for trace in everyone if trace is not truth]
    reference, reason, odd = (truth, TRUTH, []) if truth else _choose(traces, order)
    about, notes = [t.describe() for t in everyone], _notes(everyone, truth)
    report = Report(reference.label, reason, about, notes, order, odd=odd)
    if truth is None and len({t.dtype for t in traces}) > 1:
        told = ", ".join(f"{t.dtype} ({t.label})" for t in traces)
        text = f"dtypes differ: {told}; give the float64 one as the reference"
        report.findings.append(Finding(traces[0].label, "", text))
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
