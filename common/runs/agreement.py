"""What all processes of a run must have alike, or they would compute different things."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.data.dataset import Dataset
from common.errors import InputError, listed
from common.protocol import ProcessGroup


def sizes_of(dataset: Dataset) -> str:
    """Names and sizes of a split's files: a cheap sign of what is in them."""
    paths: list[Path] = []
    for index in range(len(dataset)):
        paths += [dataset.image_path(index), dataset.mask_path(index)]
    return ",".join(f"{path.name} {path.stat().st_size}" for path in paths)


def check_alike(group: ProcessGroup, facts: Mapping[str, str]) -> None:
    """Refuses processes which are not alike in one of `facts`, named in the plural.

    Raises:
        InputError: in each of them.
    """
    if group.size == 1:
        return
    own = [hashlib.sha256(fact.encode()).digest()[:6] for fact in facts.values()]
    table = np.zeros((group.size, len(own)))
    table[group.rank] = [int.from_bytes(digest, "little") for digest in own]  # 48 bits: exact
    table = group.sum(table)
    for rank, row in enumerate(table):
        differing = [name for name, same in zip(facts, row == table[0], strict=True) if not same]
        if differing:
            raise InputError(f"process {rank} has other {listed(differing)} than process 0")
