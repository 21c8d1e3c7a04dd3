"""What is done to a folder of data: pictures, masks, links, splits, class names, manifest."""

import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.data.dataset import (
    IMAGES,
    MASKS,
    SPLITS,
    Survey,
    check_split,
    keep_manifest,
    open_dataset,
    survey,
)
from common.data.images import read_image
from common.data.manifest import MANIFEST
from common.data.shapes import SHAPES_CLASSES
from common.data.voc import VOC_CLASSES, voc_palette
from common.errors import InputError
from parity_tests.bad_input.files import (
    LONG,
    NESTED,
    as_it_is,
    empty,
    fifo,
    flipped,
    folder,
    half,
    html,
    linked,
    missing,
    rewrite,
    several,
    text,
)
from parity_tests.bad_input.trial import (
    DATA,
    IMAGE,
    MASK,
    NAMES,
    OTHER_MASK,
    SIZE,
    SPLIT,
    Row,
    more_classes,
    table,
)

VAL = DATA / SPLITS / "val.txt"
LISTING = DATA / MANIFEST
PICTURES = "check evaluate predict"
"""The commands that read pictures, but for `train`."""
SCORE = "check train evaluate"
"""Those that read masks and splits too."""
Size = tuple[int, int]


def opened(split: str = "train") -> object:
    """The pairs of a split, as `train` and `evaluate` read them."""
    dataset = open_dataset(DATA, split)
    check_split(dataset)
    return [dataset.class_names, [dataset.read(index) for index in range(len(dataset))]]


def listed(found: Survey) -> object:
    """What was found; its faults, if there are any, are raised in one line."""
    if found.faults:
        raise InputError("; ".join(found.faults))
    return vars(found)


def surveyed() -> object:
    """All that the data holds, as `data check` reads it."""
    return listed(survey(DATA))


READ = (opened, surveyed)
SEE = (partial(read_image, IMAGE), *READ)


def manifest(change: Callable[[], object]) -> Callable[[], None]:
    """What is changed after the manifest was made."""
    return several(partial(keep_manifest, DATA), change)


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


def every_class(size: Size) -> Image.Image:
    """A mask that holds all classes, one pixel after the other."""
    width, height = size
    labels = np.arange(width * height) % len(SHAPES_CLASSES)
    mask = mask_of(size)
    mask.putdata(labels.tolist())
    return mask


def pair(
    image: Image.Image, kind: str = "PNG", at: str = IMAGE.stem, **how: Any
) -> Callable[[], None]:
    """An image and its mask, of `size`, as a training pair; the image's name ends in .jpg."""
    size = how.pop("size", image.size)
    return several(
        partial(image.save, IMAGE.with_stem(at), kind, **how),
        lambda: every_class(size).save(MASK.with_stem(at)),
    )


def split(*pictures: dict[str, Any]) -> Callable[[], None]:
    """A training split of such pairs."""
    names = [f"n{k}" for k in range(len(pictures))]
    pairs = (pair(**picture, at=name) for picture, name in zip(pictures, names, strict=True))
    return several(*pairs, text(SPLIT, "\n".join(names)))


def masked(mask: Image.Image, kind: str = "PNG", names: str = MASK.stem) -> Callable[[], None]:
    """A mask in place of the first training pair's, or of all whose names match."""

    def change() -> None:
        for path in MASK.parent.glob(f"{names}.png"):
            mask.save(path, kind)

    return change


def labelled(label: int, names: str = MASK.stem) -> Callable[[], None]:
    """Masks of the right size that are `label` everywhere."""
    return masked(mask_of(SIZE, label), names=names)


def bomb(kind: int) -> Callable[[bytes], bytes]:
    """A PNG of a few bytes that claims 20000x20000 pixels; `kind`: 2 is RGB, 0 grey."""
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, kind, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")):
        png += struct.pack(">I", len(data)) + name + data
        png += struct.pack(">I", zlib.crc32(name + data))
    return lambda data: png


TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
TALL = stripes().transpose(Image.Transpose.ROTATE_270)
ALPHA = Image.merge("RGBA", [*stripes().split(), flat(7)])
WIDE_GREY = Image.fromarray(np.full((40, 48), 90 * 257, "u2"))

