"""All three compute the same thing: every value of a run, against PyTorch in float64."""

from typing import Any

import numpy as np
import pytest

from backends import BACKENDS
from common.config import Architecture, Config, Dtype, Freeze, Head, float32
from common.errors import InputError
from common.network.tensors import config_tensors, frozen_tensors, layer_names
from common.parity.compare import relative_l2
from common.parity.order import stage_of
from common.parity.tolerances import TOLERANCES
from parity_tests.conftest import (
    RATES,
    STEPS,
    V2,
    WHOLE,
    new_config,
    new_trainer,
    trace,
    weights,
)

OTHERS = [name for name in BACKENDS if name != "torch"]

FLOAT32_TOLERANCES = {"forward": 1e-5, "gradient": 3e-5, "buffer": 1.5e-6}
"""Relative L2 against the float64 reference: about twice the measured floor. The worst tensor of
these batches, where no ReLU or max-pool decision flips, was at 5.7e-6 (PyTorch), 3.7e-6 (MXNet) and
4.0e-6 (JAX) forward, 1.2e-5, 7.3e-6 and 8.3e-6 for gradients, 6.0e-7, 3.7e-7 and 4.0e-7 for
buffers."""


FROZEN = {"head": Head.fcn8s, "head_rate": 3.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "v1": {},
    "v2": {"architecture": V2},
    "resnet34": {"architecture": Architecture.resnet34},
    "16s": {"head": Head.fcn16s},
    "v2-8s": {"architecture": V2, "head": Head.fcn8s, "head_rate": 0.1},
    "8s-frozen-norms": {"freeze": Freeze.batch_norm, **FROZEN},
    "8s-frozen-backbone": {"freeze": Freeze.backbone, **FROZEN},
    "v2-frozen-norms": {"architecture": V2, "freeze": Freeze.batch_norm},
    "parts": {"accumulate": 2},
    "whole": {"width": WHOLE},
}
"""The networks that are held to the tolerances, and what is trained of them, by name."""

QUICK = ("v1", "v2", "8s-frozen-norms")
"""Those of the quick suite."""

NETWORKS = pytest.mark.parametrize(
    "network",
    [pytest.param(k, marks=[] if k in QUICK else [pytest.mark.full]) for k in SETTINGS],
)


def _values(config: Config) -> dict[str, list[str]]:
    """What each group of a trace holds."""
    layers = [*layer_names(config.architecture, config.head)]
    specs, frozen = config_tensors(config), frozen_tensors(config)
    trained = [n for n, spec in specs.items() if spec.trainable and n not in frozen]
    buffers = [name for name, spec in specs.items() if not spec.trainable]
    values = {"eval": [*layers, "mask"], "train": layers, "buffer": buffers, "final": [*specs]}
    return values | dict.fromkeys(("grad", "update", "momentum"), trained)


@NETWORKS
def test_trace_names_every_value(backend: str, network: str) -> None:
    found = trace(backend, Dtype.float64, **SETTINGS[network])
    values = _values(new_config(**SETTINGS[network]))
    expected = [f"{prefix}/{name}" for prefix, names in values.items() for name in names]
    assert sorted(found) == sorted(["loss", *expected])


@NETWORKS
@pytest.mark.parametrize("prefix", ["eval", "train", "loss", "grad", "update", "buffer"])
@pytest.mark.parametrize("name", OTHERS)
def test_float64_first_step(name: str, prefix: str, network: str) -> None:
    _hold(name, prefix, network)


@NETWORKS
@pytest.mark.parametrize("prefix", ["final", "momentum"])
@pytest.mark.parametrize("name", OTHERS)
def test_float64_after_many_steps_and_a_falling_rate(name: str, prefix: str, network: str) -> None:
    _hold(name, prefix, network)


def _hold(name: str, prefix: str, network: str) -> None:
    mine, truth = (trace(n, Dtype.float64, **SETTINGS[network]) for n in (name, "torch"))
    errors = {
        key: relative_l2(mine[key], truth[key])
        for key in truth
        if key.split("/")[0] == prefix and key != "eval/mask"
    }
    assert errors
    above = {k: f"{e:.1e}" for k, e in errors.items() if not e <= TOLERANCES[stage_of(k)]}
    assert not above, f"{name} parts from torch: {above}"


