"""Workers: jobs in processes of their own, so that each framework has its threads to itself.

A worker is a module that calls `serve`. Its job is JSON in its argument; what it says is JSON on
standard output, a line each. One that takes turns waits for a line of input before each, and ends
where its input does, that is, with its parent. Bad input is one line on standard error and exit
code 2, as in a command.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError, WorkerError
from scripts.shared.cli import fail, last_line

ROOT = Path(__file__).parents[2]
"""The project's folder, where `python -m` finds its modules."""

Say = Callable[[Any], None]

LIMITED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that say how many threads a library starts."""

QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""Idle threads sleep, where by default they spin for a while: others compute meanwhile."""


def one_thread(backend: str) -> dict[str, str]:
    """What has `Worker` compute with one thread, JAX too, which else takes all cores."""
    if backend != "jax":
        return {}
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    return {"XLA_FLAGS": flags.strip()}


class Worker(subprocess.Popen[str]):
    """A process that runs `python -m <module> JOB`, JOB being the dataclass `job` as JSON.

    It computes with so many threads, where `environment` says nothing else. It is ended with the
    `with` block. `name` is what its errors call it.
    """

    def __init__(self, name: str, module: str, job: Any, threads: int, **environment: str) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        limits = dict.fromkeys(LIMITED, str(threads))
        super().__init__(
            [sys.executable, "-m", module, json.dumps(dataclasses.asdict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | QUIET | limits | environment,
            cwd=ROOT,
        )

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.communicate()
        self._errors.close()

    def ask(self) -> None:
        """Writes the empty line that a worker may wait for."""
        assert self.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `answers` says why
            self.stdin.write("\n")
            self.stdin.flush()

    def answers(self) -> Iterator[Any]:
        """What it says, as it says it, until it ends.

        Raises:
            InputError: it has found bad input.
            WorkerError: its process has ended otherwise than well.
        """
        assert self.stdout is not None
        yield from map(json.loads, self.stdout)
        code = self.wait()
        self._errors.seek(0)
        last = last_line(self._errors.read())
        if code == 2:
            raise InputError(last.removeprefix("error: "))
        if code:
            raise WorkerError(f"{self.name} ended with exit code {code}: {last}")


def serve(work: Callable[[dict[str, Any], Say], None]) -> None:
    """What a worker's module does: calls `work` with the job and with what says an answer."""
    # A framework's own words on standard output would break the conversation.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        work(json.loads(sys.argv[1]), lambda answer: print(json.dumps(answer), file=answers))
    except InputError as error:
        fail(str(error))
    except Exception as error:
        traceback.print_exc()
        # the message may have several lines, and the parent tells the last
        raise SystemExit(f"{type(error).__name__}: {' '.join(str(error).split())}") from None


def keep_to_cores(count: int, rank: int = 0) -> None:
    """Lets this process use `count` cores: JAX takes a thread for each it may use.

    Of several processes each has cores of its own, the one of rank 0 the first.
    """
    first = rank * count
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[first : first + count])
