"""Masks over images, and their legends, at any size."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from common.data.colours import Palette
from common.data.drawing import blend, overlay, prediction_sheet
from common.data.voc import VOC_CLASSES, voc_palette


def test_a_class_is_seen_through_its_colour() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    mask = random.choice(np.array([0, 1, 15, 20, 255], np.uint8), (40, 50))
    mixed = blend(image, mask, VOC_CLASSES)
    assert mixed.dtype == np.uint8
    seen = (mask == 0) | (mask == 255)
    assert np.array_equal(mixed[seen], image[seen])
    exact = 0.45 * image + 0.55 * voc_palette()[mask]
    assert np.abs(mixed - exact)[~seen].max() <= 0.5


@pytest.mark.parametrize("first", ["background", "_background_", "sky"])
def test_class_0_is_painted_and_named_where_it_is_not_the_background(first: str) -> None:
    image, mask = np.full((9, 300, 3), 200, np.uint8), np.zeros((9, 300), np.uint8)
    names = (first, "road")
    seen = bool((blend(image, mask, names) == image).all())
    assert seen == (first != "sky")
    page = np.asarray(prediction_sheet(["image", "truth"], [(image, [mask])], names))
    empty = np.asarray(
        prediction_sheet(["image", "truth"], [(image, [mask + np.uint8(255)])], names)
    )
    assert np.array_equal(page, empty) == (first != "sky")
    assert (page[-14:] < 128).any() == (first == "sky")  # its name below


def test_the_colours_of_the_distinct_palette_are_told_apart() -> None:
    """By CIE76 in Lab, where 2.3 is just noticeable: Pillow's, another measure than ours."""
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    to_lab = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    least = {}
    for palette in Palette:
        colours = palette.colours()
        assert len({tuple(colour) for colour in colours.tolist()}) == 256
        shown = Image.fromarray(colours[None, [*range(40), 255]])
        light, a, b = np.asarray(ImageCms.applyTransform(shown, to_lab)).astype(np.int16)[0].T
        lab = np.stack([light / 2.55, a.astype(np.int8), b.astype(np.int8)], 1)
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)
        least[palette] = apart[np.triu_indices(41, 1)].min()
    assert least[Palette.distinct] > 10
    assert least[Palette.distinct] > 2 * least[Palette.voc]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1), (1500, 2000)])
def test_an_overlay_holds_its_image_and_a_legend_at_any_size(height: int, width: int) -> None:
    image = np.full((height, width, 3), 77, np.uint8)
    mask = (np.arange(height * width).reshape(height, width) % 21).astype(np.uint8)
    picture = overlay(image, mask, VOC_CLASSES)
    assert picture.width == max(width, 160)
    assert picture.height > height + 13
    pixels = np.asarray(picture)
    assert np.array_equal(pixels[:height, :width], blend(image, mask, VOC_CLASSES))
    assert (pixels[:height, width:] == 255).all()
    colours = set(map(tuple, pixels[height:].reshape(-1, 3).tolist()))
    assert colours >= {tuple(voc_palette()[label].tolist()) for label in np.unique(mask)}
