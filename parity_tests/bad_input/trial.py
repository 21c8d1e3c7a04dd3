"""How a row of the table is tried: the folder, the commands, and what comes of one."""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

from PIL import Image

from common.data.dataset import CLASS_NAMES, IMAGES, MASKS, SPLITS
from common.data.images import open_image
from common.data.shapes import SHAPES_CLASSES, write_shapes
from common.errors import InputError
from common.network.initial import initial_weights
from common.runs.run_folder import LAST, PREVIOUS, Checkpoint
from common.weights.checkpoint import write_weights
from parity_tests.conftest import command_module
from parity_tests.data.voc_archives import md5

DATA, WEIGHTS = Path("data"), Path("W.safetensors")
IMAGE = DATA / IMAGES / "train_00000.jpg"
MASK, OTHER_MASK = (DATA / MASKS / f"train_0000{k}.png" for k in range(2))
SPLIT = DATA / SPLITS / "train.txt"
NAMES = DATA / CLASS_NAMES
RUN_FOLDER = Path("run")
CONFIG, LOG = RUN_FOLDER / "config.json", RUN_FOLDER / "log.jsonl"
RUN_LAST, RUN_PREVIOUS = RUN_FOLDER / LAST, RUN_FOLDER / PREVIOUS
TAR, VOC = Path("voc.tar"), Path("voc")

TORCH = ("--backend", "torch")
COMMANDS: dict[str, tuple[str, ...]] = {
    "check": ("data", "check", "data"),
    "train": (
        *("train", *TORCH, "--data", "data", "--weights", "W", "--out", "run", "--workers", "0"),
        *("--steps", "1", "--batch-size", "2", "--crop", "32", "64"),
    ),
    "evaluate": (
        *("evaluate", *TORCH, "--data", "data", "--weights", "W", "--split", "train"),
        *("--json", "result.json"),
    ),
    "resume": ("train", "--resume", "run", "--workers", "0"),
    "new": ("train", "--workers", "0"),
    "predict": ("predict", *TORCH, "--weights", "W", "--out", "out", "data/JPEGImages"),
    "convert": ("convert", "W", "out.safetensors"),
    "voc2012": ("data", "voc2012", "voc", "--from", "voc.tar", "--md5", "MD5"),
}
"""`W` is the row's weights, `MD5` that of voc.tar; its arguments come last, and so count."""

LISTS = "check voc2012"
"""The commands that list a folder's faults on standard output."""

CHECKED = "check evaluate predict"
"""The commands that read pictures, but for `train`, which takes a second or two."""
SCORE = "check train evaluate"
"""Those that read masks and splits too."""
USE = "train evaluate predict convert"
"""Those that read weights."""
RUN = "train evaluate predict"
"""Those that run a network."""


@dataclass(frozen=True)
class Row:
    """A fault: what is done, what is said, a pattern, and which commands take it in which way."""

    fault: str
    spoil: Callable[[], object]
    says: str = ""
    refuses: str = ""
    finishes: str = ""
    stops: str = ""
    notes: str = ""
    accepts: str = ""
    like: Callable[[], object] | None = None
    arguments: Sequence[str] = ()
    weights: Path = WEIGHTS
    during: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    needs: Sequence[str] = ()
    """The backends other than torch that must be installed."""

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command and how it takes the fault."""
        for verdict in ("refuses", "finishes", "stops", "notes", "accepts"):
            for command in getattr(self, verdict).split():
                yield command, verdict


@dataclass(frozen=True)
class Outcome:
    """What came of a command. `before` and `after` hold each file's content, None for a folder."""

    code: int
    out: str
    err: str
    before: dict[Path, bytes | None]
    after: dict[Path, bytes | None]
    sizes: dict[str, tuple[int, int]]
    """Of the masks in `out`, by stem."""
    wanted: dict[str, tuple[int, int]]
    """What they should be: the sizes of the images that can be read."""
    saved: int | None
    """After how many steps the run's last checkpoint is, which can be read; None: there is none."""

    @property
    def written(self) -> dict[Path, bytes | None]:
        """What is there now and was not, or is another now."""
        return {p: c for p, c in self.after.items() if p not in self.before or self.before[p] != c}


