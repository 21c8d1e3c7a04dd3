"""`python -m parity_tests.departures`: what each departure of the book's tabs does alone."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import parse_json
from parity_tests.departures import run
from parity_tests.departures.catalogue import DEPARTURES, PLAIN
from parity_tests.departures.run import Plan
from scripts.shared.cli import JsonOption, main, new_app, progress, write_json
from scripts.shared.outputs import JSON, check_places
from scripts.shared.sources import code_digest

app = new_app()

CATALOGUE = Path(__file__).with_name("catalogue.py")
"""Its digest in a result says that nothing of it is missing there."""


def _earlier(path: Path | None, about: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a file of an earlier run has and still holds: each that is the same change.

    Raises:
        InputError: it is of something else, which would be lost.
    """
    if path is None or not path.is_file():
        return {}
    try:
        found = parse_json(path.read_bytes())
        earlier = run.kept(found.pop("departures"))
        del found["catalogue"]
        table({"plan": about["plan"], "departures": earlier.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a result of this command") from error
    if found != json.loads(json.dumps(about)):
        raise InputError(f"{path}: of other code, versions or plan; remove it or name another")
    return earlier


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
    names = {departure.name for departure in (PLAIN, *DEPARTURES)}
    entries: dict[str, Mapping[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for entry in run.run(plan, Path(folder) / "shapes", known):
            entries[entry["name"]] = entry
            found = [*entries.values(), *(known[name] for name in known if name not in entries)]
            is_whole = {e["name"] for e in found} == names
            catalogue = code_digest(CATALOGUE) if is_whole else None
            result = {**about, "catalogue": catalogue, "departures": found}
            write_json(json_file, result)
            yield result


@app.command()
def departures(json_file: JsonOption = None) -> None:
    """Train the plain network and each departure of the book's tabs alone, and measure both.

    With --json FILE it goes on where it was stopped. About a quarter of an hour.
    """
    check_places((json_file, JSON), force=True)  # `_earlier` looks at what is there
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
