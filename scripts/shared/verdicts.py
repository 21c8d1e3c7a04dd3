"""A comparison of traces on the terminal."""

from pathlib import Path
from typing import Annotated

import rich.box
import typer
from rich.markup import escape
from rich.table import Table

from common.parity.report import Report
from common.parity.tolerances import ABSOLUTE_FLOOR, Tolerance
from scripts.shared.cli import console

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


def print_stages(report: Report, trace: str) -> None:
    """The worst value of each stage of a trace, with its tolerance."""
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = escape(f"{trace} against {report.reference}")
    table.add_column("stage", no_wrap=True)
    table.add_column("worst value", overflow="fold")
    for heading in ("error", "gate", "margin"):
        table.add_column(heading, justify="right", no_wrap=True)
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
        console.print(f"tolerances: a multiple of the floor measured in {source}", soft_wrap=True)
        for stage, tolerance in stages.items():
            note = f" ({tolerance.note})" if tolerance.note else ""
            console.print(
                f"  {stage}: {tolerance.limit:.1e} ="
                f" {tolerance.multiplier:.3g} x {tolerance.floor:.1e}{note}",
                soft_wrap=True,
            )
    floors = ", ".join(f"{floor:g} in {dtype}" for dtype, floor in ABSOLUTE_FLOOR.items())
    console.print(f"  a difference of root mean square below {floors} is none", soft_wrap=True)


def print_parted(report: Report, trace: str) -> None:
    """The first divergence of a trace, and what is new after it."""
    first = report.first(trace)
    if first is None:
        return
    headline = f"{trace}: first divergence at {first.name}"
    console.print(headline, style="bold", soft_wrap=True, markup=False)
    parted = [d for d in report.of(trace) if d.parted]
    new = [d for d in parted if d.status == "new"]
    for d in new[:ROWS]:
        ulp = f", {d.ulp_median:g} ulp (median), {d.ulp_max:g} at most" if d.ulp_max else ""
        console.print(
            f"  new: {d.name}: {d.error:.1e},"
            f" tolerance {number(d.tolerance.limit if d.tolerance else None)},"
            f" largest {d.largest:.1e} at {list(d.where)}{ulp}",
            soft_wrap=True,
            markup=False,
        )
    if len(new) > ROWS:
        console.print(f"  ... and {len(new) - ROWS} more that are new")
    followers = [d for d in parted if d.status == "follows"]
    if followers:
        console.print(
            f"  {len(followers)} more follow from earlier ones, {followers[0].name} to"
            f" {followers[-1].name}",
            soft_wrap=True,
        )


def print_verdict(passed: bool, verdict: str) -> None:
    """The last line."""
    word = "[bold green]PASSED[/]" if passed else "[bold red]FAILED[/]"
    console.print(word, end=" ")
    console.print(verdict, soft_wrap=True, markup=False)


def print_report(report: Report, *, with_verdict: bool = True) -> None:
    """The whole report on the terminal, the verdict last."""
    for note in report.notes:
        console.print(f"differs: {note}", soft_wrap=True, markup=False)
    reference = f"measured from {report.reference}: {report.reason}"
    console.print(reference, soft_wrap=True, markup=False)
    for trace in report.compared:
        print_stages(report, trace)
    print_tolerances(report)
    for trace, mask in report.masks.items():
        if mask.differ:
            console.print(
                f"{trace}: {mask.differ} of {mask.pixels} pixels of eval/mask differ,"
                f" {mask.clear} of them where the best class is clear",
                soft_wrap=True,
                markup=False,
            )
    for trace in report.compared:
        print_parted(report, trace)
    for finding in report.findings:
        console.print(f"finding: {finding.trace}: {finding.text}", soft_wrap=True, markup=False)
    if with_verdict:
        print_verdict(report.passed, report.verdict())
