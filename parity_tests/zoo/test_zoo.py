"""The command that holds public networks against each other, and puts mistakes into them."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parity_tests.zoo.__main__ import NETWORKS, _results, app, run_pair
from parity_tests.zoo.page import page, told
from parity_tests.zoo.pairs import PAIRS

ROW = {"pair": "x", "matched": 3, "unmatched": [], "equal": True, "equal_but_buffers": True}
ROW |= {"first": None, "cause": None, "worst": 2e-15, "worst_gradient": 3e-15}
ROW |= {"least_margin": 4.0, "seconds": 1.0}
RUN = {"network": "x", "mutation": "eps", "layer": "norm", "caught": True, "located": True}
RUN |= {"dead": False, "healed": False, "first": "local/eval/norm:out, made by BatchNorm2d"}


def test_a_page_of_results() -> None:
    parted = ROW | {"equal": False, "equal_but_buffers": False, "first": "a:out, made by B"}
    rows = [
        ROW | {"least_margin": "inf"},
        ROW | {"equal": False, "cause": "decay"},
        parted | {"unmatched": ["a: b"], "cause": "a stride"},
        {"pair": "y", "failed": "ValueError: no"},
    ]
    lines = page(rows, []).splitlines()[-4:]
    assert lines == [
        "| x | 3 | equal | 2.0e-15 | 3.0e-15 | exact |",
        "| x | 3 | equal but for the buffers: decay | 2.0e-15 | 3.0e-15 | 4 |",
        "| x | 3, 1 unmatched | first at `a:out, made by B`: a stride | 2.0e-15 | 3.0e-15 | 4 |",
        "| y |  | failed: ValueError: no |  |  |  |",
    ]


def test_a_page_of_mutations() -> None:
    missed = RUN | {"mutation": "dead", "caught": False, "located": False, "first": None}
    networks = [{"network": "x", "runs": [RUN, missed], "seconds": 1.0}]
    text = page([ROW], networks)
    assert "| x | 2 | 50% | 50% |\n| **all** | 2 | 50% | 50% |\n" in text
    assert "| x | `dead` in `norm` | not caught |" in text
    assert text.endswith("\nThe mutations: `eps`, `dead`.\n")
    assert told(networks[0]) == "x: 2 mutations, 50% caught, 50% located (1.0 s)"


def test_what_is_kept_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def results(kind: str, _: str, names: Sequence[str]) -> Iterator[dict[str, object]]:
        for name in names:
            asked.append(name)
            ran = ROW if kind == "pair" else {"runs": [RUN], "seconds": 1.0}
            yield {kind: name, "failed": "killed"} if len(asked) == 2 else {**ran, kind: name}

    monkeypatch.setattr("parity_tests.zoo.__main__._results", results)
    arguments = ["--out", str(tmp_path / "zoo"), "--json", str(tmp_path / "zoo.json")]
    codes = [CliRunner().invoke(app, [*arguments, "--mutations"]).exit_code for _ in range(2)]
    assert codes == [1, 0]
    names = [*PAIRS]
    assert sorted(asked) == sorted([*names, *NETWORKS, names[1]])
    found = json.loads((tmp_path / "zoo.json").read_text())
    assert [row["pair"] for row in found["pairs"]] == names
    assert [row["network"] for row in found["networks"]] == [*NETWORKS]


def test_a_failure_is_told(tmp_path: Path) -> None:
    """Of one pair, of a process that ends, of an environment that is not there."""
    rows = [*_results("pair", str(tmp_path), ["x"])]
    assert rows == [
        {"pair": "x", "failed": f"{tmp_path} is not there: bash scripts/zoo.sh makes it"}
    ]
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\nexit 7\n")
    python.chmod(0o755)
    rows = [*_results("pair", str(tmp_path), ["x", "y"])]
    assert rows == [{"pair": name, "failed": "its process ended: 7"} for name in "xy"]
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    assert [*_results("pair", str(tmp_path), ["x"])] == [{"pair": "x", "failed": "KeyError: 'x'"}]


@pytest.mark.needs("torch", "mxnet")
def test_a_pair() -> None:
    row = run_pair("SqueezeNet 1.1, torchvision and Gluon")
    assert (row["matched"], row["unmatched"]) == (52, [])
    assert row["equal"]
    assert row["worst"] < 1e-13
    assert row["least_margin"] > 2


@pytest.mark.full
@pytest.mark.needs("torch")
@pytest.mark.parametrize("name", ["ViT", "DenseNet"])
def test_mistakes_in_a_network(name: str) -> None:
    from parity_tests.zoo.mutations import run_network

    runs = run_network(name)
    assert [r["mutation"] for r in runs if r["dead"] or not (r["caught"] and r["located"])] == []


@pytest.mark.needs("torch")
def test_networks_and_their_environments() -> None:
    from parity_tests.zoo import mutations

    assert mutations.NETWORKS.keys() == NETWORKS.keys()
