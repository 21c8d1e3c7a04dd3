"""COCO's JSON: instances as polygons or run lengths, and panoptic masks."""

import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import VOID
from common.data.colours import codes_of
from common.data.formats import Foreign, Label, Pair
from common.data.images import open_image
from common.errors import InputError, listed
from common.files import naming, parse_json, read_bytes

Mask = NDArray[np.bool_]

BACKGROUND = "background"
"""What is on no instance."""

_LIMIT = 1 << 30
"""Bytes of a JSON file; COCO's own of 118,000 images has half as many."""

_LONGEST = 1 << 22
"""Pixels along a polygon's sides, for each of which pycocotools takes some memory."""

_SPLITS = {"valid": "val"}
"""Others' names of splits."""


def _run_lengths(text: str) -> list[int]:
    """The run lengths in COCO's compressed form, each the difference to the last but one.

    A number is written in groups of five bits, the lowest first, as the characters from `0` on;
    the sixth bit says that more follow, and the fifth of the last is the sign.
    """
    if not re.fullmatch("([P-o]{0,6}[0-O])*", text):
        raise ValueError("a segmentation that is no text of COCO's")
    lengths: list[int] = []
    for number in re.findall("[P-o]*[0-O]", text):
        groups = [ord(character) - ord("0") for character in number]
        value = sum((group & 31) << (5 * k) for k, group in enumerate(groups))
        if groups[-1] & 16:
            value -= 1 << (5 * len(groups))
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    return lengths


def from_runs(counts: list[int] | str, height: int, width: int) -> Mask:
    """A mask of run lengths: columns one after the other, first those outside."""
    lengths = _run_lengths(counts) if isinstance(counts, str) else [int(n) for n in counts]
    if min(lengths, default=0) < 0 or sum(lengths) != height * width:
        raise ValueError(f"run lengths that do not fill {width}x{height} pixels")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def from_polygons(polygons: list[list[float]], height: int, width: int) -> Mask:
    """A mask of the pixels that are in any of the polygons, as COCO's own program draws them."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError(
            "COCO's polygons need pycocotools; install with: pip install pycocotools"
        ) from error
    for polygon in polygons:
        corners = np.array(polygon, np.float64).reshape(-1, 2)
        sides = np.abs(corners - np.roll(corners, 1, axis=0))
        if len(corners) < 3 or not sides.sum() < _LONGEST or not np.abs(corners).max() < _LONGEST:
            raise ValueError("a polygon of less than three corners, or a huge one")
    runs = mask.merge(mask.frPyObjects(polygons, height, width))
    return from_runs(runs["counts"].decode(), height, width)


def _mask(annotation: dict[str, Any], height: int, width: int) -> Mask:
    found = annotation.get("segmentation")
    if not found:
        raise ValueError(f"annotation {annotation['id']} has no segmentation: a box is no mask")
    if isinstance(found, dict):
        if found["size"] != [height, width]:
            raise ValueError(f"annotation {annotation['id']} is of another size than its image")
        return from_runs(found["counts"], height, width)
    return from_polygons(found, height, width)


def _instances(
    path: Path, image: Path, annotations: Sequence[dict[str, Any]], classes: dict[int, int]
) -> Label:
    """Where instances of different classes overlap: void."""
    width, height = open_image(image).size
    label: Label = np.zeros((height, width), np.uint8)
    with naming(path):
        for annotation in annotations:
            inside, own = _mask(annotation, height, width), classes[annotation["category_id"]]
            label[inside] = np.where(np.isin(label[inside], (0, own)), own, VOID)
    return label


def _panoptic(
    path: Path, masks: Sequence[Path], annotation: dict[str, Any], classes: dict[int, int]
) -> Label:
    """The segments' classes; a segment's id is red + 256 green + 256^2 blue, and 0 is void."""
    with naming(path):
        mask = _inside(masks, annotation["file_name"])
        segments = {s["id"]: classes[s["category_id"]] for s in annotation["segments_info"]}
    segments |= {0: VOID}
    colours = np.asarray(open_image(mask))[..., ::-1]
    found, places = np.unique(codes_of(colours), return_inverse=True)
    strange = [segment for segment in found.tolist() if segment not in segments]
    if strange:
        raise InputError(f"{mask}: segments that {path.name} does not list: {listed(strange)}")
    labels = np.array([segments[segment] for segment in found.tolist()], np.uint8)
    label: Label = labels[places.reshape(colours.shape[:2])]
    return label


def _inside(folders: Sequence[Path], name: str) -> Path:
    """The file of a name in the first of the folders that has it.

    Raises:
        InputError: none has it, or the name leads out of them.
    """
    if ".." in PurePosixPath(name).parts or name[:1] == "/":
        raise InputError(f"{folders[0]}: a name that leads out of it: {name}")
    found = next((folder / name for folder in folders if (folder / name).exists()), None)
    if found is None:
        raise InputError(f"{folders[0] / name}: no such file, nor in {listed(folders[1:])}")
    return found


def _classes(categories: list[dict[str, Any]], background: bool) -> dict[str, list[int]]:
    """The ids of each class, by name, in the ids' order."""
    classes: dict[str, list[int]] = {BACKGROUND: []} if background else {}
    for category in sorted(categories, key=lambda category: int(category["id"])):
        classes.setdefault(str(category["name"]), []).append(category["id"])
    return classes


