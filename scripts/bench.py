"""`python -m scripts.bench`: the backends' speed and memory, side by side with the book's way.

Each candidate (a backend, in our form or in the book's) lives in a process of its own and
computes only in its turn; the candidates take turns round by round, so that what slows the
machine for a while slows all of them.
"""

import collections
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import rich.box
import rich.table
import typer

from common.errors import InputError
from common.names import OUTPUT_STRIDE
from scripts.bench_worker import Job
from scripts.cli import (
    BackendsOption,
    JsonOption,
    choose_backends,
    console,
    last_line,
    main,
    new_app,
    progress,
    write_json,
)

app = new_app()

FORMS = ("ours", "book")

QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""A worker's environment: its idle threads sleep, where by default they spin for a while."""


class Mode(StrEnum):
    """The values of `--mode`."""

    train = "train"
    eval = "eval"


class WorkerError(Exception):
    """A candidate's process has ended too early."""


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Worker:
    """A candidate's process, ended with the `with` block."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.bench_worker", json.dumps(dataclasses.asdict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={"OMP_NUM_THREADS": str(cores())} | os.environ | QUIET,
            cwd=Path(__file__).parents[1],
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def start(self) -> None:
        """Waits until it is built and warm; `first`: its first call, compilation included.

        Raises:
            WorkerError: its process has ended.
        """
        self.first = self._answer()

    def turn(self) -> dict[str, Any]:
        """Lets the candidate compute once, and returns what that took.

        Raises:
            WorkerError: its process has ended.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_answer` says why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        self._errors.seek(0)
        last = last_line(self._errors.read())
        name = f"{self.job.backend} ({self.job.form})"
        raise WorkerError(f"{name} ended with exit code {code}: {last}")


def summarize(
    job: Job, first: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A candidate's row, but for its comparison with the book's form: medians over the rounds."""
    seconds = [turn["seconds"] for turn in turns]
    median = statistics.median(seconds)
    return {
        "backend": job.backend,
        "form": job.form,
        "mode": job.mode,
        "dtype": "float32",
        "batch_size": job.batch_size,
        "height": job.height,
        "width": job.width,
        "seconds": median,
        "spread": [min(seconds), max(seconds)],
        "cpu_seconds": statistics.median(turn["cpu_seconds"] for turn in turns),
        "first_seconds": first["seconds"],
        "peak_mb": max(turn["peak_mb"] for turn in turns),
        "images_per_second": job.batch_size / median,
    }


def speedup(book: Sequence[Mapping[str, Any]], turns: Sequence[Mapping[str, Any]]) -> float:
    """How many times faster than the book's form: the median over the rounds of book / turn."""
    pairs = zip(book, turns, strict=True)
    return float(statistics.median(theirs["seconds"] / turn["seconds"] for theirs, turn in pairs))


def run(jobs: Sequence[Job], rounds: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Lets the candidates take turns; returns the rows of the result, and all versions.

    Raises:
        WorkerError: a candidate's process has ended.
    """
    turns: dict[Job, list[dict[str, Any]]] = collections.defaultdict(list)
    versions: dict[str, str] = {}
    with contextlib.ExitStack() as stack, progress("bench") as bar:
        task = bar.add_task("bench", total=len(jobs) * (rounds + 1), status="")
        workers = []
        for job in jobs:
            bar.update(task, status=f"{job.backend} {job.form}: first call")
            workers.append(stack.enter_context(Worker(job)))
            workers[-1].start()
            versions |= workers[-1].first["versions"]
            bar.advance(task)
        for _ in range(rounds):
            for worker in workers:
                bar.update(task, status=f"{worker.job.backend} {worker.job.form}")
                turns[worker.job].append(worker.turn())
                bar.advance(task)
        bar.update(task, status="")
    rows = []
    for worker in workers:
        book = turns[dataclasses.replace(worker.job, form="book")]
        row = summarize(worker.job, worker.first, turns[worker.job])
        rows.append(row | {"speedup_over_book": speedup(book, turns[worker.job])})
    return rows, versions


def machine(versions: Mapping[str, str]) -> dict[str, Any]:
    """What the numbers were taken on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", cores())),
        "versions": {"python": platform.python_version(), **versions},
    }


def show(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Prints the table, and the line of machine facts."""
    at = rows[0]
    console.print(
        f"{at['mode']}, {at['dtype']}, batch {at['batch_size']} of {at['height']}x{at['width']}\n"
        "Medians of the rounds. x book: times as fast; MB: peak; x MB: peak over the book's."
    )
    table = rich.table.Table(box=rich.box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("backend", "form"):
        table.add_column(name, no_wrap=True)
    columns = ("first", "step s", "min..max", "CPU s", "img/s", "x book", "MB", "x MB")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    peaks = {row["backend"]: row["peak_mb"] for row in rows if row["form"] == "book"}
    for row in rows:
        low, high = row["spread"]
        table.add_row(
            row["backend"],
            row["form"],
            f"{row['first_seconds']:.1f}",
            f"{row['seconds']:.3f}",
            f"{low:.3f}..{high:.3f}",
            f"{row['cpu_seconds']:.2f}",
            f"{row['images_per_second']:.2f}",
            f"{row['speedup_over_book']:.2f}",
            f"{row['peak_mb']:.0f}",
            f"{row['peak_mb'] / peaks[row['backend']]:.2f}",
        )
    console.print(table)
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    console.print(
        f"{facts['system']}, {facts['cores']} cores, {facts['threads']} threads; {versions}"
    )


def check_size(mode: Mode, batch_size: int, height: int, width: int) -> None:
    """Refuses a batch that one of the forms cannot compute.

    Raises:
        InputError: a side is no multiple of 32, or the training batch has no variance.
    """
    if height % OUTPUT_STRIDE or width % OUTPUT_STRIDE:
        raise InputError(
            f"--size {height} {width}: the book's network takes multiples of {OUTPUT_STRIDE}"
        )
    if mode is Mode.train and batch_size * height * width == OUTPUT_STRIDE**2:
        raise InputError("--mode train: one image of 32x32 leaves BatchNorm one value a channel")


@app.command()
def bench(
    backends: BackendsOption = None,
    mode: Annotated[
        Mode, typer.Option(help="A training step, or a prediction up to the class map.")
    ] = Mode.train,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 4,
    size: Annotated[
        tuple[int, int],
        typer.Option(min=OUTPUT_STRIDE, metavar="H W", help="The images' height and width."),
    ] = (320, 480),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each candidate.")] = 7,
    json_file: JsonOption = None,
) -> int:
    """Times each backend against the plain loop of the book, in float32 on the CPU.

    Both start from the same NumPy arrays and end with the loss, or the class map, on the host.
    """
    height, width = size
    check_size(mode, batch_size, height, width)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InputError(f"{json_file}: there is no such folder")  # before all the work
    jobs = [
        Job(name, form, mode.value, batch_size, height, width)
        for name in choose_backends(backends)
        for form in FORMS
    ]
    try:
        rows, versions = run(jobs, rounds)
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    facts = machine(versions)
    show(rows, facts)
    write_json(json_file, {"rows": rows, "machine": facts})
    return 0


if __name__ == "__main__":
    main(app)
