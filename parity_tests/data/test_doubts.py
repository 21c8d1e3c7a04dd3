"""Data that is valid and not meant: each is told, or refused where nothing can be learnt of it."""

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
from common.data.voc import VOC_CLASSES, voc_palette
from common.errors import InputError

Labels = NDArray[np.uint8]
SIZE = (8, 12)


def halves(left: int, right: int) -> Labels:
    label = np.full(SIZE, left, np.uint8)
    label[:, 6:] = right
    return label


def write_set(
    folder: Path, train: list[Labels], val: list[Labels], names: tuple[str, ...] | None
) -> Path:
    """A folder of such masks, in VOC's palette, and of images; without `names`, no class_names."""
    for part in (IMAGES, MASKS, SPLITS):
        (folder / part).mkdir(parents=True)
    for split, labels in {"train": train, "val": val}.items():
        listed = [f"{split}{k}" for k in range(len(labels))]
        (folder / SPLITS / f"{split}.txt").write_text("\n".join(listed))
        for name, label in zip(listed, labels, strict=True):
            Image.new("RGB", SIZE[::-1], (90, 60, 30)).save(folder / IMAGES / f"{name}.jpg")
            mask = Image.fromarray(label)
            mask.putpalette(voc_palette().tobytes())
            mask.save(folder / MASKS / f"{name}.png")
    if names is not None:
        (folder / CLASS_NAMES).write_text("\n".join(names))
    return folder


def told(folder: Path) -> tuple[list[str], list[str]]:
    """Faults and doubts, without the folder's name; `train` and `check` agree on those of train."""
    found = survey(folder)
    try:
        doubts = check_split(open_dataset(folder, "train"))
        assert doubts == [line for line in found.doubts if "/val.txt: " not in line]
    except InputError as error:
        assert str(error).startswith(found.faults[0])
    short = [
        [line.replace(f"{folder}/", "") for line in lines] for lines in (found.faults, found.doubts)
    ]
    return short[0], short[1]


TRAIN = f"{SPLITS}/train.txt"


def test_masks_of_0_and_255_hold_nothing_to_learn(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [halves(0, 255)], [halves(0, 255)], ("background", "crack"))
    told_by, doubts = told(folder)
    assert told_by == [
        f"{TRAIN}: its masks hold no class but background: there is nothing to learn; 50% of their"
        " pixels are 255, which is void: are they masks of 0 and 255, in place of 0 and 1?"
    ]
    assert doubts == []


