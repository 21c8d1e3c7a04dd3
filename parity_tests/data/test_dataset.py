"""Data read from files: what is read, and that every fault is one line that names its file."""

import io
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from common.data.dataset import (
    CLASS_NAMES,
    IMAGES,
    MASKS,
    SPLITS,
    check_split,
    open_dataset,
    survey,
)
from common.data.images import TURNED, find_images, open_image, open_mask, read_image
from common.data.voc import VOC_CLASSES, voc_palette
from common.errors import InputError

SIZE = (20, 30)
"""Height and width of the little pictures."""


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def save_mask(path: Path, label: NDArray[np.uint8]) -> None:
    mask = Image.fromarray(label.astype(np.uint8))
    mask.putpalette(voc_palette().tobytes())
    mask.save(path)


def label_of(index: int) -> NDArray[np.uint8]:
    label = np.full(SIZE, index, np.uint8)
    label[:, :2] = 255
    return label


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pairs a, b in train, c in val, all three in trainval."""
    for part in (IMAGES, MASKS, SPLITS):
        (tmp_path / part).mkdir(parents=True)
    for index, name in enumerate("abc"):
        Image.fromarray(picture(index)).save(tmp_path / IMAGES / f"{name}.jpg", quality=95)
        save_mask(tmp_path / MASKS / f"{name}.png", label_of(index))
    for split, names in {"train": "ab", "val": "c", "trainval": "abc"}.items():
        (tmp_path / SPLITS / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (tmp_path / CLASS_NAMES).write_text("\n".join(VOC_CLASSES))
    return tmp_path


def fault(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_split_is_read(folder: Path) -> None:
    dataset = open_dataset(folder, "train")
    assert (dataset.root, dataset.split, dataset.names) == (folder, "train", ("a", "b"))
    assert dataset.class_names == VOC_CLASSES
    image, label = dataset.read(1)
    assert image.shape == (*SIZE, 3)
    assert image.dtype == label.dtype == np.uint8
    np.testing.assert_array_equal(label, label_of(1))
    check_split(dataset)
    assert survey(folder).faults == []


@pytest.mark.parametrize("below", ["VOCdevkit/VOC2012", "VOC2012"])
def test_a_folder_that_holds_it(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, below: str
) -> None:
    outer = tmp_path_factory.mktemp("outer")
    (outer / below).parent.mkdir(exist_ok=True)
    (outer / below).symlink_to(folder)
    assert open_dataset(outer, "val").root == outer / below


def test_lists_of_names_from_other_systems(folder: Path) -> None:
    (folder / SPLITS / "train.txt").write_bytes("\ufeffa\r\n\r\nb  \r\n".encode())
    (folder / "class_names.txt").write_bytes("\ufeffsky\r\n\r\nroad\r\nMädchen\r\n".encode())
    dataset = open_dataset(folder, "train")
    assert dataset.names == ("a", "b")
    assert dataset.class_names == ("sky", "road", "Mädchen")


# Images


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RGB = np.repeat(np.repeat(picture(0, (4, 6)), 8, axis=0), 8, axis=1)  # flat blocks survive JPEG
GREY = RGB[..., 0]
MODES = {
    "rgb": (Image.fromarray(RGB), "PNG", RGB),
    "grey": (Image.fromarray(GREY), "PNG", GREY[..., None]),
    "16-bit grey": (Image.fromarray(GREY.astype(np.uint16) * 257), "PNG", GREY[..., None]),
    "alpha": (Image.fromarray(np.dstack([RGB, GREY])), "PNG", RGB),
    "palette": (Image.fromarray(RGB).quantize(24), "PNG", RGB),
    "cmyk": (Image.fromarray(RGB).convert("CMYK"), "TIFF", RGB),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image, kind, expected = MODES[mode]
    (tmp_path / "x.jpg").write_bytes(encoded(image, kind))
    with warnings.catch_warnings(action="error"):
        rgb = read_image(tmp_path / "x.jpg")
    assert rgb.shape == RGB.shape
    assert rgb.dtype == np.uint8
    assert np.abs(rgb.astype(int) - expected).max() <= 1


def test_16_bits_of_grey_reach_from_black_to_white(tmp_path: Path) -> None:
    wide = np.array([[0, 1, 128, 129], [65535, 65534, 257, 32768]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "x.png")
    expected = np.array([[0, 0, 0, 1], [255, 255, 1, 128]])
    assert np.array_equal(read_image(tmp_path / "x.png")[..., 1], expected)


def test_a_palette_with_alpha_warns_of_nothing(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(24)
    image.save(tmp_path / "x.png", transparency=bytes(range(24)))
    with warnings.catch_warnings(action="error"):
        assert np.abs(read_image(tmp_path / "x.png").astype(int) - RGB).max() <= 1


def test_a_picture_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    Image.fromarray(RGB).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), np.rot90(RGB, -1))


def planar(image: NDArray[np.uint16]) -> bytes:
    """A TIFF of 16 bits, a plane a colour, which Pillow does not write; uncompressed, one strip."""
    height, width, _ = image.shape
    planes = image.transpose(2, 0, 1).astype("<u2").tobytes()
    size = 2 * height * width
    arrays = struct.pack("<3H3I3I", 16, 16, 16, *(200 + k * size for k in range(3)), *[size] * 3)
    # tag, type (3: two bytes, 4: four), count, value or offset; the arrays begin at byte 150
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 150), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 2), (273, 4, 3, 156), (277, 3, 1, 3), (278, 4, 1, height)]
    tags += [(279, 4, 3, 168), (284, 3, 1, 2)]
    entries = b"".join(struct.pack("<2H2I", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return (head.ljust(150, b"\0") + arrays).ljust(200, b"\0") + planes


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


NOISE = Image.fromarray(picture(0, (64, 64)))
JPEG, PNG = encoded(NOISE, "JPEG"), encoded(NOISE, "PNG")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_says_whether_it_was_turned(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "x.jpg", exif=exif)
    assert open_image(tmp_path / "x.jpg").info[TURNED] == (orientation != 1)


BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "html": (
        b"<!DOCTYPE html>\n<html>not found</html>",
        "no image, or a damaged one: begins with b'<!DOCTYPE",
    ),
    "truncated jpeg": (truncated(JPEG), "truncated"),
    "truncated png": (truncated(PNG), "truncated"),
    "header only": (JPEG[:20], "no image, or a damaged one"),
    "planar tiff": (planar(picture().astype(np.uint16) * 257), "a plane for each colour"),
    "float tiff": (encoded(Image.fromarray(np.ones(SIZE, np.float32)), "TIFF"), "floating-point"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_picture_is_named(folder: Path, kind: str) -> None:
    data, reason = BAD_FILES[kind]
    path = folder / IMAGES / "a.jpg"
    path.write_bytes(data)
    message = fault(lambda: read_image(path))
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert survey(folder).faults == [message]
    assert fault(lambda: check_split(open_dataset(folder, "train"))) == message


@pytest.mark.parametrize("limit", [10, 500])  # Pillow only warns up to twice its limit
def test_a_decompression_bomb_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    path = tmp_path / "x.png"
    Image.fromarray(picture()).save(path)
    assert fault(lambda: read_image(path)).startswith(f"{path}: 600 pixels, more than {limit}")


# Masks


def test_masks_of_both_kinds(tmp_path: Path) -> None:
    label = label_of(3)
    save_mask(tmp_path / "palette.png", label)
    Image.fromarray(label).save(tmp_path / "grey.png")
    for kind in ("palette", "grey"):
        mask = np.asarray(open_mask(tmp_path / f"{kind}.png", 21))
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, label)


def four_bit_grey() -> bytes:
    """Pillow writes none: 8x1 pixels of 1, made from its palette form, whose colour type is 3."""
    palette = Image.fromarray(np.ones((1, 8), np.uint8))
    palette.putpalette(bytes(range(48)))
    data = bytearray(encoded(palette, "PNG", bits=4))
    data[25] = 0  # grey
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


BAD_MASKS = {
    "label 21": (encoded(Image.fromarray(label_of(21)), "PNG"), "label 21 is neither"),
    "label 200": (encoded(Image.fromarray(label_of(200)), "PNG"), "label 200 is neither"),
    "colours": (PNG, "colour mask (PNG, mode RGB)"),
    "16-bit grey": (encoded(Image.fromarray(label_of(1).astype(np.uint16)), "PNG"), "mode I;16"),
    "4-bit grey": (four_bit_grey(), "not a mask"),
    "jpeg": (encoded(Image.fromarray(label_of(1)), "JPEG"), "not a mask (JPEG, mode L)"),
    "empty": (b"", "the file is empty"),
    "truncated": (truncated(encoded(NOISE.convert("L"), "PNG")), "truncated"),
    "other size": (encoded(Image.fromarray(label_of(1).T), "PNG"), "20x30 pixels, but its image"),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask_is_named(folder: Path, kind: str) -> None:
    data, reason = BAD_MASKS[kind]
    path = folder / MASKS / "b.png"
    path.write_bytes(data)
    dataset = open_dataset(folder, "train")
    message = fault(lambda: dataset.read(1))
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert survey(folder).faults == [message]
    assert fault(lambda: check_split(dataset)) == message


def test_the_number_of_classes_bounds_the_labels(folder: Path) -> None:
    (folder / "class_names.txt").write_text("sky\nroad\n")
    (message,) = survey(folder).faults
    assert message == (
        f"{folder / MASKS / 'c.png'}: label 2 is neither a class (0 to 1) nor void (255)"
    )


def test_the_first_five_wrong_labels_are_listed(folder: Path) -> None:
    label = label_of(0)
    label[5:12] = np.arange(30, 37)[:, None]
    save_mask(folder / MASKS / "c.png", label)
    (message,) = survey(folder).faults
    assert "c.png: label 30, 31, 32, 33, 34, ... is neither a class (0 to 20) nor" in message
    label[5:12] = np.arange(30, 35).repeat(2)[:7, None]
    save_mask(folder / MASKS / "c.png", label)
    assert "c.png: label 30, 31, 32, 33 is neither" in survey(folder).faults[0]


# Folders, splits and class names


BAD_SPLITS = {
    "empty": (b"\n \r\n", "holds no names"),
    "duplicate": (b"a\nb\na\n", "line 3: 'a' is on line 1 already"),
    "climbs": (b"a\n../x\n", "line 2: '../x'"),
    "dots": (b"..\na", "line 1: '..'"),
    "absolute": (b"/etc/x\n", "line 1: '/etc/x'"),
    "backslash": (b"..\\x\n", "line 1: "),
    "null byte": (b"a\n\0\n", "line 2: "),
    "utf-16": ("a\nb\n".encode("utf-16"), "line 1: not UTF-8"),
    "latin-1": (b"a\n\xe4\n", "line 2: not UTF-8"),
}


@pytest.mark.parametrize("kind", BAD_SPLITS)
def test_a_bad_split_file_is_named(folder: Path, kind: str) -> None:
    data, reason = BAD_SPLITS[kind]
    path = folder / SPLITS / "train.txt"
    path.write_bytes(data)
    message = fault(lambda: open_dataset(folder, "train"))
    assert message.startswith(f"{path}: {reason}")
    assert message in survey(folder).faults
    assert open_dataset(folder, "val").names == ("c",)


@pytest.mark.parametrize("split", ["test", "../Segmentation/train", ""])
def test_an_unknown_split_says_which_there_are(folder: Path, split: str) -> None:
    assert "no such split, have train, trainval, val" in fault(lambda: open_dataset(folder, split))


BAD_CLASS_NAMES = {
    "none": (b"\n", "holds no names"),
    "duplicate": (b"sky\nroad\nsky\n", "line 3: 'sky' is on line 1 already"),
    "too many": ("".join(f"c{k}\n" for k in range(256)).encode(), "256 classes, more than 255"),
    "not text": (b"\xff\xfe", "line 1: not UTF-8"),
}


@pytest.mark.parametrize("kind", BAD_CLASS_NAMES)
def test_bad_class_names_are_named(folder: Path, kind: str) -> None:
    data, reason = BAD_CLASS_NAMES[kind]
    path = folder / "class_names.txt"
    path.write_bytes(data)
    message = fault(lambda: open_dataset(folder, "train"))
    assert message.startswith(f"{path}: {reason}")
    assert survey(folder).faults == [message]


def test_folders_that_are_none(folder: Path) -> None:
    missing = folder / "none"
    assert fault(lambda: open_dataset(missing, "train")) == f"{missing}: no such folder"
    inside = folder / IMAGES
    assert fault(lambda: survey(inside).faults).startswith(f"{inside}: holds no JPEGImages")
    (folder / SPLITS).rename(folder / "ImageSets/other")
    assert fault(lambda: open_dataset(folder, "train")) == f"{folder}: holds no {SPLITS}"


def test_every_fault_is_found_once_and_in_order(folder: Path) -> None:
    (folder / IMAGES / "a.jpg").unlink()
    Image.fromarray(picture()).save(folder / MASKS / "a.png")
    save_mask(folder / MASKS / "c.png", np.full(SIZE, 255))
    (folder / SPLITS / "train.txt").write_text("a\nb\nd\nb\n../x\n")
    starts = [
        f"{folder / SPLITS / 'train.txt'}: line 4: ",
        f"{folder / SPLITS / 'train.txt'}: line 5: ",
        f"{folder / IMAGES / 'a.jpg'}: no such file",
        f"{folder / MASKS / 'a.png'}: a colour mask",
        f"{folder / IMAGES / 'd.jpg'}: no such file",
        f"{folder / MASKS / 'd.png'}: no such file",
        f"{folder / MASKS / 'c.png'}: void everywhere",
    ]
    faults = survey(folder).faults
    assert len(faults) == len(starts)
    assert all(line.startswith(start) for line, start in zip(faults, starts, strict=True))
    hint = f"(and 1 more; `python -m scripts.data check {folder}` lists them all)"
    assert fault(lambda: open_dataset(folder, "train")) == f"{faults[0]} {hint}"
    assert fault(lambda: open_dataset(folder, "trainval")) == faults[2]
    (folder / IMAGES / "a.jpg").touch()
    empty = f"{folder / IMAGES / 'a.jpg'}: the file is empty"
    assert fault(lambda: check_split(open_dataset(folder, "trainval"))) == f"{empty} {hint}"


def test_void_everywhere_stops_no_training_but_where_all_masks_are(folder: Path) -> None:
    save_mask(folder / MASKS / "c.png", np.full(SIZE, 255))
    check_split(open_dataset(folder, "trainval"))
    message = fault(lambda: check_split(open_dataset(folder, "val")))
    assert message == f"{folder / SPLITS / 'val.txt'}: every mask it names is void everywhere"


# Endings and lists as people have them


@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("mask", [".PNG", "_mask.png"])
def test_files_of_other_endings_are_read(folder: Path, ending: str, mask: str) -> None:
    (folder / IMAGES / "a.jpg").unlink()
    Image.fromarray(RGB).save(folder / IMAGES / f"a{ending}")
    (folder / MASKS / "a.png").unlink()
    save_mask(folder / MASKS / f"a{mask}", np.full(RGB.shape[:2], 2))
    assert survey(folder).faults == []
    image, label = open_dataset(folder, "train").read(0)
    np.testing.assert_array_equal(image, Image.open(folder / IMAGES / f"a{ending}"))
    assert (label == 2).all()


@pytest.mark.parametrize("lines", ["a.jpg\nb.jpg\n", "a.png\nb.JPG\n", "a\nb.jpg\na.jpg\n"])
def test_names_with_an_ending_are_names_without(folder: Path, lines: str) -> None:
    (folder / SPLITS / "train.txt").write_text(lines)
    assert open_dataset(folder, "train").names == ("a", "b")
    assert survey(folder).splits["train"] == 2


def test_the_image_tells_what_a_name_with_an_ending_means(folder: Path) -> None:
    (folder / SPLITS / "train.txt").write_text("a.jpg\n")
    (folder / MASKS / "a.png").unlink()
    mask = folder / MASKS / "a.png"
    assert fault(lambda: open_dataset(folder, "train")) == f"{mask}: no such file"


def test_a_folder_without_lists_is_told(folder: Path) -> None:
    for path in (folder / SPLITS).iterdir():
        path.unlink()
    told = f"{folder / SPLITS}: holds no split (a file such as train.txt)"
    assert survey(folder).faults == [told]


@pytest.mark.parametrize(("file", "line"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_in_either_unicode_form(folder: Path, file: str, line: str) -> None:
    name = unicodedata.normalize(file, "é")
    (folder / IMAGES / "a.jpg").rename(folder / IMAGES / f"{name}.jpg")
    (folder / MASKS / "a.png").rename(folder / MASKS / f"{name}.png")
    (folder / SPLITS / "train.txt").write_text(f"{unicodedata.normalize(line, 'é')}\nb\n")
    assert open_dataset(folder, "train").names == (name, "b")


def test_a_missing_file_s_like_is_named(folder: Path) -> None:
    (folder / MASKS / "b.png").rename(folder / MASKS / "b.npy")
    message = fault(lambda: open_dataset(folder, "train"))
    assert message == f"{folder / MASKS / 'b.png'}: no such file, but b.npy is there"


def test_a_list_of_main_is_told(folder: Path) -> None:
    (folder / SPLITS / "train.txt").write_text("a -1\nb  1\n")
    message = fault(lambda: open_dataset(folder, "train"))
    assert "line 1: 'a -1' ends in a flag, as in the lists of ImageSets/Main" in message


def test_a_name_that_ends_like_a_flag_is_a_name_where_there_is_such_an_image(
    folder: Path,
) -> None:
    (folder / IMAGES / "a.jpg").rename(folder / IMAGES / "a 1.jpg")
    (folder / SPLITS / "train.txt").write_text("a 1\nb\n")
    mask = folder / MASKS / "a 1.png"
    assert fault(lambda: open_dataset(folder, "train")) == f"{mask}: no such file"


def test_pictures_of_a_folder_are_told_from_the_rest_and_hidden_ones_left_out(
    folder: Path,
) -> None:
    images = folder / IMAGES
    for name in ("d.PNG", "e.eps", "f.txt", ".g.jpg", "._a.jpg"):
        (images / name).touch()
    (images / "h.jpg").mkdir()
    (images / "i.jpg").symlink_to("nowhere")
    found, others = find_images(images)
    assert [path.name for path in found] == ["a.jpg", "b.jpg", "c.jpg", "d.PNG", "i.jpg"]
    assert [path.name for path in others] == ["e.eps", "f.txt"]


def test_lists_that_are_none_are_left_out(folder: Path) -> None:
    (folder / SPLITS / "._train.txt").write_bytes(b"\0\5\x16\7\xff")
    (folder / SPLITS / "test.txt").write_text("x\ny\n")
    found = survey(folder)
    assert (list(found.splits), found.faults) == (["train", "trainval", "val"], [])
    told = "no name in it has a mask: left out, as a list of test images"
    assert f"{folder / SPLITS / 'test.txt'}: {told}" in found.doubts
    (folder / SPLITS / "val.txt").write_text("x\n")
    assert fault(lambda: open_dataset(folder, "test")).startswith(f"{folder}: 4 files of test are")
    assert survey(folder).faults == [
        f"{folder / IMAGES / 'x.jpg'}: no such file",
        f"{folder / MASKS / 'x.png'}: no such file",
    ]
