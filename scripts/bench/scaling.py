"""`--processes`: what several processes make of a batch, against one."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import rich.box
import rich.table

from common.config import Config
from scripts.bench.forecast import Wire, backward_share, engines, step_seconds
from scripts.bench.table import WIDTH, Row, figures
from scripts.shared.cli import console
from scripts.shared.speed.turns import Measured, take_turns
from scripts.shared.speed.worker import Job

Scaling = Literal["weak", "strong"]

SCALINGS: tuple[Scaling, ...] = ("weak", "strong")
"""Each process has as many images as one alone; or all together have."""

COLUMNS = (
    *("processes\nx threads", "\nbatch", "\nms", "\nmin..max", "\nimg/s", "% of\nperfect"),
    *("x\nthreads", "sum\nms", "%\nadded", "%\nhidden", "model\nms"),
)

EXPLANATION = (
    "% of perfect: of as many times the images a second of one process with one thread\n"
    "x threads: times as fast as one process with as many threads\n"
    "sum: the engine's sum of the gradients alone; % added: what sums add to a step, of its time\n"
    "% hidden: of the sum, behind computing; model: what the step would take by the forecast's"
)


def make_jobs(at: Job, scaling: Scaling, processes: Sequence[int]) -> list[Job]:
    """The candidates: one process with one thread first, then each number of processes in turn."""
    one = dataclasses.replace(at, form="ours", threads=1)
    jobs = [one]
    for count in processes:
        if count > 1:
            size = at.batch_size * (count if scaling == "weak" else 1)
            many = dataclasses.replace(one, processes=count, batch_size=size)
            jobs += [dataclasses.replace(many, form=form) for form in ("ours", "apart", "sum")]
            jobs.append(dataclasses.replace(one, threads=count, batch_size=size))
    return jobs


def measure_scaling(
    at: Job, backends: Sequence[str], processes: Sequence[int], rounds: int
) -> tuple[list[Measured], list[Row]]:
    """Times each backend by itself, both ways, and shows what came out.

    Raises:
        InputError, WorkerError: as `scripts.shared.speed.turns.take_turns`.
    """
    measured, rows = [], []
    console.print(f"\n{EXPLANATION}", soft_wrap=True)
    for backend, scaling in itertools.product(backends, SCALINGS):
        jobs = make_jobs(dataclasses.replace(at, backend=backend), scaling, processes)
        took = take_turns(jobs, rounds)
        made = make_rows(took, scaling)
        show(made)
        measured += took
        rows += made
    return measured, rows


def make_rows(measured: Sequence[Measured], scaling: Scaling) -> list[Row]:
    """Rows of what trains; the sums' candidates become columns. Shares are medians over rounds."""
    by_job = {one.job: one for one in measured}
    first = measured[0]
    return [_row(one, first, by_job, scaling) for one in measured if one.job.form == "ours"]


def _row(one: Measured, first: Measured, by_job: Mapping[Job, Measured], scaling: Scaling) -> Row:
    job = one.job
    width = job.processes * (job.threads or 1)
    work = job.batch_size / first.job.batch_size
    seconds = [turn["seconds"] for turn in one.turns]
    row: Row = {
        "scaling": scaling,
        **{key: getattr(job, key) for key in ("backend", "processes", "threads", "dtype")},
        **{key: getattr(job, key) for key in ("batch_size", "height", "width")},
        "seconds": statistics.median(seconds),
        "spread": [min(seconds), max(seconds)],
        "cpu_seconds": statistics.median(turn["cpu_seconds"] for turn in one.turns),
        "peak_mb": max(turn["peak_mb"] for turn in one.turns),
        "images_per_second": job.batch_size / statistics.median(seconds),
        "share_of_perfect": _median(lambda t, alone: work * alone / (width * t), one, first),
        **dict.fromkeys(SUMS),
    }
    if job.processes > 1:
        threads = dataclasses.replace(job, processes=1, threads=job.processes)
        apart, total = (by_job[dataclasses.replace(job, form=form)] for form in ("apart", "sum"))
        whole = statistics.median(turn["seconds"] for turn in total.turns)
        compute = statistics.median(turn["seconds"] for turn in apart.turns)
        messages = engines(job.config())[str(job.backend)].messages
        size = sum(message.size for message in messages)
        row |= {
            "speedup_over_threads": _median(lambda t, other: other / t, one, by_job[threads]),
            "sum_seconds": whole,
            "share_added": _median(lambda t, a: (t - a) / t, one, apart),
            "share_hidden": _median(lambda t, a, s: 1 - (t - a) / s, one, apart, total),
            "model_seconds": step_seconds(
                compute, messages, lambda part: whole * part / size, backward_share(job.config())
            ),
        }
    return row


