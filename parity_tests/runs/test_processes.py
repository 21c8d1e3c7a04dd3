"""Runs on several processes: they are one run, and end together, whatever happens to one."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.shapes import write_shapes
from common.runs.run_folder import LAST, Checkpoint
from common.weights.checkpoint import read_tensors
from parity_tests.conftest import start
from scripts.shared.processes import HELPERS

ROOT = Path(__file__).parents[2]
MARK = "ROSETTA_TEST"
"""A variable that every process of a run has inherited, however it was started."""

SMALL = ("--batch-size", 4, "--crop", 32, 64, "--device", "cpu", "--workers", 1)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 training pairs, so 4 batches of 4 an epoch, and no val split."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, 18, 1, seed=0)
    (folder / "ImageSets" / "Segmentation" / "val.txt").unlink()
    return folder


def tensors(path: Path) -> dict[str, Any]:
    return read_tensors(path)[0]


def same_bytes(one: Path, other: Path) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


def environment_of(pid: int) -> dict[str, str]:
    """A process's variables; none, where it has ended."""
    try:
        text = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)


def parent_of(pid: int) -> int:
    """The process that has started another; 0, where that has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


RANKS = ("RANK", "JAX_PROCESS_ID", "DMLC_TASK_ID")


class Run:
    """A command in a process of its own, and all processes that come of it.

    Whatever is left of them is killed with the `with` block.
    """

    def __init__(self, folder: Path, *arguments: object, **environment: str) -> None:
        self.mark = f"{folder}-{time.monotonic_ns()}"
        self.temporary = folder.with_name("temporary")
        self.temporary.mkdir(exist_ok=True)
        inherited = {key: value for key, value in os.environ.items() if key not in RANKS}
        told = {MARK: self.mark, "TMPDIR": str(self.temporary), **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=ROOT,
            env=inherited | told,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.all():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()

    def all(self) -> list[int]:
        """Every process that is alive."""
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        return [pid for pid in pids if environment_of(pid).get(MARK) == self.mark]

    def parts(self) -> dict[str, int]:
        """The launcher, and what it has started, by rank or role."""
        found = {"launcher": self.process.pid}
        for pid in self.all():
            if parent_of(pid) == self.process.pid:
                told = environment_of(pid)
                role = told.get("DMLC_ROLE", "worker")
                ranks = [told[name] for name in RANKS if name in told]
                if ranks:
                    found[ranks[0] if role == "worker" else role] = pid
        return found

    def ends(self, seconds: float) -> tuple[int, str, str]:
        """Exit code and words, once every process has ended, which must be soon."""
        deadline = time.monotonic() + seconds
        out, err = self.process.communicate(timeout=seconds)
        while self.all() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.all() == []
        assert [path for path in self.temporary.rglob("*") if path.is_file()] == []
        return self.process.returncode, out, err


def wait_for(done: Callable[[], bool], seconds: float = 240) -> None:
    """Returns when something is done."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def steps_of(folder: Path) -> int:
    """How many steps are in the log."""
    log = folder / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


# Kills


@pytest.mark.full
def test_kill_9_at_random_moments_loses_nothing(
    backend: str, shapes: Path, tmp_path: Path, kills: int = 20
) -> None:
    """Of the launcher, or of any process that it has started: in half of them before a step."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = ("scripts.train", "--backend", backend, "--data", shapes, *SMALL, "--processes", 2)
    command += ("--save-minutes", 0, "--steps", 2 * kills, "--weights", start())
    begun = time.monotonic()
    with Run(whole, *command, "--out", whole) as run:
        wait_for(lambda: steps_of(whole) > 0)
        start_up = time.monotonic() - begun
        assert run.ends(1200)[0] == 0
        pace = (time.monotonic() - begun - start_up) / (2 * kills - 1)
    random, step = np.random.default_rng(0), 0
    going_on = ("scripts.train", "--resume", broken)
    for kill in range(kills):
        begins = not (broken / LAST).exists()
        if begins:
            shutil.rmtree(broken, ignore_errors=True)
        with Run(broken, *((*command, "--out", broken) if begins else going_on)) as run:
            victim = random.choice(["launcher", "0", "1", *HELPERS.get(backend, ())])
            wait_for(lambda: victim in run.parts())  # noqa: B023  it does so here
            if kill % 2:
                wait_for(lambda: steps_of(broken) > step)  # noqa: B023
                time.sleep(random.uniform(0, 1.5 * pace))
            else:
                time.sleep(random.uniform(0, 0.8 * start_up))
            os.kill(run.parts()[victim], signal.SIGKILL)
            code, _, err = run.ends(30)
        print(f"kill {kill}: {victim} after step {step}, code {code}, {err!r}", flush=True)
        if victim == "launcher":
            assert (code, err) == (-signal.SIGKILL, "")
        else:
            name = f"process {victim} of 2" if victim.isdecimal() else victim
            assert (code, err.count("\n")) == (2, 1)
            assert err.startswith(f"error: {name} was ended by SIGKILL")
        if (broken / LAST).exists():
            found = Checkpoint.read(broken / LAST).step
            assert found >= step
            step = found
    with Run(broken, *going_on) as run:
        assert run.ends(1200)[0] == 0
    assert same_bytes(whole / LAST, broken / LAST)
