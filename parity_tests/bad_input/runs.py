"""What a run is told, and what is done to its folder."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

from common.data.shapes import write_shapes
from common.runs.run_folder import LOCK, RunFolder
from parity_tests.bad_input.files import (
    as_it_is,
    empty,
    flipped,
    half,
    html,
    missing,
    rewrite,
    several,
    text,
)
from parity_tests.bad_input.machine import disk_fills_up, full_disk
from parity_tests.bad_input.trial import (
    CONFIG,
    DATA,
    IMAGE,
    LOG,
    RUN_FOLDER,
    RUN_LAST,
    RUN_PREVIOUS,
    SPLIT,
    WEIGHTS,
    Row,
    table,
)
from parity_tests.bad_input.weights import NO_FILE
from scripts.shared import training


def resumed() -> None:
    """What `--resume` reads of a run, in its order."""
    with RunFolder(RUN_FOLDER) as folder:
        folder.info()
        folder.load()
        folder.read_logs()


def no_checkpoints() -> None:
    """Weights alone where the run's checkpoints were."""
    for path in (RUN_LAST, RUN_PREVIOUS):
        shutil.copy(WEIGHTS, path)


def empty_run() -> None:
    """A run folder where a process of this number was at work, and left nothing."""
    RUN_FOLDER.mkdir()
    (RUN_FOLDER / LOCK).write_text(f"{os.getpid()}\n")


@contextlib.contextmanager
def run_held() -> Iterator[None]:
    """Another run is at work in the folder."""
    with RunFolder(RUN_FOLDER) as folder:
        folder.lock()
        yield


def other_threads() -> AbstractContextManager[object]:
    return mock.patch("backends.torch.threads", return_value=7)


@contextlib.contextmanager
def images_away() -> Iterator[None]:
    """The images are away from the first step on, until the command has ended."""
    folder, away, rate = IMAGE.parent, DATA / "away", training.learning_rate

    def learning_rate(*arguments: Any) -> float:
        if folder.exists():
            folder.rename(away)
        return rate(*arguments)

    with mock.patch.object(training, "learning_rate", learning_rate):
        yield
    away.rename(folder)


MINE = Path("mine.toml")
PAIRS = "train_0000[01], train_0000[01]"

