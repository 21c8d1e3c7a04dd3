"""`parity --hard`: thin networks on data that show what ordinary data hide."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.table import Column

from common.config import Dtype
from common.parity.compare import compare, judge_again
from common.parity.report import Difference, Report, finite
from common.parity.settings import SETTINGS, write_settings
from common.parity.tolerances import Tolerance, fixed_tolerance, ratio_tolerance
from common.parity.traces import Trace, read_trace
from scripts.parity.hard_worker import Job
from scripts.shared.cli import console
from scripts.shared.verdicts import margin, new_table, print_parted, print_verdict, say
from scripts.shared.workers import Worker, one_thread

PROCESSES = 2
"""Backends that run at a time."""


def run_settings(
    folder: Path, backends: Sequence[str], bar: Any, names: Sequence[str] = tuple(SETTINGS)
) -> dict[str, Report]:
    """Each of these settings in every backend: a report of each setting.

    Raises:
        InputError: `folder` is not a new or empty one.
        WorkerError: a run has failed.
    """
    write_settings(folder)
    task = bar.add_task("", total=len(backends) * len(names), status="")

    def run(name: str) -> None:
        job = Job(name, str(folder), names, reference=name == backends[0])
        with Worker(name, "scripts.parity.hard_worker", job, 1, **one_thread(name)) as worker:
            for said in worker.answers():
                bar.update(task, advance=1, status=f"{name}: {said}")

    slow_first = sorted(backends, key=lambda name: name != "jax")
    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(run, slow_first))
    return {name: _report(folder / name, backends) for name in names}


def _report(folder: Path, backends: Sequence[str]) -> Report:
    """The backends against one another, or where they computed in float32 against float64."""

    def trace(label: str) -> Trace:
        return read_trace(folder / f"{label}.safetensors")

    traces = [trace(name) for name in backends]
    if not (folder / "reference.safetensors").exists():
        return compare(traces)
    report = compare(traces, trace("reference"))
    errors: dict[str, dict[str, float]] = {}
    for d in report.differences:
        errors.setdefault(d.name, {})[d.trace] = d.error

    def tolerance(d: Difference) -> Tolerance | None:
        """The fixed one, which larger images have, or twice what the others are off here."""
        fixed = fixed_tolerance(Dtype.float32, d.stage)
        others = [error for label, error in errors[d.name].items() if label != d.trace]
        ratio = ratio_tolerance(max(others), 0.0, Dtype.float32)
        return max(filter(None, (fixed, ratio)), key=lambda t: t.limit)

    judge_again(report, tolerance)
    return report


def print_settings(reports: Mapping[str, Report], backends: Sequence[str]) -> None:
    """A row for each setting: the least margin of each backend, or its first divergence."""
    names = Column("setting", no_wrap=True), Column("what it shows", overflow="fold")
    table = new_table("each setting: the least margin of each backend", names, backends)
    for name, report in reports.items():
        cells = [_cell(report, backend) for backend in backends]
        table.add_row(name, SETTINGS[name].why, *cells, style="" if report.passed else "bold red")
    console.print(table)
    for name, report in reports.items():
        if not report.passed:
            say(f"{name}: measured from {report.reference}: {report.reason}")
            for backend in report.compared:
                print_parted(report, backend)
            for finding in report.findings:
                say(f"finding: {finding.trace}: {finding.text}")
    print_verdict(passed(reports), verdict(reports))


def _cell(report: Report, backend: str) -> str:
    if backend == report.reference:
        return "reference"
    first = report.first(backend)
    if first is not None or any(f.trace == backend for f in report.findings):
        return first.name if first else "finding"
    margins = [d.margin for d in report.of(backend) if d.margin is not None]
    return margin(min(margins))


def passed(reports: Mapping[str, Report]) -> bool:
    """Whether every setting did."""
    return all(report.passed for report in reports.values())


def verdict(reports: Mapping[str, Report]) -> str:
    """The first setting that shows a difference, and how many more do."""
    failures = [f"{n}: {report.verdict()}" for n, report in reports.items() if not report.passed]
    if not failures:
        return f"within every tolerance in all of {len(reports)} settings."
    more = f" So do {len(failures) - 1} more settings." if len(failures) > 1 else ""
    return failures[0] + more


def to_dict(reports: Mapping[str, Report]) -> dict[str, Any]:
    """For JSON."""
    settings = {name: report.to_dict() for name, report in reports.items()}
    return {"passed": passed(reports), "verdict": verdict(reports), "settings": finite(settings)}
