"""From pictures to the arrays a network takes: crop, flip, normalise, pad."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import VOID, Config
from common.errors import InputError
from common.names import OUTPUT_STRIDE

Array = NDArray[Any]


def normalize(image: NDArray[np.uint8], config: Config) -> NDArray[np.float32]:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32, (image / 255 - mean) / std by channel."""
    scale = 1 / (255 * np.array(config.std))
    offset = -np.array(config.mean) / np.array(config.std)
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


def pad_images(images: Array) -> Array:
    """(N, 3, H, W) with zeros at the bottom and right, up to the next multiple of 32."""
    return np.pad(images, ((0, 0), (0, 0), *_padding(*images.shape[2:])))


def pad_batch(images: Array, labels: Array) -> tuple[Array, Array]:
    """A training batch on the padded grid: images with zeros, labels (N, H, W) with void.

    A void pixel counts neither in the loss nor in any gradient, so this equals cropping the
    logits back.

    Raises:
        InputError: the deepest layers would have one value a channel, which has no variance.
    """
    images = pad_images(images)
    labels = np.pad(labels, ((0, 0), *_padding(*labels.shape[1:])), constant_values=VOID)
    if images.shape[0] * images.shape[2] * images.shape[3] == OUTPUT_STRIDE**2:
        raise InputError(
            "a training batch of one image of at most 32x32 pixels leaves BatchNorm one value"
            " a channel: use a larger batch or crop"
        )
    return images, labels


def crop_activations(activations: Mapping[str, Array], shape: tuple[int, ...]) -> dict[str, Array]:
    """The layers of a padded pass, their logits cropped to the image's (N, 3, H, W) shape."""
    logits = activations["logits"][:, :, : shape[2], : shape[3]]
    return {**activations, "logits": np.ascontiguousarray(logits)}