@pytest.mark.parametrize("names", [("thing",), ("sky", "road")])
def test_one_class_alone_is_nothing_to_learn(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = write_set(tmp_path, [halves(0, 0)], [halves(0, len(names) - 1)], names)
    assert told(folder) == (
        [f"{TRAIN}: its masks hold no class but {names[0]}: there is nothing to learn"],
        [],
    )
    assert check_split(open_dataset(folder, "val")) == []


def test_classes_without_a_pixel_in_train_are_named(tmp_path: Path) -> None:
    names = ("background", *(f"c{k}" for k in range(8)))
    folder = write_set(tmp_path, [halves(0, 1)], [halves(0, 2)], names)
    assert told(folder) == (
        [],
        [f"{TRAIN}: no mask it names has a pixel of c1, c2, c3, c4, c5 and 2 more"],
    )


def test_masks_that_are_mostly_void_are_told(tmp_path: Path) -> None:
    label = np.full(SIZE, 255, np.uint8)
    label[0, :2] = 0, 1
    folder = write_set(tmp_path, [label], [halves(0, 1)], ("background", "thing"))
    assert told(folder) == (
        [],
        [f"{TRAIN}: 98% of its masks' pixels are 255, void, and teach nothing"],
    )


def test_names_of_val_that_are_trained_on_are_told(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [halves(0, 1)] * 3, [halves(0, 1)], ("background", "thing"))
    (folder / SPLITS / "val.txt").write_text("val0\ntrain2\ntrain0\n")
    (folder / SPLITS / "trainval.txt").write_text("val0\ntrain0\ntrain1\ntrain2\n")
    assert told(folder) == (
        [],
        [f"{SPLITS}/val.txt: 2 of its 3 names are in train, too: train2, train0"],
    )


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_pictures_that_exif_turns_are_counted(tmp_path: Path, orientation: int) -> None:
    folder = write_set(tmp_path, [halves(0, 1)] * 2, [halves(0, 1)], ("background", "thing"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", SIZE[::-1]).save(folder / IMAGES / "train1.jpg", exif=exif)
    faults, (doubt,) = survey(folder).faults, survey(folder).doubts
    assert faults == []
    assert doubt.startswith(f"{folder}: 1 image is turned or mirrored, as EXIF asks")
    (doubt,) = check_split(open_dataset(folder, "train"))
    assert "1 image is turned" in doubt


# Palettes


def optimise(path: Path) -> None:
    """What an optimiser of PNGs does: the colours that are used, one after the other."""
    mask = Image.open(path)
    labels, moved = np.unique(np.asarray(mask), return_inverse=True)
    colours = np.array(mask.getpalette(), np.uint8).reshape(-1, 3)[labels]
    smaller = Image.fromarray(moved.reshape(SIZE).astype(np.uint8))
    smaller.putpalette(colours.tobytes())
    before = np.asarray(mask.convert("RGB"))
    smaller.save(path)
    np.testing.assert_array_equal(np.asarray(Image.open(path).convert("RGB")), before)


def test_voc_s_colours_at_other_labels_are_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [halves(0, 15)] * 2, [halves(0, 8)], VOC_CLASSES)
    for path in (folder / MASKS).glob("*.png"):
        optimise(path)
    faults, _ = told(folder)
    assert faults == [
        f"{MASKS}/{name}.png: label 1 is shown in VOC's colour of {label}: its palette was"
        " reordered, and its labels with it"
        for name, label in {"train0": 15, "train1": 15, "val0": 8}.items()
    ]
    with pytest.raises(InputError, match="VOC's colour of 8"):
        open_dataset(folder, "val").read(0)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ((0, 1), (0, 3), "label 1 is #808000 here and #800000 in train0.png"),
        ((0, 3), (0, 3), "#808000 is label 1 here and 3 in train0.png"),
    ],
)
def test_a_set_s_own_colours_are_held_against_each_other(
    tmp_path: Path, first: tuple[int, int], second: tuple[int, int], reason: str
) -> None:
    names = ("background", "a", "b", "c")
    folder = write_set(tmp_path, [halves(*first), halves(*second)], [halves(1, 2)], names)
    assert survey(folder).faults == []
    optimise(folder / MASKS / "train1.png")
    faults, _ = told(folder)
    assert f"{MASKS}/train1.png: {reason}" in faults[0]
    assert faults[0].endswith("a palette was reordered, and labels with it? If not, save in grey")


def test_palettes_of_any_colours_are_taken(tmp_path: Path) -> None:
    """One of all black, one of other colours than VOC's, and none."""
    folder = write_set(tmp_path, [halves(1, 2)] * 2, [halves(0, 1)], ("a", "b", "c"))
    for palette in (bytes(768), bytes([9, 9, 9, 70, 0, 0, 0, 70, 0])):
        for name in ("train0", "val0"):
            mask = Image.open(folder / MASKS / f"{name}.png")
            mask.putpalette(palette)
            mask.save(folder / MASKS / f"{name}.png")
        Image.fromarray(halves(1, 0)).save(folder / MASKS / "train1.png")
        assert survey(folder).faults == []


def test_a_palette_may_have_a_colour_twice(tmp_path: Path) -> None:
    """Then either label may be shown in it, and the first is told where another is."""
    folder = write_set(tmp_path, [halves(1, 1), halves(2, 2)], [halves(3, 3)], ("a", "b", "c", "d"))
    red, blue = b"\xff\0\0", b"\0\0\xff"
    for name, palette in {
        "train0": blue + red + red + b"\1\1\1",
        "train1": blue + red + red + b"\1\1\1",
        "val0": blue + b"\1\1\1" * 2 + red,
    }.items():
        mask = Image.open(folder / MASKS / f"{name}.png")
        mask.putpalette(palette)
        mask.save(folder / MASKS / f"{name}.png")
    (fault,) = survey(folder).faults
    assert f"{MASKS}/val0.png: #ff0000 is label 3 here and 1 in train0.png:" in fault


