"""A comparison of traces on the terminal."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from common.parity.report import Report
from common.parity.tolerances import ABSOLUTE_FLOOR, Tolerance
from common.parity.traces import Trace
from scripts.shared.cli import console, write_json

ROWS = 12
"""How many values beyond their tolerances are printed for each trace; the JSON has all."""

HtmlOption = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one page.")
]


def number(value: float | None) -> str:
    """Two digits; a dash for None."""
    return "-" if value is None else f"{value:.1e}"


def margin(value: float | None) -> str:
    """How many times an error fits below its tolerance."""
    if value is None or value == float("inf"):
        return "-" if value is None else "exact"
    return f"{value:.3g}x"


def say(text: str, style: str = "") -> None:
    """A line as it is: not broken, and its brackets are no markup."""
    console.print(text, style=style, soft_wrap=True)


def new_table(title: str, names: Sequence[Column], numbers: Iterable[str]) -> Table:
    """A table under its title; `numbers` are the headings of the columns of numbers."""
    columns = (Column(heading, justify="right", no_wrap=True) for heading in numbers)
    table = Table(*names, *columns, box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = title
    return table


def print_stages(report: Report, trace: str) -> None:
    """The worst value of each stage of a trace, with its tolerance."""
    names = Column("stage", no_wrap=True), Column("worst value", overflow="fold")
    numbers = ("error", "tolerance", "margin")
    table = new_table(f"{trace} against {report.reference}", names, numbers)
    for stage, d in report.worst(trace).items():
        tolerance = number(d.tolerance.limit) if d.tolerance else "none"
        style = "bold red" if d.parted else ""
        table.add_row(stage, d.name, number(d.error), tolerance, margin(d.margin), style=style)
    console.print(table)


def print_tolerances(report: Report) -> None:
    """Where the tolerances come from: each source once, with the stages that have it."""
    told: dict[str, dict[str, Tolerance]] = {}
    for d in report.differences:
        if d.tolerance is not None and d.tolerance.floor:
            told.setdefault(d.tolerance.source, {}).setdefault(d.stage, d.tolerance)
    for source, stages in told.items():
        say(f"tolerances: a multiple of the floor measured in {source}")
        for stage, t in stages.items():
            note = f" ({t.note})" if t.note else ""
            say(f"  {stage}: {t.limit:.1e} = {t.multiplier:.3g} x {t.floor:.1e}{note}")
    floors = ", ".join(f"{floor:g} in {dtype}" for dtype, floor in ABSOLUTE_FLOOR.items())
    say(f"  a difference of root mean square below {floors} is none")


def print_parted(report: Report, trace: str) -> None:
    """The first divergence of a trace, and what is new after it."""
    parted = [d for d in report.of(trace) if d.parted]
    if not parted:
        return
    say(f"{trace}: first divergence at {parted[0].where_it_is}", style="bold")
    new = [d for d in parted if d.status == "new"]
    for d in new[:ROWS]:
        ulp = f", {d.ulp_median:g} ulp (median), {d.ulp_max:g} at most" if d.ulp_max else ""
        limit = number(d.tolerance.limit if d.tolerance else None)
        place = f"largest {d.largest:.1e} at {list(d.where)}"
        say(f"  new: {d.where_it_is}: {d.error:.1e}, tolerance {limit}, {place}{ulp}")
        if d.cause:
            say(f"       {d.cause}")
        if d.code:
            say(f"       see {' and '.join(f'{e.source.file}:{e.source.line}' for e in d.code)}")
    if len(new) > ROWS:
        say(f"  ... and {len(new) - ROWS} more that are new")
    names = [d.name for d in parted if d.status == "follows"]
    if names:
        say(f"  {len(names)} more follow from earlier ones, {names[0]} to {names[-1]}")


def print_verdict(passed: bool, verdict: str) -> None:
    """The last line."""
    word, colour = ("PASSED", "green") if passed else ("FAILED", "red")
    console.print(word, style=f"bold {colour}", end=" ")
    say(verdict)


def print_report(report: Report, *, with_verdict: bool = True) -> None:
    """The whole report on the terminal, the verdict last."""
    for note in report.notes:
        say(f"differs: {note}")
    say(f"measured from {report.reference}: {report.reason}")
    for trace in report.compared:
        print_stages(report, trace)
    print_tolerances(report)
    for trace, mask in report.masks.items():
        if mask.differ:
            say(
                f"{trace}: {mask.differ} of {mask.pixels} pixels of eval/mask differ,"
                f" {mask.clear} of them where the best class is clear"
            )
    for trace in report.compared:
        print_parted(report, trace)
    for finding in report.findings:
        say(f"finding: {finding.trace}: {finding.text}")
    if with_verdict:
        print_verdict(report.passed, report.verdict())


def write_reports(
    report: dict[str, Any], traces: Sequence[Trace], json_path: Path | None, html_path: Path | None
) -> None:
    """Writes a report as JSON, and as a page with the masks of its traces, where asked for.

    Raises:
        InputError: a file cannot be written.
    """
    write_json(json_path, report)
    if html_path is not None:
        from scripts.shared.report import write_html

        write_html(html_path, report, {t.label: t.arrays for t in traces})
