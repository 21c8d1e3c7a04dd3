"""Loss, optimizer and BatchNorm of each backend against formulas written out in NumPy."""

import importlib

import numpy as np
import pytest

from backends import load_backend
from common.config import VOID, Config, Dtype
from common.errors import InputError
from common.network.tensors import tensors
from common.parity.compare import relative_l2
from parity_tests.conftest import (
    NUM_CLASSES,
    RATES,
    V2,
    WIDTH,
    batches,
    new_probe,
    new_trainer,
    trace,
    weights,
)

SPECS = tensors("resnet18", NUM_CLASSES, WIDTH)
TRAINED = [name for name, spec in SPECS.items() if spec.trainable]


def numpy_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """-log softmax of the true class, summed over valid pixels, divided by their number."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    total, count = 0.0, 0
    for label in range(logits.shape[1]):
        total -= log_probability[:, label][labels == label].sum()
        count += int((labels == label).sum())
    return total / max(count, 1)


def test_loss_is_the_mean_over_the_valid_pixels_of_the_whole_batch(backend: str) -> None:
    values = trace(backend, Dtype.float64)
    labels = batches().label[0]
    valid = [(image != VOID).sum() for image in labels]
    assert valid[0] > 1.5 * valid[1]  # void is uneven, so a mean of means would differ
    expected = numpy_loss(values["train/logits"], labels)
    assert abs(values["loss"][0] - expected) <= 1e-12 * expected


def test_a_batch_without_valid_pixels_has_no_loss_and_moves_by_decay_alone(backend: str) -> None:
    probe = new_probe(backend, dtype=Dtype.float64)
    image = batches().image[0]
    void = np.full(batches().label[0].shape, VOID, np.uint8)
    loss, _, gradients = probe.traced_step(image, void, 0.5)
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients.values())
    decayed = weights()["final_conv.weight"] * (1 - 0.5 * Config(weight_decay=1e-3).weight_decay)
    assert relative_l2(probe.trainer.weights()["final_conv.weight"], decayed) < 1e-14


def test_update_of_the_first_step(backend: str) -> None:
    values, decay = trace(backend, Dtype.float64), Config(weight_decay=1e-3).weight_decay
    for name in TRAINED:
        v = values[f"grad/{name}"] + decay * weights()[name]
        assert relative_l2(values[f"update/{name}"], -RATES[0] * v) < 1e-11, name


def test_momentum_keeps_the_rate_outside(backend: str) -> None:
    config = Config(weight_decay=1e-3)
    probe = new_probe(backend, dtype=Dtype.float64)
    trainer = probe.trainer
    names = ("backbone.conv1.weight", "backbone.bn1.bias", "transpose_conv.weight")
    v = {name: np.zeros(SPECS[name].shape) for name in names}
    for step, rate in enumerate((0.01, 0.001, 0.0)):
        before = trainer.weights()
        _, _, gradients = probe.traced_step(batches().image[step], batches().label[step], rate)
        after, momentum = trainer.weights(), trainer.momentum()
        for name in names:
            g = gradients[name] + config.weight_decay * before[name]
            v[name] = config.momentum * v[name] + g
            assert relative_l2(momentum[name], v[name]) < 1e-12, (step, name)
            assert relative_l2(after[name] - before[name], -rate * v[name]) < 1e-10, (step, name)


def test_a_plain_step_is_a_traced_one(backend: str) -> None:
    """The traces go through `traced_step`, training through `step`: they must be one step."""
    plain = new_trainer(backend, dtype=Dtype.float64)
    probe = new_probe(backend, dtype=Dtype.float64)
    traced = probe.trainer
    for k in range(3):
        image, label = batches().image[k], batches().label[k]
        loss = probe.traced_step(image, label, RATES[0])[0]
        assert plain.step(image, label, RATES[0]) == pytest.approx(loss, rel=1e-13)
    expected, momentum = traced.weights(), traced.momentum()
    assert all(relative_l2(a, expected[n]) < 1e-12 for n, a in plain.weights().items())
    assert all(relative_l2(a, momentum[n]) < 1e-11 for n, a in plain.momentum().items())


def test_without_momentum_v_is_the_gradient(backend: str) -> None:
    probe = new_probe(backend, dtype=Dtype.float64, momentum=0.0, weight_decay=0.0)
    for step in range(2):
        image, label = batches().image[step], batches().label[step]
        _, _, gradients = probe.traced_step(image, label, 0.01)
    for name, v in probe.trainer.momentum().items():
        assert np.array_equal(v, gradients[name]), name


def test_momentum_is_zero_at_first_and_can_be_set(backend: str) -> None:
    trainer = new_trainer(backend, dtype=Dtype.float64)
    assert sorted(trainer.momentum()) == sorted(TRAINED)
    assert all(not v.any() for v in trainer.momentum().values())
    wanted = {name: weights()[name] + 1 for name in TRAINED}
    trainer.load_momentum(wanted)
    for name, v in trainer.momentum().items():
        assert np.array_equal(v, wanted[name]), name
    other = new_probe(backend, dtype=Dtype.float64)
    image, label = batches().image[0], batches().label[0]
    before = other.trainer.weights()["final_conv.bias"]
    _, _, gradients = other.traced_step(image, label, 0.01)
    trainer.step(image, label, 0.01)
    config = Config(weight_decay=1e-3)
    g = gradients["final_conv.bias"] + config.weight_decay * before
    expected = before - 0.01 * (config.momentum * wanted["final_conv.bias"] + g)
    assert relative_l2(trainer.weights()["final_conv.bias"], expected) < 1e-13


def test_running_statistics_of_the_first_layer(backend: str) -> None:
    """The stem's buffers from a convolution written out: biased mean of n, variance of n - 1."""
    image = np.pad(batches().image[0].astype(np.float64), ((0, 0), (0, 0), (3, 3), (3, 3)))
    view = np.lib.stride_tricks.sliding_window_view
    windows = view(image, (7, 7), axis=(2, 3))[:, :, ::2, ::2]  # type: ignore[call-overload]
    x = np.einsum("ncyxhw,ochw->noyx", windows, weights()["backbone.conv1.weight"])
    d = Config().bn_decay
    for buffer, batch in (
        ("running_mean", x.mean(axis=(0, 2, 3))),
        ("running_var", x.var(axis=(0, 2, 3), ddof=1)),
    ):
        expected = d * weights()[f"backbone.bn1.{buffer}"] + (1 - d) * batch
        found = trace(backend, Dtype.float64)[f"buffer/backbone.bn1.{buffer}"]
        assert relative_l2(found, expected) < 1e-13, buffer


