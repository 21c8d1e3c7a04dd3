"""The book's item: VOCSegDataset of Dive into Deep Learning 14.9, from disk to a normalised crop.

What the reading of `common.data.batches` is measured against. The book decodes with torchvision and
computes with PyTorch or MXNet; the common ground of the three backends is Pillow and NumPy, so it
stands here in these. The book reads a whole split into memory first and leaves out pictures that
are smaller than the crop; here each item is read when it is asked for, and such a picture is the
caller's to leave out.
"""

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.config import IMAGENET_MEAN, IMAGENET_STD
from common.data.voc import VOC_CLASSES, voc_palette

MEAN = np.array(IMAGENET_MEAN, np.float32)[:, None, None]
STD = np.array(IMAGENET_STD, np.float32)[:, None, None]


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
    image = np.asarray(Image.open(image_path).convert("RGB")).transpose(2, 0, 1)
    mask = np.asarray(Image.open(mask_path).convert("RGB")).astype(np.int32)
    height, width = crop
    top = random.integers(0, image.shape[1] - height + 1)
    left = random.integers(0, image.shape[2] - width + 1)
    normal = np.ascontiguousarray(image, np.float32)
    normal = (normal / 255 - MEAN) / STD  # the whole picture, then the crop
    normal = np.ascontiguousarray(normal[:, top : top + height, left : left + width])
    mask = mask[top : top + height, left : left + width]
    colour = (mask[..., 0] * 256 + mask[..., 1]) * 256 + mask[..., 2]
    return normal, colormap2label()[colour]
