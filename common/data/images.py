"""One picture or one label mask: read with every check."""

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from common.config import VOID
from common.errors import InputError
from common.files import naming, read_bytes

# Pillow only warns of a picture of 90 to 180 million pixels, on standard error, and loads it.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
"""What is read, by Pillow's names. Of its others one starts a program: EPS does Ghostscript."""

MAX_PIXELS = 89_478_485
"""Of a picture: Pillow's own limit, a quarter of a gigabyte."""

FILE_LIMIT = 1 << 30
"""Of a picture's file, in bytes."""

Check = Callable[[Path, bytes], None]
"""Is called with the path and the bytes of a file before they are used; it may raise InputError."""

TURNED = "turned"
"""Is in the `info` of a picture that its EXIF orientation has turned or mirrored."""

_ORIENTATION = 0x0112
_TIFF_BITS, _TIFF_PLANES = 258, 284


def _read_bytes(path: Path, check: Check | None) -> bytes:
    data = read_bytes(path, FILE_LIMIT)
    if not data:
        raise InputError(f"{path}: the file is empty")
    if check is not None:
        check(path, data)
    return data


def _check_planes(image: Any) -> None:
    """Refuses 16-bit TIFFs of a plane a colour: Pillow takes bytes of one plane for all colours."""
    if image.tag_v2.get(_TIFF_PLANES) == 2 and max(image.tag_v2.get(_TIFF_BITS, (8,))) > 8:
        raise ValueError("a TIFF of 16 bits with a plane for each colour; save it interleaved")


def set_max_pixels(count: int) -> None:
    """Pictures of more pixels are refused by this process: a small file may claim any number."""
    Image.MAX_IMAGE_PIXELS = count


def decode(path: Path, data: bytes) -> Image.Image:
    """A picture of one of `FORMATS`, as it stands in a file's bytes, decoded to its end.

    Raises:
        InputError: it is none, or too large.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        told = re.search(r"\d+", str(error))
        raise InputError(
            f"{path}: {told[0] if told else 'too many'} pixels, more than {Image.MAX_IMAGE_PIXELS};"
            " `predict` and `evaluate` take more with --max-pixels, and little memory with --tile"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path}: no image, or a damaged one: begins with {data[:15]!r}"
        ) from error
    if image.format == "TIFF":
        _check_planes(image)
    image.load()  # open() reads the header alone and takes a truncated file
    return image


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB; an alpha channel is dropped."""
    if image.mode == "I" or image.mode.startswith("I;16"):  # convert() would saturate at 255
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("grey values outside 0 to 65535")
        image = Image.fromarray(np.round(wide / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if "transparency" in image.info:  # a palette with alpha warns where it loses it
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def open_image(path: Path, check: Check | None = None) -> Image.Image:
    """A picture in mode RGB, upright, of one of `FORMATS`, decoded to its end.

    Grey, palette and CMYK become RGB, 16-bit grey is scaled to 8 bits, alpha is dropped, and
    the EXIF orientation is applied; `info[TURNED]` says whether it changed anything.

    Raises:
        InputError: there is no such file, or it is empty, truncated, too large or no image, or
            `check` refuses its bytes.
    """
    with naming(path):
        image = decode(path, _read_bytes(path, check))
        turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
        ImageOps.exif_transpose(image, in_place=True)
        image = _rgb(image)
        image.info[TURNED] = turned
        return image


def read_image(path: Path) -> NDArray[np.uint8]:
    """The picture of `open_image` as (H, W, 3) uint8 RGB.

    Raises:
        InputError: as `open_image`.
    """
    return np.asarray(open_image(path))


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of a folder that end as pictures do, and those that do not, sorted; none hidden.

    A link to nowhere counts as a file.

    Raises:
        InputError: there is none.
    """
    endings = {name for name, kind in Image.registered_extensions().items() if kind in FORMATS}
    with naming(folder):
        files = [p for p in sorted(folder.iterdir()) if p.name[0] != "." and not p.is_dir()]
    images = [path for path in files if path.suffix.lower() in endings]
    if not images:
        raise InputError(f"{folder}: a folder without images")
    return images, [path for path in files if path.suffix.lower() not in endings]


def _check_mask_kind(path: Path, image: Image.Image, data: bytes) -> None:
    # Pillow stretches grey of 1, 2 or 4 bits to 0..255; byte 24 of a PNG is its bit depth
    if image.format == "PNG" and (image.mode == "P" or (image.mode == "L" and data[24] == 8)):
        return
    kind = "a colour mask" if image.mode.startswith(("RGB", "CMYK")) else "not a mask"
    raise InputError(
        f"{path}: {kind} ({image.format}, mode {image.mode}): class indices are wanted, in a PNG"
        " with a palette or in 8-bit grey"
    )


def open_mask(path: Path, num_classes: int, check: Check | None = None) -> Image.Image:
    """A label mask, one byte a pixel: class indices below `num_classes`, or 255 (void).

    The file is a palette PNG, whose indices are the labels, or an 8-bit grey one.

    Raises:
        InputError: the file cannot be read, is of another kind, or holds a value that is neither
            a class nor 255, or `check` refuses its bytes.
    """
    with naming(path):
        data = _read_bytes(path, check)
        image = decode(path, data)
        _check_mask_kind(path, image, data)
        label: NDArray[np.uint8] = np.asarray(image)
    if (label + np.uint8(1)).max() > num_classes:  # void wraps around to 0
        wrong = np.unique(label[(label >= num_classes) & (label != VOID)])
        listed = ", ".join(map(str, wrong[:5])) + ", ..." * (len(wrong) > 5)
        raise InputError(
            f"{path}: label {listed} is neither a class (0 to {num_classes - 1}) nor void ({VOID})"
        )
    return image


def read_palette(path: Path) -> bytes:
    """The colours of a palette PNG, three bytes each; empty where it is no such file.

    No pixel is read.

    Raises:
        InputError: the file cannot be read.
    """
    with naming(path):
        data = _read_bytes(path, None)
        try:
            image = Image.open(io.BytesIO(data), formats=["PNG"])
        except UnidentifiedImageError:
            return b""
        return bytes(image.getpalette() or ()) if image.mode == "P" else b""
