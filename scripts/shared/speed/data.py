"""The pictures that are read, and the batches made from them: ours, and in the book's way.

The book's item is that of VOCSegDataset, Dive into Deep Learning 14.9. The book decodes with
torchvision and computes with PyTorch or MXNet; the common ground of the three backends is Pillow
and NumPy. The book reads a whole split into memory first; here each item is read when it is asked
for. As in the book, pictures that are smaller than the crop are left out.
"""

import contextlib
import functools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.config import IMAGENET_MEAN, IMAGENET_STD, Config
from common.data.batches import training_batches
from common.data.dataset import Dataset, open_dataset
from common.data.images import FORMATS
from common.data.shapes import write_shapes
from common.data.voc import VOC_CLASSES, voc_palette
from common.errors import InputError
from scripts.shared.cli import console

PICTURE = (375, 500)
"""Height and width of most of VOC's pictures, and so of the synthetic ones."""

MEAN = np.array(IMAGENET_MEAN, np.float32)[:, None, None]
STD = np.array(IMAGENET_STD, np.float32)[:, None, None]

Batches = Iterator[tuple[NDArray[Any], NDArray[Any]]]


@contextlib.contextmanager
def pictures(
    data: Path | None, count: int, crops: Sequence[tuple[int, int]]
) -> Iterator[Path | None]:
    """`data`, or else a folder with `count` synthetic pictures for the time of the `with` block.

    None where `count` is 0.
    """
    if data is not None or not count:
        yield data and data.absolute()
        return
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "shapes"
        with console.status("drawing pictures"):
            height, width = draw_pictures(folder, count, crops)
        print(f"no --data: {count} synthetic pictures of {width}x{height}, in a temporary folder")
        yield folder


def draw_pictures(folder: Path, count: int, crops: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Writes a synthetic training split whose pictures have VOC's size, or the crops' if larger.

    Returns their height and width. What is drawn is `common.data.shapes`' set, enlarged.
    """
    height, width = map(max, zip(PICTURE, *crops, strict=True))
    write_shapes(folder, count, 1, Config.seed)
    dataset = open_dataset(folder, "train")
    for index in range(len(dataset)):
        for path in (dataset.image_path(index), dataset.mask_path(index)):
            with Image.open(path) as picture:  # a mask, in palette mode, takes the nearest
                picture.resize((width, height)).save(path, quality=95)
    return height, width


@functools.cache
def colormap2label() -> NDArray[np.int64]:
    """Class index by colour, (256^3,); what is no class's colour, void too, is class 0."""
    table = np.zeros(256**3, np.int64)
    for index, (red, green, blue) in enumerate(voc_palette()[: len(VOC_CLASSES)].astype(int)):
        table[(red * 256 + green) * 256 + blue] = index
    return table


def book_item(
    image_path: Path, mask_path: Path, crop: tuple[int, int], random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A random crop (3, h, w) float32 normalised, and its class indices (h, w) int64."""
    image = np.asarray(Image.open(image_path, formats=FORMATS).convert("RGB")).transpose(2, 0, 1)
    mask = np.asarray(Image.open(mask_path, formats=FORMATS).convert("RGB")).astype(np.int32)
    height, width = crop
    top = random.integers(0, image.shape[1] - height + 1)
    left = random.integers(0, image.shape[2] - width + 1)
    normal = np.ascontiguousarray(image, np.float32)
    normal = (normal / 255 - MEAN) / STD  # the whole picture, then the crop
    normal = np.ascontiguousarray(normal[:, top : top + height, left : left + width])
    mask = mask[top : top + height, left : left + width]
    colour = (mask[..., 0] * 256 + mask[..., 1]) * 256 + mask[..., 2]
    return normal, colormap2label()[colour]


def endless_batches(form: str, folder: Path, config: Config) -> Batches:
    """Batches (images, labels) of the folder's training split: ours, or the book's, without end.

    Raises:
        InputError: the folder is not in VOC's layout, or too few pictures can be used.
    """
    dataset = open_dataset(folder, "train")
    if form != "ours":
        yield from _book_batches(dataset, config)
    for batch in training_batches(dataset, config.replace(steps=sys.maxsize)):
        yield batch.image, batch.label


def _book_batches(dataset: Dataset, config: Config) -> Batches:
    """One item after the other, in this process, of the pictures that are as large as the crop."""
    large = [index for index in range(len(dataset)) if _is_large(dataset, index, config.crop)]
    if len(large) < config.batch_size:
        height, width = config.crop
        raise InputError(
            f"{dataset.root}: {len(large)} pictures of the training split are {height}x{width} or"
            f" larger, which the book's items must be; --batch-size asks for {config.batch_size}"
        )
    random = np.random.default_rng(config.seed)
    while True:
        order = random.permutation(large)
        for first in range(0, len(order) - config.batch_size + 1, config.batch_size):
            items = [
                book_item(dataset.image_path(index), dataset.mask_path(index), config.crop, random)
                for index in order[first : first + config.batch_size]
            ]
            images, labels = zip(*items, strict=True)
            yield np.stack(images), np.stack(labels)


def _is_large(dataset: Dataset, index: int, crop: tuple[int, int]) -> bool:
    with Image.open(dataset.image_path(index), formats=FORMATS) as picture:  # its header alone
        return picture.height >= crop[0] and picture.width >= crop[1]
