"""`train` of a network that is trained already: another head, frozen parts, the head's own rate."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.config import Head
from common.data.shapes import SHAPES_CLASSES, write_shapes
from common.network.initial import generic_weights
from common.weights.checkpoint import Weights, read_weights, write_weights
from parity_tests.conftest import V1, WIDTH

Command = Callable[..., tuple[int, str, str]]
SMALL = ("--crop", 64, 64, "--batch-size", 2, "--steps", 2, "--workers", 0, "--lr", 1e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, 4, 2, seed=0)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has a head, and biases that are not 0."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    generic = generic_weights(V1, len(SHAPES_CLASSES), 0, WIDTH)
    arrays = {name: array.astype(np.float32) for name, array in generic.items()}
    write_weights(path, Weights(arrays, V1, SHAPES_CLASSES))
    return path


def test_a_head_grows_out_of_another(
    data: Path, trained: Path, tmp_path: Path, run_command: Command
) -> None:
    """What becomes of each part is said, and the mean IoU before the first step."""
    run, options = tmp_path / "run", ("--weights", trained, "--head", "fcn16s", *SMALL)
    code, out, err = run_command(
        "train", "--backend", "torch", "--data", data, "--out", run, *options
    )
    assert code == 0
    assert f"note: {trained}: fcn32s made fcn16s: kept: final_conv.weight, final_conv.bias" in err
    lines = [json.loads(line) for line in (run / "val.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2]
    assert f"val: mean IoU {lines[0]['mean_iou']:.4f} before the first step" in out
    assert json.loads((run / "config.json").read_text())["head"] == "fcn16s"
    last = read_weights(run / "last.safetensors")
    assert (last.head, len(last.momentum)) == (Head.fcn16s, 67)
    assert last.arrays["score_layer3.weight"].any()
    # the head that is not asked for is the file's
    again = tmp_path / "again"
    options = ("--weights", run / "last.safetensors", *SMALL)
    code, _, err = run_command(
        "train", "--backend", "torch", "--data", data, "--out", again, *options
    )
    assert (code, err) == (0, "")
    assert read_weights(again / "last.safetensors").head == Head.fcn16s


@pytest.mark.parametrize("freeze", ["backbone", pytest.param("batch_norm", marks=pytest.mark.full)])
def test_what_is_frozen_keeps_its_bits_also_after_a_stop(
    data: Path, trained: Path, tmp_path: Path, run_command: Command, backend: str, freeze: str
) -> None:
    before = read_weights(trained).arrays
    frozen = {
        name
        for name in before
        if name.startswith("backbone.") and (freeze == "backbone" or ".bn" in name)
    }
    frozen |= {name for name in before if "downsample.1" in name}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ("--weights", trained, "--freeze", freeze, "--head-rate", 3, *SMALL)
    start = ("train", "--backend", backend, "--data", data)
    assert run_command(*start, "--out", whole, *options)[0] == 0
    assert run_command(*start, "--out", parts, *options, "--stop-after", 1)[0] == 0
    assert run_command("train", "--resume", parts)[0] == 0
    one, other = (read_weights(run / "last.safetensors") for run in (whole, parts))
    assert one.momentum.keys() == {k for k in before if k not in frozen and "running" not in k}
    for name, array in one.arrays.items():
        assert np.array_equal(array, before[name]) == (name in frozen), name
        assert np.array_equal(array, other.arrays[name]), name
    code, _, err = run_command("train", "--resume", parts, "--freeze", "none")
    assert code == 2
    assert f"--freeze none, but the run has {freeze}" in err
