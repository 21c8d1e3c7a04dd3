"""What is done to pictures and masks."""

import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from common.data.dataset import MASKS, keep_manifest
from common.data.images import open_image
from common.data.voc import VOC_CLASSES, voc_palette
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
from parity_tests.bad_input.trial import (
    CHECKED,
    DATA,
    IMAGE,
    MASK,
    NAMES,
    SCORE,
    SIZE,
    SPLIT,
    Row,
    more_classes,
    opened,
    surveyed,
    table,
)

Size = tuple[int, int]


def pictured() -> object:
    """The first training image, as `predict` reads it."""
    return np.asarray(open_image(IMAGE))


READ = (opened, surveyed)
SEE = (pictured, *READ)


def flat(*colour: int) -> Image.Image:
    """A picture of one colour; that much survives JPEG. One channel is grey, four are CMYK."""
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[len(colour)]
    return Image.new(mode, (48, 40), colour if len(colour) > 1 else colour[0])


def stripes(size: Size = (48, 40)) -> Image.Image:
    """A picture whose every row and column is another."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([5 * rows, 5 * columns, 3 * (rows + columns)], 2).astype("u1"))


def mask_of(size: Size, label: int = 1) -> Image.Image:
    mask = Image.new("P", size, label)
    mask.putpalette(voc_palette().tobytes())
    return mask


def pair(
    image: Image.Image,
    kind: str = "PNG",
    size: Size | None = None,
    name: str = IMAGE.stem,
    **how: Any,
) -> Callable[[], None]:
    """An image and a mask, `size` large, as a training pair; the name ends in .jpg."""

    def change() -> None:
        image.save(IMAGE.with_stem(name), kind, **how)
        mask_of(size or image.size).save(MASK.with_stem(name))

    return change


def split(*pictures: dict[str, Any]) -> Callable[[], None]:
    """A training split of such pairs."""
    names = [f"n{k}" for k in range(len(pictures))]
    pairs = (pair(**picture, name=name) for picture, name in zip(pictures, names, strict=True))
    return several(*pairs, text(SPLIT, "\n".join(names)))


def masked(mask: Image.Image, kind: str = "PNG", names: str = MASK.stem) -> Callable[[], None]:
    """A mask in place of the first training pair's, or of all whose names match."""

    def change() -> None:
        for path in (DATA / MASKS).glob(f"{names}.png"):
            mask.save(path, kind)

    return change


def labelled(label: int) -> Callable[[], None]:
    """A mask of the right size that is `label` everywhere."""
    return masked(mask_of(SIZE, label))


def grey() -> None:
    """The mask without its palette."""
    with Image.open(MASK) as mask:
        label = np.asarray(mask)
    Image.fromarray(label).save(MASK)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(kind: int) -> Callable[[bytes], bytes]:
    """A PNG of a few bytes that claims 20000x20000 pixels; `kind`: 2 is RGB, 0 grey."""
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return lambda data: b"\x89PNG\r\n\x1a\n" + parts


TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise

GREY = flat(90, 90, 90)
TALL = stripes().transpose(Image.Transpose.ROTATE_270)
ODD: dict[str, tuple[dict[str, Any], Image.Image]] = {
    "grey JPEG": ({"image": flat(90), "kind": "JPEG"}, GREY),
    "CMYK JPEG": (
        {"image": flat(225, 165, 55, 0), "kind": "JPEG", "quality": 100},
        flat(30, 90, 200),
    ),
    "alpha channel": ({"image": Image.merge("RGBA", [*stripes().split(), flat(7)])}, stripes()),
    "16-bit grey": ({"image": Image.fromarray(np.full((40, 48), 90 * 257, "u2"))}, GREY),
    "EXIF: turned by a quarter": ({"image": stripes(), "exif": TURNED, "size": TALL.size}, TALL),
}
"""A picture, how it is saved, and what it is to be read as."""
EXTREMES = ((1, 1), (1, 2000), (2000, 1), (5, 7), (48, 20))
"""Widths and heights."""

