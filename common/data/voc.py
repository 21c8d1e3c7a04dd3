"""Pascal VOC's classes and colours."""

import numpy as np
from numpy.typing import NDArray

VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

BACKGROUND = ("background", "_background_")
"""What a class 0 that is none is called; the second by labelme."""


def voc_palette() -> NDArray[np.uint8]:
    """VOC's colour of each label value, (256, 3) uint8 RGB.

    From the VOC development kit's definition: bits 0, 3, 6 of the label are the highest bits of
    red, bits 1, 4, 7 of green, bits 2, 5 of blue, each channel filled from its top bit down.
    """
    depth = np.arange(8)
    bits = np.arange(256)[:, None, None] >> (3 * depth + np.arange(3)[:, None]) & 1  # (256, 3, 8)
    palette: NDArray[np.uint8] = (bits << (7 - depth)).sum(axis=2).astype(np.uint8)
    return palette
