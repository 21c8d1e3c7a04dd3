"""From pictures to the arrays a network takes: scale, crop, jitter, flip, normalise, pad."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from common.config import VOID, Config, Void
from common.network.grid import scale_and_offset

Array = NDArray[Any]


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
