"""The colours that masks show their labels in: palettes, and what they give away, moved labels.

A PNG optimiser, an image editor or Pillow's `quantize` may reorder a palette. The picture looks
the same, and the labels, which are its indices, are others.
"""

import enum
from collections.abc import Collection
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.config import VOID
from common.data.voc import VOC_CLASSES, voc_palette

_VOC_LABELS = (*range(len(VOC_CLASSES)), VOID)


class Palette(enum.StrEnum):
    """The colours of labels: Pascal VOC's, or colours told apart as well as so many can be."""

    voc = "voc"
    distinct = "distinct"

    def colours(self) -> NDArray[np.uint8]:
        """(256, 3) uint8 RGB, by label."""
        return voc_palette() if self is Palette.voc else _distinct_palette()


def _oklab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Colours (..., 3) where distances are as they are seen (Ottosson, 2020: Oklab).

    sRGB to linear light, to cone responses, whose cube roots are mixed.
    """
    x = rgb / 255.0
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    mixed = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    seen: NDArray[np.float64] = np.cbrt(linear @ cones.T) @ mixed.T
    return seen


@cache
def _distinct_palette() -> NDArray[np.uint8]:
    """Black and VOC's colour of void, then each time the colour farthest from all before."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    places = _oklab(candidates)
    palette = voc_palette()
    distance = np.linalg.norm(places - _oklab(palette[VOID]), axis=1)
    for label in range(VOID):
        if label:
            palette[label] = candidates[distance.argmax()]
        new = np.linalg.norm(places - _oklab(palette[label]), axis=1)
        distance = np.minimum(distance, new)
    return palette


def codes_of(rgb: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Colours (..., 3) as one number each, 0xRRGGBB."""
    red, green, blue = np.moveaxis(rgb.astype(np.int64), -1, 0)
    codes: NDArray[np.int64] = red << 16 | green << 8 | blue
    return codes


def _codes(palette: bytes) -> NDArray[np.int64]:
    return codes_of(np.frombuffer(palette, np.uint8).reshape(-1, 3))


_VOC_CODES = _codes(voc_palette().tobytes())
_LABEL_OF_CODE = {int(_VOC_CODES[label]): label for label in _VOC_LABELS}


def is_voc_palette(palette: bytes) -> bool:
    """Whether all its colours are VOC's, and those of VOC's classes are there."""
    whole = voc_palette().tobytes()
    return len(palette) >= 3 * len(VOC_CLASSES) and whole.startswith(palette)


def moved_from_voc(mask: Image.Image) -> str:
    """What shows that a mask's labels are not VOC's: VOC's colour of another one; "" if nothing."""
    palette = bytes(mask.getpalette() or ())
    if is_voc_palette(palette):
        return ""
    codes = _codes(palette)
    for label in np.unique(np.asarray(mask)):
        shown = _LABEL_OF_CODE.get(int(codes[label])) if label < len(codes) else None
        if shown not in (None, label):
            return (
                f"label {label} is shown in VOC's colour of {shown}: its palette was reordered,"
                " and its labels with it"
            )
    return ""


class SameColours:
    """Holds the masks of a set against each other: a label is of one colour in all of them."""

    def __init__(self) -> None:
        self._colours: dict[int, tuple[int, Path]] = {}
        self._labels: dict[int, tuple[set[int], Path]] = {}

    def differs(self, path: Path, palette: bytes, labels: Collection[int]) -> str:
        """What a mask with these labels shows otherwise than one before it; "" if nothing.

        Its unused colours do not matter, nor does a grey mask, which has no palette.
        """
        codes = _codes(palette)
        for label in labels:
            if label >= len(codes):
                continue
            colour = int(codes[label])
            # a palette may have one colour twice
            here = {int(index) for index in np.flatnonzero(codes == colour)}
            before, where = self._colours.setdefault(label, (colour, path))
            there, other = self._labels.setdefault(colour, (here, path))
            told = ""
            if before != colour:
                told = f"label {label} is #{colour:06x} here and #{before:06x} in {where.name}"
            elif not here & there:
                told = f"#{colour:06x} is label {label} here and {min(there)} in {other.name}"
            if told:
                return f"{told}: a palette was reordered, and labels with it? If not, save in grey"
        return ""
