"""The fast forms against the plain ones: upsampling in cells, and pictures as bytes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backends import load_backend
from common.config import VOID, Config, Dtype, Head
from common.network.grid import label_cells
from common.parity.compare import relative_l2
from parity_tests.conftest import NUM_CLASSES, batches, new_probe, new_trainer

Array = np.ndarray[Any, Any]
Result = Callable[[Any, Any], Any]
"""What a test makes of the upsampling and its input: one tensor."""


LAYERS = {
    ("fcn32s", "transpose_conv"): 32,
    ("fcn16s", "transpose_conv"): 16,
    ("fcn8s", "transpose_conv"): 8,
    ("fcn8s", "up_layer3"): 2,
}
"""Transposed convolutions by head and name, and their strides; the last has no bias."""


def value_and_gradients(
    name: str,
    result: Result,
    x: Array,
    by_result: Array | None = None,
    at: tuple[str, str] = ("fcn32s", "transpose_conv"),
) -> tuple[Array, dict[str, Array]]:
    """`result(upsampling, x)`, and its gradients by x, weight and bias; x and its are NCHW."""
    head, layer_name = at
    trainer: Any = new_trainer(name, dtype=Dtype.float64, head=head)
    layer = getattr(trainer.model, layer_name)
    own = ["weight"] if layer.bias is None else ["weight", "bias"]
    if name == "torch":
        import torch

        source = torch.tensor(x, requires_grad=True)
        y = result(layer, source)
        seed = torch.ones_like(y) if by_result is None else torch.tensor(by_result)
        found = torch.autograd.grad(y, [source, *(getattr(layer, k) for k in own)], seed)
        named = zip(("x", *own), found, strict=True)
        return y.detach().numpy(), {key: gradient.numpy() for key, gradient in named}
    if name == "mxnet":
        from mxnet import autograd, nd

        source = nd.array(x, dtype="float64")
        source.attach_grad()
        with autograd.record():
            y = result(layer, source)
        y.backward(None if by_result is None else nd.array(by_result, dtype="float64"))
        gradients = {"x": source.grad} | {key: getattr(layer, key).grad() for key in own}
        return y.asnumpy(), {key: gradient.asnumpy() for key, gradient in gradients.items()}
    import jax
    import jax.numpy as jnp
    from flax import nnx

    structure, state = nnx.split(layer)

    def forward(state: Any, source: Any) -> Any:
        return result(nnx.merge(structure, state), source.transpose(0, 2, 3, 1))

    y, pullback = jax.vjp(forward, state, jnp.asarray(x))
    by_state, by_x = pullback(jnp.ones_like(y) if by_result is None else jnp.asarray(by_result))
    nnx.update(layer, by_state)  # a way to read gradients by name
    gradients = {"x": by_x} | {key: getattr(layer, key)[...] for key in own}
    return np.asarray(y), {key: np.asarray(gradient) for key, gradient in gradients.items()}


def nchw(layer: Any, y: Any) -> Any:
    """What a layer puts out, which is NHWC in JAX."""
    return y.transpose(0, 3, 1, 2) if type(layer).__module__.startswith("backends.jax") else y


def called(layer: Any, x: Any) -> Any:
    """The layer as it is called: its cells side by side, (N, classes, sh, sw)."""
    return nchw(layer, layer(x))


def textbook(layer: Any, x: Any) -> Any:
    """The same by the definition: (N, classes, sh, sw)."""
    return nchw(layer, layer.textbook(x))


def same(found: tuple[Array, dict[str, Array]], expected: tuple[Array, dict[str, Array]]) -> None:
    assert found[0].shape == expected[0].shape
    assert relative_l2(found[0], expected[0]) <= 1e-12
    for key, gradient in expected[1].items():
        assert np.linalg.norm(gradient) > 1e-6, key
        assert relative_l2(found[1][key], gradient) <= 1e-11, key


@pytest.mark.parametrize(
    "h, w, at",
    [
        *((h, w, ("fcn32s", "transpose_conv")) for h, w in ((1, 1), (2, 3), (3, 1))),
        *((2, 3, at) for at in [*LAYERS][1:]),
    ],
)
def test_the_cells_assembled_are_the_transposed_convolution(
    backend: str, h: int, w: int, at: tuple[str, str]
) -> None:
    random, s = np.random.default_rng(5), LAYERS[at]
    x = random.normal(size=(2, NUM_CLASSES, h, w))
    by_result = random.normal(size=(2, NUM_CLASSES, s * h, s * w))
    found = value_and_gradients(backend, called, x, by_result, at)
    same(found, value_and_gradients(backend, textbook, x, by_result, at))
    assert found[0].shape == by_result.shape


def uneven_labels(height: int, width: int) -> Array:
    """Two images' labels (2, height, width) uint8, the second a third void, the first less."""
    random = np.random.default_rng([height, width])
    labels = random.integers(0, NUM_CLASSES, (2, height, width)).astype(np.uint8)
    labels[random.random(labels.shape) < 0.1] = VOID
    labels[1, : height // 3] = VOID
    return labels


@pytest.mark.parametrize(
    "height, width, head",
    [
        *((*size, Head.fcn32s) for size in ((64, 96), (50, 75), (1, 33), (32, 31))),
        *((50, 75, head) for head in (Head.fcn16s, Head.fcn8s)),
    ],
)
def test_the_loss_over_cells_is_the_loss_over_pictures(
    backend: str, height: int, width: int, head: Head
) -> None:
    framework: Any = load_backend(backend)
    s, config = head.stride, Config(head=head)
    h, w = (-(-side // 32) * 32 // s for side in (height, width))
    labels = uneven_labels(height, width)
    padded = np.full((2, s * h, s * w), VOID, np.uint8)
    padded[:, :height, :width] = labels
    x = np.random.default_rng(6).normal(size=(2, NUM_CLASSES, h, w))
    kind = {"torch": "int64", "mxnet": "float64", "jax": "uint8"}[backend]
    device = framework.select_device("cpu")
    by_cell, by_picture = (
        framework.to_device(array, device, kind) for array in (label_cells(labels, config), padded)
    )

    def loss_of_cells(layer: Any, source: Any) -> Any:
        cells = layer.cells(source)
        assert backend == "mxnet" or cells.shape == (2, h + 1, w + 1, s, s, NUM_CLASSES)
        return framework.cross_entropy(cells.reshape((-1, NUM_CLASSES)), by_cell.reshape((-1,)))

    def loss_of_pictures(layer: Any, source: Any) -> Any:
        return framework.cross_entropy(textbook(layer, source), by_picture)

    found, expected = (
        value_and_gradients(backend, loss, x, None, (head, "transpose_conv"))
        for loss in (loss_of_cells, loss_of_pictures)
    )
    assert float(expected[0].sum()) > 1
    same(found, expected)


def plain_label_cells(labels: Array, s: int) -> Array:
    """Pixel by pixel: cell (i, j) of an image begins s / 2 pixels above and left of s (i, j)."""
    n, height, width = labels.shape
    h, w = (-(-side // 32) * 32 // s for side in (height, width))
    cells = np.full((n, h + 1, w + 1, s, s), VOID, np.uint8)
    for k in range(n):
        for row in range(height):
            for column in range(width):
                i, y = divmod(row + s // 2, s)
                j, x = divmod(column + s // 2, s)
                cells[k, i, j, y, x] = labels[k, row, column]
    return cells


@pytest.mark.parametrize("height, width", [(32, 32), (64, 96), (50, 75), (1, 33), (17, 16)])
@pytest.mark.parametrize("head", Head)
def test_every_label_is_in_one_cell_and_the_rest_is_void(
    height: int, width: int, head: Head
) -> None:
    labels = uneven_labels(height, width)
    cells = label_cells(labels, Config(head=head))
    assert cells.dtype == np.uint8
    assert np.array_equal(cells, plain_label_cells(labels, head.stride))
    assert np.array_equal(np.sort(cells[cells != VOID]), np.sort(labels[labels != VOID]))


def decoded() -> tuple[Array, Array]:
    """Two pictures as decoded (2, 60, 90, 3) uint8, and normalised (2, 3, 60, 90) float64."""
    pictures = np.random.default_rng(7).integers(0, 256, (2, 60, 90, 3), np.uint8)
    config = Config()
    normal = (pictures / 255 - np.array(config.mean)) / np.array(config.std)
    return pictures, normal.transpose(0, 3, 1, 2)


def test_pictures_as_decoded_are_normalised_and_then_padded(backend: str) -> None:
    pictures, normal = decoded()
    probe = new_probe(backend, dtype=Dtype.float64)
    trainer = probe.trainer
    found, expected = probe.activations(pictures), probe.activations(normal)
    assert found["logits"].shape == (2, NUM_CLASSES, 60, 90)
    for name, array in expected.items():
        assert relative_l2(found[name], array) <= 1e-12, name
    assert np.array_equal(trainer.predict(pictures), trainer.predict(normal))


def test_a_step_from_pictures_is_one_from_normalised_images(backend: str) -> None:
    pictures, normal = decoded()
    labels = uneven_labels(60, 90)
    ours, theirs = (new_trainer(backend, dtype=Dtype.float64) for _ in range(2))
    assert ours.step(pictures, labels, 0.01) == pytest.approx(
        theirs.step(normal, labels, 0.01), rel=1e-12
    )
    expected = theirs.weights()
    for name, array in ours.weights().items():
        assert relative_l2(array, expected[name]) <= 1e-12, name


def test_mean_and_std_are_the_run_s_own(backend: str) -> None:
    pictures, _ = decoded()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    normal = ((pictures / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    probe = new_probe(backend, dtype=Dtype.float64, mean=mean, std=std)
    found, expected = (probe.activations(x)["logits"] for x in (pictures, normal))
    assert relative_l2(found, expected) <= 1e-12


def test_logits_on_the_device_are_those_of_the_activations(backend: str) -> None:
    framework: Any = load_backend(backend)
    probe = new_probe(backend, dtype=Dtype.float64)
    trainer = probe.trainer
    for images in (*decoded(), batches().image[0]):
        logits = framework.to_numpy(trainer.logits(images))
        assert logits.dtype == np.float64
        assert relative_l2(logits, probe.activations(images)["logits"]) <= 1e-12
        classes = trainer.predict(images)
        assert (classes.dtype, classes.shape) == (np.uint8, (2, *logits.shape[2:]))
        assert np.array_equal(classes, logits.argmax(axis=1))
        assert len(np.unique(classes)) > 3


def test_images_of_a_batch_do_not_mix_in_eval_mode(backend: str) -> None:
    framework: Any = load_backend(backend)
    trainer = new_trainer(backend, dtype=Dtype.float64)
    pictures, _ = decoded()
    logits, classes = framework.to_numpy(trainer.logits(pictures)), trainer.predict(pictures)
    assert relative_l2(logits[0], logits[1]) > 0.1
    for k in range(2):
        alone = pictures[k : k + 1]
        assert relative_l2(framework.to_numpy(trainer.logits(alone))[0], logits[k]) <= 1e-12
        assert np.array_equal(trainer.predict(alone)[0], classes[k])
