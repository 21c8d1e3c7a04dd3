"""How far two named sets of arrays are apart, and how far they may be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

GATES = {"forward": 1e-12, "gradient": 1e-11, "update": 1e-11, "buffer": 1e-11, "steps": 1e-9}
"""Largest relative L2 difference in float64, by stage. Measured floors: 4e-15 for logits, 2e-14
for gradients, 1e-10 for weights after 100 steps: a gate is not reached by rounding."""

STAGES = {
    "eval": "forward",
    "train": "forward",
    "loss": "steps",
    "grad": "gradient",
    "update": "update",
    "buffer": "buffer",
    "final": "steps",
    "momentum": "steps",
}
"""The stage of a trace's array, by the part of its name before the first slash."""


def stage_of(name: str) -> str:
    """The stage, a key of `GATES`, of an array of a trace."""
    return STAGES[name.split("/", 1)[0]]


def relative_l2(a: NDArray[Any], b: NDArray[Any]) -> float:
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


@dataclass(frozen=True)
class Worst:
    """The largest difference of a stage and the array that has it."""

    error: float
    name: str


def worst_by_stage(arrays: Arrays, truth: Arrays) -> dict[str, Worst]:
    """The worst relative L2 of each stage of two traces.

    A NaN anywhere counts as infinitely far.

    Raises:
        ValueError: the names or a shape differ.
    """
    if arrays.keys() != truth.keys():
        odd = sorted(arrays.keys() ^ truth.keys())
        raise ValueError(f"{len(odd)} names are in one trace only: {', '.join(odd[:3])} ...")
    worst: dict[str, Worst] = {}
    for name in truth:
        error = relative_l2(arrays[name], truth[name])
        error = float("inf") if np.isnan(error) else error
        stage = stage_of(name)
        if stage not in worst or error > worst[stage].error:
            worst[stage] = Worst(error, name)
    return worst