@NETWORKS
@pytest.mark.parametrize("name", OTHERS)
def test_float64_masks_are_equal(name: str, network: str) -> None:
    traces = (trace(n, Dtype.float64, **SETTINGS[network]) for n in (name, "torch"))
    mine, truth = (found["eval/mask"] for found in traces)
    assert mine.dtype == np.uint8
    assert np.array_equal(mine, truth)


def test_what_is_frozen_stays_and_the_head_has_its_own_rate(backend: str) -> None:
    """By the definition: v = grad + decay * w in the first step, w = w - rate * v."""
    decay = new_config().weight_decay
    for name in ("8s-frozen-norms", "8s-frozen-backbone"):
        config = new_config(**SETTINGS[name])
        start, found = weights(head=Head.fcn8s), trace(backend, Dtype.float64, **SETTINGS[name])
        frozen = frozen_tensors(config)
        assert len(frozen) == {Freeze.batch_norm: 40, Freeze.backbone: 60}[config.freeze]
        for key, spec in config_tensors(config).items():
            if key in frozen or not spec.trainable:
                assert np.array_equal(found[f"final/{key}"], start[key]), key
                continue
            rate = RATES[0] if key.startswith("backbone.") else float32(3.0 * RATES[0])
            expected = -rate * (found[f"grad/{key}"] + decay * start[key])
            # an update is a difference of weights, rounded to their size
            eps = 2.0**-52 * np.linalg.norm(start[key]) / np.linalg.norm(expected)
            assert relative_l2(found[f"update/{key}"], expected) <= 1e-12 + eps, key


def test_frozen_norms_normalise_by_their_buffers_in_training(backend: str) -> None:
    found = trace(backend, Dtype.float64, **SETTINGS["8s-frozen-norms"])
    for name in layer_names("resnet18", Head.fcn8s):
        assert relative_l2(found[f"train/{name}"], found[f"eval/{name}"]) <= 1e-13, name


def test_a_batch_of_one_pixel_is_one_for_frozen_norms(backend: str) -> None:
    image, label = np.zeros((1, 3, 32, 32)), np.zeros((1, 32, 32), np.uint8)
    with pytest.raises(InputError, match="one value"):
        new_trainer(backend).step(image, label, 0.1)
    assert np.isfinite(new_trainer(backend, freeze=Freeze.batch_norm).step(image, label, 0.1))


def test_dtypes_shapes_and_finite_values(backend: str) -> None:
    for dtype in (Dtype.float32, Dtype.float64):
        for name, array in trace(backend, dtype).items():
            assert array.dtype == (np.uint8 if name == "eval/mask" else dtype), name
            assert np.isfinite(array).all(), name
    assert trace(backend, Dtype.float64)["loss"].shape == (STEPS,)


@pytest.mark.parametrize("prefix", ["eval", "train", "grad", "buffer"])
def test_float32_is_near_the_float64_truth(backend: str, prefix: str) -> None:
    mine, truth = trace(backend, Dtype.float32), trace("torch", Dtype.float64)
    for key in truth:
        if key.split("/")[0] == prefix and key != "eval/mask":
            error = relative_l2(mine[key], truth[key])
            assert error <= FLOAT32_TOLERANCES[stage_of(key)], f"{key}: {error:.1e}"


def test_float32_loss_and_mask(backend: str) -> None:
    mine, truth = trace(backend, Dtype.float32), trace("torch", Dtype.float64)
    assert abs(mine["loss"][0] - truth["loss"][0]) <= 1e-6 * truth["loss"][0]  # measured: 1e-7
    # Where the two best classes are further apart than the noise of the logits, they must agree.
    best = np.sort(truth["eval/logits"], axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-4 * np.abs(best).max()
    assert clear.mean() > 0.99
    assert np.array_equal(mine["eval/mask"][clear], truth["eval/mask"][clear])
