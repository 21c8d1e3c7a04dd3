"""`python -m scripts.pitfalls`: where the frameworks differ without a word, side by side."""

import importlib
import math
from typing import Annotated, Any

import numpy as np
import rich.box
import rich.table
import rich.text
import typer

from backends import BACKENDS, load_backend, missing_packages
from scripts.pitfalls.catalogue import PITFALLS, Pitfall, Values, find
from scripts.shared.cli import (
    BackendName,
    ForceOption,
    JsonOption,
    console,
    main,
    new_app,
    write_json,
)
from scripts.shared.outputs import JSON, check_places

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
    force: ForceOption = False,
) -> None:
    """Where the frameworks differ without a word: numbers side by side, why, what to write."""
    chosen = PITFALLS if name is None else (find(name),)
    check_places((json, JSON), force=force)
    names = list(dict.fromkeys(backends or BACKENDS))
    results = []
    with console.status("measuring"):
        versions = {backend: _version(backend) for backend in names}
        for pitfall in chosen:
            measured = {backend: measure(pitfall.name, backend) for backend in names}
            results.append(_result(pitfall, measured))
            _print(results[-1], versions)
    write_json(json, {"versions": versions, "pitfalls": results})


def measure(name: str, backend: str) -> dict[str, Any] | None:
    """What a framework does in pitfall `name`, by quantity; None where it is not installed."""
    if missing_packages(backend):
        return None
    load_backend(backend)  # before all else: it sets the framework up
    values: Values = getattr(importlib.import_module(f"scripts.pitfalls.{backend}"), name)()
    return {row: _plain(value) for row, value in zip(find(name).rows, values, strict=False)}


def _plain(value: Any) -> Any:
    """A tensor of any framework as a number or a flat list of numbers; all else as it is."""
    if hasattr(value, "asnumpy"):  # MXNet's
        value = value.asnumpy()
    if hasattr(value, "tolist"):
        numbers = np.ravel(value.tolist()).tolist()
        return numbers if len(numbers) > 1 else numbers[0]
    return list(value) if isinstance(value, tuple) else value


def _version(backend: str) -> str:
    return NOT_INSTALLED if missing_packages(backend) else load_backend(backend).versions()[backend]


def _result(pitfall: Pitfall, measured: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """For JSON, which has no NaN: there it is a word."""
    return {
        "name": pitfall.name,
        "title": pitfall.title,
        "why": " ".join(pitfall.why.split()),
        "instead": {backend: getattr(pitfall, backend) for backend in measured},
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
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print(result: dict[str, Any], versions: dict[str, str]) -> None:
    """A table with a column once a framework and a row once a quantity, and the words to it."""
    measured = result["measured"]
    table = rich.table.Table(box=rich.box.SIMPLE, pad_edge=False)
    table.add_column("", max_width=36)
    for backend, rows in measured.items():
        head = backend if rows is None else f"{backend} {versions[backend]}"
        table.add_column(head, overflow="fold")
    for name in dict.fromkeys(row for rows in measured.values() for row in rows or ()) or [""]:
        cells = (
            NOT_INSTALLED if rows is None else _cell(rows.get(name, ""))
            for rows in measured.values()
        )
        table.add_row(*map(rich.text.Text, (name, *cells)))
    text = rich.table.Table.grid(padding=(0, 1))
    text.add_row(" why", rich.text.Text(result["why"]))
    for backend, instead in result["instead"].items():
        text.add_row(f" {backend}", rich.text.Text(instead))
    console.print(rich.text.Text(f"{result['name']}: {result['title']}", style="bold"))
    console.print(table)
    console.print(text)
    console.print()


if __name__ == "__main__":
    main(app)
