"""The candidates' processes, and their turns."""

import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError, WorkerError
from scripts.bench.worker import Job
from scripts.shared.cli import last_line, progress

QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""A worker's environment: its idle threads sleep, where by default they spin for a while."""


@dataclasses.dataclass
class Measured:
    """What a candidate took: its first call, compilation included, and each of its turns.

    As `scripts.bench.worker.measure` says it; `first` also has what the worker is made of.
    """

    job: Job
    first: dict[str, Any] = dataclasses.field(default_factory=dict)
    turns: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def threads() -> int:
    """The threads that each candidate computes with."""
    return min(int(os.environ.get("OMP_NUM_THREADS", cores())), cores())


class Worker:
    """A candidate's process, ended with the `with` block."""

    def __init__(self, job: Job) -> None:
        self.name = f"{job.backend or job.mode} ({job.form})"
        self.measured = Measured(job)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.bench.worker", json.dumps(dataclasses.asdict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | QUIET | {"OMP_NUM_THREADS": str(threads())},
            cwd=Path(__file__).parents[2],
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def start(self) -> None:
        """Waits until it is built and warm.

        Raises:
            InputError: it has found bad input.
            WorkerError: its process has ended otherwise.
        """
        self.measured.first = self._answer()

    def take_turn(self) -> None:
        """Lets the candidate compute once.

        Raises:
            InputError, WorkerError: as `start`.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_answer` says why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        self.measured.turns.append(self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        self._errors.seek(0)
        last = last_line(self._errors.read())
        if code == 2:
            raise InputError(last.removeprefix("error: "))
        raise WorkerError(f"{self.name} ended with exit code {code}: {last}")


def take_turns(jobs: Sequence[Job], rounds: int) -> list[Measured]:
    """Starts the candidates, one after the other, lets them take turns, and ends them.

    Raises:
        InputError, WorkerError: as `Worker.start`.
    """
    with contextlib.ExitStack() as stack, progress(jobs[0].mode) as bar:
        task = bar.add_task("", total=len(jobs) * (rounds + 1), status="")
        workers = []
        for job in jobs:
            worker = stack.enter_context(Worker(job))
            bar.update(task, status=f"{worker.name}: first call")
            worker.start()
            workers.append(worker)
            bar.advance(task)
        for worker in itertools.chain.from_iterable([workers] * rounds):
            bar.update(task, status=worker.name)
            worker.take_turn()
            bar.advance(task)
        bar.update(task, status="")
    return [worker.measured for worker in workers]
