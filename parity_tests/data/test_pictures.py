"""Masks over images, and their legends, at any size."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from common.data.colours import Palette, _oklab, codes_of
from common.data.drawing import blend, legend, mask_image, overlay, prediction_sheet, sheet
from common.data.voc import VOC_CLASSES, voc_palette
from parity_tests.network.witnesses import import_torchvision


@pytest.mark.parametrize("palette", Palette)
def test_a_mask_s_picture_holds_labels_in_the_palette_s_colours(palette: Palette) -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = mask_image(mask, palette)
    assert picture.mode == "P"
    assert np.array_equal(picture, mask)
    assert np.array_equal(np.asarray(picture.convert("RGB")).reshape(256, 3), palette.colours())


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


OKLAB = {
    (255, 255, 255): (1.0, 0.0, 0.0),
    (255, 0, 0): (0.627955, 0.224863, 0.125846),
    (0, 255, 0): (0.866440, -0.233888, 0.179498),
    (0, 0, 255): (0.452014, -0.032457, -0.311528),
    (128, 128, 128): (0.599871, 0.0, 0.0),
    (8, 8, 8): (0.134425, 0.0, 0.0),
}
"""As the colour pickers of CSS give them (CSS Color 4, `oklab()`)."""


def test_colours_are_measured_in_oklab() -> None:
    found = _oklab(np.array([*OKLAB], np.uint8))
    assert np.abs(found - np.array([*OKLAB.values()])).max() < 5e-5


def test_each_colour_of_the_distinct_palette_is_as_far_as_can_be_from_those_before() -> None:
    colours = Palette.distinct.colours()
    assert tuple(colours[0]) == (0, 0, 0)
    assert np.array_equal(colours[255], voc_palette()[255])
    steps = np.arange(0, 256, 17, dtype=np.uint8)  # sixteen of each
    every = _oklab(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3))
    places = _oklab(colours)
    for label in (1, 2, 9, 40, 254):
        before = places[[*range(label), 255]]
        farthest = np.linalg.norm(every[:, None] - before, axis=2).min(axis=1).max()
        own = np.linalg.norm(places[label] - before, axis=1).min()
        assert own == pytest.approx(farthest, rel=1e-12)


def test_a_colour_s_code_is_written_as_in_html() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    for colour, code in zip(colours.reshape(-1, 3), codes_of(colours).ravel(), strict=True):
        assert f"{code:06x}" == bytes(colour).hex()


def test_the_classes_are_those_of_torchvision_s_weights_for_voc() -> None:
    weights = import_torchvision().models.segmentation.FCN_ResNet50_Weights
    theirs = weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    assert list(VOC_CLASSES[1:]) == theirs[1:]
    assert theirs[0] == f"__{VOC_CLASSES[0]}__"


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


def test_a_sheet_has_its_pictures_in_rows_and_columns_under_titles() -> None:
    """Each row is as high as its highest picture, each column as wide as its widest."""
    sizes = [[(80, 30), (40, 50)], [(60, 20), (90, 10)], [(5, 7), (6, 6)]]
    colours = [[(200, 0, 0), (0, 200, 0)], [(0, 0, 200), (200, 200, 0)], [(9, 9, 9), (0, 200, 200)]]
    rows = [
        [Image.new("RGB", size, colour) for size, colour in zip(*row, strict=True)]
        for row in zip(sizes, colours, strict=True)
    ]
    page = np.asarray(sheet(["image", "truth"], rows)).astype(int)
    assert page.shape == (20 + 6 + 50 + 6 + 20 + 6 + 7 + 6, 6 + 80 + 6 + 90 + 6, 3)
    corners = [[(26, 6), (26, 92)], [(82, 6), (82, 92)], [(108, 6), (108, 92)]]
    rest = np.ones(page.shape[:2], bool)
    for places, its_sizes, its_colours in zip(corners, sizes, colours, strict=True):
        for (y, x), (width, height), colour in zip(places, its_sizes, its_colours, strict=True):
            at = slice(y, y + height), slice(x, x + width)
            assert (page[at] == colour).all()
            rest[at] = False
    inked = (page[..., 0] < 255) & rest
    assert not inked[20:].any()
    assert inked[:20, 6:86].any() and inked[:20, 92:182].any()  # a title over each
    assert not inked[:4].any() and not inked[:, :6].any() and not inked[:, 86:90].any()


def test_a_legend_breaks_where_the_next_name_does_not_fit() -> None:
    names = ("background", "ball", "box", "a name of very many letters")
    wide, narrow = legend([1, 2], names, 300), legend([1, 2], names, 60)
    assert (wide.height, narrow.height) == (13 + 2 * 6, 2 * 13 + 3 * 6)
    assert legend([3], names, 30).height == 13 + 2 * 6  # what fits nowhere stays in the first row
    pixels = np.asarray(wide)
    for k, label in enumerate((1, 2)):
        colour = (pixels == voc_palette()[label]).all(axis=-1)
        assert colour.sum() == 11 * 11  # within a frame of a pixel
        rows, columns = np.nonzero(colour)
        assert (rows.min(), rows.max()) == (7, 17)
        if k == 0:
            assert (columns.min(), columns.max()) == (7, 17)
            assert (pixels[6:19, 23:, 0] < 128).any()  # the name, behind it
            assert (pixels[6:19, 19:23] == 255).all()
