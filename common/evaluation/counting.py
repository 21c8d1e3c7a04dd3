"""What of a labelled picture counts: every pixel that is not void, or what the book counts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import VOID, Void

Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Counting:
    """How a split is measured; by default each picture whole, void left out.

    Dive into Deep Learning 14.11.5 measures random crops of the val images, leaves out images that
    are smaller than the crop, and takes void for background. `seed` is of the crops.
    """

    void: Void = Void.ignore
    crop: tuple[int, int] | None = None
    seed: int = 0

    def take(self, image: Array, label: Array, index: int) -> tuple[Array, Array] | None:
        """Of image `index` (H, W, 3) and its label (H, W) what counts; None where nothing does."""
        if self.crop is not None:
            free = np.subtract(label.shape, self.crop)
            if min(free) < 0:
                return None
            top, left = np.random.default_rng([self.seed, index]).integers(0, free + 1)
            window: Any = np.s_[top : top + self.crop[0], left : left + self.crop[1]]
            image, label = image[window], label[window]
        if self.void == Void.background:
            label = np.where(label == VOID, 0, label).astype(np.uint8)
        return image, label


WHOLE = Counting()
"""Every image whole, void left out."""
