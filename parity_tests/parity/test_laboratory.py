"""`parity`: one command from nothing to a verdict; and what it says where something is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backends import BACKENDS
from common.config import VOID, Architecture, Dtype, Head
from common.network.tensors import layer_names, layer_sources, tensors
from common.parity.compare import relative_l2
from common.parity.judge import Files, judge, layer_run, whole_run
from common.parity.tolerances import STAGES, TOLERANCES
from common.weights.checkpoint import read_tensors, write_tensors
from parity_tests.conftest import NUM_CLASSES, V1, V2, WIDTH, batches, new_probe, trace
from scripts.parity.worker import layer_inputs, loss_gradient

Command = Callable[..., tuple[int, str, str]]
LAYERS = layer_sources("resnet18", Head.fcn8s)
SPECS = tensors("resnet18", NUM_CLASSES, WIDTH, Head.fcn8s)
BY = "layer3.0/by layer2.1"
STEPS = 3
THREE = ["torch", "mxnet", pytest.param("jax", marks=pytest.mark.full)]
"""JAX, which compiles each layer, in the full suite alone."""


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command computes with the thin network."""
    monkeypatch.setattr("scripts.parity.__main__.NETWORK", (NUM_CLASSES, WIDTH))


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize(
    "others, architecture, head",
    [
        (("torch", "mxnet"), V1, Head.fcn32s),
        pytest.param(("torch", "jax"), V1, Head.fcn8s, marks=pytest.mark.full),
        pytest.param(("torch", "mxnet"), V2, Head.fcn16s, marks=pytest.mark.full),
    ],
)
def test_float64(
    others: tuple[str, ...],
    architecture: Architecture,
    head: Head,
    tmp_path: Path,
    run_command: Command,
) -> None:
    _float64(others, architecture, head, tmp_path, run_command)


@pytest.mark.full
@pytest.mark.needs("mxnet")
def test_float64_of_the_whole_network(tmp_path: Path, run_command: Command) -> None:
    _float64(BACKENDS, V1, Head.fcn32s, tmp_path, run_command)


def _float64(
    others: tuple[str, ...],
    architecture: Architecture,
    head: Head,
    tmp_path: Path,
    run_command: Command,
) -> None:
    keep, result = tmp_path / "kept", tmp_path / "r.json"
    arguments = ("--backends", *others, "--steps", STEPS, "--keep", keep, "--json", result)
    network = ("--architecture", architecture, "--head", head)
    code, out, err = run_command("parity", *arguments, *network)
    assert (code, err) == (0, "")
    assert "PASSED" in out
    found = json.loads(result.read_text())
    assert found["passed"] is True
    assert set(found["versions"]) == set(found["backends"]) == set(others)
    for name in others:
        assert found["versions"][name][name]
        assert set(found["backends"][name]) == set(STAGES)
        for stage, worst in found["backends"][name].items():
            assert worst["gate"] == TOLERANCES[stage]
            assert 0 < worst["error"] < worst["gate"], (name, stage)
            assert worst["tensor"] in {row["name"] for row in found["comparison"]["tensors"]}
    assert list(dict.fromkeys(r["layer"] for r in found["layers"])) == [
        *layer_names(architecture, head)
    ]
    assert all(row["held"] and row["error"] < 1e-13 for row in found["layers"])
    assert set(found["growth"]["float64"]) == {*others[1:], "torch, two threads"}
    assert all(len(errors) == STEPS for errors in found["growth"]["float64"].values())
    _is_noticed(Files(keep, others, architecture, head, "float64", STEPS))


def _is_noticed(files: Files) -> None:
    """What is wrong in a file that a run left is named by its place."""
    other = files.backends[1]
    assert judge(files, 0).passed
    path = files.folder / layer_run(other, "float64") / "layers.safetensors"
    arrays, metadata = read_tensors(path)
    write_tensors(path, arrays | {BY: 1.001 * arrays[BY]}, metadata)
    result = judge(files, 0)
    assert not result.passed
    assert f"layer3.0 alone in {other}, backward" in result.verdict()
    path = files.folder / whole_run(other, "float64") / "trace.safetensors"
    arrays, metadata = read_tensors(path)
    write_tensors(path, arrays | {"loss": arrays["loss"] * [1, 1, 1 + 1e-6]}, metadata)
    assert f"{other} parts from torch first at loss[2]" in judge(files, 0).verdict()


