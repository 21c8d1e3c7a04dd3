"""The command that holds public networks against each other."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parity_tests.zoo.__main__ import app, page, run_pair
from parity_tests.zoo.pairs import PAIRS

ROW = {"pair": "x", "matched": 3, "unmatched": [], "equal": True, "equal_but_buffers": True}
ROW |= {"first": None, "cause": None, "worst": 2e-15, "worst_gradient": 3e-15}
ROW |= {"least_margin": 4.0, "seconds": 1.0}


def test_a_page_of_results() -> None:
    parted = ROW | {"equal": False, "equal_but_buffers": False, "first": "a:out, made by B"}
    rows = [
        ROW,
        ROW | {"equal": False, "cause": "decay"},
        parted | {"unmatched": ["a: b"], "cause": "a stride"},
        {"pair": "y", "failed": "ValueError: no"},
    ]
    lines = page(rows).splitlines()[-4:]
    assert lines == [
        "| x | 3 | equal | 2.0e-15 | 3.0e-15 | 4 |",
        "| x | 3 | equal but for the buffers: decay | 2.0e-15 | 3.0e-15 | 4 |",
        "| x | 3, 1 unmatched | first at `a:out, made by B`: a stride | 2.0e-15 | 3.0e-15 | 4 |",
        "| y | | failed: ValueError: no | | | |",
    ]


def test_what_is_kept_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def result(name: str) -> dict[str, object]:
        asked.append(name)
        return ROW | {"pair": name} if len(asked) != 2 else {"pair": name, "failed": "killed"}

    monkeypatch.setattr("parity_tests.zoo.__main__._in_a_process", result)
    arguments = ["--out", str(tmp_path / "zoo"), "--json", str(tmp_path / "zoo.json")]
    for _ in range(2):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    names = [*PAIRS]
    assert asked == [*names, names[1]]
    told = json.loads((tmp_path / "zoo.json").read_text())["pairs"]
    assert [row["pair"] for row in told] == names
    assert not any("failed" in row for row in told)


@pytest.mark.full
@pytest.mark.needs("torch", "mxnet")
@pytest.mark.parametrize("name", ["ResNet18 v1, torchvision and Gluon"])
def test_a_pair(name: str) -> None:
    row = run_pair(name)
    assert (row["matched"], row["unmatched"]) == (102, [])
    assert row["equal_but_buffers"]
    assert not row["equal"]
    assert "biased variance" in row["cause"]
    assert row["worst"] < 1e-13
    assert row["least_margin"] > 2
