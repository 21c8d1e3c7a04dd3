"""Names are text: of classes and files, in tables, pictures and JSON, whatever the terminal."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.font_manager import fontManager
from PIL import Image

from common.config import VOID
from common.data.drawing import legend, overlay
from common.data.shapes import write_shapes
from common.fonts import charmap, font_with, usual_font
from common.network.initial import initial_weights
from common.text import shorten, visible
from common.weights.checkpoint import Weights, write_weights
from parity_tests.conftest import V1, WIDTH
from scripts.shared.cli import console, report
from scripts.shared.plots import plot_classes, plot_confusion

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]

ODD = ("[b]", "box [/b]", r"$\frac$", "n" * 300, "自転車 🚲", ":car: ä")
"""Markup, LaTeX, a long one, letters that a font may lack, the name of an emoji."""
SMALL = ("--steps", 1, "--batch-size", 2, "--crop", 32, 64, "--workers", 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "set [/b]"
    write_shapes(folder, 12, 1, seed=0)  # so many hold each class
    (folder / "class_names.txt").write_text("\n".join(ODD), encoding="utf-8")
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "W [red].safetensors"
    write_weights(path, Weights(initial_weights(V1, len(ODD), 0, width=WIDTH), V1, ODD))
    return path


def typed(
    name: str, *arguments: object, encoding: str = "utf-8", stdout: Any = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own, whose terminal has an encoding."""
    return subprocess.run(
        [sys.executable, "-m", f"scripts.{name}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )


def test_a_run_keeps_its_result_whatever_its_classes_are_called(
    data: Path, weights: Path, tmp_path: Path, run_command: Command
) -> None:
    run, result = tmp_path / "run [red]", tmp_path / "[b].json"
    options = ("--data", data, "--out", run, "--weights", weights, "--json", result)
    code, out, err = run_command("train", "--backend", "torch", *options, *SMALL)
    assert (code, err) == (0, "")
    metrics = json.loads(result.read_text())["metrics"]
    assert [row["name"] for row in metrics["per_class"]] == list(ODD)
    for name in (*ODD[:3], *ODD[4:]):
        assert f"\n {name} " in out
    assert out.count("n" * 20) > 1  # the long one goes on in the next line
    assert f"\n{run}: 1 steps" in out
    code, out, _ = run_command("curves", run)
    assert code == 0
    assert "run[red]" in "".join(out.split())
    for name in ("classes", "confusion", "predictions"):
        with Image.open(run / f"{name}.png") as picture:
            assert max(picture.size) < 1500


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=pytest.mark.full)])
def test_a_terminal_without_the_letters_costs_nothing(
    encoding: str, data: Path, weights: Path, tmp_path: Path
) -> None:
    result = tmp_path / "r.json"
    checked = typed("data", "check", data, "--json", result, encoding=encoding)
    assert (checked.returncode, checked.stderr) == (0, b"")
    assert rb"\u81ea\u8ee2\u8eca" in checked.stdout
    assert list(json.loads(result.read_text())["pixels"])[:-1] == list(ODD)
    image = tmp_path / os.fsdecode("ä自".encode() + b"\xff.png")  # a name that is no UTF-8
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(image)
    files = ("--weights", weights, "--out", tmp_path / "out", "--json", result, image)
    predicted = typed("predict", "--backend", "torch", *files, encoding=encoding)
    assert (predicted.returncode, predicted.stderr) == (0, b"")
    assert json.loads(result.read_text())[0]["image"] == str(image)
    missing = typed("predict", *(*files[:-1], f"{image}.jpg"), "--backend", "torch")
    assert missing.returncode == 2
    assert b"Traceback" not in missing.stderr


def test_a_reader_that_leaves_costs_no_result(data: Path, weights: Path, tmp_path: Path) -> None:
    """As `| head -1` does, before anything was said."""
    end, start = os.pipe()
    os.close(end)
    run, result = tmp_path / "run", tmp_path / "r.json"
    options = ("--data", data, "--out", run, "--weights", weights, "--json", result)
    ended = typed("train", "--backend", "torch", *options, *SMALL, stdout=start)
    os.close(start)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (run / "predictions.png").exists()
    assert json.loads(result.read_text())["metrics"]["images"] == 1


def test_nothing_that_a_name_holds_is_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """No colour, no title, no reversed line, no markup, no emoji; escapes tell what is there."""
    console.print("\x1b[31m\x1b]0;x\x07[bold]a\u202e[/x]:car:\r\ud800")
    report("\x1b[31m")
    out, err = capsys.readouterr()
    assert out == "\\x1b[31m\\x1b]0;x\\x07[bold]a\\u202e[/x]:car:\\r\\ud800\n"
    assert err == "error: \\x1b[31m\n"


def test_a_long_name_is_cut() -> None:
    assert shorten("n" * 9, 9) == "n" * 9
    assert shorten("n" * 10, 9) == "n" * 8 + "…"
    assert visible("ä自 🚲") == "ä自 🚲"


def test_a_font_that_has_the_letters_is_found() -> None:
    usual = usual_font()
    other = next(font.fname for font in fontManager.ttflist if font.name == "STIXGeneral")
    assert font_with(frozenset("собака")) == usual
    letter = chr(max(charmap(other).keys() - charmap(usual).keys()))
    found = font_with(frozenset(["a", letter]))
    assert found != usual
    assert ord(letter) in charmap(found)


def test_a_legend_shows_each_letter_or_numbers_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(name: str) -> bytes:
        return legend([1], ["", name], 160).tobytes()

    monkeypatch.setattr("common.data.drawing.font_with", lambda letters: usual_font())
    assert drawn("dog…") != drawn("dog□")
    assert drawn("собака") != drawn("□" * 6)
    assert drawn("a自転") == drawn("1: a□□")


def test_pictures_take_every_name(tmp_path: Path) -> None:
    names = (*ODD, "\ud800\n\x1b", "")
    rows = [{"name": name, "iou": 0.5, "accuracy": None} for name in names]
    plot_classes(tmp_path / "classes.png", rows, 0.5)
    plot_confusion(tmp_path / "confusion.png", np.eye(len(names), dtype=int).tolist(), names)
    for name in ("classes", "confusion"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert max(picture.size) < 1500
    mask = np.array([[*range(len(names)), VOID]], np.uint8)
    picture = overlay(np.zeros((*mask.shape, 3), np.uint8), mask, names)
    assert picture.width == 160
