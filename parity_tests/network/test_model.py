"""Shapes of each layer, odd sizes, and the upsampling against each framework's own operator."""

import numpy as np
import pytest

from backends import load_backend
from common.config import Architecture, Dtype
from common.network.architecture import BACKBONE_OUTPUTS, DESIGNS, Design
from common.network.initial import generic_weights
from common.parity.compare import relative_l2
from parity_tests.conftest import (
    NUM_CLASSES,
    V1,
    V2,
    WHOLE,
    WIDTH,
    batches,
    classes_of,
    new_config,
    new_probe,
    new_trainer,
    weights,
)

CHANNELS = {"stem": 1, "layer1.1": 1, "layer2.1": 2, "layer3.1": 4, "layer4.1": 8}
"""In widths."""
STRIDES = {"stem": 4, "layer1.1": 4, "layer2.1": 8, "layer3.1": 16, "layer4.1": 32}


@pytest.mark.parametrize("width", [WIDTH, pytest.param(WHOLE, marks=pytest.mark.full)])
def test_shapes_of_the_book(backend: str, width: int) -> None:
    images = np.zeros((1, 3, 320, 480), np.float32)
    probe, classes = new_probe(backend, width=width), classes_of(width)
    layers = probe.activations(images)
    for name, channels in CHANNELS.items():
        stride = STRIDES[name]
        assert layers[name].shape == (1, width * channels, 320 // stride, 480 // stride), name
    assert layers["layer4.1"].shape == (1, 8 * width, 10, 15)
    assert layers["final_conv"].shape == (1, classes, 10, 15)
    assert layers["logits"].shape == (1, classes, 320, 480)
    assert probe.trainer.predict(images).shape == (1, 320, 480)


@pytest.mark.parametrize(
    "architecture, height, width", [(V1, 1, 1), (V1, 33, 64), (V1, 50, 75), (V2, 20, 45)]
)
def test_any_size_is_padded_with_zeros_and_cropped_back(
    backend: str, architecture: Architecture, height: int, width: int
) -> None:
    image = batches().image[0][:, :, :height, :width]
    padded = np.zeros((2, 3, -(-height // 32) * 32, -(-width // 32) * 32), np.float32)
    padded[:, :, :height, :width] = image
    probe = new_probe(backend, dtype=Dtype.float64, architecture=architecture)
    found, expected = probe.activations(image), probe.activations(padded)
    assert found["logits"].shape == (2, NUM_CLASSES, height, width)
    assert np.array_equal(found["logits"], expected["logits"][:, :, :height, :width])
    assert np.array_equal(found["final_conv"], expected["final_conv"])
    mask = probe.trainer.predict(image)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, found["logits"].argmax(axis=1))


def test_a_training_step_of_odd_size_equals_one_padded_with_void(backend: str) -> None:
    image, label = batches().image[0][:, :, :50, :75], batches().label[0][:, :50, :75]
    padded = np.pad(image, ((0, 0), (0, 0), (0, 14), (0, 21)))
    void = np.pad(label, ((0, 0), (0, 14), (0, 21)), constant_values=255)
    losses, results = [], []
    for x, y in ((image, label), (padded, void)):
        trainer = new_trainer(backend, dtype=Dtype.float64)
        losses.append(trainer.step(x, y, 0.01))
        results.append(trainer.weights())
    assert losses[0] == losses[1]
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[0])


def plain_transpose_conv(name: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The framework's own transposed convolution, kernel 64, stride 32, padding 16."""
    if name == "torch":
        import torch

        args = (torch.from_numpy(a) for a in (x, w, bias))
        return torch.nn.functional.conv_transpose2d(*args, stride=32, padding=16).numpy()
    if name == "mxnet":
        from mxnet import nd

        data, weight, b = (nd.array(a, dtype="float64") for a in (x, w, bias))
        options = {"kernel": (64, 64), "stride": (32, 32), "pad": (16, 16)}
        y = nd.Deconvolution(data, weight, b, num_filter=len(bias), no_bias=False, **options)
        return y.asnumpy()
    import jax

    load_backend("jax")  # turns float64 on
    # a convolution of the input with 31 zeros between its pixels, by the flipped kernel
    y = jax.lax.conv_general_dilated(
        x,
        w.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1],
        window_strides=(1, 1),
        padding=((47, 47), (47, 47)),
        lhs_dilation=(32, 32),
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )
    return np.asarray(y) + bias[:, None, None]


def our_transpose_conv(name: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    backend = load_backend(name)
    config = new_config(num_classes=len(bias), dtype=Dtype.float64)
    model = backend.build_model(config)  # type: ignore[attr-defined]
    if name == "mxnet":
        model.initialize()
    arrays = {n: np.zeros(s) for n, s in _shapes(len(bias)).items()}
    arrays |= {"transpose_conv.weight": w, "transpose_conv.bias": bias}
    backend.import_weights(model, arrays)  # type: ignore[attr-defined]
    device = backend.select_device("cpu")
    nhwc, nchw = (0, 2, 3, 1), (0, 3, 1, 2)
    x = x.transpose(nhwc) if name == "jax" else x
    y = backend.to_numpy(model.transpose_conv(backend.to_device(x, device, "float64")))  # type: ignore[attr-defined]
    return y.transpose(nchw) if name == "jax" else y


def _shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
    from common.network.tensors import tensors

    return {name: spec.shape for name, spec in tensors("resnet18", num_classes, WIDTH).items()}


@pytest.mark.parametrize("height, width", [(1, 1), (2, 3)])
def test_transpose_conv_is_the_frameworks_own(backend: str, height: int, width: int) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 5, height, width))
    w, bias = random.normal(size=(5, 5, 64, 64)), random.normal(size=5)
    ours = our_transpose_conv(backend, x, w, bias)
    assert ours.shape == (2, 5, 32 * height, 32 * width)
    assert relative_l2(ours, plain_transpose_conv(backend, x, w, bias)) < 1e-14


def test_every_pixel_depends_on_the_weights_that_it_should(backend: str) -> None:
    """The head of the whole network, from its own input, by the definition in NumPy loops."""
    layers = new_probe(backend, dtype=Dtype.float64).activations(
        batches().image[0][:1, :, :32, :64]
    )
    x, w = layers["final_conv"][0], weights()["transpose_conv.weight"]  # (classes, 1, 2)
    full = np.zeros((NUM_CLASSES, 64, 96))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            tap = np.einsum("i,iohw->ohw", x[:, row, column], w)
            full[:, 32 * row : 32 * row + 64, 32 * column : 32 * column + 64] += tap
    expected = full[:, 16:-16, 16:-16] + weights()["transpose_conv.bias"][:, None, None]
    assert relative_l2(layers["logits"][0], expected) < 1e-14


def test_another_resnet_is_a_row_of_the_table(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DESIGNS, V1, Design((1, 3, 2, 1)))
    arrays = generic_weights(V1, NUM_CLASSES, seed=0, width=WIDTH)
    assert "backbone.layer2.2.bn2.bias" in arrays
    assert "backbone.layer4.1.bn2.bias" not in arrays
    config, image = new_config(dtype=Dtype.float64), batches().image[0][:1, :, :32, :64]
    ours, reference = (
        framework.to_numpy(framework.Trainer(config, arrays).logits(image))
        for framework in (load_backend(backend), load_backend("torch"))
    )
    assert relative_l2(ours, reference) < 1e-12


def test_the_backbone_returns_its_stages(backend: str) -> None:
    model = new_trainer(backend).model  # type: ignore[attr-defined]
    framework = load_backend(backend)
    x = np.zeros((1, 32, 64, 3) if backend == "jax" else (1, 3, 32, 64), np.float32)
    outputs = model.backbone(framework.to_device(x, framework.select_device("cpu"), "float32"))  # type: ignore[attr-defined]
    found = outputs if backend == "mxnet" else [outputs[name] for name in BACKBONE_OUTPUTS]
    channel = 3 if backend == "jax" else 1
    assert [array.shape[channel] // WIDTH for array in found] == [1, 2, 4, 8, 8]
    assert len(found) == len(outputs) == len(BACKBONE_OUTPUTS)


def test_pytorch_s_counters_of_batches_begin_at_0() -> None:
    state = new_trainer("torch").model.state_dict()  # type: ignore[attr-defined]
    counters = [int(tensor) for name, tensor in state.items() if name.endswith("batches_tracked")]
    assert counters == [0] * 20


def test_the_model_called_as_the_book_does_gives_the_trainer_s_logits(backend: str) -> None:
    """Training and prediction go by the cells; `FCN` itself must be the same network."""
    framework, trainer = load_backend(backend), new_trainer(backend, dtype=Dtype.float64)
    images = batches().image[0]
    expected = framework.to_numpy(trainer.logits(images))  # and leaves the model in eval mode
    x = images.transpose(0, 2, 3, 1) if backend == "jax" else images
    device = framework.select_device("cpu")
    logits = trainer.model(framework.to_device(x, device, "float64"))  # type: ignore[attr-defined]
    assert logits.shape == (2, NUM_CLASSES, 64, 96)
    assert relative_l2(framework.to_numpy(logits), expected) < 1e-14
