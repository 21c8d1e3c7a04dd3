"""`python -m parity_tests.departures`: what each departure of the book's tabs does alone."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from parity_tests.departures import run
from parity_tests.departures.catalogue import DEPARTURES
from parity_tests.departures.run import Plan
from scripts.shared.cli import JsonOption, main, new_app, progress, write_json

app = new_app()


def _earlier(path: Path | None, about: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a file of an earlier run has and still holds: made of the same, each the same change."""
    if path is None or not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
        earlier = run.kept(found.pop("departures"))
        return earlier if found == json.loads(json.dumps(about)) else {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a result of this command") from error


def _numbers(values: Sequence[float | None]) -> str:
    return "".join(f"{'diverged':>9}" if value is None else f"{value:9.3f}" for value in values)


def table(result: Mapping[str, Any]) -> list[str]:
    """A line each, its numbers one a seed."""
    plan, entries = result["plan"], result["departures"]
    width = max(len(entry["title"]) for entry in entries)
    columns = len(_numbers(plan["seeds"]))
    titles = (f"loss, {plan['early']} steps", f"mean IoU, {plan['config']['steps']}")
    return [
        " " * width + "".join(f"{title:>{columns}}" for title in titles),
        *(f"{e['title']:{width}}" + _numbers(e["loss"]) + _numbers(e["mean_iou"]) for e in entries),
    ]


def _results(plan: Plan, json_file: Path | None) -> Iterator[dict[str, Any]]:
    """The result so far, each time that it has one departure more; it is in the file, too."""
    about = run.about(plan)
    known = _earlier(json_file, about)
    entries: dict[str, Mapping[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for entry in run.run(plan, Path(folder) / "shapes", known):
            entries[entry["name"]] = entry
            found = [*entries.values(), *(known[name] for name in known if name not in entries)]
            result = {**about, "departures": found}
            write_json(json_file, result)
            yield result


@app.command()
def departures(json_file: JsonOption = None) -> None:
    """Train the plain network and each departure of the book's tabs alone, and measure both.

    With --json FILE it goes on where it was stopped. About ten minutes.
    """
    # sums of one thread are rounded alike on every machine
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with progress("departures") as bar:
        task = bar.add_task("", total=1 + len(DEPARTURES), status="")
        for result in _results(Plan(), json_file):
            bar.update(task, advance=1)
            lines = table(result)
    print("\n".join(lines))


if __name__ == "__main__":
    main(app)
