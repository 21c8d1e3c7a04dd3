"""Segmentation data as other programs write it: classes, images, and label masks made of theirs."""

import base64
import csv
import enum
import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from common.config import VOID
from common.data.colours import codes_of
from common.data.dataset import CLASS_NAMES, IMAGES, MASKS, SPLITS, find_image
from common.data.images import decode, find_images, open_image, open_mask
from common.errors import InputError, listed
from common.files import JSON_LIMIT, TEXT_LIMIT, naming, parse_json, read_bytes

Label = NDArray[np.uint8]

_IGNORED = "__ignore__"
"""Void, to labelme."""


@dataclass(frozen=True)
class Pair:
    """An image and what makes its label (H, W): class indices or 255."""

    name: str
    image: Path
    label: Callable[[], Label]


@dataclass(frozen=True)
class Foreign:
    """What a folder of another program holds; `splits` is empty where it has none."""

    class_names: tuple[str, ...]
    pairs: list[Pair]
    splits: dict[str, list[str]]


class Format(enum.StrEnum):
    """The programs whose folders are read, or what such a folder is."""

    cvat = "cvat"
    labelme = "labelme"
    roboflow = "roboflow"
    cityscapes = "cityscapes"
    coco = "coco"
    coco_panoptic = "coco-panoptic"
    folders = "folders"


# What the formats share


