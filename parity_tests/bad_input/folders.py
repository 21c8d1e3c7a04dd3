"""What is done to a folder of data: files, splits, class names, manifest, links."""

import shutil
from collections.abc import Callable
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
from parity_tests.bad_input.trial import DATA, IMAGE, MASK, NAMES, OTHER_MASK, SCORE, SPLIT, Row


def missing_folder(path: Path) -> Callable[[], None]:
    return lambda: shutil.rmtree(path)


ROWS = [
    Row("image missing", missing(IMAGE), f"{IMAGE}: no such file", refuses=SCORE),
    Row("mask missing", missing(MASK), f"{MASK}: no such file", refuses=SCORE),
    Row(
        "images and masks missing",
        missing(IMAGE, MASK, OTHER_MASK),
        rf"{DATA}: 3 files of train are missing: {IMAGES}/{IMAGE.name}, {MASKS}/{MASK.name},"
        f" {MASKS}/{OTHER_MASK.name}$",
        refuses="train evaluate",
    ),
    Row(
        "images and masks missing",
        missing(IMAGE, MASK, OTHER_MASK),
        f"(?s){IMAGE}: no such .*{MASK}: no such .*{OTHER_MASK}: no such .*data: 3 faults",
        refuses="check",
    ),
    Row(
        "a hundred pairs missing",
        text(SPLIT, "".join(f"n{k}\n" for k in range(100))),
        r"200 files of train are missing: .*/n9.png and 180 more; .*data check data",
        refuses="train evaluate",
    ),
    Row(
        "a name of 300 letters",
        text(SPLIT, "x" * 300),
        f"{IMAGE.parent}/x*.jpg: cannot be read: File name too long",
        refuses=SCORE,
    ),
    Row("no such folder", missing_folder(DATA), f"{DATA}: no such folder", refuses=SCORE),
    Row("no folder of images", missing_folder(IMAGE.parent), "data: holds no JPEG", refuses=SCORE),
    Row("no folder of masks", missing_folder(MASK.parent), "data: holds no Segm", refuses=SCORE),
    Row("no folder of splits", missing_folder(SPLIT.parent), "data: holds no Ima", refuses=SCORE),
    Row(
        "no such split",
        missing(SPLIT),
        f"{SPLIT}: no such split, have trainval, val",
        refuses="train evaluate",
    ),
    *(
        Row(fault, text(SPLIT, content), f"{SPLIT}: {says}", refuses=SCORE)
        for fault, content, says in (
            ("empty split", "", "holds no names"),
            ("split of blank lines", "\n \r\n", "holds no names"),
            ("a name twice", "train_00000\ntrain_00001\ntrain_00000\n", "line 3: .* on line 1"),
            ("split in UTF-16", "train_00000\n".encode("utf-16"), "line 1: not UTF-8 text"),
            ("split in Latin-1", b"train_00000\nstra\xdfe\n", "line 2: not UTF-8 text"),
            ("a name with ../", "../train_00000\n", r"line 1: '../train_00000' is no plain name"),
            ("an absolute name", "/etc/passwd\n", "line 1: '/etc/passwd' is no plain name"),
        )
    ),
    *(
        Row(fault, text(SPLIT, content), accepts=commands, like=as_it_is)
        for fault, content, commands in (
            ("blank lines in a split", "\ntrain_00000\n\n  \ntrain_00001\n\n", "evaluate"),
            ("CRLF in a split", "train_00000\r\ntrain_00001\r\n", "evaluate"),
            ("byte-order mark in a split", "\ufefftrain_00000\ntrain_00001\n", "evaluate"),
            ("no newline at a split's end", "train_00000\ntrain_00001", "evaluate"),
            ("all four", "\ufeff\r\ntrain_00000\r\n\r\ntrain_00001", "train evaluate"),
        )
    ),
    *(
        Row(fault, text(NAMES, content), f"{NAMES}: {says}", refuses=SCORE)
        for fault, content, says in (
            ("class_names.txt empty", "", "holds no names"),
            ("class_names.txt not UTF-8", b"background\nstra\xdfe\n", "line 2: not UTF-8 text"),
            ("a class twice", "a\nb\na\n", "line 3: 'a' is on line 1 already"),
            ("256 classes", "".join(f"c{k}\n" for k in range(256)), "256 classes, more than 255"),
        )
    ),
    *(
        Row(
            fault,
            several(lambda: keep_manifest(DATA), rewrite(DATA / MANIFEST, change)),
            f"{DATA / MANIFEST}: damaged, or no manifest of ours \\(.*; remove it to do without",
            refuses=SCORE,
        )
        for fault, change in (
            ("manifest cut short", half),
            ("empty manifest", empty),
            ("HTML as manifest", html),
            (
                "manifest of a later schema",
                lambda data: data.replace(b'"schema": 1', b'"schema": 2'),
            ),
        )
    ),
    Row(
        "another program's manifest.json",
        lambda: (DATA / MANIFEST).write_text('{"name": "app"}'),
        accepts=SCORE,
        like=as_it_is,
    ),
    Row(
        "split changed, with a manifest",
        several(lambda: keep_manifest(DATA), text(SPLIT, "train_00000\n")),
        f"{SPLIT}: differs from manifest.json: 12 bytes, not 24",
        refuses=SCORE,
    ),
    Row(
        "split gone, with a manifest",
        several(lambda: keep_manifest(DATA), (DATA / SPLITS / "val.txt").unlink),
        "val.txt: no such file, but in manifest.json",
        refuses="check",
    ),
    *(
        Row(f"{what} is a link out of the data", linked(path, "elsewhere/x"), says, refuses=SCORE)
        for what, path, says in (
            ("an image", IMAGE, f"{IMAGE}: a link that leads out of the data, to .*/elsewhere/x"),
            ("a mask", MASK, f"{MASK}: a link that leads out of the data, to .*/elsewhere/x"),
        )
    ),
    *(
        Row(fault, linked(path, target), accepts=commands, like=as_it_is)
        for fault, path, target, commands in (
            ("an image is a link within the data", IMAGE, DATA / "raw" / "x.jpg", SCORE),
            ("JPEGImages is a link to elsewhere", IMAGE.parent, "elsewhere", "check evaluate"),
            ("the data is a link to elsewhere", DATA, "elsewhere", "check evaluate"),
        )
    ),
    Row(
        "an image that is not there",
        as_it_is,
        "none.jpg: no such file",
        finishes="predict",
        arguments=["none.jpg"],
    ),
    Row(
        "folder without images",
        Path("bare").mkdir,
        "bare: a folder without images",
        refuses="predict",
        arguments=["bare"],
    ),
]
