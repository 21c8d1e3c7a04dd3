"""A batch in parts: what a step makes of it is told by what steps on the parts alone make."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest

from common.config import VOID, Dtype, Freeze
from common.errors import InputError
from common.network.grid import check_parts, valid_pixels
from common.network.tensors import config_tensors
from common.parity.compare import relative_l2
from common.parity.traces import generic_batches
from common.protocol import Probe
from parity_tests.conftest import (
    NUM_CLASSES,
    new_config,
    new_probe,
    new_trainer,
)

CLOSE = 1e-12
RATE = 0.01


def _batch(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Of 40x72, the last two images void everywhere."""
    data = generic_batches(1, images, 40, 72, NUM_CLASSES, seed=6)
    data.label[0, -2:] = VOID
    return data.image[0], data.label[0]


def _probe(name: str, accumulate: int, freeze: Freeze) -> Probe:
    return new_probe(name, dtype=Dtype.float64, accumulate=accumulate, freeze=freeze)


@pytest.fixture(autouse=True)
def _uncompiled(request: pytest.FixtureRequest) -> Iterator[None]:
    """JAX without compiled steps: what one network's operators have compiled serves the next's."""
    with contextlib.ExitStack() as stack:
        if "backend" in request.fixturenames and request.getfixturevalue("backend") == "jax":
            import jax

            stack.enter_context(jax.disable_jit())
        yield


@pytest.mark.parametrize("freeze", [Freeze.none, Freeze.batch_norm])
def test_a_step_in_parts_is_the_sum_of_steps_on_the_parts(backend: str, freeze: Freeze) -> None:
    """Loss and gradients weigh each part by its valid pixels, the buffers take the mean.

    One of the three parts is void everywhere.
    """
    images, labels = _batch(6)
    parts = [(images[k : k + 2], labels[k : k + 2]) for k in (0, 2, 4)]
    shares = [valid_pixels(label) / valid_pixels(labels) for _, label in parts]
    assert shares[2] == 0
    assert shares[0] > 1.2 * shares[1]
    alone = [_probe(backend, 1, freeze) for _ in parts]
    found = [probe.traced_step(*part, 0.0) for probe, part in zip(alone, parts, strict=True)]
    whole = _probe(backend, 3, freeze)
    loss, activations, gradients = whole.traced_step(images, labels, RATE)

    assert loss == pytest.approx(sum(s * f[0] for s, f in zip(shares, found, strict=True)), CLOSE)
    for name, array in activations.items():
        joined = np.concatenate([f[1][name] for f in found])
        assert relative_l2(array, joined) < CLOSE, name
    for name, array in gradients.items():
        summed = sum(s * f[2][name] for s, f in zip(shares, found, strict=True))
        assert relative_l2(array, np.asarray(summed)) < 10 * CLOSE, name
    after, each = whole.trainer.weights(), [probe.trainer.weights() for probe in alone]
    for name, spec in config_tensors(new_config()).items():
        if not spec.trainable:
            mean = np.mean([arrays[name] for arrays in each], axis=0)
            assert relative_l2(after[name], mean) < CLOSE, name


def test_a_batch_that_is_void_changes_nothing_but_by_decay(backend: str) -> None:
    """Its two parts have no gradient, and its loss is 0, not 0 / 0."""
    trainer = new_trainer(backend, dtype=Dtype.float64, accumulate=2)
    before = trainer.weights()["final_conv.weight"]
    images, labels = _batch(4)
    assert trainer.step(images, np.full_like(labels, VOID), RATE) == 0
    decay = trainer.config.weight_decay  # type: ignore[attr-defined]
    assert relative_l2(trainer.momentum()["final_conv.weight"], decay * before) < CLOSE


def test_frozen_norms_keep_their_bits(backend: str) -> None:
    trainer = new_trainer(backend, dtype=Dtype.float32, accumulate=3, freeze=Freeze.batch_norm)
    before = trainer.weights()
    trainer.step(*_batch(6), RATE)
    after = trainer.weights()
    names = [name for name in before if "running" in name]
    assert all(np.array_equal(before[name], after[name]) for name in names)
    assert not np.array_equal(before["final_conv.weight"], after["final_conv.weight"])


def test_what_cannot_be_cut_is_refused(backend: str) -> None:
    trainer = new_trainer(backend, accumulate=4)
    images, labels = _batch(6)
    with pytest.raises(InputError, match="of 6 images cannot be cut into --accumulate 4 equal"):
        trainer.step(images, labels, RATE)
    with pytest.raises(InputError, match="leaves BatchNorm one value a channel"):
        trainer.step(images[:4, :, :32, :32], labels[:4, :32, :32], RATE)


def test_parts_of_all_processes_are_told() -> None:
    config = new_config(batch_size=8, accumulate=2, processes=3)
    assert config.parts == 6
    with pytest.raises(InputError, match="into --accumulate times --processes, 6 equal parts"):
        check_parts(config, config.batch_size)
    check_parts(config.replace(batch_size=12), 12)
