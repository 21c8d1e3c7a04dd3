"""`python -m parity_tests.mutations`: makes each porting mistake and shows which check names it."""

import difflib
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from backends import BACKENDS
from common.errors import InputError
from parity_tests.mutations import run
from parity_tests.mutations.apply import Mutation
from parity_tests.mutations.catalogue import MUTATIONS
from parity_tests.mutations.report import markdown, print_result, summary
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


def _named(names: Sequence[str] | None) -> list[Mutation]:
    """The mutations of these names; all for none."""
    known = {change.name: change for change in MUTATIONS}
    for name in names or ():
        if name not in known:
            near = difflib.get_close_matches(name, known)
            told = f", but {', '.join(near)}" if near else ": --list names them all"
            raise InputError(f"--mutation {name}: no such mutation{told}")
    return [known[name] for name in names] if names else MUTATIONS


def _wanted(
    backends: Sequence[str], changes: Sequence[Mutation], earlier: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[str, Mutation]], list[Mapping[str, Any]]]:
    """What is still to be run, and what of an earlier run still holds."""
    digests = {(b, m.name): run.digest(b, m) for m in MUTATIONS for b in m.patches}
    kept = [e for e in earlier if digests.get((e["backend"], e["name"])) == e.get("digest")]
    known = {(e["backend"], e["name"]) for e in kept}
    asked = [(b, m) for b in backends for m in changes if b in m.patches]
    return [(b, m) for b, m in asked if (b, m.name) not in known], kept


@app.command()
def mutations(
    backend: Annotated[
        list[BackendName] | None,
        typer.Option("--backend", "--backends", help="A backend to mutate; may repeat."),
    ] = None,
    mutation: Annotated[
        list[str] | None,
        typer.Option("--mutation", "--fault", help="A mutation's name; may repeat."),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Only list the mutations, and how people make them.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--markdown", help="Only print the tables of --json FILE for the docs.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Put porting mistakes into the backends, one at a time, and see what the checks say."""
    changes = _named(mutation)
    if listed:
        for change in changes:
            console.print(change.name, style="bold", end=" ")
            console.print(change.why, soft_wrap=True)
        return
    earlier = _earlier(json_file)
    if table:
        if not earlier["faults"]:
            raise InputError("--markdown: needs --json FILE, the result of an earlier run")
        print("\n".join(markdown(earlier["faults"])))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an orderly end, workers included
    names = [str(b) for b in backend] if backend else list(BACKENDS)
    wanted, results = _wanted(names, changes, earlier["faults"])
    about = {key: earlier[key] for key in ("versions", "float32_gates")}
    with progress("mutations") as bar:
        task = bar.add_task("", total=len(wanted), status="")
        for entry in run.run(wanted, about):
            results.append(entry)
            write_json(json_file, summary(results, about))
            bar.update(task, advance=1, status=f"{entry['backend']} {entry['name']}")
    result = summary(results, about)
    write_json(json_file, result)
    print_result(result)
    raise typer.Exit(1 if any(map(run.failed, results)) else 0)


if __name__ == "__main__":
    main(app)
