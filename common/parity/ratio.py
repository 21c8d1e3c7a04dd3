"""Float32 judged by ratio: as near to the float64 reference as the others are, and as oneself is.

A backend may be no further from the reference than twice the furthest of the others, or than its
own noise, and a few eps. On one batch luck decides who is the furthest, so all batches of the run
count. Where a decision changes (`common.parity.decisions`) the gradients of its layer and of those
before it are another function's, and are reported without a tolerance; all others keep theirs.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.network.tensors import layer_names, relu_names
from common.parity.compare import compare, judge_again
from common.parity.decisions import changes, decisions
from common.parity.order import layer_of, place_of, stage_of
from common.parity.report import Difference, Report
from common.parity.tolerances import EPS, FEW, Tolerance
from common.parity.traces import Trace
from common.protocol import Array

FEW_EPS = FEW * EPS["float32"]
"""Allowed beyond the ratio."""

SOURCE = (
    "this run, float32 against the float64 reference: twice the furthest of the others on any"
    " batch, or the own noise (one or two threads, a batch in reverse order), plus 8 eps"
)


Sample = tuple[Report, Mapping[str, Mapping[str, int]]]
"""Differences from the reference, and for each backend the decisions that change."""


@dataclass(frozen=True)
class Probe:
    """The first step of one backend on one batch, against the reference.

    `changes`: decisions taken otherwise, by name, of `decisions` in all. `noise`: how far it is
    from the same batch in reverse order, by value; gradients only where neither changes.
    """

    backend: str
    batch: int
    report: Report
    changes: dict[str, int]
    decisions: int
    noise: dict[str, float]

    def gradients(self) -> dict[str, Any]:
        """The worst gradient, what changed, and how many gradients were judged."""
        found = [d for d in self.report.differences if d.stage == "gradient"]
        held = [d for d in found if d.tolerance is not None]
        worst = max(found, key=lambda d: d.error)
        judged = min(held, key=lambda d: d.margin or 0.0, default=None)
        return {
            "backend": self.backend,
            "batch": self.batch,
            "flips": sum(self.changes.values()),
            "where": ", ".join(self.changes),
            "of_decisions": self.decisions,
            "error": worst.error,
            "tensor": worst.name,
            "gated": len(held),
            "of": len(found),
            "gated_error": judged and judged.error,
            "gated_tensor": judged and judged.name,
            "gate": judged and judged.tolerance and judged.tolerance.limit,
            "held": not any(d.parted for d in found),
        }


def apart(a: Array, b: Array, truth: Array) -> float:
    """||a - b|| / ||truth||, in float64; 0 where the reference vanishes."""
    norm = float(np.linalg.norm(truth.astype(np.float64)))
    return float(np.linalg.norm(a.astype(np.float64) - b)) / norm if norm else 0.0


def _decisions(trace: Trace) -> dict[str, Array]:
    taken = {k.removeprefix("train/"): a for k, a in trace.arrays.items()}
    return decisions(taken, trace.architecture)


def _without_relus(trace: Trace) -> Trace:
    """Without those inside a layer, which are no part of a trace."""
    layers = layer_names(trace.architecture, trace.head)
    inner = {f"train/{name}" for name in relu_names(trace.architecture) if name not in layers}
    arrays = {name: array for name, array in trace.arrays.items() if name not in inner}
    return Trace(trace.label, arrays, trace.metadata)


def make_probe(backend: str, batch: int, usual: Trace, backward: Trace, truth: Trace) -> Probe:
    """Holds a first step, and that on the reversed batch, against the reference's."""
    taken = _decisions(truth)
    changed, otherwise = (changes(_decisions(trace), taken) for trace in (usual, backward))
    usual, backward, truth = map(_without_relus, (usual, backward, truth))
    noise = {
        name: apart(usual.arrays[name], backward.arrays[name], array)
        for name, array in truth.arrays.items()
        if not touched(name, {**changed, **otherwise})
    }
    total = sum(array.size for array in taken.values())
    return Probe(backend, batch, compare([usual], truth), changed, total, noise)


def touched(name: str, changed: Mapping[str, int]) -> bool:
    """Whether a changed decision changes a value: its layer's gradients, and those before it."""
    if stage_of(name) not in ("gradient", "update"):
        return False
    last = max((place_of(change.partition(".bn")[0]) for change in changed), default=-1)
    return place_of(layer_of(name)) <= last


def ratio_tolerances(samples: Sequence[Sample], noise: Mapping[str, Mapping[str, float]]) -> None:
    """Gives float32 reports the tolerances of this run; none behind a changed decision."""
    errors: dict[str, dict[str, float]] = {}
    for report, changed in samples:
        for d in report.differences:
            if not touched(d.name, changed.get(d.trace, {})):
                found = errors.setdefault(d.name, {})
                found[d.trace] = max(found.get(d.trace, 0.0), d.error)

    def tolerance(changed: Mapping[str, Mapping[str, int]], d: Difference) -> Tolerance | None:
        if d.stage == "steps" or touched(d.name, changed.get(d.trace, {})):
            return None
        others = [error for trace, error in errors[d.name].items() if trace != d.trace]
        if not others:
            return d.tolerance
        furthest, own = max(others), noise.get(d.trace, {}).get(d.name, 0.0)
        note = f"{d.name}: the furthest of the others {furthest:.1e}, own noise {own:.1e}"
        return Tolerance(max(2 * furthest, own) + FEW_EPS, furthest, SOURCE, note)

    for report, changed in samples:
        judge_again(report, functools.partial(tolerance, changed))
