"""Masks over images, and their legends, at any size."""

import numpy as np
import pytest

from common.data.drawing import blend, overlay
from common.data.voc import VOC_CLASSES, voc_palette


def test_a_class_is_seen_through_its_colour() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    mask = random.choice(np.array([0, 1, 15, 20, 255], np.uint8), (40, 50))
    mixed = blend(image, mask)
    assert mixed.dtype == np.uint8
    seen = (mask == 0) | (mask == 255)
    assert np.array_equal(mixed[seen], image[seen])
    exact = 0.45 * image + 0.55 * voc_palette()[mask]
    assert np.abs(mixed - exact)[~seen].max() <= 0.5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1), (1500, 2000)])
def test_an_overlay_holds_its_image_and_a_legend_at_any_size(height: int, width: int) -> None:
    image = np.full((height, width, 3), 77, np.uint8)
    mask = (np.arange(height * width).reshape(height, width) % 21).astype(np.uint8)
    picture = overlay(image, mask, VOC_CLASSES)
    assert picture.width == max(width, 160)
    assert picture.height > height + 13
    pixels = np.asarray(picture)
    assert np.array_equal(pixels[:height, :width], blend(image, mask))
    assert (pixels[:height, width:] == 255).all()
    colours = set(map(tuple, pixels[height:].reshape(-1, 3).tolist()))
    assert colours >= {tuple(voc_palette()[label].tolist()) for label in np.unique(mask)}
