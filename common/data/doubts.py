"""What a valid set of pairs is seldom meant to be: said before a network learns it."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config import VOID
from common.errors import listed

TRAIN = "train"
"""The split that is learnt from."""

_MOSTLY = 0.5
"""A larger share of void is spoken of."""

TRAINVAL = "trainval"
"""The split that holds train on purpose."""

MEASURED = (TRAIN, "val", TRAINVAL)
"""The splits whose names must have masks; another without any is a list of test images."""


def _void_share(pixels: NDArray[np.int64]) -> float:
    return float(pixels[VOID] / max(pixels.sum(), 1))


def nothing_to_tell_apart(path: Path, pixels: NDArray[np.int64], names: Sequence[str]) -> str:
    """Why a split with these pixels by label (256,) cannot be learnt from; "" if it can.

    `path` is the split's list.
    """
    found = np.flatnonzero(pixels[:VOID])
    if len(found) > 1:
        return ""
    if len(found) == 0:
        return f"{path}: every mask it names is void everywhere"
    told = f"{path}: its masks hold no class but {names[found[0]]}: there is nothing to learn"
    if pixels[VOID] and found[0] == 0:
        share = f"{_void_share(pixels):.0%} of their pixels are {VOID}, which is void"
        told += f"; {share}: are they masks of 0 and {VOID}, in place of 0 and 1?"
    return told


def label_doubts(path: Path, pixels: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """Classes without a pixel in a split, and void that prevails; as `nothing_to_tell_apart`."""
    doubts = []
    absent = [name for name, count in zip(names, pixels[:VOID], strict=False) if count == 0]
    if absent:
        doubts.append(f"{path}: no mask it names has a pixel of {listed(absent)}")
    if _void_share(pixels) > _MOSTLY:
        share = f"{_void_share(pixels):.0%}"
        doubts.append(f"{path}: {share} of its masks' pixels are {VOID}, void, and teach nothing")
    return doubts


def overlap(path: Path, names: Collection[str], train: Collection[str]) -> list[str]:
    """The names of another split, whose list is `path`, that are trained on."""
    both = [name for name in names if name in set(train)]
    if not both or path.stem in (TRAIN, TRAINVAL):
        return []
    return [f"{path}: {len(both)} of its {len(names)} names are in {TRAIN}, too: {listed(both)}"]


def turned_doubts(root: Path, turned: int) -> list[str]:
    """Pictures that their EXIF orientation turns, so many of them."""
    if turned == 0:
        return []
    images = "1 image is" if turned == 1 else f"{turned} images are"
    return [
        f"{root}: {images} turned or mirrored, as EXIF asks; the masks are taken as drawn on what"
        " is then seen"
    ]