SUMS = ("speedup_over_threads", "sum_seconds", "share_added", "share_hidden", "model_seconds")
"""What a row of several processes has; None in others."""


def _median(value: Callable[..., float], *measured: Measured) -> float:
    """Of what is computed from each round's seconds."""
    rounds = zip(*(one.turns for one in measured), strict=True)
    return float(statistics.median(value(*(t["seconds"] for t in turns)) for turns in rounds))


def show(rows: Sequence[Row]) -> None:
    """Prints a backend's rows of one scaling as a table."""
    if not console.is_terminal:
        console.width = WIDTH
    at = rows[0]
    size = f"{at['height']}x{at['width']}"
    console.print(f"\n{at['backend']}, {at['scaling']} scaling: train, {at['dtype']}, {size}")
    table = rich.table.Table(box=rich.box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)


def _cells(row: Mapping[str, Any]) -> list[str]:
    speedup = row["speedup_over_threads"]
    return [
        f"{row['processes']} x {row['threads']}",
        str(row["batch_size"]),
        figures(row["seconds"], 1000),
        "..".join(figures(end, 1000) for end in row["spread"]),
        figures(row["images_per_second"]),
        _percent(row["share_of_perfect"]),
        "" if speedup is None else f"{speedup:.2f}",
        figures(row["sum_seconds"], 1000),
        _percent(row["share_added"]),
        _percent(row["share_hidden"]),
        figures(row["model_seconds"], 1000),
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}"


MANY = (8, 64)
"""Processes of the forecast, each on a machine of its own."""

WIRES = {10: Wire(10e9 / 8, 50e-6), 100: Wire(100e9 / 8, 10e-6)}
"""By Gbit/s; the latencies are what is usual, for Ethernet and for what is as fast as that."""

COMPUTE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds in which a process computes its part of a step: of a fast GPU, to a few cores."""


def forecast(crop: tuple[int, int]) -> list[Row]:
    """Weak scaling of many processes by the model, for each engine, wire and speed of computing."""
    config = Config(crop=crop)
    backward = backward_share(config)
    return [
        {
            "engine": name,
            "processes": count,
            "gbit_per_second": gbit,
            "compute_seconds": compute,
            "share_of_perfect": compute
            / step_seconds(compute, engine.messages, engine.transfer(count, wire), backward),
        }
        for name, engine in engines(config).items()
        for count, (gbit, wire), compute in itertools.product(MANY, WIRES.items(), COMPUTE)
    ]


def show_forecast(rows: Sequence[Row]) -> None:
    """Prints it as a table, a line for each engine, number of processes and wire."""
    console.print("\n% of perfect by the model, where a process computes a step in so many ms")
    table = rich.table.Table(box=rich.box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("engine", "processes", "Gbit/s", *(f"{1000 * s:.0f}" for s in COMPUTE)):
        table.add_column(name, justify="left" if name == "engine" else "right", no_wrap=True)
    for (name, count, gbit), group in itertools.groupby(
        rows, lambda row: (row["engine"], row["processes"], row["gbit_per_second"])
    ):
        shares = [_percent(row["share_of_perfect"]) for row in group]
        table.add_row(name, str(count), str(gbit), *shares)
    console.print(table)