# Names


def test_voc_s_names_are_taken_where_the_folder_or_every_mask_is_voc_s(tmp_path: Path) -> None:
    labels = [halves(0, k) for k in range(1, 21)]
    folder = write_set(tmp_path / "set", labels, labels, None)
    assert open_dataset(folder, "train").class_names == VOC_CLASSES
    assert survey(folder).doubts == []
    Image.fromarray(labels[0]).save(folder / MASKS / "train7.png")
    (folder / "labelmap.txt").touch()
    fault = (
        f"{folder / CLASS_NAMES}: no such file, and train7.png has not VOC's palette: write the"
        f" names of the classes into it, one a line (from {folder / 'labelmap.txt'}?)"
    )
    assert survey(folder).faults == [fault]
    with pytest.raises(InputError) as refused:
        open_dataset(folder, "train")
    assert str(refused.value) == fault
    kit = tmp_path / "VOCdevkit"
    kit.mkdir()
    folder.rename(kit / "VOC2007")
    assert open_dataset(kit / "VOC2007", "train").class_names == VOC_CLASSES


@pytest.mark.parametrize("name", ["labelmap.txt", "classes.txt", "labels.txt"])
def test_other_programs_lists_of_names_are_pointed_at(tmp_path: Path, name: str) -> None:
    folder = write_set(tmp_path, [halves(0, 1)], [halves(0, 1)], None)
    Image.fromarray(halves(0, 1)).save(folder / MASKS / "train0.png")
    assert survey(folder).faults[0].endswith("into it, one a line")
    (folder / name).touch()
    assert survey(folder).faults[0].endswith(f"into it, one a line (from {folder / name}?)")


def test_names_above_voc_s_kit_are_pointed_at_but_not_beyond(tmp_path: Path) -> None:
    root = tmp_path / "all" / "VOCdevkit" / "VOC2012"
    write_set(root, [halves(0, 1)], [halves(0, 1)], None)
    (tmp_path / "labels.txt").touch()
    (doubt,) = survey(root).doubts
    assert doubt.endswith("are they yours?")
    (tmp_path / "all" / "labels.txt").touch()
    (doubt,) = survey(root).doubts
    assert doubt.endswith(f"are they yours? There is {tmp_path / 'all' / 'labels.txt'}")


def test_a_mac_s_hidden_files_are_no_masks(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [halves(0, 1)], [halves(0, 1)], None)
    (folder / MASKS / "._train0.png").write_bytes(b"\0\5\x16\7\xff")
    assert open_dataset(folder, "train").class_names == VOC_CLASSES


def test_without_names_a_mask_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [halves(0, 1)], [halves(0, 1)], None)
    (folder / MASKS / "train0.png").write_bytes(b"")
    empty = f"{folder / MASKS / 'train0.png'}: the file is empty"
    assert set(survey(folder).faults) == {empty}
    with pytest.raises(InputError, match="the file is empty"):
        open_dataset(folder, "train")


def test_voc_s_names_that_are_hardly_used_are_doubted(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    write_set(root, [halves(0, 1)], [halves(0, 1)], None)
    (tmp_path / CLASS_NAMES).write_text("background\nball\n")
    assert survey(tmp_path).doubts == [
        f"{root}: holds no class_names.txt, so the classes are VOC's 21, of which 19 have no"
        f" pixel: are they yours? There is {tmp_path / CLASS_NAMES}"
    ]


def test_labelme_s_names(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [halves(0, 1)], [halves(0, 1)], ("_background_", "ball"))
    assert open_dataset(folder, "train").has_background
    (folder / CLASS_NAMES).write_text("__ignore__\n_background_\nball\n")
    with pytest.raises(InputError, match="line 1: __ignore__ is labelme's name for void"):
        open_dataset(folder, "train")
