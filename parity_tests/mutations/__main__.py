"""`python -m parity_tests.mutations`: applies every porting mistake and shows which check names it."""

import difflib
import json
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import rich.box
import rich.table
import typer

from backends import BACKENDS
from common.errors import InputError
from parity_tests.mutations import run
from parity_tests.mutations.apply import Fault
from scripts.shared.cli import BackendName, JsonOption, console, main, new_app, progress, write_json

app = new_app()


def _earlier(path: Path | None) -> dict[str, Any]:
    """The results of a file that an earlier run has left; empty where there is none."""
    if path is None or not path.exists():
        return {"faults": [], "versions": {}, "float32_gates": {}}
    try:
        found = json.loads(path.read_text())
        about = {key: dict(found[key]) for key in ("versions", "float32_gates")}
        return {"faults": [dict(entry) for entry in found["faults"]], **about}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a result of this command") from error


def _mark(entry: Mapping[str, Any]) -> str:
    return "✓✓" if entry["located"] else "✓" if entry["caught"] else "✗"


def _marks(entries: Iterable[Mapping[str, Any]]) -> str:
    """One mark where all backends agree, else one each."""
    marks = [_mark(entry) for entry in entries]
    return marks[0] if len(set(marks)) == 1 else " ".join(marks)


def _row(name: str, entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    plain = [{**e["plain"], "located": False} for e in entries.values()]
    return [
        name,
        *(_mark(entries[b]) if b in entries else "-" for b in BACKENDS),
        _marks(e["float32"] for e in entries.values()),
        _marks(plain),
    ]


def _print(result: Mapping[str, Any]) -> None:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for header in ("fault", *BACKENDS, "float32", "plain"):
        table.add_column(header, no_wrap=True)
    by_name: dict[str, dict[str, Any]] = {}
    for entry in result["faults"]:
        by_name.setdefault(entry["name"], {})[entry["backend"]] = entry
    for name, entries in by_name.items():
        table.add_row(*_row(name, entries))
    console.print(table)
    console.print("✓✓ caught, and its place named; ✓ caught; ✗ missed; - not made in this backend")
    for entry in result["faults"]:
        if not entry["located"]:
            where, expected = entry["where"] or "nowhere", " or ".join(entry["expected"])
            line = f"{entry['backend']} {entry['name']}: first at {where}, expected {expected}"
            console.print(line, soft_wrap=True, markup=False)
    for kind in ("", "float32_", "plain_"):
        label = kind.rstrip("_") or "float64"
        shares = [f"{result[f'{kind}{what}_share']:.1%} {what}" for what in ("caught", "located")]
        console.print(f"{label:8} {', '.join(shares)}")


def _wanted(
    backends: Sequence[str], names: Sequence[str] | None, earlier: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[str, Fault]], list[Mapping[str, Any]]]:
    """What is still to be run, and what of an earlier run still holds."""
    try:
        faults = run.named(names)
    except KeyError as error:
        near = difflib.get_close_matches(error.args[0], [f.name for f in run.named(None)])
        told = f", but {', '.join(near)}" if near else ": --list names them all"
        raise InputError(f"--fault {error.args[0]}: no such fault{told}") from error
    asked = [(b, f) for b in backends for f in faults if b in f.patches]
    digests = {(b, f.name): run.digest(b, f) for f in run.named(None) for b in f.patches}
    kept = [e for e in earlier if digests.get((e["backend"], e["name"])) == e.get("digest")]
    known = {(e["backend"], e["name"]) for e in kept}
    return [(b, f) for b, f in asked if (b, f.name) not in known], kept


@app.command()
def faults(
    backend: Annotated[
        list[BackendName] | None,
        typer.Option("--backend", "--backends", help="A backend to patch; may repeat."),
    ] = None,
    fault: Annotated[list[str] | None, typer.Option(help="A fault's name; may repeat.")] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Only list the faults, and how people come to make them.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Patch porting mistakes into the backends, one at a time, and see what the checks say."""
    if listed:
        for change in run.named(fault):
            console.print(f"[bold]{change.name}[/] {change.why}", soft_wrap=True)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an orderly end, workers included
    earlier = _earlier(json_file)
    names = [str(b) for b in backend] if backend else list(BACKENDS)
    wanted, results = _wanted(names, fault, earlier["faults"])
    about = {key: earlier[key] for key in ("versions", "float32_gates")}
    with progress("faults") as bar:
        task = bar.add_task("", total=len(wanted), status="")
        for entry in run.run(wanted, about):
            results.append(entry)
            write_json(json_file, run.summary(results, about))
            bar.update(task, advance=1, status=f"{entry['backend']} {entry['name']}")
    result = run.summary(results, about)
    write_json(json_file, result)
    _print(result)
    raise typer.Exit(0 if all(e["caught"] for e in results) else 1)


if __name__ == "__main__":
    main(app)
