"""The pictures of `scripts.bench`, and the batches made from them: ours, and in the book's way."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.config import Config
from common.data.batches import training_batches
from common.data.dataset import Dataset, open_dataset
from common.data.shapes import write_shapes
from common.errors import InputError
from scripts.bench.book_item import book_item
from scripts.shared.cli import console

PICTURE = (375, 500)
"""Height and width of most of VOC's pictures, and so of the synthetic ones."""

Batches = Iterator[tuple[NDArray[Any], NDArray[Any]]]


@contextlib.contextmanager
def pictures(
    data: Path | None, count: int, crops: Sequence[tuple[int, int]]
) -> Iterator[Path | None]:
    """`data`, or else a folder with `count` synthetic pictures for the time of the `with` block.

    They are as large as the largest crop. None where `count` is 0.
    """
    if data is not None or not count:
        yield data and data.absolute()
        return
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "shapes"
        with console.status("drawing pictures"):
            heights, widths = zip(*crops, strict=True)
            height, width = draw_pictures(folder, count, (max(heights), max(widths)))
        print(f"no --data: {count} synthetic pictures of {width}x{height}, in a temporary folder")
        yield folder


def draw_pictures(folder: Path, pictures: int, crop: tuple[int, int]) -> tuple[int, int]:
    """Writes a synthetic training split whose pictures have VOC's size, or the crop's if larger.

    Returns their height and width. What is drawn is `common.data.shapes`' set, enlarged.
    """
    height, width = (max(sides) for sides in zip(PICTURE, crop, strict=True))
    write_shapes(folder, pictures, 1, Config.seed)
    dataset = open_dataset(folder, "train")
    for index in range(len(dataset)):
        for path, how in (
            (dataset.image_path(index), Image.Resampling.BICUBIC),
            (dataset.mask_path(index), Image.Resampling.NEAREST),
        ):
            with Image.open(path) as picture:
                picture.resize((width, height), how).save(path, quality=95)
    return height, width


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
    with Image.open(dataset.image_path(index)) as picture:  # reads the header alone
        return picture.height >= crop[0] and picture.width >= crop[1]
