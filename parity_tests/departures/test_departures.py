"""The departures: their catalogue, the command, and that each changes what is measured."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from common.config import Config
from common.errors import InputError
from parity_tests.departures import __main__ as command
from parity_tests.departures import run
from parity_tests.departures.catalogue import DEPARTURES, PLAIN, TABS, Departure
from parity_tests.departures.run import Plan
from parity_tests.mutations.apply import patched_trees

NAMES = [departure.name for departure in (PLAIN, *DEPARTURES)]


def _sources(departure: Departure) -> dict[str, str]:
    trees = patched_trees("torch", departure.change())
    return {name: ast.dump(tree) for name, tree in trees.items()}


def test_each_departure_is_a_tab_s_and_changes_one_thing() -> None:
    assert len(set(NAMES)) == len(NAMES)
    plain = _sources(PLAIN)
    for departure in DEPARTURES:
        assert departure.tabs and set(departure.tabs) <= set(TABS), departure.name
        changed = run.CONFIG.replace(**dict(departure.settings)) != run.CONFIG
        assert changed == bool(departure.settings), departure.name
        assert changed or _sources(departure) != plain, departure.name
    assert {tab for departure in DEPARTURES for tab in departure.tabs} == set(TABS)
    assert len({run.digest(departure) for departure in (PLAIN, *DEPARTURES)}) == len(NAMES)


def test_the_page_has_the_results() -> None:
    result = json.loads((run.ROOT / "scripts/lessons/results/departures.json").read_text())
    page = (run.ROOT / "docs/lessons/book.md").read_text()
    assert [entry["name"] for entry in result["departures"]] == NAMES
    assert "\n".join(["```departures", *command.table(result), "```"]) in page


@pytest.mark.full
def test_each_departure_changes_what_is_measured(tmp_path: Path) -> None:
    config = Config(steps=2, crop=(64, 96), workers=0, width=8)
    plan = Plan(seeds=(0,), early=2, train=8, val=2, config=config)
    plain, *others = run.run(plan, tmp_path / "shapes", {})
    assert [plain["name"], *(entry["name"] for entry in others)] == NAMES
    assert plain["loss"][0] is not None
    assert [e["name"] for e in others if e["loss"] == plain["loss"]] == []


def _fakes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts no training and no data in their places; the names of what is asked for."""
    asked: list[str] = []

    def measure(departure: Departure, *_: object) -> dict[str, float | None]:
        asked.append(departure.name)
        return {"loss": None if departure is PLAIN else 0.5, "mean_iou": 0.25}

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # which the command sets, too
    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(run, "write_shapes", lambda *_, **__: None)
    return asked


def test_what_a_result_already_has_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, file = _fakes(monkeypatch), tmp_path / "departures.json"
    command.departures(json_file=file)
    assert asked == [name for name in NAMES for _ in Plan().seeds]
    result = json.loads(file.read_text())
    assert [entry["name"] for entry in result["departures"]] == NAMES
    lines = capsys.readouterr().out.splitlines()[-len(NAMES) - 1 :]
    assert lines == command.table(result)
    assert lines[1].split()[-4:] == ["diverged", "diverged", "0.250", "0.250"]

    def again(change: dict[str, Any]) -> list[str]:
        file.write_text(json.dumps(result | change))
        asked.clear()
        command.departures(json_file=file)
        return sorted(set(asked), key=NAMES.index)

    assert again({}) == []
    first, second, *rest = result["departures"]
    assert again({"departures": [first, *rest]}) == NAMES[1:2]
    assert again({"departures": [first, second | {"digest": ""}, *rest]}) == NAMES[1:2]
    with pytest.raises(InputError, match="of other code, versions or plan"):
        again({"threads": 99})
    assert json.loads(file.read_text())["threads"] == 99  # nothing is lost
    for text in ("[]", "", "[" * 10000, json.dumps(result | {"departures": [{"name": "plain"}]})):
        file.write_text(text)
        with pytest.raises(InputError, match="not a result of this command"):
            command.departures(json_file=file)
