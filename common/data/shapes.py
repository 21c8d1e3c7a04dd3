"""A synthetic set in VOC's layout that a small network learns within minutes: five shapes."""

import colorsys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.config import VOID
from common.data.dataset import CLASS_NAMES, IMAGES, MASKS, SPLITS
from common.data.drawing import mask_image
from common.files import write_new_folder

SHAPES_CLASSES = ("background", "circle", "square", "triangle", "ring", "cross")

SHAPES_TRAIN = 200
SHAPES_VAL = 40

_HEIGHTS, _WIDTHS = (112, 144), (144, 176)
_RADII = (16.0, 36.0)
_HUE_SPREAD = 0.08
"""Standard deviation of a shape's hue around its class's: neighbours are 0.2 apart, so colour
helps a short training but does not give the class away."""

Plane = NDArray[np.float64]
Bytes = NDArray[np.uint8]


def _box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _triangle(x: Plane, y: Plane) -> Plane:
    angles = np.pi * np.array([[[1 / 2]], [[7 / 6]], [[11 / 6]]])
    sides: Plane = np.cos(angles) * x + np.sin(angles) * y  # (3, H, W)
    distance: Plane = sides.max(axis=0) - 0.7776
    return distance


_DISTANCES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "circle": lambda x, y: np.hypot(x, y) - 1.0,
    "square": lambda x, y: _box(x, y, 0.8862, 0.8862),
    "triangle": _triangle,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 1.0) - 0.25,
    "cross": lambda x, y: np.minimum(_box(x, y, 1.25, 0.3685), _box(x, y, 0.3685, 1.25)),
}
"""How far a point is from a shape's edge, negative inside. Each has the area of the unit circle,
so that classes drawn equally often get an equal share of the pixels."""


def _waves(rows: Plane, columns: Plane, random: np.random.Generator) -> Plane:
    """A smooth pattern (H, W) in -1..1: the mean of three plane waves."""
    waves = []
    for _ in range(3):
        angle, phase = random.uniform(0, 2 * np.pi, 2)
        length = random.uniform(6, 40)
        along = np.cos(angle) * columns + np.sin(angle) * rows
        waves.append(np.sin(2 * np.pi * along / length + phase))
    mean: Plane = np.mean(waves, axis=0)
    return mean


def _background(rows: Plane, columns: Plane, random: np.random.Generator) -> Plane:
    """A gradient between two dull colours with waves on it, (H, W, 3), about 0..1."""
    angle = random.uniform(0, 2 * np.pi)
    along = np.cos(angle) * columns + np.sin(angle) * rows
    share = (along - along.min()) / np.ptp(along)
    ends = random.uniform(0.15, 0.85, (2, 1)) + random.uniform(-0.15, 0.15, (2, 3))
    waves = 0.12 * _waves(rows, columns, random)
    image: Plane = ends[0] + share[..., None] * (ends[1] - ends[0]) + waves[..., None]
    return image


def _colour(kind: int, random: np.random.Generator) -> Plane:
    """A shape's colour (3,) in 0..1."""
    hue = (kind - 1) / 5 + random.normal(0, _HUE_SPREAD)
    saturation, value = random.uniform((0.35, 0.45), (0.9, 0.95))
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _draw_pair(index: int, random: np.random.Generator) -> tuple[Bytes, Bytes]:
    """An image (H, W, 3) RGB with one to four shapes, and its label (H, W).

    Later shapes cover earlier ones. The two pixels on a shape's edge are void, as in VOC.
    """
    height, width = (int(random.integers(low, high + 1)) for low, high in (_HEIGHTS, _WIDTHS))
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    image = _background(rows, columns, random)
    label = np.zeros((height, width), np.uint8)
    kinds = random.integers(1, len(SHAPES_CLASSES), random.integers(1, 5))
    kinds[-1] = 1 + index % (len(SHAPES_CLASSES) - 1)  # every class shows even in a tiny set
    for kind in kinds:
        radius, angle = random.uniform(*_RADII), random.uniform(0, 2 * np.pi)
        x = (columns - width * random.uniform(0.1, 0.9)) / radius
        y = (rows - height * random.uniform(0.1, 0.9)) / radius
        turned = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
        distance = radius * _DISTANCES[SHAPES_CLASSES[kind]](*turned)  # in pixels
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        fill = _colour(kind, random) + 0.1 * _waves(rows, columns, random)[..., None]
        image = image + cover * (fill - image)
        label[distance < 1] = VOID
        label[distance < -1] = kind
    image = image + random.normal(0, random.uniform(0.01, 0.05), image.shape)
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8), label


def _write_pair(root: Path, name: str, image: Bytes, label: Bytes) -> None:
    Image.fromarray(image).save(root / IMAGES / f"{name}.jpg", quality=95)
    mask_image(label).save(root / MASKS / f"{name}.png")


def _write_set(root: Path, sizes: dict[str, int], seed: int) -> None:
    for part in (IMAGES, MASKS, SPLITS):
        (root / part).mkdir(parents=True)
    (root / CLASS_NAMES).write_text("".join(f"{name}\n" for name in SHAPES_CLASSES))
    every = ""
    for split, size in sizes.items():
        names = [f"{split}_{index:05d}" for index in range(size)]
        for index, name in enumerate(names):
            # a stream of its own for each pair: it does not depend on how many there are
            random = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
            _write_pair(root, name, *_draw_pair(index, random))
        text = "".join(f"{name}\n" for name in names)
        (root / SPLITS / f"{split}.txt").write_text(text)
        every += text
    (root / SPLITS / "trainval.txt").write_text(every)


def write_shapes(folder: Path, train: int, val: int, seed: int) -> None:
    """Writes `train` + `val` pairs in VOC's layout with its `class_names.txt`, whole or not at all.

    Pair i of a split depends on (seed, split, i) alone. `train` and `val` are at least 1.

    Raises:
        InputError: `folder` exists and is not an empty folder, or cannot be written.
    """
    write_new_folder(folder, lambda new: _write_set(new, {"train": train, "val": val}, seed))
