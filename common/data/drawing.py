"""Pictures of masks: in a palette, over the image with a legend, in rows side by side."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from common.config import VOID
from common.data.colours import Palette
from common.data.voc import BACKGROUND
from common.fonts import charmap, drawable, font_with
from common.text import shorten

_MARGIN = 6
_LONGEST = 20
"""Characters of a class's name in a legend."""
_ROWS = 256
_WHITE, _INK = (255, 255, 255), (40, 40, 40)


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _has(letter: str) -> bool:
    """Whether Pillow's own font has a letter: what it lacks looks as U+FFFF does, which is none."""
    font = _font(13)
    return bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))


def _named(labels: Sequence[int], class_names: Sequence[str], size: int) -> tuple[Any, list[str]]:
    """A font for the names of labels, and the names as it can show them."""
    names = [class_names[label] for label in labels]
    letters = frozenset("".join(shorten(name, _LONGEST) for name in names))
    if all(map(_has, letters)):
        return _font(size), drawable(names, labels, _LONGEST, _has)
    path = font_with(letters)
    known = charmap(path)
    shown = drawable(names, labels, _LONGEST, lambda letter: ord(letter) in known)
    return ImageFont.truetype(path, size), shown


def mask_image(mask: NDArray[np.uint8], palette: Palette = Palette.voc) -> Image.Image:
    """A mask (H, W) as a palette picture: the pixel values are the labels."""
    picture = Image.fromarray(mask)
    picture.putpalette(palette.colours().tobytes())
    return picture


def is_shown(label: int, class_names: Sequence[str]) -> bool:
    """Whether a label is painted: void and a class 0 that is the background are not."""
    return label != VOID and (label != 0 or class_names[0] not in BACKGROUND)


def blend(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    class_names: Sequence[str],
    palette: Palette = Palette.voc,
) -> NDArray[np.uint8]:
    """The image (H, W, 3) with each class's colour over it; background and void are as seen."""
    colour = (11 * palette.colours().astype(np.uint16))[mask]
    mixed = ((9 * image.astype(np.uint16) + colour + 10) // 20).astype(np.uint8)  # 0.45 and 0.55
    shown = np.array([is_shown(label, class_names) for label in range(256)])[mask]
    return np.where(shown[..., None], mixed, image)


def legend(
    labels: Sequence[int],
    class_names: Sequence[str],
    width: int,
    palette: Palette = Palette.voc,
) -> Image.Image:
    """Colour and name of each label, in as many rows as `width` pixels need."""
    box = 13
    font, names = _named(labels, class_names, box)
    places, x, y = [], _MARGIN, _MARGIN
    for name in names:
        length = box + 4 + int(font.getlength(name)) + 12
        if x + length > width and x > _MARGIN:
            x, y = _MARGIN, y + box + _MARGIN
        places.append((x, y))
        x += length
    picture = Image.new("RGB", (width, y + box + _MARGIN), _WHITE)
    draw = ImageDraw.Draw(picture)
    for label, name, (x, y) in zip(labels, names, places, strict=True):
        colour = tuple(int(c) for c in palette.colours()[label])
        draw.rectangle((x, y, x + box - 1, y + box - 1), fill=colour, outline=_INK)
        draw.text((x + box + 4, y - 2), name, fill=_INK, font=font)
    return picture


def overlay(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    class_names: Sequence[str],
    palette: Palette = Palette.voc,
) -> Image.Image:
    """The image (H, W, 3) with its mask over it, and below a legend of the classes found.

    At least 160 pixels wide, so that the legend can be read under a small image.
    """
    height, width = mask.shape
    found = [int(label) for label in np.unique(mask) if label != VOID]
    labels = legend(found, class_names, max(width, 160), palette)
    picture = Image.new("RGB", (labels.width, height + labels.height), _WHITE)
    for top in range(0, height, _ROWS):  # `blend` takes many times the memory of what it mixes
        rows = slice(top, top + _ROWS)
        mixed = blend(image[rows], mask[rows], class_names, palette)
        picture.paste(Image.fromarray(mixed), (0, top))
    picture.paste(labels, (0, height))
    return picture


def sheet(titles: Sequence[str], rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of pictures under titles, each row as high as its highest picture."""
    title_height = 20
    columns = [max(row[k].width for row in rows) for k in range(len(titles))]
    heights = [max(picture.height for picture in row) for row in rows]
    width = sum(columns) + _MARGIN * (len(columns) + 1)
    height = title_height + sum(heights) + _MARGIN * (len(rows) + 1)
    page = Image.new("RGB", (width, height), _WHITE)
    draw = ImageDraw.Draw(page)
    x = _MARGIN
    for k, title in enumerate(titles):
        draw.text((x, 4), title, fill=_INK, font=_font(13))
        y = title_height + _MARGIN
        for row, row_height in zip(rows, heights, strict=True):
            page.paste(row[k].convert("RGB"), (x, y))
            y += row_height + _MARGIN
        x += columns[k] + _MARGIN
    return page


def prediction_sheet(
    titles: Sequence[str],
    rows: Sequence[tuple[NDArray[np.uint8], Sequence[NDArray[np.uint8]]]],
    class_names: Sequence[str],
) -> Image.Image:
    """Images (H, W, 3), each with its masks (H, W) over it beside it; a legend of all below."""
    masks = [mask for _, row in rows for mask in row]
    labels = {int(label) for mask in masks for label in np.unique(mask)}
    found = [label for label in sorted(labels) if is_shown(label, class_names)]
    pictures = [[image, *(blend(image, mask, class_names) for mask in row)] for image, row in rows]
    page = sheet(titles, [[Image.fromarray(picture) for picture in row] for row in pictures])
    key = legend(found, class_names, page.width)
    whole = Image.new("RGB", (page.width, page.height + key.height), _WHITE)
    whole.paste(page, (0, 0))
    whole.paste(key, (0, page.height))
    return whole
