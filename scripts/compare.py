"""Holds trace files against each other: where they part first, by how much, and who is odd."""

from pathlib import Path
from typing import Annotated

import typer

from common.errors import InputError
from common.parity.compare import compare
from common.parity.compare_records import compare_records
from common.parity.mapping import read_map
from common.parity.records import Record, read_any
from common.parity.traces import Trace, map_tensors
from scripts.shared.cli import ForceOption, JsonOption, main, new_app
from scripts.shared.outputs import HTML, JSON, check_places
from scripts.shared.verdicts import HtmlOption, print_report, write_reports

app = new_app()


def _relabelled(traces: list[Trace], paths: list[Path]) -> list[Trace]:
    """Labels that tell the traces apart: the file's name, or as much of its path as it takes."""
    labels = [path.stem for path in paths]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in paths]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise InputError(f"{twice}: given twice")
    return [type(t)(label, t.arrays, t.metadata) for label, t in zip(labels, traces, strict=True)]


@app.command(name="compare")
def run(
    traces: Annotated[list[Path], typer.Argument(metavar="TRACE...", help="Trace files.")],
    truth: Annotated[
        Path | None, typer.Option(help="The trace to judge all others by, float64 as a rule.")
    ] = None,
    maps: Annotated[
        list[Path] | None,
        typer.Option("--map", help="Of records: the map of each trace after the first, in turn."),
    ] = None,
    json_path: JsonOption = None,
    html_path: HtmlOption = None,
    force: ForceOption = False,
) -> None:
    """Hold trace files against each other. Exit code 0 only when every tolerance holds, else 1."""
    paths = [*traces, truth] if truth is not None else traces
    if len(paths) < 2:
        raise InputError(f"{paths[0]}: one trace alone: give another, or a --truth")
    places = (json_path, JSON), (html_path, HTML)
    check_places(*places, reads=[*paths, *(maps or ())], force=force)
    read = _relabelled([read_any(path, map_tensors) for path in paths], paths)
    records = [trace for trace in read if isinstance(trace, Record)]
    if 0 < len(records) < len(read):
        other = next(trace for trace in read if trace not in records)
        raise InputError(
            f"{records[0].label}: of any network, {other.label}: of ours; compare alike"
        )
    if records and truth is not None:
        raise InputError("--truth: records are held against the first of them")
    if maps and len(maps) != len(records) - 1:
        raise InputError(
            f"--map: {len(maps)} maps for {len(records)} records; give {len(records) - 1}"
        )
    if records:
        labels = [record.label for record in records[1:]]
        found = dict(zip(labels, map(read_map, maps or ()), strict=False))
        report = compare_records(records, found)
    else:
        report = compare(read[:-1], read[-1]) if truth is not None else compare(read)
    print_report(report)
    write_reports(report.to_dict(), read, json_path, html_path)
    if not report.passed:
        raise typer.Exit(1)


if __name__ == "__main__":
    main(app)