# fmt: off
ODD: dict[str, tuple[dict[str, Any], Image.Image]] = {
    "grey JPEG": ({"image": flat(90), "kind": "JPEG"}, flat(90, 90, 90)),
    "CMYK JPEG":
        ({"image": flat(225, 165, 55, 0), "kind": "JPEG", "quality": 100}, flat(30, 90, 200)),
    "alpha channel": ({"image": ALPHA}, stripes()),
    "16-bit grey": ({"image": WIDE_GREY}, flat(90, 90, 90)),
}
"""A picture, how it is saved, and what it is to be read as."""
TOO_LARGE = "400000000 pixels, more than 89478485; .* --max-pixels"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 56 40\n%%EndComments\nshowpage\n"
EXIF = {"image": stripes(), "exif": TURNED, "size": TALL.size}
"""A picture turned by a quarter, to be read as `TALL`."""
EXTREMES = ((1, 1), (1, 2000), (2000, 1), (5, 7), (48, 20))
"""Widths and heights."""

ROWS = [
    # pictures
    *table(
        ("JPEG cut short", half, "cannot be read: .*truncated"),
        ("empty file as .jpg", empty, "the file is empty"),
        ("PostScript as .jpg", lambda data: POSTSCRIPT,
         "no image, or a damaged one: begins with b'%!PS"),
        ("HTML as .jpg", html, "no image, or a damaged one: begins with b'<!DOCTYPE"),
        ("PNG that claims 20000x20000 pixels", bomb(2), TOO_LARGE),
        how=rewrite, at=IMAGE, by=SEE, refuses=SCORE, finishes="predict",
    ),
    Row("a picture larger than --max-pixels", as_it_is,
        f"{IMAGE}: 2240 pixels, more than 2239; .*--max-pixels", "--max-pixels 2239",
        refuses="evaluate"),
    Row("floating-point pixels", pair(Image.new("F", (48, 40)), "TIFF"),
        f"{IMAGE}: cannot be read: floating-point", by=SEE, refuses=SCORE, finishes="predict"),
    Row("a bit of a JPEG flipped, with a manifest", manifest(rewrite(IMAGE, flipped)),
        f"{IMAGE}: differs from manifest.json: a bit flipped or the file was changed",
        by=READ, refuses="check train"),
    *(Row(what, pair(**how), by=SEE, accepts=PICTURES, like=pair(same))
      for what, (how, same) in ODD.items()),
    Row("all of these in one split", split(*(how for how, _ in ODD.values())),
        arguments=f"--batch-size {len(ODD)}", by=(opened,), accepts="train",
        like=split(*({"image": same} for _, same in ODD.values()))),
    Row("EXIF: turned by a quarter", pair(**EXIF), by=(partial(read_image, IMAGE), opened),
        accepts="evaluate predict", like=pair(TALL)),
    Row("EXIF: turned by a quarter", split(EXIF, {"image": stripes()}),
        f"{SPLIT}: 1 image is turned or mirrored, as EXIF asks; .*", notes="train",
        like=split({"image": TALL}, {"image": stripes()})),
    Row("EXIF: turned, and the mask is not", pair(stripes(), exif=TURNED),
        f"{MASK}: 48x40 pixels, but its image has 40x48", by=READ, refuses=SCORE),
    *(Row(f"{width}x{height} pixels", pair(stripes((width, height))), accepts=PICTURES)
      for width, height in EXTREMES),
    Row(f"{', '.join(f'{width}x{height}' for width, height in EXTREMES)} pixels, the crop 64x32",
        split(*({"image": stripes(size)} for size in EXTREMES)),
        arguments=f"--batch-size {len(EXTREMES)}", accepts="train"),
    # masks
    *table(
        ("mask of another size", masked(mask_of((48, 40))), "48x40 pixels, but its image has"),
        ("label 200", labelled(200), r"label 200 is neither a class \(0 to 5\) nor void"),
        ("label 6 of 6 classes", labelled(6), "label 6 is neither a class"),
        ("label 21 of VOC's 21 classes",
         several(NAMES.unlink, labelled(21), partial(more_classes, VOC_CLASSES)),
         r"label 21 is neither a class \(0 to 20\) nor void"),
        ("RGB mask", masked(flat(1, 1, 1)), r"a colour mask \(PNG, mode RGB"),
        ("mask as JPEG", masked(flat(1), "JPEG"), r"not a mask \(JPEG"),
        ("mask of 16 bits", masked(Image.new("I;16", SIZE)), r"not a mask \(PNG, mode I;16"),
        ("mask cut short", rewrite(MASK, half), "cannot be read: .*[Tt]runcated"),
        ("empty mask", rewrite(MASK, empty), "the file is empty"),
        ("mask that claims 20000x20000", rewrite(MASK, bomb(0)), TOO_LARGE),
        at=MASK, by=READ, refuses=SCORE,
    ),
    Row("grey mask", masked(Image.new("L", SIZE, 1)), by=READ, accepts="check evaluate",
        like=labelled(1)),
    Row("mask that is void everywhere", labelled(255), f"{MASK}: void everywhere",
        by=(surveyed,), refuses="check"),
    Row("a mask void everywhere, among others", labelled(255), by=(opened,), accepts="train"),
    Row("a mask void everywhere, among others", labelled(255), accepts="evaluate",
        like=text(SPLIT, "train_00001\n")),
    Row("every training mask void everywhere", labelled(255, "train_*"),
        f"({SPLIT}: every mask it names is|{MASK}:) void everywhere", by=READ, refuses=SCORE),
    Row("every validation mask void everywhere", labelled(255, "val_*"),
        f"{VAL}: every mask it names is void everywhere",
        by=(partial(opened, "val"),), refuses="train"),
    # files and folders
    *table(
        ("image missing", missing(IMAGE), f"{IMAGE}: no such file"),
        ("mask missing", missing(MASK), f"{MASK}: no such file"),
        ("a name of 300 letters", text(SPLIT, "x" * 300),
         f"{IMAGE.parent}/x*.jpg: cannot be read: File name too long"),
        ("no such folder", missing(DATA), f"{DATA}: no such folder"),
        ("no folder of images", missing(IMAGE.parent), f"{DATA}: holds no {IMAGES}"),
        ("no folder of masks", missing(MASK.parent), f"{DATA}: holds no {MASKS}"),
        ("no folder of splits", missing(SPLIT.parent), f"{DATA}: holds no {SPLITS}"),
        ("an image is a link out of the data", linked(IMAGE, "elsewhere/x"),
         f"{IMAGE}: a link that leads out of the data, to .*/elsewhere/x"),
        ("a mask is a link out of the data", linked(MASK, "elsewhere/x"),
         f"{MASK}: a link that leads out of the data, to .*/elsewhere/x"),
        by=READ, refuses=SCORE,
    ),
    *table(
        ("images and masks missing", missing(IMAGE, MASK, OTHER_MASK),
         rf"{DATA}: 3 files of train are missing: {IMAGES}/{IMAGE.name}, {MASKS}/{MASK.name},"
         f" {MASKS}/{OTHER_MASK.name}$"),
        ("a hundred pairs missing", text(SPLIT, "".join(f"n{k}\n" for k in range(100))),
         r"200 files of train are missing: .*/n9.png and 180 more; .*data check data"),
        ("no such split", missing(SPLIT), f"{SPLIT}: no such split, have trainval, val"),
        by=(opened,), refuses="train evaluate",
    ),
    Row("images and masks missing", missing(IMAGE, MASK, OTHER_MASK),
        f"(?s){IMAGE}: no such .*{MASK}: no such .*{OTHER_MASK}: no such .*data: 3 faults",
        refuses="check"),
    *table(
        ("an image is a link within the data", linked(IMAGE, DATA / "raw" / "x.jpg")),
        ("another program's manifest.json", text(LISTING, '{"name": "app"}')),
        by=READ, accepts=SCORE, like=as_it_is,
    ),
    *table(
        (f"{IMAGES} is a link to elsewhere", linked(IMAGE.parent, "elsewhere")),
        ("the data is a link to elsewhere", linked(DATA, "elsewhere")),
        by=READ, accepts="check evaluate", like=as_it_is,
    ),
    Row("an image that is not there", as_it_is, "none.jpg: no such file", "none.jpg",
        finishes="predict"),
    Row("a link to nowhere among the images",
        lambda: IMAGE.with_stem("gone").symlink_to("nowhere"), ".*gone.jpg: no such",
        finishes="predict"),
    Row("files of no picture's ending among the images",
        several(text(IMAGE.with_suffix(".HEIC"), "x"), text(IMAGE.with_suffix(".xmp"), "x")),
        "2 files left out, no pictures by their endings: .*00.HEIC, .*00.xmp", notes="predict"),
    Row("folder without images", Path("bare").mkdir, "bare: a folder without images", "bare",
        refuses="predict"),
    *(Row(f"{kind} as {path.name}", make(path), f"{path}: {says}", by=READ, refuses="check train")
      for kind, make in (("FIFO", fifo), ("folder", folder))
      for path, says in (
          *((path, f"(no such file|no file, but a {kind})") for path in (IMAGE, MASK)),
          *((path, f"no file, but a {kind}") for path in (SPLIT, NAMES, LISTING)),
      )),
    Row("FIFO as a picture", fifo(Path("x.jpg")), "x.jpg: no file, but a FIFO", "x.jpg",
        by=(partial(read_image, Path("x.jpg")),), finishes="predict"),
    # splits, class names, manifest
    *table(
        ("empty split", "", "holds no names"),
        ("split of blank lines", "\n \r\n", "holds no names"),
        ("a name twice", "train_00000\ntrain_00001\ntrain_00000\n", "line 3: .* on line 1"),
        ("split in UTF-16", "train_00000\n".encode("utf-16"), "line 1: not UTF-8 text"),
        ("split in Latin-1", b"train_00000\nstra\xdfe\n", "line 2: not UTF-8 text"),
        ("a name with ../", "../train_00000\n", r"line 1: '../train_00000' is no plain name"),
        ("an absolute name", "/etc/passwd\n", "line 1: '/etc/passwd' is no plain name"),
        how=text, at=SPLIT, by=READ, refuses=SCORE,
    ),
    *table(
        ("blank lines in a split", "\ntrain_00000\n\n  \ntrain_00001\n\n"),
        ("CRLF in a split", "train_00000\r\ntrain_00001\r\n"),
        ("byte-order mark in a split", "\ufefftrain_00000\ntrain_00001\n"),
        ("no newline at a split's end", "train_00000\ntrain_00001"),
        how=text, at=SPLIT, by=READ, accepts="evaluate", like=as_it_is,
    ),
    Row("all four", text(SPLIT, "\ufeff\r\ntrain_00000\r\n\r\ntrain_00001"),
        by=READ, accepts="train evaluate", like=as_it_is),
    *table(
        ("class_names.txt empty", "", "holds no names"),
        ("class_names.txt not UTF-8", b"background\nstra\xdfe\n", "line 2: not UTF-8 text"),
        ("a class twice", "a\nb\na\n", "line 3: 'a' is on line 1 already"),
        ("256 classes", "".join(f"c{k}\n" for k in range(256)), "256 classes, more than 255"),
        how=text, at=NAMES, by=READ, refuses=SCORE,
    ),
    *(Row(what, manifest(rewrite(LISTING, change)),
          rf"{LISTING}: damaged, or no manifest of ours \(.*; remove it to do without",
          by=READ, refuses=SCORE)
      for what, change in (
          ("manifest cut short", half),
          ("empty manifest", empty),
          ("HTML as manifest", html),
          ("manifest nested 10,000 deep", lambda old: NESTED),
          ("manifest with a number of 5,000 digits", lambda old: LONG),
          ("manifest of a later schema", lambda old: old.replace(b'"schema": 1', b'"schema": 2')),
      )),
    Row("split changed, with a manifest", manifest(text(SPLIT, "train_00000\n")),
        f"{SPLIT}: differs from manifest.json: 12 bytes, not 24", by=READ, refuses=SCORE),
    Row("split gone, with a manifest", manifest(VAL.unlink),
        f"{VAL}: no such file, but in manifest.json", by=(surveyed,), refuses="check"),
]
# fmt: on
