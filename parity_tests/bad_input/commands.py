"""What a command is told, where it writes, what happens meanwhile, and a run that goes on."""

import contextlib
import errno
import importlib.util
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import backends
from common.data.batches import _Worker
from common.data.shapes import write_shapes
from common.network import schedule
from common.runs.run_folder import LOCK, RunFolder
from parity_tests.bad_input.files import (
    LONG,
    NESTED,
    as_it_is,
    empty,
    fifo,
    flipped,
    half,
    html,
    missing,
    rewrite,
    several,
    text,
)
from parity_tests.bad_input.trial import (
    CONFIG,
    DATA,
    IMAGE,
    LOG,
    MASK,
    RUN_FOLDER,
    RUN_LAST,
    RUN_PREVIOUS,
    SPLIT,
    WEIGHTS,
    Row,
    table,
)
from parity_tests.bad_input.weights import NO_FILE, PTH, USE, state_dict


def not_installed() -> AbstractContextManager[object]:
    return mock.patch.dict(backends._PACKAGES, torch=("torch_that_nobody_has",))


def no_jinja2() -> AbstractContextManager[object]:
    find_spec = importlib.util.find_spec

    def find(name: str) -> object:
        return None if name == "jinja2" else find_spec(name)

    return mock.patch("importlib.util.find_spec", find)


@contextlib.contextmanager
def numpy_2() -> Iterator[None]:
    """NumPy says that it is NumPy 2; MXNet itself need not be there to be refused."""
    with (
        mock.patch.dict(backends._PACKAGES, mxnet=("numpy",)),
        mock.patch.dict(sys.modules),
        mock.patch.object(np, "__version__", "2.4.6"),
    ):
        for name in [name for name in sys.modules if name.startswith("backends.mxnet")]:
            del sys.modules[name]
        yield


def worker_killed() -> AbstractContextManager[object]:
    return mock.patch.object(_Worker, "ask", lambda self, step: self._process.kill())