@cache
def _clean() -> tempfile.TemporaryDirectory[str]:
    """The folder without a fault, to be copied."""
    clean = tempfile.TemporaryDirectory()
    folder = Path(clean.name)
    write_shapes(folder / DATA, 2, 1, seed=0)
    arrays = initial_weights("resnet18", len(SHAPES_CLASSES), seed=0)
    write_weights(folder / WEIGHTS, arrays, "resnet18", SHAPES_CLASSES)
    (folder / "out").mkdir()
    for name in ("result.json", "out.safetensors", "out/kept.png"):
        (folder / name).write_text("an earlier result")
    return clean


def _copy(source: str, target: str) -> None:
    """Gives weights a second name, since 45 MB take long to copy and to read; copies the rest."""
    (os.link if source.endswith(WEIGHTS.suffix) else shutil.copyfile)(source, target)


@contextlib.contextmanager
def workplace() -> Iterator[None]:
    """A fresh copy of the clean folder, to work in; gone afterwards."""
    with tempfile.TemporaryDirectory(dir=Path(_clean().name).parent) as folder:
        shutil.copytree(_clean().name, folder, copy_function=_copy, dirs_exist_ok=True)
        with contextlib.chdir(folder):
            yield


def in_this_process(name: str, *arguments: str) -> tuple[int, str, str]:
    """Runs a command of `scripts`: exit code, standard output and error."""
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


@cache
def _stopped() -> tempfile.TemporaryDirectory[str]:
    """The run that `resume` goes on with, to be copied."""
    stopped = tempfile.TemporaryDirectory()
    with workplace():
        train = [_argument(argument, WEIGHTS) for argument in COMMANDS["train"]]
        code, _, err = in_this_process(*train, "--steps", "2", "--stop-after", "1")
        assert (code, err) == (0, "")
        shutil.copytree("run", stopped.name, copy_function=_copy, dirs_exist_ok=True)
    return stopped


def put_run() -> None:
    """The stopped run in this folder, as if it had been made here."""
    shutil.copytree(_stopped().name, RUN_FOLDER, copy_function=_copy)
    info = json.loads(CONFIG.read_text()) | {"data": str(DATA.absolute())}
    CONFIG.write_text(json.dumps(info))


def _content(path: Path) -> bytes | None:
    if path.is_symlink():
        return f"-> {path.readlink()}".encode()
    if path.is_dir():
        return None
    # the clean weights, and a run's: a write shows in their time
    if path.stat().st_nlink > 1 or (path.parent == RUN_FOLDER and path.suffix == WEIGHTS.suffix):
        return str(path.stat().st_mtime_ns).encode()
    return path.read_bytes()


def _snapshot() -> dict[Path, bytes | None]:
    """What is in the working folder. Links are not followed."""
    return {path: _content(path) for path in Path().rglob("*")}


def _mask_sizes() -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    made, wanted = {}, {}
    for path in Path("out").glob("*_0000?.png"):
        with Image.open(path) as mask:
            made[path.stem] = mask.size
    for path in (DATA / IMAGES).glob("*.jpg"):
        with contextlib.suppress(InputError):
            wanted[path.stem] = open_image(path).size
    return made, wanted


def _saved() -> int | None:
    return Checkpoint.read(RUN_LAST).step if RUN_LAST.exists() else None


def _argument(argument: str, weights: Path) -> str:
    if argument == "MD5":
        return md5(TAR.read_bytes())
    return str(weights) if argument == "W" else argument


Run = Callable[..., tuple[int, str, str]]


def attempt(row: Row, command: str, run: Run, spoil: Callable[[], object] | None = None) -> Outcome:
    """What a command makes of the row's fault, or of `spoil` in its place.

    `run` runs a command of `scripts` with arguments: exit code, standard output and error.
    """
    with workplace():
        if command == "resume":
            put_run()
        (spoil or row.spoil)()
        before = _snapshot()
        given = [_argument(argument, row.weights) for argument in COMMANDS[command]]
        with row.during():
            code, out, err = run(*given, *row.arguments)
        saved = _saved() if code == 0 or row.stops else None
        return Outcome(code, out, err, before, _snapshot(), *_mask_sizes(), saved)
