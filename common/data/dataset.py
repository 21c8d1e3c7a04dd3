"""A folder of images and label masks in Pascal VOC's layout, read with every check."""

import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.config import VOID
from common.data.colours import SameColours, is_voc_palette, moved_from_voc
from common.data.doubts import (
    MEASURED,
    TRAIN,
    label_doubts,
    nothing_to_tell_apart,
    overlap,
    turned_doubts,
)
from common.data.images import TURNED, Check, open_image, open_mask, read_palette
from common.data.manifest import MANIFEST, Entry, Manifest, entry, read_manifest
from common.data.voc import BACKGROUND, VOC_CLASSES
from common.errors import InputError, listed
from common.files import TEXT_LIMIT, naming, read_bytes, write_whole

IMAGES, MASKS, SPLITS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
CLASS_NAMES = "class_names.txt"
_OTHER_NAMES = ("labelmap.txt", "classes.txt", "labels.txt", CLASS_NAMES)
"""Where other programs write the classes' names, and where people put ours."""

_IGNORED = "__ignore__"
"""labelme's name for void, the first line of its lists."""

MAX_CLASSES = VOID
"""Labels are bytes, and 255 is taken."""

_THREADS = 4

_LISTED = 20
"""So many missing files are named in a line; `data check` names them all."""


def _both_cases(*endings: str) -> tuple[str, ...]:
    return tuple(case for ending in endings for case in (ending, ending.upper()))


