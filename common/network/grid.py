"""From pictures to the network's grid: normalisation, padding to multiples of 32, cells."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import OUTPUT_STRIDE, VOID, Config, Freeze
from common.errors import InputError

Array = NDArray[Any]


def scale_and_offset(config: Config) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """By channel (3,), so that image * scale + offset = (image / 255 - mean) / std."""
    std = np.array(config.std)
    return 1 / (255 * std), -np.array(config.mean) / std


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


def check_batch(config: Config, images: int, height: int, width: int) -> None:
    """Refuses a training batch whose variance, channel by channel, is that of one value.

    A frozen BatchNorm takes no variance of the batch, and any batch will do.

    Raises:
        InputError: the deepest layers, at a 32nd of the size, would have one value a channel.
    """
    if config.freeze == Freeze.none and images == 1 and max(height, width) <= OUTPUT_STRIDE:
        raise InputError(
            f"a training batch of one image of {height}x{width} pixels leaves BatchNorm one value"
            " a channel: use a larger batch or crop"
        )


def check_parts(config: Config, images: int) -> None:
    """Refuses a batch that cannot be cut into parts of as many images each.

    Raises:
        InputError: it cannot.
    """
    if images % config.parts:
        cut = "--accumulate times --processes, " if config.processes > 1 else "--accumulate "
        raise InputError(
            f"a batch of {images} images cannot be cut into {cut}{config.parts} equal parts"
        )


def parts_of(array: Array, config: Config) -> list[Array]:
    """What a process has of a batch, (N, ...), in the parts that it computes one after another.

    Raises:
        InputError: they would not have as many images each.
    """
    if len(array) % config.accumulate:
        check_parts(config, len(array) * config.processes)
    return np.split(array, config.accumulate)


def valid_pixels(labels: NDArray[np.uint8]) -> int:
    """How many pixels the loss counts."""
    return int(np.count_nonzero(labels != VOID))


def label_cells(labels: NDArray[np.uint8], config: Config) -> NDArray[np.uint8]:
    """A training batch's labels in the cells of the upsampling, of s x s pixels, s its stride.

    (N, H, W) -> (N, h+1, w+1, s, s), with h = H / s and w = W / s, H and W rounded up to multiples
    of 32. What the upsampling crops, s / 2 pixels on each side, and what rounds the image up, is
    void here: it counts neither in the loss nor in any gradient (docs/upsampling.md).

    Raises:
        InputError: as `check_batch`.
    """
    check_batch(config, *labels.shape)
    size, half = config.head.stride, config.head.stride // 2
    rows, columns = ((half, half + more) for _, more in _padding(*labels.shape[1:]))
    labels = np.pad(labels, ((0, 0), rows, columns), constant_values=VOID)
    n, height, width = labels.shape
    return labels.reshape(n, height // size, size, width // size, size).swapaxes(2, 3)
