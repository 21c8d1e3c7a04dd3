"""What is done to a folder of data: files, splits, class names, manifest, links."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common.data.dataset import IMAGES, MASKS, SPLITS, keep_manifest
from common.data.manifest import MANIFEST
from parity_tests.bad_input.files import (
    as_it_is,
    empty,
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
    SCORE,
    SPLIT,
    Row,
    opened,
    surveyed,
    table,
)

READ = (opened, surveyed)
VAL = DATA / SPLITS / "val.txt"


def missing_folder(path: Path) -> Callable[[], None]:
    return partial(shutil.rmtree, path)


def manifest(change: Callable[[], object]) -> Callable[[], None]:
    """What is changed after the manifest was made."""
    return several(partial(keep_manifest, DATA), change)


ROWS = [
    *table(
        ("image missing", missing(IMAGE), f"{IMAGE}: no such file"),
        ("mask missing", missing(MASK), f"{MASK}: no such file"),
        ("no such folder", missing_folder(DATA), f"{DATA}: no such folder"),
        ("no folder of images", missing_folder(IMAGE.parent), "data: holds no JPEGImages"),
        ("no folder of masks", missing_folder(MASK.parent), "data: holds no SegmentationClass"),
        ("no folder of splits", missing_folder(SPLIT.parent), "data: holds no ImageSets"),
        (
            "a name of 300 letters",
            text(SPLIT, "x" * 300),
            f"{IMAGE.parent}/x*.jpg: cannot be read: File name too long",
        ),
        *(
            (what, text(SPLIT, content), f"{SPLIT}: {says}")
            for what, content, says in (
                ("empty split", "", "holds no names"),
                ("split of blank lines", "\n \r\n", "holds no names"),
                ("a name twice", "train_00000\ntrain_00001\ntrain_00000\n", "line 3: .* on line 1"),
                ("split in UTF-16", "train_00000\n".encode("utf-16"), "line 1: not UTF-8 text"),
                ("split in Latin-1", b"train_00000\nstra\xdfe\n", "line 2: not UTF-8 text"),
                ("a name with ../", "../train_00000\n", "line 1: '../train_00000' is no plain"),
                ("an absolute name", "/etc/passwd\n", "line 1: '/etc/passwd' is no plain name"),
            )
        ),
        *(
            (what, text(NAMES, content), f"{NAMES}: {says}")
            for what, content, says in (
                ("class_names.txt empty", "", "holds no names"),
                ("class_names.txt not UTF-8", b"background\nstra\xdfe\n", "line 2: not UTF-8 text"),
                ("a class twice", "a\nb\na\n", "line 3: 'a' is on line 1 already"),
                ("256 classes", "".join(f"c{k}\n" for k in range(256)), "256 classes, more than"),
            )
        ),
        *(
            (
                what,
                manifest(rewrite(DATA / MANIFEST, change)),
                f"{DATA / MANIFEST}: damaged, or no manifest of ours \\(.*; remove it to do with",
            )
            for what, change in (
                ("manifest cut short", half),
                ("empty manifest", empty),
                ("HTML as manifest", html),
                ("manifest of a later schema", lambda old: old.replace(b'a": 1', b'a": 2')),
            )
        ),
        (
            "split changed, with a manifest",
            manifest(text(SPLIT, "train_00000\n")),
            f"{SPLIT}: differs from manifest.json: 12 bytes, not 24",
        ),
        *(
            (
                f"{what} is a link out of the data",
                linked(path, "elsewhere/x"),
                f"{path}: a link that leads out of the data, to .*/elsewhere/x",
            )
            for what, path in (("an image", IMAGE), ("a mask", MASK))
        ),
        by=READ,
        refuses=SCORE,
    ),
    *table(
        (
            "images and masks missing",
            missing(IMAGE, MASK, OTHER_MASK),
            rf"{DATA}: 3 files of train are missing: {IMAGES}/{IMAGE.name}, {MASKS}/{MASK.name},"
            f" {MASKS}/{OTHER_MASK.name}$",
        ),
        (
            "a hundred pairs missing",
            text(SPLIT, "".join(f"n{k}\n" for k in range(100))),
            r"200 files of train are missing: .*/n9.png and 180 more; .*data check data",
        ),
        ("no such split", missing(SPLIT), f"{SPLIT}: no such split, have trainval, val"),
        by=(opened,),
        refuses="train evaluate",
    ),
    Row(
        "images and masks missing",
        missing(IMAGE, MASK, OTHER_MASK),
        f"(?s){IMAGE}: no such .*{MASK}: no such .*{OTHER_MASK}: no such .*data: 3 faults",
        refuses="check",
    ),
    Row(
        "split gone, with a manifest",
        manifest(VAL.unlink),
        f"{VAL}: no such file, but in manifest.json",
        by=(surveyed,),
        refuses="check",
    ),
    *(
        Row(what, change, by=READ, accepts=commands, like=as_it_is)
        for what, change, commands in (
            *(
                (what, text(SPLIT, content), commands)
                for what, content, commands in (
                    ("blank lines in a split", "\ntrain_00000\n\n  \ntrain_00001\n\n", "evaluate"),
                    ("CRLF in a split", "train_00000\r\ntrain_00001\r\n", "evaluate"),
                    ("byte-order mark in a split", "\ufefftrain_00000\ntrain_00001\n", "evaluate"),
                    ("no newline at a split's end", "train_00000\ntrain_00001", "evaluate"),
                    ("all four", "\ufeff\r\ntrain_00000\r\n\r\ntrain_00001", "train evaluate"),
                )
            ),
            ("another program's manifest.json", text(DATA / MANIFEST, '{"name": "app"}'), SCORE),
            ("an image is a link within the data", linked(IMAGE, DATA / "raw" / "x.jpg"), SCORE),
            (
                "JPEGImages is a link to elsewhere",
                linked(IMAGE.parent, "elsewhere"),
                "check evaluate",
            ),
            ("the data is a link to elsewhere", linked(DATA, "elsewhere"), "check evaluate"),
        )
    ),
    Row(
        "an image that is not there", as_it_is, "none.jpg: no such", "none.jpg", finishes="predict"
    ),
    Row(
        "folder without images",
        Path("bare").mkdir,
        "bare: a folder without images",
        "bare",
        refuses="predict",
    ),
]
