"""From pictures to the arrays a network takes: crop, flip, normalise, pad."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import VOID, Config
from common.errors import InputError
from common.names import OUTPUT_STRIDE

Array = NDArray[Any]


def scale_and_offset(config: Config) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """By channel (3,), so that image * scale + offset = (image / 255 - mean) / std."""
    std = np.array(config.std)
    return 1 / (255 * std), -np.array(config.mean) / std


def normalize(image: NDArray[np.uint8], config: Config) -> NDArray[np.float32]:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32, (image / 255 - mean) / std by channel."""
    scale, offset = scale_and_offset(config)
    normal = image * scale.astype(np.float32) + offset.astype(np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def random_crop(
    image: NDArray[np.uint8],
    label: NDArray[np.uint8],
    config: Config,
    random: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A crop of `config.crop`, flipped with its probability: (3, h, w) float32, (h, w) uint8.

    Where the picture is smaller than the crop, the rest is 0 in the image (after normalisation)
    and void in the label, and the picture lies at a random place in it.
    """
    height, width = config.crop
    rows, columns = label.shape
    source, target = [], []
    for size, wanted in ((rows, height), (columns, width)):
        slack = int(random.integers(0, abs(size - wanted) + 1))
        length = min(size, wanted)
        first_source, first_target = (slack, 0) if size > wanted else (0, slack)
        source.append(slice(first_source, first_source + length))
        target.append(slice(first_target, first_target + length))
    crop = np.zeros((3, height, width), np.float32)
    crop[:, target[0], target[1]] = normalize(image[source[0], source[1]], config)
    labels = np.full((height, width), VOID, np.uint8)
    labels[target[0], target[1]] = label[source[0], source[1]]
    if random.random() < config.flip_probability:
        crop, labels = crop[:, :, ::-1], labels[:, ::-1]
    return crop, labels


def _padding(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """What is added at the bottom and at the right to reach the next multiple of 32."""
    return (0, -height % OUTPUT_STRIDE), (0, -width % OUTPUT_STRIDE)


def image_size(images: Array) -> tuple[int, int]:
    """Height and width of pictures (N, H, W, 3) uint8, or of normalised images (N, 3, H, W)."""
    height, width = images.shape[1:3] if images.dtype == np.uint8 else images.shape[2:]
    return height, width


def pad_images(images: Array) -> Array:
    """Either kind of `image_size` with zeros at the bottom and right, to multiples of 32."""
    rows, columns = _padding(*image_size(images))
    if images.dtype == np.uint8:
        return np.pad(images, ((0, 0), rows, columns, (0, 0)))
    return np.pad(images, ((0, 0), (0, 0), rows, columns))


def label_cells(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A training batch's labels in the cells of the upsampling, each a picture of 32x32 pixels.

    (N, H, W) -> (N * (h + 1) * (w + 1), 32, 32), with h = H / 32 and w = W / 32, rounded up. What
    the upsampling crops, 16 pixels on each side and what rounds the image up, is void here, and a
    void pixel counts neither in the loss nor in any gradient. So the loss over the cells is the
    loss over the pictures, its terms in another order:

        labels of a picture   |----- W -----|
        with void        |16| |-------------| |16|
        cells            |-- 32 --|-- 32 --|-- 32 --|

    Raises:
        InputError: the deepest layers would have one value a channel, which has no variance.
    """
    size, half = OUTPUT_STRIDE, OUTPUT_STRIDE // 2
    rows, columns = ((half, half + more) for _, more in _padding(*labels.shape[1:]))
    labels = np.pad(labels, ((0, 0), rows, columns), constant_values=VOID)
    n, height, width = labels.shape
    if n == 1 and height == width == 2 * size:
        raise InputError(
            "a training batch of one image of at most 32x32 pixels leaves BatchNorm one value"
            " a channel: use a larger batch or crop"
        )
    grid = labels.reshape(n, height // size, size, width // size, size)
    return grid.transpose(0, 1, 3, 2, 4).reshape(-1, size, size)
