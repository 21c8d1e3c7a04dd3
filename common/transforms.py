"""From pictures to the arrays a network takes: scale, crop, jitter, flip, normalise, pad."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from common.config import OUTPUT_STRIDE, VOID, Config, Void
from common.errors import InputError

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


def mean_colour(config: Config) -> tuple[int, int, int]:
    """The colour that normalises to 0, but for rounding: at most half a grey level from it."""
    red, green, blue = (round(255 * value) for value in config.mean)
    return red, green, blue


def _window(
    size: int, wanted: int, scale: float, random: np.random.Generator
) -> tuple[float, float, int, int]:
    """Where a crop lies along one axis of a picture that is scaled first.

    Its two ends in the picture's own pixels, its length in scaled ones, at most `wanted`, and
    its place among the `wanted`, which is 0 unless the picture is smaller.
    """
    scaled = max(1, round(size * scale))
    slack = int(random.integers(0, abs(scaled - wanted) + 1))
    length = min(scaled, wanted)
    first, place = (slack, 0) if scaled > wanted else (0, slack)
    return first * size / scaled, (first + length) * size / scaled, length, place


def _jitter(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation times 1 +- `strength` each, in an order of its own."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for k in random.permutation(len(enhancers)):
        image = enhancers[k](image).enhance(random.uniform(1 - strength, 1 + strength))
    return image


def _surround(
    image: Image.Image, size: tuple[int, int], place: tuple[int, int], value: Any
) -> Image.Image:
    """The image at `place` in one of `size` (width, height) that is `value` elsewhere."""
    if image.size == size:
        return image
    whole = Image.new(image.mode, size, value)
    whole.paste(image, place)
    return whole


def random_crop(
    image: Image.Image, mask: Image.Image, config: Config, random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A crop of `config.crop` of both: (h, w, 3) uint8 RGB, (h, w) uint8.

    The picture is scaled by a factor from `config.scale`, uniform in its logarithm: the image
    bilinear, averaged over the area where it shrinks, the mask nearest. Then it is cropped, its
    colours vary by `config.jitter`, and it is flipped with its probability. Where it is smaller
    than the crop it lies at a random place in it, and around it are the mean colour and void.
    Nothing is drawn for a scale or a jitter that leaves no choice.
    """
    height, width = config.crop
    low, high = config.scale
    scale = low if low == high else math.exp(random.uniform(math.log(low), math.log(high)))
    top, bottom, rows, y = _window(image.height, height, scale, random)
    left, right, columns, x = _window(image.width, width, scale, random)
    flip = random.random() < config.flip_probability
    # of whole pixels at their own size, Pillow makes a plain crop
    box = (left, top, right, bottom)
    image = image.resize((columns, rows), Image.Resampling.BILINEAR, box)
    mask = mask.resize((columns, rows), Image.Resampling.NEAREST, box)
    if config.void == Void.background:
        mask = mask.point([0 if label == VOID else label for label in range(256)])
    if config.jitter:
        image = _jitter(image, config.jitter, random)
    image = _surround(image, (width, height), (x, y), mean_colour(config))
    mask = _surround(mask, (width, height), (x, y), VOID)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mask = mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image), np.asarray(mask)


def _padding(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """What is added at the bottom and at the right to reach the next multiple of 32."""
    return (0, -height % OUTPUT_STRIDE), (0, -width % OUTPUT_STRIDE)


def image_size(images: Array) -> tuple[int, int]:
    """Height and width of pictures (N, H, W, 3) uint8, or of normalised images (N, 3, H, W)."""
    height, width = images.shape[1:3] if images.dtype == np.uint8 else images.shape[2:]
    return height, width


def padded_size(images: Array) -> tuple[int, int]:
    """`image_size`, rounded up to multiples of 32."""
    rows, columns = _padding(*image_size(images))
    return image_size(images)[0] + rows[1], image_size(images)[1] + columns[1]


def pad_images(images: Array) -> Array:
    """Either kind of `image_size` with zeros at the bottom and right, to multiples of 32."""
    rows, columns = _padding(*image_size(images))
    if images.dtype == np.uint8:
        return np.pad(images, ((0, 0), rows, columns, (0, 0)))
    return np.pad(images, ((0, 0), (0, 0), rows, columns))


def check_batch(images: int, height: int, width: int) -> None:
    """Refuses a training batch whose variance, channel by channel, is that of one value.

    Raises:
        InputError: the deepest layers, at a 32nd of the size, would have one value a channel.
    """
    if images == 1 and max(height, width) <= OUTPUT_STRIDE:
        raise InputError(
            f"a training batch of one image of {height}x{width} pixels leaves BatchNorm one value"
            " a channel: use a larger batch or crop"
        )


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
        InputError: as `check_batch`.
    """
    check_batch(*labels.shape)
    size, half = OUTPUT_STRIDE, OUTPUT_STRIDE // 2
    rows, columns = ((half, half + more) for _, more in _padding(*labels.shape[1:]))
    labels = np.pad(labels, ((0, 0), rows, columns), constant_values=VOID)
    n, height, width = labels.shape
    grid = labels.reshape(n, height // size, size, width // size, size)
    return grid.transpose(0, 1, 3, 2, 4).reshape(-1, size, size)
