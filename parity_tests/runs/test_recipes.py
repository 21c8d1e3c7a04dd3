"""Recipes: settings as data, overridden by what is typed, kept by the run."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.config import SETTINGS, Config, Decay, Dtype, float32
from common.data.shapes import write_shapes
from common.network.tensors import decayed_tensors, tensors
from common.parity.compare import relative_l2
from common.runs.recipes import RECIPES, description, read_recipe, write_recipe
from parity_tests.conftest import NUM_CLASSES, V1, WIDTH, batches, new_probe, new_trainer, weights

Command = Callable[..., tuple[int, str, str]]


def shown(run_command: Command, *options: object) -> dict[str, object]:
    code, out, err = run_command("train", *options, "--show-config")
    assert (code, err) == (0, "")
    return tomllib.loads(out)


def test_without_a_recipe_the_settings_are_the_config_s(run_command: Command) -> None:
    found, config = shown(run_command), Config().to_dict()
    assert len(SETTINGS) == 28
    assert set(found) == set(SETTINGS) - {"steps"}
    for key, value in found.items():
        assert value == (list(config[key]) if isinstance(config[key], tuple) else config[key])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_its_file_says_and_what_is_typed_overrides_it(
    name: str, run_command: Command
) -> None:
    found = shown(run_command, "--recipe", name)
    values = read_recipe(RECIPES[name], SETTINGS)
    assert {key: found[key] for key in values} == values
    others = set(SETTINGS) - set(values) - {"steps"}
    assert {key: found[key] for key in others} == {
        key: value for key, value in shown(run_command).items() if key in others
    }
    changed = shown(run_command, "--lr", 0.125, "--recipe", name, "--crop", 32, 96, "--steps", 7)
    assert changed == found | {"learning_rate": 0.125, "crop": [32, 96], "steps": 7}


def test_what_is_shown_is_a_recipe(tmp_path: Path, run_command: Command) -> None:
    found = shown(run_command, "--recipe", "modern", "--seed", 5)
    path = tmp_path / "mine.toml"
    path.write_text(write_recipe(found))
    assert shown(run_command, "--recipe", path) == found


def test_the_help_tells_each_recipe(run_command: Command) -> None:
    code, out, _ = run_command("train", "--help")
    assert code == 0
    told = dict(line.split(maxsplit=1) for line in out.splitlines()[-len(RECIPES) :])
    assert told.keys() == RECIPES.keys()
    for name, path in RECIPES.items():
        assert len(told[name]) > 30
        assert " ".join(description(path).split()).startswith(told[name])


def test_a_run_keeps_its_recipe(tmp_path: Path, run_command: Command) -> None:
    write_shapes(tmp_path / "set", 4, 1, seed=0)
    run = tmp_path / "run"
    size = ("--batch-size", 2, "--crop", 32, 64, "--steps", 1, "--workers", 0)
    data = ("--data", tmp_path / "set", "--out", run, "--backend", "torch")
    assert run_command("train", "--recipe", "book-mxnet", *size, *data)[0] == 0
    config = json.loads((run / "config.json").read_text())
    assert (config["recipe"], config["architecture"]) == ("book-mxnet", "resnet18_v2")
    assert (config["learning_rate"], config["momentum"], config["void"]) == (0.1, 0, "background")
    assert (config["batch_size"], config["steps"]) == (2, 1)


def test_book_torch_s_step_is_the_book_s() -> None:
    """The book's own loss, sum, rate and decay, differentiated by PyTorch, against ours."""
    import torch
    from torch.nn import functional

    from backends.torch import to_numpy
    from backends.torch.weights import trained_tensors

    book_rate, book_decay, n = 0.001, 1e-3, 2
    recipe = read_recipe(RECIPES["book-torch"], SETTINGS)
    assert recipe["learning_rate"] == pytest.approx(32 * book_rate, rel=1e-15)
    assert recipe["weight_decay"] == pytest.approx(book_decay / 32, rel=1e-15)
    image, label = batches().image[0].astype(np.float64), batches().label[0].copy()
    label[label == 255] = 0  # void as background, as in the book
    settings = {"dtype": Dtype.float64, "momentum": 0.0}
    book = new_trainer("torch", **settings)
    model = book.model  # type: ignore[attr-defined]
    model.train()
    logits = model(torch.tensor(image))
    truth = torch.tensor(label).long()
    losses = functional.cross_entropy(logits, truth, reduction="none").mean(1).mean(1)
    losses.sum().backward()
    ours = new_trainer("torch", weight_decay=book_decay / n, **settings)
    ours.step(image, label, n * book_rate)
    after = ours.weights()
    for name, parameter in trained_tensors(model).items():
        w = weights()[name]
        expected = -book_rate * (to_numpy(parameter.grad) + book_decay * w)
        assert relative_l2(after[name] - w, expected) < 1e-7, name  # float32(decay)


def test_decay_on_kernels_alone(backend: str) -> None:
    image, label = batches().image[0], batches().label[0]
    rate = float32(0.01)
    decay = float32(0.125)
    probe = new_probe(
        backend, dtype=Dtype.float64, weight_decay=decay, decay=Decay.kernels, momentum=0.9
    )
    _, _, gradients = probe.traced_step(image, label, rate)
    after = probe.trainer.weights()
    specs = tensors(V1, NUM_CLASSES, WIDTH)
    for name, gradient in gradients.items():
        w = weights()[name]
        pull = decay * w if specs[name].role == "weight" else 0.0
        assert relative_l2(after[name] - w, -rate * (gradient + pull)) < 1e-11, name


def test_which_tensors_decay() -> None:
    every = decayed_tensors(Config())
    kernels = decayed_tensors(Config(decay=Decay.kernels))
    assert (len(every), len(kernels)) == (64, 22)
    assert {"transpose_conv.weight", "final_conv.weight", "backbone.conv1.weight"} < kernels
    assert not any(name.endswith("bias") or ".bn" in name for name in kernels)
