"""What is measured, and the rows that come of it."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.choose.facts import ONNX_RUNTIME
from scripts.choose.rule import RULES, Candidate, Range
from scripts.shared.speed.turns import Measured, cores
from scripts.shared.speed.worker import Job

Row = dict[str, Any]

WAYS = {"torch": "torch.compile", "jax": "ahead of time"}
"""What the form `compiled` is, by backend; MXNet has none."""


def training_jobs(
    at: Job, backends: Sequence[str], *, processes: int, compile_too: bool
) -> list[Job]:
    """Ours and the book's, in bfloat16, read from `at.data`, on several processes, compiled."""
    fixed = dataclasses.replace(at, mode="train", data=None)
    jobs = []
    for name in backends:
        ours = dataclasses.replace(fixed, backend=name, form="ours", new_size=True)
        plain = dataclasses.replace(ours, new_size=False)
        jobs += [ours, dataclasses.replace(plain, form="book")]
        jobs.append(dataclasses.replace(plain, dtype="bfloat16"))
        if at.data:
            jobs.append(dataclasses.replace(plain, data=at.data))
        if processes > 1:
            threads = max(1, cores() // processes)
            jobs.append(dataclasses.replace(plain, processes=processes, threads=threads))
        if compile_too and name in WAYS:
            jobs.append(dataclasses.replace(ours, form="compiled"))
    return jobs


def prediction_jobs(
    at: Job, backends: Sequence[str], *, graph: str | None, compile_too: bool
) -> list[Job]:
    """Ours and the book's, in bfloat16, compiled; and PyTorch's export in ONNX Runtime."""
    predict = dataclasses.replace(at, mode="predict", data=None)
    jobs = training_jobs(predict, backends, processes=1, compile_too=compile_too)
    jobs = [dataclasses.replace(job, mode="predict") for job in jobs]
    if graph is not None:
        served = dataclasses.replace(predict, backend="torch", form=ONNX_RUNTIME, graph=graph)
        jobs.append(dataclasses.replace(served, new_size=True))
    return jobs


def is_optional(job: Job) -> bool:
    """Whether it is a result that a candidate cannot be had here."""
    return job.form in ("compiled", ONNX_RUNTIME) or job.dtype == "bfloat16"


def name_of(job: Job, names: Mapping[str, str]) -> str:
    """A candidate's name, of the frameworks' `names` by backend."""
    backend = str(job.backend)
    if job.form == ONNX_RUNTIME:
        return names[ONNX_RUNTIME]
    told = []
    if job.form == "compiled":
        told.append(WAYS[backend])
    elif job.form == "book":
        told.append("the book's form")
    if job.dtype != "float32":
        told.append(job.dtype)
    if job.data:
        told.append("reading")
    if job.processes > 1:
        told.append(f"{job.processes} processes")
    return names[backend] + (f" ({', '.join(told)})" if told else "")


def make_rows(measured: Sequence[Measured], names: Mapping[str, str]) -> list[Row]:
    """A row for each candidate, in their order; all are of one mode."""
    books = {one.job.backend: one.turns for one in measured if one.job.form == "book"}
    return [_row(one, books.get(one.job.backend, []), names) for one in measured]


def _row(one: Measured, book: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> Row:
    job = one.job
    row: Row = {
        "name": name_of(job, names),
        **{key: getattr(job, key) for key in ("backend", "form", "mode", "dtype", "processes")},
        "reading": job.data is not None,
        "error": one.error,
    }
    if one.error is not None:
        return row
    seconds = [turn["seconds"] for turn in one.turns]
    rates = [job.batch_size / value for value in seconds]
    low, _, high = statistics.quantiles(rates, n=4, method="inclusive")
    first = one.first
    return row | {
        "images_per_second": statistics.median(rates),
        "quartiles": [low, high],
        "times_book": statistics.median(
            theirs["seconds"] / own for theirs, own in zip(book, seconds, strict=True)
        ),
        "import_seconds": first["import_seconds"],
        "build_seconds": first["build_seconds"],
        "first_call_seconds": first["seconds"],
        "new_size_seconds": max(0.0, first["new_size_seconds"]) if job.new_size else None,
        "peak_mb": max(first["peak_mb"], *(turn["peak_mb"] for turn in one.turns)),
        "versions": first["versions"],
    }


def first_step(row: Row) -> float:
    """Seconds from the import to the end of the first call."""
    return float(row["import_seconds"] + row["build_seconds"] + row["first_call_seconds"])


MARGINS = {
    criterion.key: criterion.margin
    for rule in RULES
    for criterion in rule.criteria
    if criterion.margin is not None
}


def candidates(
    rows: Sequence[Row], columns: Mapping[str, Mapping[str, Any]], equal: Mapping[str, bool]
) -> list[Candidate]:
    """Who can be chosen, of all rows: ours in float32. Where pictures are read, reading counts.

    `columns` are the frameworks' facts by backend, `equal` what the comparison says of each.
    """
    reads = any(row["reading"] for row in rows)
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        if not row["error"] and row["form"] != "book" and row["dtype"] == "float32":
            by_name.setdefault(row["name"], []).append(row)
    found = []
    for name, own in by_name.items():
        served = own[0]["form"] == ONNX_RUNTIME
        facts = columns[ONNX_RUNTIME if served else own[0]["backend"]]
        numbers = {"disk_mb": _once("disk_mb", facts["alone_mb"])}
        for row in own:
            if row["mode"] == "predict" or row["reading"] or not reads:
                numbers |= _speed(row)
            if row["mode"] == "train" and row["new_size_seconds"] is not None:
                numbers["wait"] = _once("wait", first_step(row) + row["new_size_seconds"])
                numbers["lines"] = _once("lines", facts["source_code"]["lines"])
        is_equal = equal.get(own[0]["backend"], True)
        found.append(Candidate(name, facts["maintained"], is_equal, numbers))
    return found


def _speed(row: Row) -> dict[str, Range]:
    key = "training" if row["mode"] == "train" else "prediction"
    memory = f"{key}_mb"
    rate = Range(row["images_per_second"], *row["quartiles"])
    return {key: rate, memory: _once(memory, row["peak_mb"])}


def _once(key: str, value: float) -> Range:
    return Range.within(value, MARGINS[key])
