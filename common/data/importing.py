"""Another program's data in our layout, whole and checked, or not at all."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from common.data.coco import read_coco, read_coco_panoptic
from common.data.dataset import (
    CLASS_NAMES,
    IMAGES,
    MASKS,
    MAX_CLASSES,
    SPLITS,
    Survey,
    open_dataset,
    survey,
)
from common.data.doubts import TRAIN
from common.data.drawing import mask_image, overlay, sheet
from common.data.formats import (
    Foreign,
    Format,
    read_cityscapes,
    read_cvat,
    read_folders,
    read_labelme,
    read_roboflow,
)
from common.data.images import FILE_LIMIT
from common.errors import InputError, listed
from common.files import check_new_folder, read_bytes, write_new_folder

_READERS: dict[Format, Callable[[Path], Foreign]] = {
    Format.cvat: read_cvat,
    Format.labelme: read_labelme,
    Format.roboflow: read_roboflow,
    Format.cityscapes: read_cityscapes,
    Format.coco: read_coco,
    Format.coco_panoptic: read_coco_panoptic,
    Format.folders: read_folders,
}

SHEET = "sheet.png"
_VAL_SHARE = 0.2
"""What becomes val where the source has no lists."""
_SHEET_PAIRS = 6


def _splits(source: Foreign, seed: int) -> dict[str, list[str]]:
    """The source's lists; where there are none, a seeded part of the names is val."""
    if source.splits:
        return source.splits
    names = sorted(pair.name for pair in source.pairs)
    if len(names) < 2:
        raise InputError(f"{len(names)} image: at least two are wanted, for train and val")
    count = max(1, round(_VAL_SHARE * len(names)))
    val = set(np.random.default_rng(seed).choice(names, count, replace=False).tolist())
    return {TRAIN: [n for n in names if n not in val], "val": [n for n in names if n in val]}


def _write(root: Path, source: Foreign, splits: dict[str, list[str]]) -> None:
    for part in (IMAGES, MASKS, SPLITS):
        (root / part).mkdir(parents=True)
    (root / CLASS_NAMES).write_text("".join(f"{name}\n" for name in source.class_names), "utf-8")
    for split, names in splits.items():
        (root / SPLITS / f"{split}.txt").write_text("".join(f"{n}\n" for n in names), "utf-8")
    for pair in source.pairs:
        data = read_bytes(pair.image, FILE_LIMIT)
        (root / IMAGES / f"{pair.name}{pair.image.suffix.lower()}").write_bytes(data)
        mask_image(pair.label()).save(root / MASKS / f"{pair.name}.png")


def _draw_sheet(root: Path, split: str) -> None:
    """Some pairs, evenly taken: the image, and its labels over it."""
    dataset = open_dataset(root, split)
    chosen = np.linspace(0, len(dataset) - 1, min(_SHEET_PAIRS, len(dataset))).astype(int)
    rows = []
    for image, mask in (dataset.read(k) for k in chosen):
        rows.append([Image.fromarray(image), overlay(image, mask, dataset.class_names)])
    sheet(("image", "truth"), rows).save(root / SHEET)


def import_data(kind: Format, folder: Path, out: Path, seed: int) -> Survey:
    """Makes `out`, in VOC's layout with lists, class names and a sheet, of another's `folder`.

    Images are copied as they are. Where there are no lists, `seed` draws a fifth of them for val.

    Raises:
        InputError: `folder` is not of this kind, lacks a file or holds a bad one; what was made
            has a fault; or `out` exists and is not an empty folder, or cannot be written.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    out = out.resolve()
    check_new_folder(out)
    source = _READERS[kind](folder)
    twice = [name for name, count in Counter(p.name for p in source.pairs).items() if count > 1]
    if twice:
        raise InputError(f"{folder}: images of the same name: {listed(twice)}")
    odd = [repr(name) for name in source.class_names if not name.isprintable()]
    if odd or len(source.class_names) > MAX_CLASSES:
        more = f"{len(source.class_names)} classes, more than {MAX_CLASSES}"
        raise InputError(f"{folder}: {f'no names of classes: {listed(odd)}' if odd else more}")
    splits = _splits(source, seed)

    def write(new: Path) -> None:
        _write(new, source, splits)
        faults = [fault.replace(f"{new}/", "") for fault in survey(new).faults]
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise InputError(f"{folder}: of what was made of it, {faults[0]}{more}")
        _draw_sheet(new, next(iter(splits)))

    write_new_folder(out, write)
    return survey(out)
