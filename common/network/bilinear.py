"""The kernel that makes a transposed convolution start as bilinear interpolation."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def bilinear_kernel(size: int) -> NDArray[np.float64]:
    """The 2-d bilinear kernel (size, size), float64, for stride size / 2.

    Along one axis it is a triangle, 1 - |i - c| / f with f = (size + 1) // 2 and c the middle:
    an output pixel weighs its two nearest input pixels by closeness (Long et al., 2015, 3.3;
    Dive into Deep Learning 14.11.3).
    """
    factor = (size + 1) // 2
    distance = np.abs(np.arange(size) - (size - 1) / 2)
    triangle = 1 - distance / factor
    return np.outer(triangle, triangle)


def bilinear_weight(channels: int, size: int) -> NDArray[np.float64]:
    """A transposed convolution's weight (in, out, size, size) that keeps channels apart.

    The kernel stands on the channel diagonal and zero elsewhere, so that each class map is
    upsampled by itself.
    """
    weight = np.zeros((channels, channels, size, size))
    weight[np.arange(channels), np.arange(channels)] = bilinear_kernel(size)
    return weight


def upsample(image: NDArray[np.floating[Any]], factor: int) -> NDArray[np.float64]:
    """An image (H, W, channels), `factor` times as large, (factor H, factor W, channels).

    The transposed convolution written out for a bilinear kernel of size 2 * factor, stride
    `factor` (even), padding factor / 2: each input pixel adds a scaled kernel to the output.
    Inside it is half-pixel bilinear interpolation; the outer factor / 2 pixels fade, because
    nothing lies beyond the border.
    """
    height, width, channels = image.shape
    kernel = bilinear_kernel(2 * factor)[..., None]
    padding = factor // 2
    full = np.zeros(((height + 1) * factor, (width + 1) * factor, channels))
    for row in range(height):
        for column in range(width):
            y, x = row * factor, column * factor
            full[y : y + 2 * factor, x : x + 2 * factor] += image[row, column] * kernel
    return full[padding : padding + height * factor, padding : padding + width * factor]