def test_running_statistics_of_the_images(backend: str) -> None:
    """V2's first BatchNorm sees the images themselves, whose gradient nobody asks for."""
    image, d = batches().image[0].astype(np.float64), Config().bn_decay
    for buffer, batch in (
        ("running_mean", image.mean(axis=(0, 2, 3))),
        ("running_var", image.var(axis=(0, 2, 3), ddof=1)),
    ):
        name = f"backbone.bn0.{buffer}"
        expected = d * weights(V2)[name] + (1 - d) * batch
        found = trace(backend, Dtype.float64, V2)[f"buffer/{name}"]
        assert relative_l2(found, expected) < 1e-14, buffer


def test_eval_changes_no_buffer_and_train_changes_all(backend: str) -> None:
    probe = new_probe(backend)
    trainer = probe.trainer
    before = trainer.weights()
    probe.activations(batches().image[0])
    trainer.predict(batches().image[0])
    assert all(np.array_equal(a, before[n]) for n, a in trainer.weights().items())
    trainer.step(batches().image[0], batches().label[0], 0.01)
    after = trainer.weights()
    assert all(not np.array_equal(after[n], before[n]) for n in before)


def test_a_batch_with_one_value_a_channel_is_refused(backend: str) -> None:
    trainer = new_trainer(backend)
    image, label = np.zeros((1, 3, 20, 32), np.float32), np.zeros((1, 20, 32), np.uint8)
    before = trainer.weights()
    with pytest.raises(InputError, match="one value a channel"):
        trainer.step(image, label, 0.01)
    assert all(np.array_equal(a, before[n]) for n, a in trainer.weights().items())
    assert trainer.predict(image).shape == (1, 20, 32)


def test_what_goes_to_the_device_is_a_copy(backend: str) -> None:
    """JAX's `device_put` shares the memory of arrays that lie well, which is a matter of chance."""
    load_backend(backend)
    device = importlib.import_module(f"backends.{backend}.device")
    cpu = device.select_device("cpu")
    for size in (1000, 100_000) * 10:
        array = np.ones(size, np.float32)
        tensor = device.to_device(array, cpu, "float32")
        found = device.to_numpy(tensor)
        array[:] = 2
        assert device.to_numpy(tensor).max() == found.max() == 1
