"""The candidates' processes, and their turns."""

import contextlib
import dataclasses
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Container, Sequence
from typing import Any

from common.errors import InputError, WorkerError
from common.machine import thread_limit
from scripts.shared.cli import progress
from scripts.shared.processes import ENVIRONMENTS, HELP, HELPERS, free_port
from scripts.shared.speed.worker import Job
from scripts.shared.workers import ROOT, Worker


@dataclasses.dataclass
class Measured:
    """What a candidate took: its first call, compilation included, and each of its turns.

    As `scripts.shared.speed.worker.measure` says it; `first` also has what the worker is made of.
    Or `error`, why it cannot be had here.
    """

    job: Job
    first: dict[str, Any] = dataclasses.field(default_factory=dict)
    turns: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    error: str | None = None


_COMPILES_ANEW = {
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
}
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


def check_processes(processes: Sequence[int], batch_sizes: Sequence[int]) -> list[int]:
    """The values of `--processes`, each once, ascending.

    Raises:
        InputError: there are more than cores, or a batch cannot be shared among them.
    """
    for count in processes:
        if count > cores():
            raise InputError(f"--processes {count}: each takes a core, and there are {cores()}")
        for size in batch_sizes:
            if size % count:
                raise InputError(f"--processes {count}: does not divide --batch-size {size}")
    return sorted(set(processes))


class _Candidate:
    """A candidate's processes, which take their turns together; `stack` ends them."""

    def __init__(self, job: Job, stack: contextlib.ExitStack) -> None:
        self.job = job
        self.name = f"{job.backend or job.mode} ({job.form})"
        self.workers = []
        environment = self._start_helpers(stack) if job.processes > 1 else None
        for rank in range(job.processes):
            told = _COMPILES_ANEW | (environment(rank) if environment else {})
            own = dataclasses.replace(job, rank=rank)
            count = job.threads or threads()
            worker = Worker(self.name, "scripts.shared.speed.worker", own, count, **told)
            self.workers.append(stack.enter_context(worker))
        self._answers = [worker.answers() for worker in self.workers]

    def _start_helpers(self, stack: contextlib.ExitStack) -> Callable[[int], dict[str, str]]:
        """Starts what the engine has beside the processes that compute.

        Returns what each of these finds in its environment, by rank.
        """
        backend, size, port = str(self.job.backend), self.job.processes, free_port()
        for role in HELPERS.get(backend, ()):
            told = ENVIRONMENTS[backend](0, size, port) | {"DMLC_ROLE": role}
            helper = subprocess.Popen(
                [sys.executable, *HELP],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | told,
                cwd=ROOT,
            )
            stack.enter_context(helper)
            stack.callback(helper.kill)
        return lambda rank: ENVIRONMENTS[backend](rank, size, port)

    def ask(self) -> None:
        for worker in self.workers:
            worker.ask()

    def answer(self) -> dict[str, Any]:
        return together([next(answers) for answers in self._answers])


def together(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the processes of a candidate took: as long as the slowest, and what all did."""
    totals = {key: sum(each[key] for each in answers) for key in ("cpu_seconds", "peak_mb")}
    return answers[0] | totals | {"seconds": max(each["seconds"] for each in answers)}


def take_turns(jobs: Sequence[Job], rounds: int, optional: Container[Job] = ()) -> list[Measured]:
    """Starts the candidates, one after the other, lets them take turns, and ends them.

    Raises:
        InputError, WorkerError: as `Worker.answers`, of a candidate that is not optional.
    """
    with contextlib.ExitStack() as stack, progress(jobs[0].mode) as bar:
        task = bar.add_task("", total=len(jobs) * (rounds + 1), status="")
        measured = []
        candidates = []
        for job in jobs:
            candidate, one = _Candidate(job, stack), Measured(job)
            measured.append(one)
            bar.update(task, status=f"{candidate.name}: first call")
            try:
                one.first = candidate.answer()
            except (InputError, WorkerError) as error:
                if job not in optional:
                    raise
                one.error = str(error)
                bar.advance(task, rounds)
            else:
                candidates.append((candidate, one))
            bar.advance(task)
        for candidate, one in itertools.chain.from_iterable([candidates] * rounds):
            bar.update(task, status=candidate.name)
            candidate.ask()
            one.turns.append(candidate.answer())
            bar.advance(task)
        bar.update(task, status="")
    return measured
