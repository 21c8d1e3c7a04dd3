"""How a row is tried: the folder, the commands and functions, and what comes of them."""

import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from common.data.dataset import CLASS_NAMES, IMAGES, MASKS, SPLITS
from common.data.shapes import SHAPES_CLASSES, write_shapes
from common.network.initial import initial_weights
from common.runs.run_folder import LAST, PREVIOUS
from common.weights.checkpoint import Weights, write_tensors, write_weights
from parity_tests.conftest import command_module
from parity_tests.data.voc_archives import md5

WIDTH = 8
"""Channels of the first stage: what is bad is found in a narrow network as in a wide one."""
SIZE = (56, 40)
"""Width and height of the clean pictures."""
DATA, WEIGHTS = Path("data"), Path("W.safetensors")
IMAGE = DATA / IMAGES / "train_00000.jpg"
MASK, OTHER_MASK = (DATA / MASKS / f"train_0000{k}.png" for k in range(2))
SPLIT = DATA / SPLITS / "train.txt"
NAMES = DATA / CLASS_NAMES
RUN_FOLDER = Path("run")
CONFIG, LOG = RUN_FOLDER / "config.json", RUN_FOLDER / "log.jsonl"
RUN_LAST, RUN_PREVIOUS = RUN_FOLDER / LAST, RUN_FOLDER / PREVIOUS
TAR, VOC = Path("voc.tar"), Path("voc")

COMMANDS = {
    "check": "data check data",
    "train": "train --backend torch --data data --weights W --out run --workers 0"
    " --steps 3 --stop-after 1 --batch-size 2 --crop 32 64",
    "evaluate": "evaluate --backend torch --data data --weights W --split train --json result.json",
    "resume": "train --resume run --workers 0 --stop-after 2",
    "new": "train --workers 0",
    "predict": "predict --backend torch --weights W --out out data/JPEGImages",
    "convert": "convert W out.safetensors",
    "choose": "choose --backends torch --rounds 3 --json result.json",
    "voc2012": "data voc2012 voc --from voc.tar --md5 MD5",
}
"""`W` is the row's weights, `MD5` that of voc.tar; its arguments come last, and so count."""

LISTS = ("check", "voc2012")
"""The commands that list a folder's faults on standard output."""

VERDICTS = ("refuses", "finishes", "stops", "notes", "accepts")


@dataclass(frozen=True)
class Row:
    """Bad input: what it is, how it is made, a pattern of what is said, and who takes it how.

    `by` are the functions that refuse or accept it for the commands. Without them it is a
    command's own affair. `needs` are backends other than torch that must be installed.
    """

    what: str
    spoil: Callable[[], object]
    says: str = ""
    arguments: str = ""
    by: tuple[Callable[[], object], ...] = ()
    refuses: str = ""
    finishes: str = ""
    stops: str = ""
    notes: str = ""
    accepts: str = ""
    like: Callable[[], object] | None = None
    weights: Path = WEIGHTS
    during: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    needs: str = ""

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command and how it takes the input."""
        for verdict in VERDICTS:
            for command in getattr(self, verdict).split():
                yield command, verdict


def table(
    *lines: tuple[Any, ...],
    how: Callable[[Path, Any], Callable[[], object]] | None = None,
    at: Path | None = None,
    **same: Any,
) -> list[Row]:
    """Rows that differ in their first columns alone: what, spoil, says, arguments.

    With `how`, the second column is what it does to the file `at`; each `says` begins with `at`.
    """
    rows = []
    for what, spoil, *more in lines:
        more[:1] = [f"{at}: {says}" if at else says for says in more[:1]]
        rows.append(Row(what, how(at, spoil) if how and at else spoil, *more, **same))
    return rows


# The folder


@cache
def _clean() -> tempfile.TemporaryDirectory[str]:
    """The folder with nothing bad in it, to be copied."""
    clean = tempfile.TemporaryDirectory()
    folder = Path(clean.name)
    write_shapes(folder / DATA, 2, 1, seed=0)
    for path in [*folder.rglob("*.jpg"), *folder.rglob("*.png")]:
        with Image.open(path) as image:
            small = image.crop((48, 48, 48 + SIZE[0], 48 + SIZE[1]))
        if path.suffix == ".png":  # every class has a pixel: nothing is to be doubted
            small.paste(Image.fromarray(np.arange(len(SHAPES_CLASSES), dtype=np.uint8)[None]))
        small.save(path, quality=95)
    more_classes(SHAPES_CLASSES, folder)
    (folder / "out").mkdir()
    (folder / "result.json").write_text('["an earlier result"]')
    write_tensors(folder / "out.safetensors", {}, {"an": "earlier result"})
    (folder / "out/kept.png").write_text("an earlier result")
    return clean


def more_classes(names: tuple[str, ...], folder: Path = Path()) -> None:
    """The weights of a whole network of these classes."""
    arrays = initial_weights("resnet18", len(names), seed=0, width=WIDTH)
    write_weights(folder / WEIGHTS, Weights(arrays, "resnet18", names))


@contextlib.contextmanager
def workplace(with_run: bool = False) -> Iterator[None]:
    """A fresh copy of the clean folder, to work in; gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(_clean().name, folder, dirs_exist_ok=True)
        with contextlib.chdir(folder):
            if with_run:
                shutil.copytree(_stopped().name, RUN_FOLDER)
                info = json.loads(CONFIG.read_text()) | {"data": str(DATA.absolute())}
                CONFIG.write_text(json.dumps(info))
            yield


