"""What is done to pictures and masks."""

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from common.data.dataset import MASKS, SPLITS, keep_manifest
from common.data.voc import voc_palette
from parity_tests.bad_input.files import (
    as_it_is,
    empty,
    flipped,
    half,
    html,
    rewrite,
    several,
    text,
)
from parity_tests.bad_input.trial import CHECKED, DATA, IMAGE, MASK, NAMES, SCORE, SPLIT, Row
from parity_tests.bad_input.weights import more_classes


def flat(size: tuple[int, int] = (48, 40), colour: tuple[int, ...] = (30, 90, 200)) -> Image.Image:
    """A picture of one colour; that much survives JPEG. One channel is grey, four are CMYK."""
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[len(colour)]
    return Image.new(mode, size, colour if len(colour) > 1 else colour[0])


def stripes(size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A picture whose every row and column is another."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([5 * rows, 5 * columns, 3 * (rows + columns)], 2).astype("u1"))


def mask_of(size: tuple[int, int], label: int = 1) -> Image.Image:
    mask = Image.new("P", size, label)
    mask.putpalette(voc_palette().tobytes())
    return mask


def pair(
    image: Image.Image, kind: str = "PNG", mask: Image.Image | None = None, **options: Any
) -> Callable[[], None]:
    """Puts an image and a mask in place of the first training pair's; the name stays .jpg."""

    def change() -> None:
        image.save(IMAGE, kind, **options)
        (mask or mask_of(image.size)).save(MASK)

    return change


def pairs(
    pictures: Sequence[tuple[Image.Image, str, dict[str, Any], tuple[int, int]]],
) -> Callable[[], None]:
    """A training split of these: a picture, its format, how it is saved, the mask's size."""

    def change() -> None:
        for k, (image, kind, options, size) in enumerate(pictures):
            image.save(IMAGE.with_stem(f"n{k}"), kind, **options)
            mask_of(size).save(MASK.with_stem(f"n{k}"))
        SPLIT.write_text("".join(f"n{k}\n" for k in range(len(pictures))))

    return change


def masked(mask: Image.Image, kind: str = "PNG") -> Callable[[], None]:
    """Puts a mask in place of the first training pair's."""
    return lambda: mask.save(MASK, kind)


def labelled(value: int) -> Callable[[], None]:
    """A mask of the right size that is `value` everywhere."""

    def change() -> None:
        with Image.open(MASK) as mask:
            size = mask.size
        mask_of(size, value).save(MASK)

    return change


def other_mask(change: Callable[[Image.Image], Image.Image]) -> Callable[[], None]:
    """The mask, changed."""

    def spoil() -> None:
        with Image.open(MASK) as mask:
            mask.load()
        change(mask).save(MASK)

    return spoil


def all_void(split: str) -> Callable[[], None]:
    """Every mask of a split is void everywhere."""

    def change() -> None:
        for name in (DATA / SPLITS / f"{split}.txt").read_text().split():
            path = DATA / MASKS / f"{name}.png"
            with Image.open(path) as mask:
                size = mask.size
            mask_of(size, 255).save(path)

    return change


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(kind: int) -> Callable[[bytes], bytes]:
    """A PNG of a few bytes that claims 20000x20000 pixels; `kind`: 2 is RGB, 0 grey."""
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return lambda data: b"\x89PNG\r\n\x1a\n" + parts


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    return exif


ODD: dict[str, tuple[Image.Image, str, dict[str, Any], Image.Image]] = {
    "grey JPEG": (flat(colour=(90,)), "JPEG", {}, flat(colour=(90, 90, 90))),
    "CMYK JPEG": (flat(colour=(225, 165, 55, 0)), "JPEG", {"quality": 100}, flat()),
    "alpha channel": (
        Image.merge("RGBA", [*stripes().split(), flat(colour=(7,))]),
        "PNG",
        {},
        stripes(),
    ),
    "16-bit grey": (
        Image.fromarray(np.full((40, 48), 90 * 257, "u2")),
        "PNG",
        {},
        flat(colour=(90, 90, 90)),
    ),
    "EXIF: turned by a quarter": (
        stripes(),
        "PNG",
        {"exif": turned()},
        stripes().transpose(Image.Transpose.ROTATE_270),
    ),
}
"""A picture, its format, how it is saved, and what it is to be read as."""
EXTREMES = ((1, 1), (1, 2000), (2000, 1), (5, 7), (48, 20))
"""Widths and heights."""

ROWS = [
    *(
        Row(fault, rewrite(IMAGE, change), rf"{IMAGE}: {says}", refuses=SCORE, finishes="predict")
        for fault, change, says in (
            ("JPEG cut short", half, "cannot be read: .*truncated"),
            ("empty file as .jpg", empty, "the file is empty"),
            ("HTML as .jpg", html, "no image, or a damaged one: begins with b'<!DOCTYPE"),
            ("PNG that claims 20000x20000 pixels", bomb(2), r"cannot be read: Image size \("),
        )
    ),
    Row(
        "a bit of a JPEG flipped, with a manifest",
        several(lambda: keep_manifest(DATA), rewrite(IMAGE, flipped)),
        f"{IMAGE}: differs from manifest.json: a bit flipped or the file was changed",
        refuses="check train",
    ),
    Row(
        "floating-point pixels",
        pair(Image.new("F", (48, 40)), "TIFF"),
        f"{IMAGE}: cannot be read: floating-point",
        refuses=SCORE,
        finishes="predict",
    ),
    *(
        Row(
            fault,
            pair(image, kind, mask_of(same.size), **options),
            accepts=CHECKED,
            like=pair(same),
        )
        for fault, (image, kind, options, same) in ODD.items()
    ),
    Row(
        "all of these in one split",
        pairs([(image, kind, options, same.size) for image, kind, options, same in ODD.values()]),
        accepts="train",
        like=pairs([(same, "PNG", {}, same.size) for *_, same in ODD.values()]),
        arguments=["--batch-size", str(len(ODD))],
    ),
    Row(
        "EXIF: turned, and the mask is not",
        pair(stripes(), exif=turned()),
        f"{MASK}: 48x40 pixels, but its image has 40x48",
        refuses=SCORE,
    ),
    *(
        Row(f"{width}x{height} pixels", pair(stripes((width, height))), accepts=CHECKED)
        for width, height in EXTREMES
    ),
    Row(
        f"{', '.join(f'{width}x{height}' for width, height in EXTREMES)} pixels, the crop 64x32",
        pairs([(stripes(size), "PNG", {}, size) for size in EXTREMES]),
        accepts="train",
        arguments=["--batch-size", str(len(EXTREMES))],
    ),
    *(
        Row(fault, spoil, rf"{MASK}: {says}", refuses=SCORE)
        for fault, spoil, says in (
            ("mask of another size", masked(mask_of((48, 40))), "48x40 pixels, but its image has"),
            ("label 200", labelled(200), r"label 200 is neither a class \(0 to 5\) nor void"),
            ("label 6 of 6 classes", labelled(6), "label 6 is neither a class"),
            ("RGB mask", other_mask(lambda m: m.convert("RGB")), r"a colour mask \(PNG, mode RGB"),
            ("mask as JPEG", masked(flat(colour=(1,)), "JPEG"), r"not a mask \(JPEG"),
            ("mask of 16 bits", masked(Image.new("I;16", (9, 9))), r"not a mask \(PNG, mode I;16"),
            ("mask cut short", rewrite(MASK, half), "cannot be read: .*[Tt]runcated"),
            ("empty mask", rewrite(MASK, empty), "the file is empty"),
            ("mask that claims 20000x20000", rewrite(MASK, bomb(0)), "cannot be read: Image size"),
        )
    ),
    Row(
        "label 21 of VOC's 21 classes",
        several(NAMES.unlink, labelled(21), more_classes(21)),
        f"{MASK}: label 21 is neither a class .0 to 20. nor void",
        refuses=SCORE,
    ),
    Row(
        "grey mask",
        other_mask(lambda mask: Image.fromarray(np.asarray(mask))),
        accepts="check evaluate",
        like=as_it_is,
    ),
    Row("mask that is void everywhere", labelled(255), f"{MASK}: void everywhere", refuses="check"),
    Row("a mask void everywhere, among others", labelled(255), accepts="train"),
    Row(
        "a mask void everywhere, among others",
        labelled(255),
        accepts="evaluate",
        like=text(SPLIT, "train_00001\n"),
    ),
    Row(
        "every training mask void everywhere",
        all_void("train"),
        f"({SPLIT}: every mask it names is|{MASK}:) void everywhere",
        refuses=SCORE,
    ),
    Row(
        "every validation mask void everywhere",
        all_void("val"),
        "val.txt: every mask it names is void everywhere",
        refuses="train",
    ),
]