def _lines(path: Path) -> list[str]:
    with naming(path):
        text = read_bytes(path, TEXT_LIMIT).decode("utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _names(path: Path) -> tuple[str, ...]:
    """Classes, one a line."""
    return tuple(line for line in _lines(path) if line != _IGNORED)


def _index_mask(path: Path, num_classes: int) -> Label:
    label: Label = np.asarray(open_mask(path, num_classes))
    return label


def _colour_mask(path: Path, table: dict[int, int]) -> Label:
    """The label of a mask that shows classes in colours; `table`: 0xRRGGBB to class."""
    codes = codes_of(np.asarray(open_image(path)))
    found, places = np.unique(codes, return_inverse=True)
    strange = [f"#{code:06x}" for code in found.tolist() if code not in table]
    if strange:
        raise InputError(f"{path}: colours of no class: {listed(strange)}")
    labels = np.array([table[code] for code in found.tolist()], np.uint8)
    label: Label = labels[places.reshape(codes.shape)]
    return label


def _colour_table(path: Path, rows: Iterable[tuple[str, list[str]]]) -> dict[str, int]:
    """Class names with their colours, as 0xRRGGBB, in the file's order."""
    table: dict[str, int] = {}
    for name, colour in rows:
        try:
            red, green, blue = (int(part) for part in colour)
        except ValueError as error:
            raise InputError(f"{path}: {name}: no colour of three numbers: {colour}") from error
        if not all(0 <= part <= 255 for part in (red, green, blue)) or name in table:
            raise InputError(f"{path}: {name}: named twice, or its colour is not from 0 to 255")
        table[name] = red << 16 | green << 8 | blue
    if not table:
        raise InputError(f"{path}: holds no classes")
    return table


def _labelmap(path: Path) -> dict[str, int]:
    """CVAT's labelmap.txt: `name:red,green,blue:parts:actions`."""
    rows = (line.split(":") for line in _lines(path) if not line.startswith("#"))
    return _colour_table(path, ((row[0], "".join(row[1:2]).split(",")) for row in rows))


def _classes_csv(path: Path) -> dict[str, int]:
    """Lines `name,red,green,blue`, with or without that header."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(_lines(path))]
    return _colour_table(path, ((row[0], row[1:]) for row in rows if row[0] != "name"))


def _required(path: Path, what: str) -> Path:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder, but {what}")
    return path


# The formats


def read_cvat(folder: Path) -> Foreign:
    """CVAT's "Segmentation mask 1.1", exported with its images."""
    path = _required(folder / "labelmap.txt", "CVAT writes the colours of the classes there")
    colours = _labelmap(path)
    table = {colour: label for label, colour in enumerate(colours.values())}
    splits = {list_.stem: _lines(list_) for list_ in sorted((folder / SPLITS).glob("[!.]*.txt"))}
    names = list(dict.fromkeys(name for split in splits.values() for name in split))
    if outside := [name for name in names if ".." in PurePosixPath(name).parts or name[0] == "/"]:
        raise InputError(f"{folder / SPLITS}: names that lead out of it: {listed(outside)}")
    pairs = [
        Pair(
            Path(name).name,
            find_image(_required(folder / IMAGES, "CVAT has `Save images` for it"), name),
            functools.partial(_colour_mask, folder / MASKS / f"{name}.png", table),
        )
        for name in names
    ]
    known = {split: [Path(n).name for n in its] for split, its in splits.items()}
    return Foreign(tuple(colours), pairs, {} if list(known) == ["default"] else known)


@dataclass(frozen=True)
class _Shape:
    """A shape of labelme's, of which each kind has its own points; `mask` is one's PNG."""

    label: str
    kind: str
    points: list[tuple[float, float]]
    mask: bytes


def _shape(content: Any) -> _Shape:
    points = [(float(x), float(y)) for x, y in content["points"]]
    mask = base64.b64decode(content.get("mask") or "", validate=True)
    return _Shape(str(content["label"]), content.get("shape_type") or "polygon", points, mask)


_LINE_WIDTH, _POINT_RADIUS = 10, 5
"""In pixels, with which labelme draws what has no area."""


def _round(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def _draw(path: Path, shapes: list[_Shape], size: tuple[int, int], names: tuple[str, ...]) -> Label:
    """The shapes one over the other, as labelme's `shape_to_mask` draws them."""
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    for shape in shapes:
        label = VOID if shape.label == _IGNORED else names.index(shape.label)
        match shape.kind:
            case "polygon":
                draw.polygon(shape.points, fill=label, outline=label)
            case "rectangle":
                (x0, y0), (x1, y1) = shape.points
                box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
                draw.rectangle(box, fill=label, outline=label)
            case "circle":
                (x, y), edge = shape.points
                draw.ellipse(_round(x, y, math.dist((x, y), edge)), fill=label, outline=label)
            case "line" | "linestrip":
                draw.line(shape.points, fill=label, width=_LINE_WIDTH)
            case "point" | "points":
                for x, y in shape.points:
                    draw.ellipse(_round(x, y, _POINT_RADIUS), fill=label, outline=label)
            case "mask":
                (x, y), _ = shape.points
                mask.paste(label, (round(x), round(y)), decode(path, shape.mask).convert("1"))
            case _:
                raise ValueError(f"a shape of a type that is not known: {shape.kind}")
    return np.asarray(mask)


def _read_labelme_json(folder: Path, paths: list[Path]) -> Foreign:
    drawn: dict[Path, tuple[Path, list[_Shape]]] = {}
    for path in paths:
        with naming(path):
            content = parse_json(read_bytes(path, JSON_LIMIT))
            image = folder / PureWindowsPath(content["imagePath"]).name  # knows / and \\
            drawn[path] = image, [_shape(shape) for shape in content["shapes"]]
    found = {shape.label for _, shapes in drawn.values() for shape in shapes} - {_IGNORED}
    own = folder / "labels.txt"
    names = _names(own) if own.exists() else ("_background_", *sorted(found - {"_background_"}))
    if unknown := sorted(found - {*names}):
        raise InputError(f"{own}: lacks {listed(unknown)}, as which shapes are labelled")

    def label(path: Path) -> Label:
        image, shapes = drawn[path]
        size = open_image(image).size
        with naming(path):
            return _draw(path, shapes, size, names)

    pairs = [Pair(p.stem, image, functools.partial(label, p)) for p, (image, _) in drawn.items()]
    return Foreign(names, pairs, {})


def read_labelme(folder: Path) -> Foreign:
    """JSON files of labelme beside their images, or what its `labelme2voc.py` makes of them."""
    if not (folder / IMAGES).is_dir():
        paths = sorted(folder.glob("[!.]*.json"))
        if not paths:
            raise InputError(f"{folder}: holds neither {IMAGES} nor labelme's .json files")
        return _read_labelme_json(folder, paths)
    names = _names(_required(folder / CLASS_NAMES, "labelme2voc.py writes it"))
    older = folder / "SegmentationClassPNG"
    masks = older if older.is_dir() else folder / MASKS
    images, _ = find_images(folder / IMAGES)
    read = [
        (p, functools.partial(_index_mask, masks / f"{p.stem}.png", len(names))) for p in images
    ]
    return Foreign(names, [Pair(path.stem, path, label) for path, label in read], {})


def read_roboflow(folder: Path) -> Foreign:
    """Roboflow's "Semantic Segmentation Masks": train, valid and test with their _classes.csv."""
    parts = {"train": "train", "valid": "val", "test": "test"}
    names: tuple[str, ...] = ()
    pairs, splits = [], {}
    for part, split in parts.items():
        if not (folder / part).is_dir():
            continue
        path = _required(folder / part / "_classes.csv", "Roboflow writes it")
        rows = [[cell.strip() for cell in row] for row in csv.reader(_lines(path)[1:])]
        if [row[0] for row in rows] != [str(k) for k in range(len(rows))]:
            raise InputError(f"{path}: its pixel values are not 0, 1, 2, ... in order")
        its_names = tuple(row[-1] for row in rows)
        if names not in ((), its_names):
            raise InputError(f"{path}: other classes than in the folders before")
        names = its_names
        images = [p for p in find_images(folder / part)[0] if not p.stem.endswith("_mask")]
        splits[split] = [path.stem for path in images]
        for image in images:
            mask = image.with_name(f"{image.stem}_mask.png")
            pairs.append(Pair(image.stem, image, functools.partial(_index_mask, mask, len(names))))
    if not pairs:
        raise InputError(f"{folder}: holds no train, valid or test of Roboflow's")
    return Foreign(names, pairs, splits)


CITYSCAPES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""The 19 classes that are evaluated, and their ids in labelIds masks; all other ids are void."""


def _cityscapes_mask(path: Path) -> Label:
    table = np.full(256, VOID, np.uint8)
    table[list(CITYSCAPES.values())] = np.arange(len(CITYSCAPES))
    label: Label = table[_index_mask(path, VOID)]
    return label


def read_cityscapes(folder: Path) -> Foreign:
    """Cityscapes: leftImg8bit and gtFine (labelIds); its test split has no labels."""
    images = _required(folder / "leftImg8bit", "Cityscapes' images are there")
    pairs, splits = [], {}
    for split in ("train", "val"):
        paths = sorted((images / split).glob("*/*_leftImg8bit.png"))
        splits[split] = [path.stem.removesuffix("_leftImg8bit") for path in paths]
        for path, name in zip(paths, splits[split], strict=True):
            mask = folder / "gtFine" / split / path.parent.name / f"{name}_gtFine_labelIds.png"
            pairs.append(Pair(name, path, functools.partial(_cityscapes_mask, mask)))
    if not pairs:
        raise InputError(f"{images}: holds no train/*/*_leftImg8bit.png")
    return Foreign(tuple(CITYSCAPES), pairs, {split: its for split, its in splits.items() if its})


def read_folders(folder: Path) -> Foreign:
    """Folders images and masks, of the same names, and a table of the classes.

    classes.csv has `name,red,green,blue` lines and labelmap.txt CVAT's, for masks in colours;
    classes.txt has a name a line, for masks of indices.
    """
    images, _ = find_images(_required(folder / "images", "the images are wanted there"))
    csv_, map_, txt = (folder / name for name in ("classes.csv", "labelmap.txt", "classes.txt"))
    read: Callable[[Path], Label]
    if csv_.exists() or map_.exists():
        colours = _classes_csv(csv_) if csv_.exists() else _labelmap(map_)
        names = tuple(colours)
        table = {colour: label for label, colour in enumerate(colours.values())}
        read = functools.partial(_colour_mask, table=table)
    elif txt.exists():
        names = _names(txt)
        read = functools.partial(_index_mask, num_classes=len(names))
    else:
        raise InputError(
            f"{folder}: which classes are there? {csv_.name} with name,red,green,blue for masks in"
            f" colours, or {txt.name} with a name a line for masks of indices"
        )
    pairs = []
    for image in images:
        at = folder / "masks" / f"{image.stem}.png"
        mask = at if at.exists() else at.with_stem(f"{image.stem}_mask")
        pairs.append(Pair(image.stem, image, functools.partial(read, mask)))
    return Foreign(names, pairs, {})