def _find(folder: Path, kind: str) -> dict[str, Path]:
    """The JSON files of a folder by split."""
    own = sorted((folder / "annotations").glob(f"{kind}_*.json"))
    named = {path: path.stem.removeprefix(f"{kind}_") for path in own}
    if not named and kind == "instances":
        named = {p: p.parent.name for p in sorted(folder.glob("*/_annotations.coco.json"))}
    if not named:
        named = {path: path.stem for path in sorted(folder.glob("[!.]*.json"))}
    if not named:
        raise InputError(f"{folder}: holds no annotations/{kind}_*.json")
    plain = {path: re.sub(r"\d{4}$", "", name) for path, name in named.items()}
    return {_SPLITS.get(name, name): path for path, name in plain.items()}


def _read(folder: Path, kind: str) -> Foreign:
    names: dict[str, list[int]] = {}
    pairs: list[Pair] = []
    splits: dict[str, list[str]] = {}
    for split, path in _find(folder, kind).items():
        with naming(path):
            content = parse_json(read_bytes(path, _LIMIT))
            lacks = [k for k in ("images", "annotations", "categories") if k not in content]
            if lacks:
                raise ValueError(f"it lacks {listed(lacks)}")
            its = _classes(content["categories"], background=kind == "instances")
            if names not in ({}, its):
                raise ValueError("its classes are others than in the files before")
            names = its
            classes = {id_: label for label, ids in enumerate(names.values()) for id_ in ids}
            annotations = defaultdict(list)
            for annotation in content["annotations"]:
                annotations[annotation["image_id"]].append(annotation)
            part = path.stem.removeprefix(f"{kind}_")
            places = [path.parent, folder / part, folder / "images", folder / "images" / part]
            masks = [path.with_suffix(""), folder / path.stem]
            before = len(pairs)
            for image in content["images"]:
                file, its_own = _inside(places, image["file_name"]), annotations[image["id"]]
                if kind == "instances":
                    label = functools.partial(_instances, path, file, its_own, classes)
                elif len(its_own) == 1:
                    label = functools.partial(_panoptic, path, masks, its_own[0], classes)
                else:
                    raise ValueError(f"{len(its_own)} annotations of {image['file_name']}, not 1")
                pairs.append(Pair(file.stem, file, label))
        splits[split] = [pair.name for pair in pairs[before:]]
    return Foreign(tuple(names), pairs, splits if len(splits) > 1 else {})


def read_coco(folder: Path) -> Foreign:
    """Instances: annotations/instances_*.json, Roboflow's folders of splits, or one JSON file."""
    return _read(folder, "instances")


def read_coco_panoptic(folder: Path) -> Foreign:
    """Panoptic masks: annotations/panoptic_*.json, each with a folder of PNGs of its name."""
    return _read(folder, "panoptic")
