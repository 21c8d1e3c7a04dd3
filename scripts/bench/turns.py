"""The candidates' processes, and their turns."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Sequence
from typing import Any

from common.machine import thread_limit
from scripts.bench.worker import Job
from scripts.shared.cli import progress
from scripts.shared.workers import Worker


@dataclasses.dataclass
class Measured:
    """What a candidate took: its first call, compilation included, and each of its turns.

    As `scripts.bench.worker.measure` says it; `first` also has what the worker is made of.
    """

    job: Job
    first: dict[str, Any] = dataclasses.field(default_factory=dict)
    turns: list[dict[str, Any]] = dataclasses.field(default_factory=list)


_COMPILES_ANEW = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
"""A first call is timed as one where nothing is kept from an earlier run."""


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def threads() -> int:
    """The threads that each candidate computes with.

    Raises:
        InputError: OMP_NUM_THREADS is no number.
    """
    return min(thread_limit() or cores(), cores())


def take_turns(jobs: Sequence[Job], rounds: int) -> list[Measured]:
    """Starts the candidates, one after the other, lets them take turns, and ends them.

    Raises:
        InputError, WorkerError: as `Worker.answers`.
    """
    with contextlib.ExitStack() as stack, progress(jobs[0].mode) as bar:
        task = bar.add_task("", total=len(jobs) * (rounds + 1), status="")
        candidates = []
        for job in jobs:
            name = f"{job.backend or job.mode} ({job.form})"
            bar.update(task, status=f"{name}: first call")
            worker = Worker(name, "scripts.bench.worker", job, threads(), **_COMPILES_ANEW)
            stack.enter_context(worker)
            answers = worker.answers()
            candidates.append((worker, answers, Measured(job, next(answers))))
            bar.advance(task)
        for worker, answers, measured in itertools.chain.from_iterable([candidates] * rounds):
            bar.update(task, status=worker.name)
            worker.ask()
            measured.turns.append(next(answers))
            bar.advance(task)
        bar.update(task, status="")
    return [measured for _, _, measured in candidates]
