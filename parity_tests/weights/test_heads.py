"""Files of networks with skips: read, made from others, and refused where there is no place."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.config import Head
from common.network.bilinear import bilinear_weight
from common.network.initial import generic_weights
from common.protocol import Arrays
from common.weights.checkpoint import (
    Weights,
    read_tensors,
    read_weights,
    write_tensors,
    write_weights,
)
from parity_tests.weights.conftest import CLASSES, NAMES, V1, WIDTH

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(head: Head, momentum: bool = False) -> Arrays:
    """A file `w` of generic weights, float32."""
    generic = generic_weights(V1, CLASSES, 0, WIDTH, head)
    arrays = {name: array.astype(np.float32) for name, array in generic.items()}
    v = {"final_conv.bias": arrays["final_conv.bias"]} if momentum else {}
    write_weights(Path("w"), Weights(arrays, V1, NAMES, momentum=v))
    return arrays


def test_from_32s_by_16s_to_8s_and_back(run_command: Command) -> None:
    before = write(Head.fcn32s)
    code, out, err = run_command("convert", "w", "w16", "--head", "fcn16s")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == (
        "fcn32s made fcn16s: kept: final_conv.weight, final_conv.bias, transpose_conv.bias;"
        " new: up_layer4.weight, score_layer3.weight, score_layer3.bias, transpose_conv.weight"
    )
    found = read_weights(Path("w16"))
    assert (found.head, found.class_names) == (Head.fcn16s, NAMES)
    assert read_tensors(Path("w16"))[1]["head"] == "fcn16s"
    for name, array in found.arrays.items():
        if name.startswith("score_"):
            assert not array.any(), name
        elif name.startswith(("up_", "transpose_conv.weight")):
            assert np.array_equal(array, bilinear_weight(CLASSES, array.shape[-1])), name
        else:
            assert np.array_equal(array, before[name]), name
    middle = write(Head.fcn16s)
    code, out, err = run_command("convert", "w", "w8", "--head", "fcn8s")
    assert (code, err) == (0, "")
    found = read_weights(Path("w8"))
    for name in ("up_layer4.weight", "score_layer3.weight", "transpose_conv.bias"):
        assert np.array_equal(found.arrays[name], middle[name]), name
    assert not found.arrays["score_layer2.weight"].any()
    code, out, err = run_command("convert", "w8", "w32", "--head", "fcn32s")
    assert (code, err) == (0, "")
    assert "left out: up_layer4.weight, score_layer3.weight" in out
    assert read_weights(Path("w32")).head == Head.fcn32s


def test_the_same_head_changes_nothing(run_command: Command) -> None:
    before = write(Head.fcn8s)
    code, out, err = run_command("convert", "w", "out", "--head", "fcn8s")
    assert (code, err, len(out.splitlines())) == (0, "", 1)
    after = read_weights(Path("out")).arrays
    assert all(np.array_equal(after[name], array) for name, array in before.items())


def test_momentum_of_another_head_is_left_out(run_command: Command) -> None:
    write(Head.fcn32s, momentum=True)
    code, out, _ = run_command("convert", "w", "out", "--head", "fcn16s")
    assert code == 0
    assert "left out: the checkpoint's momentum, 1 tensors\n" in out


def test_a_backbone_gets_the_head_that_is_asked_for(run_command: Command) -> None:
    arrays = write(Head.fcn32s)
    write_tensors(
        Path("b"), {k.removeprefix("backbone."): a for k, a in arrays.items() if "bone" in k}, {}
    )
    code, out, _ = run_command("convert", "b", "out", "--head", "fcn16s", "--num-classes", 3)
    assert code == 0
    layers = "final_conv, up_layer4, score_layer3 and transpose_conv"
    lacks = "lacks fc.weight, fc.bias, num_batches_tracked, which the FCN does without"
    assert out.splitlines()[:2] == [lacks, f"{layers}: initial values of seed 0, 3 classes"]
    assert read_weights(Path("out")).head == Head.fcn16s


def test_a_head_is_read_by_its_names_and_metadata_must_agree(run_command: Command) -> None:
    arrays = write(Head.fcn8s)
    write_tensors(Path("silent"), arrays, {"architecture": V1, "num_classes": str(CLASSES)})
    assert read_weights(Path("silent")).head == Head.fcn8s
    write_tensors(Path("bad"), arrays, {"architecture": V1, "head": "fcn16s"})
    code, _, err = run_command("convert", "bad", "out")
    told = "error: bad: metadata head is 'fcn16s', its tensors are of fcn8s\n"
    assert (code, err) == (2, told)
    del arrays["score_layer3.bias"]
    write_tensors(Path("part"), arrays, {})
    code, _, err = run_command("convert", "part", "out")
    assert code == 2
    assert err == (
        f"error: part: not resnet18 fcn8s with {CLASSES} classes: score_layer3.bias"
        f" ({CLASSES},) is missing\n"
    )
    assert not Path("out").exists()


@pytest.mark.parametrize("to", ["book", "book-mxnet"])
@pytest.mark.parametrize("head", [Head.fcn16s, Head.fcn8s])
def test_the_book_s_network_has_no_skips(run_command: Command, head: Head, to: str) -> None:
    write(head)
    code, out, err = run_command("convert", "w", "out", "--to", to)
    told = f"error: w: its head is {head}, and --to {to} knows fcn32s alone\n"
    assert (code, out, err) == (2, "", told)
    assert not Path("out").exists()


@pytest.mark.parametrize("to", ["torchvision", "gluon", "gluoncv"])
@pytest.mark.needs("mxnet")
def test_a_backbone_s_format_leaves_the_whole_head_out(run_command: Command, to: str) -> None:
    write(Head.fcn16s)
    code, out, err = run_command("convert", "w", "out", "--to", to)
    assert (code, err) == (0, "")
    assert "left out: final_conv.weight" in out
    assert f"score_layer3.weight ({CLASSES}, {4 * WIDTH}, 1, 1)" in out


@pytest.mark.needs("jax")
def test_flax_has_every_head(run_command: Command) -> None:
    before = write(Head.fcn8s)
    assert run_command("convert", "w", "orbax", "--to", "orbax")[0] == 0
    code, _, err = run_command("convert", "orbax", "back")
    assert (code, err) == (0, "")
    after = read_weights(Path("back")).arrays
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], array) for name, array in before.items())