@pytest.mark.full
@pytest.mark.usefixtures("thin")
def test_float32_is_judged_by_the_float64_truth(tmp_path: Path, run_command: Command) -> None:
    result = tmp_path / "r.json"
    arguments = ("--backends", "torch", "--dtype", "float32", "--steps", 2, "--json", result)
    code, _, err = run_command("parity", *arguments)
    assert (code, err) == (0, "")
    found = json.loads(result.read_text())
    assert set(found["backends"]) == {"torch", "onnxruntime"}
    assert found["comparison"]["reference"]["label"] == "torch float64"
    assert set(found["growth"]["float32"]) == {"torch", "torch, two threads"}
    for row in found["gradients"]:
        assert row["held"]
        assert (row["gated"] == row["of"] == 64) == (row["flips"] == 0)
    assert len({row["batch"] for row in found["gradients"]}) == 6
    assert any(row["flips"] == 0 for row in found["gradients"])
    assert 0 < found["noise"]["torch"]["gradient"] < 1e-4
    assert all(
        1e-9 < row["error"] < 1e-5 for row in found["layers"] if row["direction"] == "forward"
    )


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("--backends", "torch"), "--backends torch: alone"),
        (("--json", "no/such/folder.json"), "no such folder: no/such"),
        (("--backends", "torch", "caffe"), "caffe"),
        (("--steps", 0), "--steps"),
        (("--hard", "--steps", 3), "--hard: takes --backends, --keep and --json"),
        (("--hard", "--html", "page.html"), "--hard: takes --backends, --keep and --json"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: tuple[object, ...], text: str, run_command: Command
) -> None:
    code, _, err = run_command("parity", *arguments)
    assert code == 2
    assert text in err
    assert err.count("\n") == 1


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, run_command: Command) -> None:
    (tmp_path / "mine").touch()
    code, _, err = run_command("parity", "--dtype", "float32", "--keep", tmp_path)
    assert code == 2
    assert "exists and is not an empty folder" in err


def test_a_run_that_fails_is_one_line(
    tmp_path: Path, run_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.parity.__main__.SETTINGS", {"no_such_setting": 1.0})
    code, _, err = run_command("parity", "--backends", "torch", "--dtype", "float32", "--steps", 1)
    assert code == 1
    assert err.startswith("error: torch float64")
    assert "no_such_setting" in err
    assert err.count("\n") == 1


def test_the_loss_s_gradient_against_differences() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(2, 3, 2, 2))
    labels = random.integers(0, 3, (2, 2, 2)).astype(np.uint8)
    labels[0, 0] = VOID

    def loss(x: np.ndarray) -> float:
        log_p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
        true = [log_p[n, labels[n, i, j], i, j] for n, i, j in np.argwhere(labels != VOID)]
        return -float(np.sum(true)) / len(true)

    found = loss_gradient(logits, labels)
    for index in [(0, 0, 0, 0), (0, 1, 1, 0), (1, 2, 1, 1)]:
        step = np.zeros_like(logits)
        step[index] = 1e-6
        expected = (loss(logits + step) - loss(logits - step)) / 2e-6
        assert found[index] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("backend", THREE)
def test_layers_one_after_another_are_the_whole_network(backend: str) -> None:
    """A layer alone puts out what it does in the network, and so do its gradients."""
    probe = new_probe(backend, dtype=Dtype.float64, head=Head.fcn8s)
    whole = trace(backend, Dtype.float64, head=Head.fcn8s)
    images, labels = batches().image[0], batches().label[0]
    inputs = layer_inputs(probe, LAYERS, images, labels)
    sources = {f"{name}/x {source}" for name, made_of in LAYERS.items() for source in made_of}
    assert set(inputs) == sources | {f"{name}/gradient" for name in LAYERS}
    for name in ("stem", "layer2.0", "layer3.1", "final_conv", "fuse16", "fuse8", "logits"):
        x, gradient = [inputs[f"{name}/x {k}"] for k in LAYERS[name]], inputs[f"{name}/gradient"]
        output, _, by_weight = probe.layer(name, x, gradient)
        assert output.dtype == np.float64
        # its input and its gradient were rounded to float32
        assert relative_l2(output, whole[f"train/{name}"]) < 1e-6
        assert set(by_weight) == {k for k, s in SPECS.items() if s.trainable and s.layer == name}
        for weight, array in by_weight.items():
            assert relative_l2(array, whole[f"grad/{weight}"]) < 1e-5, weight


def test_a_layer_alone_changes_no_weight(backend: str) -> None:
    probe = new_probe(backend)
    before = probe.trainer.weights()
    x = np.ones((2, WIDTH, 8, 8), np.float32) * np.arange(8)
    probe.layer("layer1.0", [x], x)
    after = probe.trainer.weights()
    assert all(np.array_equal(after[k], a) for k, a in before.items() if SPECS[k].trainable)