ROWS = [
    *(
        Row(what, as_it_is, f"error: {says}", arguments, refuses="new")
        for what, says, arguments in (
            ("nothing of what a new run needs", "--backend, --data, --out: missing, for a new", ""),
            ("no --backend", "--backend: missing", "--data data --out run"),
            ("no --data", "--data: missing", "--backend torch --out run"),
            ("no --out", "--out: missing", "--backend torch --data data"),
        )
    ),
    *(
        Row(f"recipe: {what}", text(MINE, content), f"{MINE}: {says}", arguments, refuses="train")
        for arguments in (f"--recipe {MINE}",)
        for what, content, says in (
            (
                "unknown key",
                "learning_rat = 1\n",
                "learning_rat is no setting. Is learning_rate me",
            ),
            ("unknown key, nothing near", "zzz = 1\n", r"zzz is no setting.\n"),
            ("value out of range", "batch_size = 0\n", "batch_size = 0: .*1"),
            (
                "value that there is not",
                'schedule = "cosine"\n',
                "schedule = 'cosine': .*'cosine' is not one of 'constant', 'poly'",
            ),
            ("one value of two", "crop = [3]\n", r"crop = \[3\]: .*2 "),
            ("scale upside down", "scale = [2.0, 1.0]\n", ".*: 2 1: 0 < MIN <= MAX is wanted"),
            ("no TOML", "learning_rate 0.1\n", "not TOML: "),
            ("not UTF-8", b"\xff\xfe", "not TOML: "),
        )
    ),
    Row(
        "recipe that is not there",
        as_it_is,
        r"--recipe modren: no such recipe \(have .*, modern\) or file. Is modern meant?",
        "--recipe modren",
        refuses="train",
    ),
    Row(
        "learning rate far too high",
        as_it_is,
        f"step 1: the loss is nan on {PAIRS}; is --lr too high. {RUN_LAST} is of step 1",
        "--lr 1e30 --stop-after 3",
        stops="train",
    ),
    Row(
        "the images go missing on the way, within an epoch",
        as_it_is,
        f"{IMAGE.parent}/.*: no such file; saved after step 1: python .*--resume {RUN_FOLDER} goes",
        "--batch-size 1 --stop-after 3",
        stops="train",
        during=images_away,
    ),
    Row(
        "disk full",
        as_it_is,
        f"{CONFIG}: cannot be written: No space left",
        stops="train",
        during=full_disk,
    ),
    Row(
        "disk fills up",
        as_it_is,
        f"{RUN_LAST}: cannot be written: No space left",
        stops="train",
        during=disk_fills_up,
    ),
    *(
        Row(
            "another run at work in the folder",
            spoil,
            f"{RUN_FOLDER}: another run, process {os.getpid()}, writes there",
            refuses=command,
            during=run_held,
        )
        for command, spoil in (("train", empty_run), ("resume", as_it_is))
    ),
    *(
        Row(
            what,
            as_it_is,
            f"{run}: {says}",
            f"--resume {run}",
            by=(RunFolder(run).info,),
            refuses="resume",
        )
        for what, run, says in (
            ("no such run", Path("none"), "no such run"),
            ("a folder that is no run", DATA, "no run, for it has no config.json"),
            ("weights as a run", WEIGHTS, "no run, for it has no config.json"),
        )
    ),
    *table(
        ("no config.json", missing(CONFIG), "run: no run, for it has no config.json"),
        *(
            (what, spoil, f"{CONFIG}: damaged, or no run's config")
            for what, spoil in (
                ("config.json cut short", rewrite(CONFIG, half)),
                ("empty config.json", rewrite(CONFIG, empty)),
                ("HTML as config.json", rewrite(CONFIG, html)),
                ("another program's config.json", text(CONFIG, '{"name": "app"}')),
                ("config.json of other types", text(CONFIG, '{"data": "data", "history": 1}')),
            )
        ),
        (
            "a line of log.jsonl damaged",
            text(LOG, b'{"st\xff\n{"step": 1}\n'),
            f"{LOG}: line 1 is damaged",
        ),
        (
            "last and previous checkpoint cut short, empty",
            several(rewrite(RUN_LAST, half), rewrite(RUN_PREVIOUS, empty)),
            f"{RUN_LAST}: {NO_FILE}.*; and {RUN_PREVIOUS}: {NO_FILE}",
        ),
        (
            "last checkpoint cut short, no previous one",
            several(rewrite(RUN_LAST, half), missing(RUN_PREVIOUS)),
            f"{RUN_LAST}: {NO_FILE}",
        ),
        (
            "weights alone as checkpoints",
            no_checkpoints,
            f"{RUN_LAST}: no checkpoint that a run can go on from; and {RUN_PREVIOUS}: no check",
        ),
        by=(resumed,),
        refuses="resume",
    ),
    *(
        Row(
            f"another {what}",
            as_it_is,
            f"run: {argument}, but the run has {its}: a run keeps its settings but for",
            argument,
            refuses="resume",
        )
        for what, its, argument in (
            ("learning rate", "0.02", "--lr 0.5"),
            ("crop", "32 64", "--crop 64 64"),
            ("type", "float32", "--dtype float64"),
            ("seed", "0", "--seed 1"),
            ("number of steps", "3", "--steps 5"),
        )
    ),
    *(
        Row(
            f"{option} for a run that goes on",
            as_it_is,
            f"{option}: not with --resume",
            f"{option} {value}",
            refuses="resume",
        )
        for option, value in (("--out", "new"), ("--weights", WEIGHTS), ("--recipe", "modern"))
    ),
    Row(
        "backend that there is not",
        as_it_is,
        "Invalid value for '--backend': .*'caffe' is not one of 'torch', 'mxnet', 'jax'",
        "--backend caffe",
        refuses="resume",
    ),
    *table(
        ("the data is gone", lambda: DATA.rename("moved"), "data: no such folder"),
        (
            "the split in another order",
            text(SPLIT, "train_00001\ntrain_00000\n"),
            "data: its train split or its classes are not those of the run in run",
        ),
        (
            "other data",
            lambda: write_shapes(Path("other"), 3, 1, seed=0),
            "other: its train split or its classes are not those of the run in run",
            "--data other",
        ),
        refuses="resume",
    ),
    *(
        Row(
            what,
            spoil,
            f"{RUN_LAST}: ({NO_FILE}.*|{says}); going on from {RUN_PREVIOUS}, of step 0",
            notes="resume",
            like=as_it_is,
        )
        for what, spoil, says in (
            ("last checkpoint cut short", rewrite(RUN_LAST, half), NO_FILE),
            ("a bit of it flipped", rewrite(RUN_LAST, flipped), "damaged: its contents are .*"),
            ("no last checkpoint", missing(RUN_LAST), "no such file"),
        )
    ),
    Row(
        "another number of threads",
        as_it_is,
        "from step 1 on with torch .* on cpu, 7 threads, until now torch .* on cpu, .* threads?:"
        " the same up to rounding, not bit for bit",
        notes="resume",
        like=as_it_is,
        during=other_threads,
    ),
    Row(
        "another backend",
        as_it_is,
        "from step 1 on with mxnet .*, until now torch .*: the same up to rounding, not bit .*",
        "--backend mxnet",
        notes="resume",
        needs="mxnet",
    ),
    Row("--stop-after a step that is done", as_it_is, "", "--stop-after 1", accepts="resume"),
]