ROWS = [
    *table(
        *(
            (what, rewrite(IMAGE, change), f"{IMAGE}: {says}")
            for what, change, says in (
                ("JPEG cut short", half, "cannot be read: .*truncated"),
                ("empty file as .jpg", empty, "the file is empty"),
                ("HTML as .jpg", html, "no image, or a damaged one: begins with b'<!DOCTYPE"),
                ("PNG that claims 20000x20000 pixels", bomb(2), r"cannot be read: Image size \("),
            )
        ),
        (
            "floating-point pixels",
            pair(Image.new("F", (48, 40)), "TIFF"),
            f"{IMAGE}: cannot be read: floating-point",
        ),
        by=SEE,
        refuses=SCORE,
        finishes="predict",
    ),
    Row(
        "a bit of a JPEG flipped, with a manifest",
        several(partial(keep_manifest, DATA), rewrite(IMAGE, flipped)),
        f"{IMAGE}: differs from manifest.json: a bit flipped or the file was changed",
        by=READ,
        refuses="check train",
    ),
    *(
        Row(what, pair(**how), by=SEE, accepts=CHECKED, like=pair(same))
        for what, (how, same) in ODD.items()
    ),
    Row(
        "all of these in one split",
        split(*(how for how, _ in ODD.values())),
        "",
        f"--batch-size {len(ODD)}",
        by=(opened,),
        accepts="train",
        like=split(*({"image": same} for _, same in ODD.values())),
    ),
    Row(
        "EXIF: turned, and the mask is not",
        pair(stripes(), exif=TURNED),
        f"{MASK}: 48x40 pixels, but its image has 40x48",
        by=READ,
        refuses=SCORE,
    ),
    *(
        Row(f"{width}x{height} pixels", pair(stripes((width, height))), accepts=CHECKED)
        for width, height in EXTREMES
    ),
    Row(
        f"{', '.join(f'{width}x{height}' for width, height in EXTREMES)} pixels, the crop 64x32",
        split(*({"image": stripes(size)} for size in EXTREMES)),
        "",
        f"--batch-size {len(EXTREMES)}",
        accepts="train",
    ),
    *table(
        *(
            (what, spoil, f"{MASK}: {says}")
            for what, spoil, says in (
                ("mask of another size", masked(mask_of((48, 40))), "48x40 pixels, but its image"),
                ("label 200", labelled(200), r"label 200 is neither a class \(0 to 5\) nor void"),
                ("label 6 of 6 classes", labelled(6), "label 6 is neither a class"),
                ("RGB mask", masked(flat(1, 1, 1)), r"a colour mask \(PNG, mode RGB"),
                ("mask as JPEG", masked(flat(1), "JPEG"), r"not a mask \(JPEG"),
                ("mask of 16 bits", masked(Image.new("I;16", SIZE)), r"not a mask \(PNG, mode I;1"),
                ("mask cut short", rewrite(MASK, half), "cannot be read: .*[Tt]runcated"),
                ("empty mask", rewrite(MASK, empty), "the file is empty"),
                ("mask that claims 20000x20000", rewrite(MASK, bomb(0)), "cannot be read: Image"),
            )
        ),
        (
            "label 21 of VOC's 21 classes",
            several(NAMES.unlink, labelled(21), partial(more_classes, VOC_CLASSES)),
            f"{MASK}: label 21 is neither a class .0 to 20. nor void",
        ),
        (
            "every training mask void everywhere",
            masked(mask_of(SIZE, 255), names="train_*"),
            f"({SPLIT}: every mask it names is|{MASK}:) void everywhere",
        ),
        by=READ,
        refuses=SCORE,
    ),
    Row(
        "grey mask",
        grey,
        by=READ,
        accepts="check evaluate",
        like=as_it_is,
    ),
    Row(
        "mask that is void everywhere",
        labelled(255),
        f"{MASK}: void everywhere",
        by=(surveyed,),
        refuses="check",
    ),
    Row("a mask void everywhere, among others", labelled(255), by=(opened,), accepts="train"),
    Row(
        "a mask void everywhere, among others",
        labelled(255),
        accepts="evaluate",
        like=text(SPLIT, "train_00001\n"),
    ),
    Row(
        "every validation mask void everywhere",
        masked(mask_of(SIZE, 255), names="val_*"),
        "val.txt: every mask it names is void everywhere",
        by=(partial(opened, "val"),),
        refuses="train",
    ),
]
