"""Differences whose cause can be read off the values: what a normalisation is, fitted."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.parity.literals import as_written
from common.parity.records import Layer, Record
from common.parity.report import Report
from common.protocol import Array

_MEAN, _VAR = ("running_mean", "mean"), ("running_var", "var")
_SCALE, _SHIFT = ("weight", "gamma", "scale"), ("bias", "beta")

FITS = 1e-6
"""Largest relative residual of a fit that is believed; float32 constants leave 1e-8."""


SINGLE = 3e-9, 3e-7
"""Relative errors of a layer alone that float32 inside it makes."""

LITTLE = 1e-11
"""Beyond this, one number in float32 among all that a layer computes with can be seen."""

_IN_SINGLE = "probably an attribute in float32, as MXNet's operators hold theirs: a slope, an eps"


@dataclass(frozen=True)
class BatchNorm:
    """What a BatchNorm computes with, as its values tell.

    running = decay * old + (1 - decay) * of the batch, whose variance is `unbiased` (n - 1) or not.
    """

    decay: float
    unbiased: bool
    eps: float | None
    """None where what comes out is not explained by any."""
    running: bool
    """Whether it normalises by its running statistics, in train mode."""

    def __str__(self) -> str:
        if self.running and abs(self.decay - 1) < FITS:
            return "its running statistics, which stay as they are, in train mode"
        estimator = "unbiased" if self.unbiased else "biased"
        told = f"decay {self.decay:.9g}, {estimator} variance"
        told += "" if self.eps is None else f", eps {self.eps:.3g}"
        return told + (", by its running statistics in train mode" if self.running else "")


def _fit(old: Array, new: Array, batch: Array) -> tuple[float, float]:
    """The decay that explains a buffer best, and the relative residual."""
    steps = old - batch
    decay = float(np.dot(new - batch, steps)) / max(float(np.dot(steps, steps)), 1e-300)
    rest = new - (decay * old + (1 - decay) * batch)
    return decay, float(np.linalg.norm(rest)) / max(float(np.linalg.norm(new)), 1e-300)


def _tensor(record: Record, layer: str, names: Sequence[str]) -> str | None:
    """Its name in the network; None where the layer has none, or the record does not hold it."""
    own = record.layers[layer].tensors
    found = next((own[name] for name in names if name in own), None)
    return found if f"weight/{found}" in record.arrays else None


def fit_batch_norm(record: Record, layer: str) -> BatchNorm | None:
    """A BatchNorm of a record, from what went in and came out in train mode; None if it is none."""
    names = [_tensor(record, layer, kind) for kind in (_MEAN, _VAR, _SCALE, _SHIFT)]
    mean, var, scale, shift = names
    x, y = (record.arrays.get(f"train/{layer}:{side}") for side in ("in", "out"))
    if (
        mean is None
        or var is None
        or x is None
        or y is None
        or f"buffer/{mean}" not in record.arrays
    ):
        return None
    axis = record.layers[layer].channels or 1
    others = tuple(k for k in range(x.ndim) if k != axis % x.ndim)
    n = x.size / x.shape[axis]
    center, biased = x.mean(others), x.var(others)
    decay, rest = _fit(record.tensor(mean), record.arrays[f"buffer/{mean}"], center)
    estimates: list[tuple[float, bool]] = []
    for unbiased in (True, False):
        batch = biased * n / (n - 1) if unbiased else biased
        fitted, residual = _fit(record.tensor(var), record.arrays[f"buffer/{var}"], batch)
        estimates.append((residual + abs(fitted - decay), unbiased))
    residual, unbiased = min(estimates)
    if max(residual, rest) > FITS:
        return None
    flat_x, flat_y = (np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1) for a in (x, y))
    gamma: Array = record.tensor(scale) if scale else np.ones_like(center)
    beta: Array = record.tensor(shift) if shift else np.zeros_like(center)
    statistics = {False: (center, biased), True: (record.tensor(mean), record.tensor(var))}
    for running, (middle, spread) in statistics.items():
        eps = _eps(flat_x - middle[:, None], flat_y - beta[:, None], gamma, spread)
        if eps is not None:
            return BatchNorm(decay, unbiased, eps, running)
    return BatchNorm(decay, unbiased, None, running=False)


def _eps(x: Array, y: Array, gamma: Array, spread: Array) -> float | None:
    """The epsilon with which y = gamma * x / sqrt(spread + eps), row by row; None if there is none.

    Rows that are the same everywhere tell nothing.
    """
    varied = np.square(y).any(1) & np.square(x).any(1)
    x, y, gamma, spread = x[varied], y[varied], gamma[varied], spread[varied]
    if not varied.any():
        return None
    eps = float(np.median(gamma**2 * np.square(x).sum(1) / np.square(y).sum(1) - spread))
    with np.errstate(invalid="ignore"):
        rest = y - (gamma / np.sqrt(spread + eps))[:, None] * x
    return eps if np.linalg.norm(rest) <= FITS * np.linalg.norm(y) else None


def fit_eps(record: Record, layer: str) -> float | None:
    """The epsilon of a layer, group, instance or RMS norm, from what went in and came out in eval
    mode; None if it is none.
    """
    told = record.layers[layer]
    x, y = (record.arrays.get(f"eval/{layer}:{side}") for side in ("in", "out"))
    if "Norm" not in told.kind or "Batch" in told.kind:
        return None
    if x is None or y is None or x.shape != y.shape:
        return None
    names = (_tensor(record, layer, kind) for kind in (_SCALE, _SHIFT))
    scale, shift = (record.arrays.get(f"weight/{name}") for name in names)
    if "Group" in told.kind or "Instance" in told.kind:
        x, y = (np.moveaxis(a, told.channels or 1, 1) for a in (x, y))
        channels, last = x.shape[1], [1] * (x.ndim - 2)
        if any(a is not None and (a.ndim != 1 or channels % a.size) for a in (scale, shift)):
            return None  # of a class of the user's own
        scale, shift = (  # Gluon's GroupNorm has one of each for a group
            None if a is None else np.repeat(a, channels // a.size).reshape(-1, *last)
            for a in (scale, shift)
        )
        groups = re.search(r"num_groups=(\d+)", told.settings)
        rows = len(x) * (int(groups[1]) if groups else channels)
    else:
        if any(a is not None and a.shape != x.shape[x.ndim - a.ndim :] for a in (scale, shift)):
            return None
        rows = x.size // (x.shape[-1] if scale is None else scale.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        normal = (y - (0 if shift is None else shift)) / (1 if scale is None else scale)
        x, normal = x.reshape(rows, -1), normal.reshape(rows, -1)
        centered = x if "RMS" in told.kind else x - x.mean(1, keepdims=True)
        power = np.square(centered).mean(1)
        eps = float(np.median(power / np.square(normal).mean(1) - power))
        rest = normal - centered / np.sqrt(power + eps)[:, None]
    fits = float(np.linalg.norm(rest)) <= FITS * float(np.linalg.norm(normal))
    return eps if fits else None


def _nearly_same(a: float | None, b: float | None) -> bool:
    """Whether one is the other as float32 has it."""
    return a is not None and b is not None and math.isclose(a, b, rel_tol=2.0**-23)


def name_causes(
    report: Report, records: Sequence[Record], layers: Mapping[str, Mapping[str, Layer]]
) -> None:
    """Tells of each new difference at a layer what it is in either network, where that differs.

    `layers` are each record's own layers by label, under the names of the reference's.
    """
    by_label = {record.label: record for record in records}
    reference = by_label[report.reference]
    for d in report.differences:
        record = by_label[d.trace]
        single = (
            "mxnet" in [r.metadata.get("backend") for r in (record, reference)]
            and record.dtype == "float64"
        )
        if single and d.status == "new" and ":in" in d.name and LITTLE < d.error < SINGLE[1]:
            d.cause = _IN_SINGLE
        if d.status != "new" or d.layer is None or not (d.stage == "buffer" or ":out" in d.name):
            continue
        norms = [fit_batch_norm(r, d.layer) for r in (record, reference)]
        eps = [fit_eps(r, d.layer) for r in (record, reference)]
        if all(norms) and str(norms[0]) != str(norms[1]):
            d.cause = f"BatchNorm with {norms[0]}; in {reference.label} with {norms[1]}"
            written = as_written(*(norm.decay for norm in norms if norm))
            d.cause += f": the decay is {written}" if written else ""
        elif single and d.error < SINGLE[1] and _nearly_same(*eps):
            d.cause = _IN_SINGLE
        elif None not in eps and (told := [f"eps {e:.3g}" for e in eps])[0] != told[1]:
            kind = reference.layers[d.layer].kind
            d.cause = f"{kind} with {told[0]}; in {reference.label} with {told[1]}"
        elif record.dtype == "float64" and SINGLE[0] < d.error < SINGLE[1]:
            d.cause = "as far as float32 rounds: part of it is probably computed in float32"
        elif d.layer in layers.get(d.trace, {}):
            told = [
                f"{x.kind}({x.settings})"
                for x in (layers[d.trace][d.layer], layers[reference.label][d.layer])
            ]
            d.cause = f"{told[0]}; in {reference.label} {told[1]}"
