"""The decisions of a forward pass: which ReLUs let pass, and which pixel wins in each max-pool.

Where two runs decide alike they compute the same smooth function, and their gradients are as close
as their activations. One decision taken otherwise, where a value is 0 up to rounding, changes the
output by next to nothing and the gradient by as much as that pixel carries.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.network.tensors import relu_names
from common.protocol import Array

MAX_POOL = "stem"


def _winners(x: Array) -> NDArray[np.intp]:
    """The place, 0 to 8, of the first largest value of each 3x3 window, stride 2, padding 1."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    rows, columns = x.shape[2], x.shape[3]
    taps = [padded[:, :, i : i + rows : 2, j : j + columns : 2] for i in range(3) for j in range(3)]
    winners: NDArray[np.intp] = np.stack(taps).argmax(axis=0)
    return winners


def decisions(activations: Mapping[str, Array], architecture: str) -> dict[str, Array]:
    """Every decision of a pass, from the activations of `common.network.tensors.activation_names`.

    Of each ReLU: what is above 0; `stem`: the winners of the max-pool.
    """
    taken: dict[str, Array] = {name: activations[name] > 0 for name in relu_names(architecture)}
    taken[MAX_POOL] = _winners(np.maximum(activations[f"{MAX_POOL}.bn1"], 0))
    return taken


def changed_zeros(mine: Mapping[str, Array], truth: Mapping[str, Array]) -> dict[str, float]:
    """What any network's ReLUs decide otherwise, from what goes into its layers in train mode.

    By name the share of the values, of those that are not 0, that are 0 on one side alone; names
    without any are left out.
    """
    shares = {}
    for name, array in truth.items():
        other = mine.get(name)
        if not name.startswith("train/") or ":in" not in name or array.dtype.kind != "f":
            continue
        if other is not None and other.shape == array.shape:
            changed = int(((array == 0) != (other == 0)).sum())
            shares[name] = changed / max(int((array != 0).sum()), 1)
    return {name: share for name, share in shares.items() if share}


def changes(mine: Mapping[str, Array], truth: Mapping[str, Array]) -> dict[str, int]:
    """How many decisions of each name differ; names where none does are left out.

    Both are what `decisions` returns.
    """
    counts = {name: int((mine[name] != taken).sum()) for name, taken in truth.items()}
    return {name: count for name, count in counts.items() if count}
