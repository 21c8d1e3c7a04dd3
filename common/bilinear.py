"""The kernel that makes a transposed convolution start as bilinear interpolation."""

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