def full_disk(flushed: int = 0) -> AbstractContextManager[object]:
    """So many files reach the disk, and no more."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return mock.patch("os.fsync", side_effect=chain([None] * flushed, repeat(full)))


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file grows beyond 100 kB: what a full disk or a quota does to a large one."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


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
    folder, away = IMAGE.parent, DATA / "away"

    def learning_rates(*arguments: Any) -> tuple[float, float]:
        if folder.exists():
            folder.rename(away)
        return schedule.learning_rates(*arguments)

    with mock.patch("scripts.shared.training.learning_rates", learning_rates):
        yield
    away.rename(folder)


RUN = "train evaluate predict"
"""The commands that run a network."""
MINE, LETTER = Path("mine.toml"), Path("letter")
NOWHERE = "(Operation not permitted|Permission denied|Read-only file system)"
NO_RUN = "no run, for it has no config.json"
PAIRS = "train_0000[01], train_0000[01]"

# fmt: off
ROWS = [
    # arguments
    *table(
        ("nothing of what a new run needs", as_it_is,
         "error: --backend, --data, --out: missing, for a new run"),
        ("no --backend", as_it_is, "error: --backend: missing", "--data data --out run"),
        ("no --data", as_it_is, "error: --data: missing", "--backend torch --out run"),
        ("no --out", as_it_is, "error: --out: missing", "--backend torch --data data"),
        refuses="new",
    ),
    *(Row(f"recipe: {what}", text(MINE, content), f"{MINE}: {says}", f"--recipe {MINE}",
          refuses="train")
      for what, content, says in (
          ("unknown key", "learning_rat = 1\n", "learning_rat is no setting. Is learning_rate m"),
          ("unknown key, nothing near", "zzz = 1\n", r"zzz is no setting.\n"),
          ("value out of range", "batch_size = 0\n", "batch_size = 0: .*1"),
          ("value that there is not", 'schedule = "cosine"\n',
           "schedule = 'cosine': .*'cosine' is not one of 'constant', 'poly'"),
          ("one value of two", "crop = [3]\n", r"crop = \[3\]: .*2 "),
          ("scale upside down", "scale = [2.0, 1.0]\n", ".*: 2 1: 0 < MIN <= MAX is wanted"),
          ("no TOML", "learning_rate 0.1\n", "not TOML: "),
          ("not UTF-8", b"\xff\xfe", "not TOML: "),
          ("nested 10,000 deep", "a = " + 10_000 * "[", "not TOML: nested too deep"),
          ("a number of 5,000 digits", "steps = " + 5_000 * "9", "not TOML: "),
      )),
    *table(
        ("recipe that is not there", as_it_is,
         r"--recipe modren: no such recipe \(have .*, modern\) or file. Is modern meant?",
         "--recipe modren"),
        ("batch larger than the set", as_it_is,
         "data: 2 images in train, --batch-size asks for 7", "--batch-size 7"),
        ("batch of one image of 32x32", as_it_is,
         "one image of 32x32 pixels leaves BatchNorm one value a channel",
         "--batch-size 1 --crop 32 32"),
        ("batch that cannot be cut", as_it_is,
         "a batch of 2 images cannot be cut into --accumulate 3 equal parts",
         "--batch-size 2 --accumulate 3"),
        ("batch that processes cannot share", as_it_is,
         "a batch of 2 images cannot be cut into --accumulate times --processes, 4 equal parts",
         "--batch-size 2 --accumulate 2 --processes 2"),
        ("run folder that is not empty", as_it_is,
         "out: is not empty; --out wants a new folder", "--out out"),
        refuses="train",
    ),
    *table(
        ("output folder that is a file", as_it_is,
         "result.json: cannot be made: (File exists|Not a directory)", "--out result.json"),
        ("output folder where nobody may write", as_it_is,
         f"/sys/run: cannot be made: {NOWHERE}", "--out /sys/run"),
        refuses="train predict",
    ),
    Row("output file where nobody may write", as_it_is,
        f"/sys/x.json: cannot be written: {NOWHERE}", "--json /sys/x.json", refuses="evaluate"),
    Row("output file in a folder that is not there", as_it_is,
        "none/x.json: no such folder: none", "--json none/x.json", refuses=USE),
    *(Row(f"output over the input: {path}", as_it_is,
          f"{path}: would overwrite the input", f"{option} {path}", refuses=refuses)
      for path, option, refuses in (
          (WEIGHTS, "--json", USE),
          (SPLIT, "--json", "train evaluate check"),
          (MASK, "--confusion", "evaluate"),
          (IMAGE, "--json", "predict evaluate"),
      )),
    Row("output over the input, by a link", partial(Path("link").hardlink_to, WEIGHTS),
        "link: would overwrite the input", "--json link", refuses=USE),
    *(Row(f"output over the run's own {path.name}", as_it_is,
          f"{path}: is a file of the run's own", f"--json {path}", refuses="train resume")
      for path in (CONFIG, LOG, RUN_LAST)),
    Row("one file for two results", as_it_is, "x: would be two results at once",
        "--json x --confusion x", refuses="evaluate"),
    *table(
        ("output over a text", text(LETTER, "Dear"), "letter: is there, and is no JSON; --force"),
        ("output over broken JSON", text(LETTER, "{"), "letter: is there, and is no JSON; --force"),
        arguments=f"--json {LETTER}", refuses=f"{USE} check",
    ),
    Row("weights over a text", text(Path("out.safetensors"), "Dear"),
        "out.safetensors: is there, and is no safetensors; --force", refuses="convert"),
    Row("a mask over a text", text(Path("out/train_00000.png"), "Dear"),
        "out/train_00000.png: is there, and is no PNG; --force", refuses="predict"),
    *table(
        ("weights over a text, --force", text(Path("out.safetensors"), "Dear")),
        ("weights over an empty file", text(Path("out.safetensors"), "")),
        arguments="--force", accepts="convert", like=as_it_is,
    ),
    # the machine
    Row("disk full", as_it_is,
        r"(result.json|out.safetensors|out/train_00000.png): cannot be written: No space left",
        refuses="evaluate predict convert", during=full_disk),
    Row("disk full", as_it_is, f"{CONFIG}: cannot be written: No space left",
        stops="train", during=full_disk),
    # the config, the first checkpoint and the first step's logs reach the disk
    Row("disk fills up", as_it_is, f"{RUN_LAST}: cannot be written: No space left",
        stops="train", during=partial(full_disk, 6)),
    Row("no file may grow beyond 100 kB", as_it_is,
        "out.safetensors: cannot be written: .*File too large",
        refuses="convert", during=small_files),
    Row("backend that is not installed", as_it_is,
        r"--backend torch: torch_that_nobody_has not installed; install with: pip install '.*torch",
        refuses=RUN, during=not_installed),
    Row("backend that is not installed", as_it_is,
        "--backend torch: torch_that_nobody_has not installed", refuses="choose",
        during=not_installed),
    Row("backend that is not installed, for .pth", state_dict(),
        f"{PTH}: torch.save needs a framework: --backend torch: .* not installed; install with",
        refuses="convert", weights=PTH, during=not_installed),
    Row("MXNet under NumPy 2", as_it_is,
        r"--backend mxnet: .*MXNet 1.9.1 needs NumPy 1, here is 2.4.6; install with: pip install",
        "--backend mxnet", refuses=RUN, during=numpy_2),
    Row("a process that reads the data is killed", as_it_is,
        r"a process that reads the data has ended \(SIGKILL\)", "--workers 1",
        stops="train", during=worker_killed),
    # a run on its way
    Row("learning rate far too high", as_it_is,
        f"step 1: the loss is nan on {PAIRS}; is --lr too high. {RUN_LAST} is of step 1",
        "--lr 1e30 --stop-after 3", stops="train"),
    Row("the images go missing on the way, within an epoch", as_it_is,
        f"{IMAGE.parent}/.*: no such file; saved after step 1: python .*--resume {RUN_FOLDER} goes",
        "--batch-size 1 --stop-after 3", stops="train", during=images_away),
    *(Row("another run at work in the folder", spoil,
          f"{RUN_FOLDER}: another run, process {os.getpid()}, writes there",
          refuses=command, during=run_held)
      for command, spoil in (("train", empty_run), ("resume", as_it_is))),
    # a choice, which is refused before anything is measured
    *table(
        ("a size that is no multiple of 32", as_it_is,
         "--size 100 96: multiples of 32, of 64 at least, are wanted", "--size 100 96"),
        ("a size that leaves no room for a smaller one", as_it_is,
         "--size 32 96: multiples of 32, of 64 at least", "--size 32 96"),
        ("more processes than cores", as_it_is,
         "--processes 1000: each takes a core, and there are", "--processes 1000"),
        ("a folder that is no data set", as_it_is, "out: .*", "--data out"),
        ("a page over weights", as_it_is,
         "W.safetensors: is there, and is no HTML; --force", f"--html {WEIGHTS}"),
        ("a page over the pictures' own list", as_it_is,
         f"{SPLIT}: would overwrite the input", f"--data data --html {SPLIT}"),
        ("a page in a folder that is not there", as_it_is,
         "none/x.html: no such folder: none", "--html none/x.html"),
        refuses="choose",
    ),
    Row("a page without Jinja2", as_it_is,
        "--html: jinja2 is not installed; install it with: pip install jinja2",
        "--html choose.html", refuses="choose", during=no_jinja2),
    # a run that goes on
    *(Row(what, as_it_is, f"{run}: {says}", f"--resume {run}",
          by=(RunFolder(run).info,), refuses="resume")
      for what, run, says in (
          ("no such run", Path("none"), "no such run"),
          ("a folder that is no run", DATA, NO_RUN),
          ("weights as a run", WEIGHTS, NO_RUN),
      )),
    *table(
        ("config.json cut short", rewrite(CONFIG, half)),
        ("empty config.json", rewrite(CONFIG, empty)),
        ("HTML as config.json", rewrite(CONFIG, html)),
        ("another program's config.json", text(CONFIG, '{"name": "app"}')),
        ("config.json nested 10,000 deep", text(CONFIG, NESTED)),
        ("a number of 5,000 digits in config.json", text(CONFIG, LONG)),
        ("config.json of other types", text(CONFIG, '{"data": "data", "history": 1}')),
        says=f"{CONFIG}: damaged, or no run's config", by=(resumed,), refuses="resume",
    ),
    Row("FIFO as config.json", fifo(CONFIG), f"{CONFIG}: no file, but a FIFO",
        by=(resumed,), refuses="resume"),
    *table(
        ("no config.json", missing(CONFIG), f"{RUN_FOLDER}: {NO_RUN}"),
        ("a line of log.jsonl damaged", text(LOG, b'{"st\xff\n{"step": 1}\n'),
         f"{LOG}: line 1 is damaged"),
        ("last and previous checkpoint cut short, empty",
         several(rewrite(RUN_LAST, half), rewrite(RUN_PREVIOUS, empty)),
         f"{RUN_LAST}: {NO_FILE}.*; and {RUN_PREVIOUS}: {NO_FILE}"),
        ("last checkpoint cut short, no previous one",
         several(rewrite(RUN_LAST, half), missing(RUN_PREVIOUS)), f"{RUN_LAST}: {NO_FILE}"),
        ("weights alone as checkpoints", no_checkpoints,
         f"{RUN_LAST}: no checkpoint that a run can go on from; and {RUN_PREVIOUS}: no check"),
        by=(resumed,), refuses="resume",
    ),
    *(Row(what, spoil, f"{RUN_LAST}: ({NO_FILE}.*|{says}); going on from {RUN_PREVIOUS}, of step 0",
          notes="resume", like=as_it_is)
      for what, spoil, says in (
          ("last checkpoint cut short", rewrite(RUN_LAST, half), NO_FILE),
          ("a bit of it flipped", rewrite(RUN_LAST, flipped), "damaged: its contents are .*"),
          ("no last checkpoint", missing(RUN_LAST), "no such file"),
      )),
    *(Row(f"another {what}", as_it_is,
          f"run: {typed}, but the run has {its}: a run keeps its settings but for", typed,
          refuses="resume")
      for what, its, typed in (
          ("learning rate", "0.02", "--lr 0.5"),
          ("crop", "32 64", "--crop 64 64"),
          ("type", "float32", "--dtype float64"),
          ("seed", "0", "--seed 1"),
          ("number of steps", "3", "--steps 5"),
      )),
    *(Row(f"other parts of a batch, by {option}", as_it_is,
          "run: --accumulate times --processes is 1 in this run, not 2; a new run may begin with"
          " --weights run/last.safetensors",
          f"{option} 2", refuses="resume")
      for option in ("--accumulate", "--processes")),
    *(Row(f"{option} for a run that goes on", as_it_is, f"{option}: not with --resume",
          f"{option} {value}", refuses="resume")
      for option, value in (("--out", "new"), ("--weights", WEIGHTS), ("--recipe", "modern"))),
    *table(
        ("backend that there is not", as_it_is,
         "Invalid value for '--backend': .*'caffe' is not one of 'torch', 'mxnet', 'jax'",
         "--backend caffe"),
        ("the data is gone", lambda: DATA.rename("moved"), "data: no such folder"),
        ("the split in another order", text(SPLIT, "train_00001\ntrain_00000\n"),
         "data: its train split or its classes are not those of the run in run"),
        ("other data", lambda: write_shapes(Path("other"), 4, 1, seed=0),
         "other: its train split or its classes are not those of the run in run", "--data other"),
        refuses="resume",
    ),
    Row("another number of threads", as_it_is,
        "from step 1 on with torch .* on cpu, 7 threads, until now torch .* on cpu, .* threads?:"
        " the same up to rounding, not bit for bit",
        notes="resume", like=as_it_is, during=other_threads),
    Row("another backend", as_it_is,
        "from step 1 on with mxnet .*, until now torch .*: the same up to rounding, not bit .*",
        "--backend mxnet", notes="resume", needs="mxnet"),
    Row("--stop-after a step that is done", as_it_is, arguments="--stop-after 1",
        accepts="resume"),
]
# fmt: on
