"""`python -m scripts.pitfalls`: where the frameworks differ without a word, side by side."""

import importlib
import math
from collections.abc import Sequence
from typing import Annotated, Any

import rich.box
import rich.table
import rich.text
import typer

from backends import BACKENDS, load_backend, missing_packages
from scripts.pitfalls.catalogue import PITFALLS, Measured, Pitfall, find
from scripts.shared.cli import BackendName, JsonOption, console, main, new_app, write_json

NOT_INSTALLED = "not installed"

app = new_app()


@app.command()
def pitfalls(
    name: Annotated[str | None, typer.Argument(help="One pitfall. Default: all of them.")] = None,
    backends: Annotated[
        list[BackendName] | None,
        typer.Option(
            "--backends", "--backend", help="A framework to run; may be repeated. Default: all."
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Where the frameworks differ without a word: numbers side by side, why, what to write."""
    chosen = PITFALLS if name is None else (find(name),)
    names = list(dict.fromkeys(backends or BACKENDS))
    results = []
    with console.status("measuring"):
        versions = {backend: _version(backend) for backend in names}
        for pitfall in chosen:
            measured = {backend: measure(pitfall.name, backend) for backend in names}
            results.append(_result(pitfall, measured))
            _print(pitfall, measured, versions)
    write_json(json, {"versions": versions, "pitfalls": results})


def measure(name: str, backend: str) -> Measured | None:
    """What a framework does in pitfall `name`; None where it is not installed."""
    if missing_packages(backend):
        return None
    load_backend(backend)  # before all else: it sets the framework up
    function = getattr(importlib.import_module(f"scripts.pitfalls.{backend}"), name)
    measured: Measured = function()
    return measured


def _version(backend: str) -> str:
    return NOT_INSTALLED if missing_packages(backend) else load_backend(backend).versions()[backend]


def _result(pitfall: Pitfall, measured: dict[str, Measured | None]) -> dict[str, Any]:
    """For JSON, which has no NaN: there it is a word."""
    return {
        "name": pitfall.name,
        "title": pitfall.title,
        "why": pitfall.why,
        "instead": {backend: pitfall.instead[backend] for backend in measured},
        "measured": {
            backend: rows and {row: _word_if_nan(value) for row, value in rows.items()}
            for backend, rows in measured.items()
        },
    }


def _word_if_nan(value: Any) -> Any:
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def _cell(value: Any) -> str:
    """A value in at most a few digits."""
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _column(rows: Measured | None, names: Sequence[str]) -> list[str]:
    """One framework's cells; empty for a quantity that it does not have."""
    if rows is None:
        return [NOT_INSTALLED] * len(names)
    return [_cell(rows[name]) if name in rows else "" for name in names]


def _print(
    pitfall: Pitfall, measured: dict[str, Measured | None], versions: dict[str, str]
) -> None:
    console.print(rich.text.Text(f"{pitfall.name}: {pitfall.title}", style="bold"))
    console.print(_table(measured, versions))
    text = rich.table.Table.grid(padding=(0, 1))
    text.add_row(" why", rich.text.Text(pitfall.why))
    for backend in measured:
        text.add_row(f" {backend}", rich.text.Text(pitfall.instead[backend]))
    console.print(text)
    console.print()


def _table(measured: dict[str, Measured | None], versions: dict[str, str]) -> rich.table.Table:
    """A column once a framework, a row once a quantity."""
    names = list(dict.fromkeys(name for rows in measured.values() for name in rows or {})) or [""]
    table = rich.table.Table(box=rich.box.SIMPLE, pad_edge=False)
    table.add_column("", max_width=36)
    for backend, rows in measured.items():
        head = backend if rows is None else f"{backend} {versions[backend]}"
        table.add_column(head, overflow="fold")
    columns = [_column(rows, names) for rows in measured.values()]
    for name, *cells in zip(names, *columns, strict=True):
        table.add_row(*map(rich.text.Text, (name, *cells)))
    return table


if __name__ == "__main__":
    main(app)
