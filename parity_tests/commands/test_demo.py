"""The demo: what it leaves behind, and what it may replace."""

from pathlib import Path

import numpy as np
import pytest

from common.config import Config
from common.network.initial import initial_weights
from common.weights.checkpoint import Weights, read_weights, write_weights
from parity_tests.conftest import WIDTH
from scripts.demo import app, clear
from scripts.shared.cli import main


def test_the_trained_weights_stay_once(tmp_path: Path) -> None:
    names = ("background", "circle")
    arrays = initial_weights(Config.architecture, 2, 0, width=WIDTH)
    run = tmp_path / "run-torch"
    run.mkdir()
    kept = [run / "log.jsonl", tmp_path / "losses.png", tmp_path / "torch.json"]
    gone = [run / "best.safetensors", run / "previous.safetensors"]
    gone += [tmp_path / "initial.safetensors", tmp_path / "torch.safetensors"]
    for path in (*kept, *gone):
        path.touch()
    momentum = {"final_conv.bias": np.zeros(2, np.float32)}
    write_weights(
        run / "last.safetensors", Weights(arrays, Config.architecture, names, momentum=momentum)
    )
    clear(tmp_path, ["torch"])
    left = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*kept, tmp_path / "torch.safetensors"}
    found = read_weights(tmp_path / "torch.safetensors")
    assert (found.class_names, found.momentum) == (names, {})
    assert all(np.array_equal(found.arrays[name], array) for name, array in arrays.items())


def test_a_folder_that_is_no_earlier_demo_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shapes").mkdir()
    monkeypatch.setattr("sys.argv", ["scripts.demo", "demo", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_:
        main(app)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: is not empty and no earlier demo\n"
    assert (tmp_path / "shapes").is_dir()
