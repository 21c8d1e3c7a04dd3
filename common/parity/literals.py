"""Hyper-parameters that one side rounds to float32 and the other takes as written, recognised.

PyTorch's literal 1e-5, 0.1 or lr=0.01 are doubles; the definition here rounds each to float32
once. They are 1e-8 apart, which training in float64 shows, and no look at the code does.
"""

from collections.abc import Sequence

import numpy as np

from common.config import Config, float32
from common.network.tensors import in_head
from common.parity.report import Difference, Report
from common.parity.traces import Trace
from common.protocol import Array

CLOSE = 0.05
"""How much of a difference may be left when what it is taken for is taken away."""


def as_written(mine: float, theirs: float) -> str | None:
    """In words, that of two numbers one is a short decimal and the other what float32 makes of it.

    They may be off by a twentieth of what lies between.
    """
    for one, other in ((mine, theirs), (theirs, mine)):
        decimal = float(f"{one:.6g}")
        gap = abs(float32(decimal) - decimal)
        if gap and max(abs(one - decimal), abs(other - float32(decimal))) <= CLOSE * gap:
            words = f"{decimal:g} as written", f"float32({decimal:g})"
            first, second = words if one == mine else words[::-1]
            return f"{first}, in the reference {second}"
    return None


def name_literals(report: Report, traces: Sequence[Trace]) -> None:
    """Tells of the first new difference of a stage that it is no more than such a rounding."""
    by_label = {trace.label: trace for trace in traces}
    reference = by_label[report.reference]
    for label in report.compared:
        new = [d for d in report.of(label) if d.status == "new"]
        for stage, cause in (("forward", _eps), ("update", _rate), ("buffer", _decay)):
            first = next((d for d in new if d.stage == stage), None)
            if first is not None:
                with np.errstate(all="ignore"):  # infinities explain nothing
                    told = cause(first, by_label[label], reference, new)
                first.cause = first.cause or told or ""


def _fit(a: Array, b: Array) -> tuple[float, float]:
    """The factor for which factor * b is nearest to a, and what is left, as a share of a."""
    factor = float(np.vdot(b, a)) / max(float(np.vdot(b, b)), 1e-300)
    return factor, float(np.linalg.norm(a - factor * b)) / max(float(np.linalg.norm(a)), 1e-300)


def _rate(first: Difference, a: Trace, b: Trace, _: Sequence[Difference]) -> str | None:
    """Of an update: all of it is larger by a factor, or the part that is no gradient is."""
    weight = first.name.partition("/")[2]
    rate, decay = b.learning_rate(weight), b.weight_decay
    gradient = b.arrays.get(f"grad/{weight}")
    mine, theirs = a.arrays[first.name], b.arrays[first.name]
    if rate is None or decay is None or gradient is None or gradient.shape != theirs.shape:
        return None
    gap = mine - theirs
    for what, value, part in (
        ("the head's rate" if in_head(weight) else "the rate", rate, theirs),
        ("weight_decay", decay, theirs + rate * gradient),
    ):
        factor, rest = _fit(gap, part)
        told = as_written(value * (1 + factor), value)
        if rest <= CLOSE and told:
            return f"{what} is {told}"
    return None


def _decay(first: Difference, a: Trace, _: Trace, new: Sequence[Difference]) -> str | None:
    """Of the buffers: all are about a rounding of float32 off, none is float32, no layer is so."""
    errors = [d.error for d in new if d.stage == "buffer"]
    layers = [d.error for d in new if d.stage == "forward"]
    every = [name for name in a.arrays if name.startswith("buffer/")]
    decay = Config.bn_decay
    gap = abs(float32(decay) - decay)
    near = gap / 30 < min(errors) and max(errors) < 30 * gap and max(layers, default=0) < gap / 30
    value = a.arrays[first.name]
    stored = bool(np.array_equal(value, value.astype(np.float32).astype(np.float64)))
    if len(errors) < len(every) or not near or stored:
        return None
    return (
        f"every running statistic is off by about {first.error:.0e}, and no layer: probably a"
        f" decay of {decay:g} as written (PyTorch's momentum={1 - decay:g}) on one side, and"
        f" float32({decay:g}) on the other"
    )


def _eps(first: Difference, a: Trace, b: Trace, _: Sequence[Difference]) -> str | None:
    """Of the stem, where it may be within its tolerance yet: each channel is stretched about one
    value, as another eps does, and by as much.

    The variances are those of the buffers after a step, which are not far from those before.
    """
    stem = f"{first.name.partition('/')[0]}/stem"
    variance = b.arrays.get("buffer/backbone.bn1.running_var")
    if variance is None:
        return None
    mine, theirs = (t.arrays.get(stem, np.zeros(0)) for t in (a, b))
    if mine.ndim != 4 or mine.shape != theirs.shape or not np.isfinite(mine - theirs).all():
        return None
    mine, theirs = (np.moveaxis(array, 1, 0) for array in (mine, theirs))
    stretched = []
    for x, y in zip(mine, theirs, strict=True):
        seen = (x > 0) & (y > 0)  # the others are cut off by the ReLU
        gap, centered = (array - array.mean() for array in ((x - y)[seen], y[seen]))
        if centered.any():
            slope = float(np.dot(gap, centered) / np.dot(centered, centered))
            stretched.append((slope, float(np.linalg.norm(gap - slope * centered))))
    slopes = np.array([slope for slope, _ in stretched])
    left = float(np.linalg.norm([rest for _, rest in stretched]))
    if not len(slopes) or left > CLOSE * float(np.linalg.norm(mine - theirs)):
        return None
    if not (np.all(slopes > 0) or np.all(slopes < 0)):
        return None
    # a scale of anything before the norm stretches too: what tells is the size
    gap = float(np.median(np.abs(slopes))) * 2 * float(np.median(variance))
    eps = Config.bn_eps
    if not 0.1 < gap / abs(float32(eps) - eps) < 10:
        return None
    return (
        f"in {stem} each channel is stretched about one value, as by an eps that is {gap:.0e}"
        f" {'smaller' if slopes[0] > 0 else 'larger'}: probably {eps:g} as written, and"
        f" float32({eps:g})"
    )