@cache
def _stopped() -> tempfile.TemporaryDirectory[str]:
    """The run that `resume` goes on with, to be copied."""
    stopped = tempfile.TemporaryDirectory()
    with workplace():
        code, _, err = in_this_process(*_arguments("train", WEIGHTS))
        assert (code, err) == (0, "")
        shutil.copytree(RUN_FOLDER, stopped.name, dirs_exist_ok=True)
    return stopped


Files = dict[Path, bytes | None]
"""Each file's content, None for a folder. Links are not followed."""


def _content(path: Path) -> bytes | None:
    if path.is_symlink():
        return f"-> {path.readlink()}".encode()
    if path.is_fifo():  # to open it would take forever
        return b"a FIFO"
    return None if path.is_dir() else path.read_bytes()


def snapshot() -> Files:
    """What is in the working folder."""
    return {path: _content(path) for path in Path().rglob("*")}


# The commands

Run = Callable[..., tuple[int, str, str]]
"""Runs a command of `scripts` with arguments: exit code, standard output and error."""


@dataclass(frozen=True)
class Outcome:
    """What came of a command; `before` and `after` are snapshots."""

    code: int
    out: str
    err: str
    before: Files
    after: Files

    @property
    def written(self) -> Files:
        """What is there now and was not, or is another now."""
        return {p: c for p, c in self.after.items() if p not in self.before or self.before[p] != c}

    @property
    def kept(self) -> bool:
        """Whether all that was there is as it was."""
        return self.before.items() <= self.after.items()


def in_this_process(name: str, *arguments: str) -> tuple[int, str, str]:
    """A `Run` that needs no pytest."""
    from scripts.shared.cli import main

    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", [f"scripts.{name}", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main(command_module(name).app)
        except SystemExit as stop:
            return int(stop.code or 0), out.getvalue(), err.getvalue()
    raise AssertionError("a command ends with an exit code")


def _arguments(command: str, weights: Path) -> list[str]:
    words = {"W": str(weights), "MD5": md5(TAR.read_bytes()) if TAR.exists() else ""}
    return [words.get(word, word) for word in COMMANDS[command].split()]


@contextlib.contextmanager
def attempt(
    row: Row, command: str, run: Run, spoil: Callable[[], object] | None = None
) -> Iterator[Outcome]:
    """What a command makes of the row's input, or of `spoil` in its place; in its folder."""
    with workplace(with_run=command == "resume"):
        (spoil or row.spoil)()
        before = snapshot()
        with row.during():
            ended = run(*_arguments(command, row.weights), *row.arguments.split())
        yield Outcome(*ended, before, snapshot())
