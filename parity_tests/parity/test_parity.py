"""All three compute the same thing: every value of a run, against PyTorch in float64."""

import numpy as np
import pytest

from backends import BACKENDS
from common.config import Architecture, Dtype
from common.network.tensors import ARCHITECTURES, layer_names, tensors
from common.parity.compare import relative_l2
from common.parity.order import stage_of
from common.parity.tolerances import TOLERANCES
from parity_tests.conftest import STEPS, WHOLE, WIDTH, classes_of, trace

OTHERS = [name for name in BACKENDS if name != "torch"]

FLOAT32_TOLERANCES = {"forward": 1e-5, "gradient": 3e-5, "buffer": 1.5e-6}
"""Relative L2 against the float64 reference: about twice the measured floor. The worst tensor of
these batches, where no ReLU or max-pool decision flips, was at 5.7e-6 (PyTorch), 3.7e-6 (MXNet) and
4.0e-6 (JAX) forward, 1.2e-5, 7.3e-6 and 8.3e-6 for gradients, 6.0e-7, 3.7e-7 and 4.0e-7 for
buffers."""


NETWORKS = pytest.mark.parametrize(
    "architecture, width",
    [
        *((architecture, WIDTH) for architecture in ARCHITECTURES),
        pytest.param(ARCHITECTURES[0], WHOLE, marks=pytest.mark.full),
    ],
)


def _values(architecture: Architecture, width: int) -> dict[str, list[str]]:
    """What each group of a trace holds."""
    layers, specs = [*layer_names(architecture)], tensors(architecture, classes_of(width), width)
    trained = [name for name, spec in specs.items() if spec.trainable]
    buffers = [name for name, spec in specs.items() if not spec.trainable]
    values = {"eval": [*layers, "mask"], "train": layers, "buffer": buffers, "final": [*specs]}
    return values | dict.fromkeys(("grad", "update", "momentum"), trained)


@NETWORKS
def test_trace_names_every_value(backend: str, architecture: Architecture, width: int) -> None:
    found = trace(backend, Dtype.float64, architecture, width)
    values = _values(architecture, width)
    expected = [f"{prefix}/{name}" for prefix, names in values.items() for name in names]
    assert sorted(found) == sorted(["loss", *expected])


@NETWORKS
@pytest.mark.parametrize("prefix", ["eval", "train", "loss", "grad", "update", "buffer"])
@pytest.mark.parametrize("name", OTHERS)
def test_float64_first_step(name: str, prefix: str, architecture: Architecture, width: int) -> None:
    _hold(name, prefix, architecture, width)


@NETWORKS
@pytest.mark.parametrize("prefix", ["final", "momentum"])
@pytest.mark.parametrize("name", OTHERS)
def test_float64_after_many_steps_and_a_falling_rate(
    name: str, prefix: str, architecture: Architecture, width: int
) -> None:
    _hold(name, prefix, architecture, width)


def _hold(name: str, prefix: str, architecture: Architecture, width: int) -> None:
    mine, truth = (trace(n, Dtype.float64, architecture, width) for n in (name, "torch"))
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
def test_float64_masks_are_equal(name: str, architecture: Architecture, width: int) -> None:
    mine, truth = (
        trace(n, Dtype.float64, architecture, width)["eval/mask"] for n in (name, "torch")
    )
    assert mine.dtype == np.uint8
    assert np.array_equal(mine, truth)


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
