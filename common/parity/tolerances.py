"""How far two values may be apart, and where each of these limits comes from."""

from dataclasses import asdict, dataclass, replace
from typing import Any

STAGES = ("forward", "gradient", "update", "buffer", "steps")
"""The stages of a run; `forward` includes the first loss, `steps` is all after the first step. A
record has one before them, `local`: a layer that is fed with what goes into it in the reference."""

TOLERANCES = {"forward": 1e-12, "gradient": 1e-11, "update": 1e-11, "buffer": 1e-11, "steps": 1e-9}
"""Largest relative L2 difference in float64, by stage."""

ABSOLUTE_FLOOR = {"float64": 1e-17, "float32": 1e-10}
"""Root mean square below which a difference is none, by dtype: where a value vanishes, an error
relative to it says nothing."""

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7}
"""The distance from 1 to the next number, by dtype."""


def coarser(*dtypes: str) -> str:
    """The one that distinguishes the fewest numbers."""
    return max(dtypes, key=EPS.__getitem__)


@dataclass(frozen=True)
class Tolerance:
    """A limit and its provenance.

    `limit` is the largest relative L2 difference allowed; `floor` the one that sound
    implementations were measured to have; `source` says where and how that was measured, `note`
    what is particular to this limit.
    """

    limit: float
    floor: float
    source: str
    note: str = ""

    @property
    def multiplier(self) -> float:
        """How many floors the limit is."""
        return self.limit / self.floor if self.floor else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"multiplier": self.multiplier}


FEW = 8
"""So many eps are allowed beyond a ratio: of values that are all rounded well one is still the
furthest off, and a plain sum over a batch's pixels (MXNet's bias gradient) loses some more than a
sum in pairs."""

_RATIO = "twice the furthest of the others, or the own noise, plus 8 eps"

_RUN = (
    "worst tensor of PyTorch 2.13.0, MXNet 1.9.1 and JAX 0.6.2, CPU, generic weights, batches of"
    " two 64x96 images with void, momentum 0.9, decay 1e-3"
)

_FLOORS = {
    "float64": {
        "forward": (TOLERANCES["forward"], 1.2e-14),
        "gradient": (TOLERANCES["gradient"], 2.5e-14),
        "update": (TOLERANCES["update"], 3.5e-13),
        "buffer": (TOLERANCES["buffer"], 1.3e-15),
        "steps": (TOLERANCES["steps"], 2.0e-13),
    },
    "float32": {
        "forward": (1e-5, 5.7e-6),
        "gradient": (3e-5, 1.2e-5),
        "update": (3e-5, 1.2e-5),
        "buffer": (1.5e-6, 6.0e-7),
    },
    "bfloat16": {},
}
"""By dtype and stage: the limit, and the measured floor. In float32 there is no tolerance on later
steps: training is chaotic there. In bfloat16 the first step is already."""

_NOTES = {
    ("float64", "update"): "an update is a difference of weights, rounded to their size",
    ("float64", "steps"): "floor after 100 steps on 60x90 images, padded to that",
    ("float32", "gradient"): "on batches where no ReLU or max-pool decision changes",
    ("float32", "update"): "plus eps * ||w|| / ||update||, since weights are stored to eps",
}


def fixed_tolerance(dtype: str, stage: str) -> Tolerance | None:
    """The tolerance of a stage: float64 against float64, or float32 against the float64 reference.

    None where nothing is asked: later steps in float32, all of bfloat16.
    """
    if stage not in _FLOORS[dtype]:
        return None
    limit, floor = _FLOORS[dtype][stage]
    against = "float64" if dtype == "float64" else "float32 against the float64 reference"
    return Tolerance(limit, floor, f"{against}, {_RUN}", _NOTES.get((dtype, stage), ""))


_NOISES = {"local": 10.0, "forward": 10.0, "gradient": 50.0, "buffer": 10.0, "steps": 100.0}
"""How many times its own noise a value of a record may be off. Between frameworks, six public
networks: at most 1.3 forward, 9.1 in gradients."""

LOCAL = 1e-13
"""Of a layer alone: 30 times what 8 to 242 layers of public networks were off at most."""


MUCH = 10
"""A value that moves by so many times what it moves by in the reference is computed with less."""


def noise_tolerance(stage: str, noise: float, reference: float, dtype: str) -> Tolerance:
    """The tolerance of a value that moves by `noise` when weights and inputs move by a rounding.

    In the reference it moves by `reference`; no more than `MUCH` times that is taken for noise.
    Roundings are those of `dtype`, the coarser of the two.
    """
    reference = max(reference, EPS[dtype])
    floor = max(reference, min(noise, MUCH * reference))
    limit = _NOISES[stage] * floor
    source = f"this run: weights and inputs moved by one rounding, in {dtype}"
    alone = LOCAL if dtype == "float64" else FEW * EPS[dtype]
    return Tolerance(max(limit, alone) if stage == "local" else limit, floor, source)


UNEVEN = 5
"""How many times the mean a value may matter whose ReLU decides otherwise: of k of n values that
are alike, a gradient changes by sqrt(k / n) of itself."""


def decided_tolerance(own: Tolerance, share: float) -> Tolerance:
    """That of a gradient behind which so large a share of values is 0 on one side alone."""
    limit = UNEVEN * share**0.5
    note = f"a share of {share:.1e} of the values behind it is 0 on one side alone, as of a ReLU"
    return own if limit <= own.limit else replace(own, limit=limit, note=note)


def ratio_tolerance(furthest: float, noise: float, dtype: str) -> Tolerance:
    """The tolerance of a distance from the float64 reference, in a coarser `dtype`.

    The other records in it are at most `furthest` from there; by `noise` one is from itself.
    """
    limit = max(2 * furthest, noise) + FEW * EPS[dtype]
    source = f"this run, {dtype} against the float64 reference: {_RATIO}"
    return Tolerance(limit, furthest, source)