_IMAGE_ENDINGS = _both_cases(".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
_MASK_ENDINGS = (*_both_cases(".png"), "_mask.png")
"""In the order in which they are looked for."""


def _find(folder: Path, name: str, endings: tuple[str, ...]) -> Path:
    """The file of that name that is there, or that which is usual."""
    paths = [folder / f"{name}{ending}" for ending in endings]
    return next((path for path in paths if os.path.lexists(path)), paths[0])


def find_image(folder: Path, name: str) -> Path:
    """The image of that name, whatever of the usual endings it has; `.jpg` if there is none."""
    return _find(folder, name, _IMAGE_ENDINGS)


def _paths(root: Path, name: str) -> tuple[Path, Path]:
    """Where the image and the mask of a name are."""
    return find_image(root / IMAGES, name), _find(root / MASKS, name, _MASK_ENDINGS)


def _check_link(root: Path, path: Path) -> None:
    """Refuses a link out of the data; the whole folder, or JPEGImages, may be one to anywhere."""
    with naming(path):  # a name may be too long, a loop has no end
        if not path.is_symlink():
            return
        target = path.resolve()
        if not any(target.is_relative_to(folder.resolve()) for folder in (root, path.parent)):
            raise InputError(f"{path}: a link that leads out of the data, to {target}")


def _open_pair(
    root: Path, name: str, class_names: Collection[str], check: Check | None = None
) -> tuple[Image.Image | None, Image.Image | None, list[str]]:
    """Image and mask, None where they cannot be read, and every fault of the two.

    Without `class_names` any label is taken.
    """
    image_path, mask_path = _paths(root, name)
    image, mask, faults = None, None, []
    try:
        _check_link(root, image_path)
        image = open_image(image_path, check)
    except InputError as error:
        faults.append(str(error))
    try:
        _check_link(root, mask_path)
        mask = open_mask(mask_path, min(len(class_names) or MAX_CLASSES, MAX_CLASSES), check)
        if class_names == VOC_CLASSES and (moved := moved_from_voc(mask)):
            faults.append(f"{mask_path}: {moved}")
    except InputError as error:
        faults.append(str(error))
    if image is not None and mask is not None and image.size != mask.size:
        sizes = [f"{width}x{height}" for width, height in (mask.size, image.size)]
        faults.append(f"{mask_path}: {sizes[0]} pixels, but its image has {sizes[1]}")
    return image, mask, faults


@dataclass(frozen=True)
class Dataset:
    """The pairs of one split. `root` is the folder that holds JPEGImages."""

    root: Path
    split: str
    names: tuple[str, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def has_background(self) -> bool:
        """Whether class 0 is what belongs to no other."""
        return self.class_names[0] in BACKGROUND

    @property
    def split_path(self) -> Path:
        return self.root / SPLITS / f"{self.split}.txt"

    def image_path(self, index: int) -> Path:
        return _paths(self.root, self.names[index])[0]

    def mask_path(self, index: int) -> Path:
        return _paths(self.root, self.names[index])[1]

    def open(self, index: int) -> tuple[Image.Image, Image.Image]:
        """Image in mode RGB and mask, one byte a pixel: class indices or 255.

        Raises:
            InputError: one of the two cannot be read, or their sizes differ.
        """
        image, mask, faults = _open_pair(self.root, self.names[index], self.class_names)
        if image is None or mask is None or faults:
            raise InputError(faults[0])
        return image, mask

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) RGB and label (H, W), class indices or 255.

        Raises:
            InputError: as `open`.
        """
        image, mask = self.open(index)
        return np.asarray(image), np.asarray(mask)


def _places(folder: Path) -> tuple[Path, ...]:
    """Where JPEGImages may be."""
    return folder, folder / "VOC2012", folder / "VOCdevkit/VOC2012"


def contents(folder: Path) -> list[Path]:
    """The files and folders that are read of a set; they need not be there."""
    parts = (IMAGES, MASKS, SPLITS, CLASS_NAMES, MANIFEST)
    return [place / part for place in _places(folder) for part in parts]


def find_root(folder: Path) -> Path:
    """The folder that holds JPEGImages: `folder`, or VOC2012 or VOCdevkit/VOC2012 in it.

    Raises:
        InputError: there is none, or the masks or the splits are not beside it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    root = next((place for place in _places(folder) if (place / IMAGES).is_dir()), None)
    if root is None:
        raise InputError(f"{folder}: holds no {IMAGES}, by itself or in VOCdevkit/VOC2012")
    for part in (MASKS, SPLITS):
        if not (root / part).is_dir():
            raise InputError(f"{root}: holds no {part}")
    return root


def _read_lines(path: Path, check: Check | None) -> tuple[list[tuple[int, str]], list[str]]:
    """The lines that are not blank, with their numbers, and the faults of any list of names."""
    try:
        with naming(path):
            data = read_bytes(path, TEXT_LIMIT)
            if check is not None:
                check(path, data)
        text = data.decode("utf-8-sig")
    except InputError as error:
        return [], [str(error)]
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        return [], [f"{path}: line {number}: not UTF-8 text"]
    numbered = enumerate((line.strip() for line in text.splitlines()), start=1)
    lines = [(number, line) for number, line in numbered if line]
    if not lines:
        return [], [f"{path}: holds no names"]
    first: dict[str, int] = {}
    faults = []
    for number, line in lines:
        if first.setdefault(line, number) != number:
            faults.append(f"{path}: line {number}: {line!r} is on line {first[line]} already")
    return lines, faults


def _is_in_devkit(root: Path) -> bool:
    """Whether the folder stands where VOC's development kit has it."""
    return any(
        re.fullmatch(r"VOC20\d\d", place.name) and place.parent.name == "VOCdevkit"
        for place in (root.absolute(), root.resolve())
    )


def _nearby_names(root: Path) -> list[Path]:
    """Files beside the data, or above VOCdevkit, that may hold the classes' names."""
    folders = [root, *(root.absolute().parents[:2] if _is_in_devkit(root) else ())]
    return [
        folder / name for folder in folders for name in _OTHER_NAMES if (folder / name).exists()
    ]


def _without_class_names(root: Path) -> tuple[tuple[str, ...], list[str]]:
    """VOC's classes, where the folder or every mask says that they are."""
    if _is_in_devkit(root):
        return VOC_CLASSES, []
    masks = sorted(path for path in (root / MASKS).glob("*.png") if path.name[0] != ".")
    strange = next((path for path in masks if not is_voc_palette(read_palette(path))), None)
    if masks and strange is None:
        return VOC_CLASSES, []
    which = f"{strange.name} has not VOC's palette" if strange else "there is no mask"
    nearby = _nearby_names(root)
    from_there = f" (from {listed(nearby)}?)" if nearby else ""
    return (), [
        f"{root / CLASS_NAMES}: no such file, and {which}: write the names of the classes into it,"
        f" one a line{from_there}"
    ]


def _read_class_names(root: Path, check: Check | None) -> tuple[tuple[str, ...], list[str]]:
    """The classes' names, none where they are not known, and the faults."""
    path = root / CLASS_NAMES
    if not path.exists():
        try:
            return _without_class_names(root)
        except InputError as error:
            return (), [str(error)]
    lines, faults = _read_lines(path, check)
    if len(lines) > MAX_CLASSES:
        faults.append(f"{path}: {len(lines)} classes, more than {MAX_CLASSES}")
    faults += [
        f"{path}: line {number}: {_IGNORED} is labelme's name for void, no class: remove the line"
        for number, line in lines
        if line == _IGNORED
    ]
    return tuple(line for _, line in lines), faults


def _names_doubts(root: Path, class_names: tuple[str, ...], pixels: NDArray[np.int64]) -> list[str]:
    """VOC's names that were not asked for, where most have no pixel."""
    absent = np.count_nonzero(pixels[: len(VOC_CLASSES)] == 0)
    if (root / CLASS_NAMES).exists() or class_names != VOC_CLASSES or 2 * absent < len(VOC_CLASSES):
        return []
    nearby = _nearby_names(root)
    there = f" There is {listed(nearby)}" if nearby else ""
    return [
        f"{root}: holds no {CLASS_NAMES}, so the classes are VOC's {len(VOC_CLASSES)}, of which"
        f" {absent} have no pixel: are they yours?{there}"
    ]


def _plain_name(root: Path, line: str) -> str:
    """The name of an image that a line means: with an ending, or in another Unicode form."""
    stem, dot, ending = line.rpartition(".")
    names = [line, *([stem] if dot + ending in _IMAGE_ENDINGS else ())]
    forms = [
        name for form in ("NFC", "NFD") for name in (unicodedata.normalize(form, n) for n in names)
    ]
    return next((n for n in (*names, *forms) if os.path.lexists(_paths(root, n)[0])), line)


def _read_split(root: Path, path: Path, check: Check | None) -> tuple[list[str], list[str]]:
    """The names that can be used, each once, and every fault of the file."""
    lines, faults = _read_lines(path, check)
    names = []
    for number, line in lines:
        # a name may not lead out of the folder
        if line in (".", "..") or "/" in line or "\\" in line or not line.isprintable():
            faults.append(f"{path}: line {number}: {line!r} is no plain name of an image")
        elif re.search(r"\s(-1|0|1)$", line) and not os.path.lexists(_paths(root, line)[0]):
            flagged = f"{line!r} ends in a flag, as in the lists of ImageSets/Main"
            faults.append(f"{path}: line {number}: {flagged}: names alone are wanted")
        else:
            names.append(_plain_name(root, line))
    return list(dict.fromkeys(names)), faults


def _split_paths(root: Path) -> dict[str, Path]:
    """The lists of names; hidden ones, as a Mac writes beside each file of a zip, are not."""
    paths = sorted((root / SPLITS).glob("*.txt"))
    return {path.stem: path for path in paths if path.name[0] != "."}


def _manifest_check(root: Path) -> Check | None:
    manifest = read_manifest(root)
    return None if manifest is None else manifest.check


def _raise_first(faults: list[str], root: Path) -> None:
    others = len(faults) - 1
    more = f" (and {others} more; `python -m scripts.data check {root}` lists them all)"
    if faults:
        raise InputError(faults[0] + more * (others > 0))


def _instead(path: Path) -> str:
    """What is there in place of a file that is not: the same name with another ending."""
    with naming(path):
        near = sorted(p.name for p in path.parent.iterdir() if p.stem == path.stem)
    return f", but {listed(near)} is there" if near else ""


def _check_files(root: Path, split: str, names: Iterable[str]) -> None:
    """Refuses names of missing images and masks, in one line, before any picture is opened."""
    missing = []
    for name in names:
        for path in _paths(root, name):
            with naming(path):
                if not path.is_file():
                    missing.append(path)
    if len(missing) == 1:
        raise InputError(f"{missing[0]}: no such file{_instead(missing[0])}")
    if missing:
        listed = ", ".join(str(path.relative_to(root)) for path in missing[:_LISTED])
        more = len(missing) - _LISTED
        told = f" and {more} more; `python -m scripts.data check {root}` lists them all"
        raise InputError(
            f"{root}: {len(missing)} files of {split} are missing: {listed}"
            + (told if more > 0 else _instead(missing[0]))
        )


def open_dataset(folder: Path, split: str) -> Dataset:
    """The pairs that `ImageSets/Segmentation/<split>.txt` names; no picture is opened.

    The classes are those of `class_names.txt`, one a line; without it, VOC's 21, if the folder is
    VOC20xx in VOCdevkit or every mask has VOC's palette.

    Raises:
        InputError: the folder is not in VOC's layout, has no such split, the classes are not known,
            the split file or `class_names.txt` has a fault or differs from `manifest.json`, that is
            damaged, or a file that the split names is missing.
    """
    root = find_root(folder)
    paths = _split_paths(root)
    if split not in paths:
        known = ", ".join(paths) or "none"
        raise InputError(f"{root / SPLITS / split}.txt: no such split, have {known}")
    check = _manifest_check(root)
    class_names, faults = _read_class_names(root, check)
    _raise_first(faults, root)
    names, faults = _read_split(root, paths[split], check)
    _raise_first(faults, root)
    _check_files(root, split, names)
    return Dataset(root, split, tuple(names), class_names)


@dataclass(frozen=True)
class _Inspected:
    """What a pair holds; where it has a fault, no pixels."""

    name: str
    faults: list[str]
    pixels: NDArray[np.int64]
    """(256,) by label value."""
    palette: bytes
    """The mask's colours, three bytes each; none of a grey one."""
    turned: bool


def _inspect(
    root: Path, names: Iterable[str], class_names: tuple[str, ...], check: Check | None
) -> Iterator[_Inspected]:
    """Reads the pair of each name, in order, and holds the masks' colours against each other."""

    def inspect(name: str) -> _Inspected:
        image, mask, faults = _open_pair(root, name, class_names, check)
        values = np.zeros(0, np.uint8) if mask is None or faults else np.asarray(mask).ravel()
        pixels = np.bincount(values, minlength=256).astype(np.int64)
        palette = bytes(mask.getpalette() or ()) if mask is not None else b""
        return _Inspected(name, faults, pixels, palette, bool(image and image.info[TURNED]))

    colours = SameColours()
    with ThreadPoolExecutor(_THREADS) as pool:
        for pair in pool.map(inspect, names):
            path = _paths(root, pair.name)[1]
            if told := colours.differs(path, pair.palette, np.flatnonzero(pair.pixels).tolist()):
                pair.faults.append(f"{path}: {told}")
            yield pair


def check_split(dataset: Dataset) -> list[str]:
    """Reads every pair of the split, and holds its files against `manifest.json` if there is one.

    Returns what is allowed and to be doubted, a line each.

    Raises:
        InputError: the first fault, and how many more there are; or every mask is void everywhere;
            or, of train, they hold but one class.
    """
    check = _manifest_check(dataset.root)
    faults, pixels, turned = [], np.zeros(256, np.int64), 0
    for pair in _inspect(dataset.root, dataset.names, dataset.class_names, check):
        faults += pair.faults
        pixels += pair.pixels
        turned += pair.turned
    _raise_first(faults, dataset.root)
    path = dataset.split_path
    told = nothing_to_tell_apart(path, pixels, dataset.class_names)
    if told and (dataset.split == TRAIN or not pixels[:VOID].any()):
        raise InputError(told)
    doubts = turned_doubts(path, turned)
    if dataset.split == TRAIN:
        unasked = _names_doubts(dataset.root, dataset.class_names, pixels)
        doubts += unasked or label_doubts(path, pixels, dataset.class_names)
    return doubts


@dataclass(frozen=True)
class Survey:
    """What a folder holds, all splits together."""

    root: Path
    class_names: tuple[str, ...]
    """Empty where `class_names.txt` cannot be read."""
    splits: dict[str, int]
    """The number of names of each split."""
    pixels: NDArray[np.int64]
    """(256,) by label value, over the pairs without a fault, each once."""
    images: NDArray[np.int64]
    """(256,): the number of these pairs in which the value occurs."""
    faults: list[str]
    """Each as `path: fault`: manifest, class names, splits, then pairs in the splits' order."""
    doubts: list[str]
    """What is allowed and seldom meant, a line each."""


def _missing(manifest: Manifest, names: Iterable[str]) -> list[str]:
    """The manifest's files that are gone; those of the pairs in `names` are missed by others."""
    root = manifest.root
    expected = {path for name in names for path in _paths(root, name)}
    others = [root / name for name in manifest.files if root / name not in expected]
    return [f"{path}: no such file, but in {MANIFEST}" for path in others if not path.is_file()]


def survey(folder: Path, check: Check | None = None) -> Survey:
    """Reads every pair of every split, once, and lists every fault.

    `check` is called with path and bytes of each file, from several threads; without it, they
    are held against `manifest.json` if there is one.

    Raises:
        InputError: the folder is not in VOC's layout.
    """
    root = find_root(folder)
    manifest, faults = None, []
    try:
        manifest = read_manifest(root)
    except InputError as error:
        faults.append(str(error))
    if check is None and manifest is not None:
        check = manifest.check
    class_names, class_faults = _read_class_names(root, check)
    faults += class_faults
    splits: dict[str, list[str]] = {}
    doubts = []
    for split, path in _split_paths(root).items():
        its_names, split_faults = _read_split(root, path, check)
        masks = (_paths(root, name)[1] for name in its_names)
        if its_names and split not in MEASURED and not any(map(os.path.lexists, masks)):
            doubts.append(f"{path}: no name in it has a mask: left out, as a list of test images")
            continue
        splits[split] = its_names
        faults += split_faults
    if not splits:
        faults.append(f"{root / SPLITS}: holds no split (a file such as {TRAIN}.txt)")
    names = dict.fromkeys(name for split in splits.values() for name in split)
    if manifest is not None:
        faults += _missing(manifest, names)
    train, turned = set(splits.get(TRAIN, ())), 0
    pixels, images, learnt = np.zeros((3, 256), np.int64)
    for pair in _inspect(root, names, class_names, check):
        faults += pair.faults
        if pair.pixels[VOID] and not pair.pixels[:VOID].any():
            path = _paths(root, pair.name)[1]
            faults.append(f"{path}: void everywhere, there is nothing to learn")
        pixels += pair.pixels
        images += pair.pixels > 0
        turned += pair.turned
        learnt += pair.pixels * (pair.name in train)
    doubts += turned_doubts(root, turned)
    for split, its_names in splits.items():
        doubts += overlap(root / SPLITS / f"{split}.txt", its_names, train)
    if TRAIN in splits and not faults:
        path = root / SPLITS / f"{TRAIN}.txt"
        if told := nothing_to_tell_apart(path, learnt, class_names):
            faults.append(told)
        else:
            unasked = _names_doubts(root, class_names, learnt)
            doubts += unasked or label_doubts(path, learnt, class_names)
    sizes = {split: len(its_names) for split, its_names in splits.items()}
    return Survey(root, class_names, sizes, pixels, images, faults, doubts)


def keep_manifest(folder: Path) -> tuple[Survey, bool]:
    """Surveys the folder and writes its `manifest.json`; one that is there is checked and stays.

    Returns what was found, and whether a manifest was written; it is not where there is a fault.

    Raises:
        InputError: the folder is not in VOC's layout, or cannot be written to, or has a
            `manifest.json` that is damaged or another program's.
    """
    root = find_root(folder)
    if read_manifest(root) is not None:
        return survey(folder), False
    if (root / MANIFEST).exists():
        raise InputError(f"{root / MANIFEST}: is another program's; it stays as it is")
    files: dict[str, Entry] = {}

    def record(path: Path, data: bytes) -> None:
        files[path.relative_to(root).as_posix()] = entry(data)

    found = survey(folder, record)
    if not found.faults:
        content = Manifest(root, files).to_bytes()
        write_whole(root / MANIFEST, lambda path: path.write_bytes(content))
    return found, not found.faults
