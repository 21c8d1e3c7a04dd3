"""The one definition of the numbers, each against another way to say it."""

import numpy as np
import pytest

from backends import load_backend
from common.config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    VOID,
    Config,
    Schedule,
    UpsampleInit,
    float32,
)
from common.data.augment import normalize
from common.data.voc import VOC_CLASSES, voc_palette
from common.evaluation.metrics import confusion_matrix, summarize, trimap
from common.network.bilinear import bilinear_kernel, bilinear_weight, upsample
from common.network.initial import generic_weights, initial_weights
from common.network.schedule import learning_rates
from common.network.tensors import ARCHITECTURES, layer_names, tensors
from common.parity.compare import relative_l2
from common.protocol import Arrays
from parity_tests.conftest import NUM_CLASSES, WIDTH, new_config


def test_104_tensors_64_trained() -> None:
    specs = tensors("resnet18", 21)
    assert len(specs) == 104
    assert sum(spec.trainable for spec in specs.values()) == 64
    assert sum(int(np.prod(s.shape)) for s in specs.values() if s.trainable) == 12_993_642
    with pytest.raises(ValueError, match="vgg"):
        tensors("vgg", 21)


def test_v2_has_98_tensors_60_trained_in_order_of_execution() -> None:
    specs = tensors("resnet18_v2", 21)
    assert len(specs) == 98
    assert sum(spec.trainable for spec in specs.values()) == 60
    assert sum(int(np.prod(s.shape)) for s in specs.values() if s.trainable) == 12_991_978
    norm = ("weight", "bias", "running_mean", "running_var")
    assert [name.removeprefix("backbone.") for name in specs][:7] == [
        *("bn0.running_mean", "bn0.running_var", "conv1.weight"),
        *(f"bn1.{tensor}" for tensor in norm),
    ]
    block = [n.removeprefix("backbone.layer2.0.") for n in specs if "layer2.0" in n]
    assert block == [
        *(f"bn1.{tensor}" for tensor in norm),
        "conv1.weight",
        *(f"bn2.{tensor}" for tensor in norm),
        *("conv2.weight", "downsample.weight"),
    ]
    assert [*specs][-8:-4] == [f"backbone.bn2.{tensor}" for tensor in norm]
    first = specs["backbone.layer2.0.bn1.weight"]
    assert (first.shape, first.stride, first.layer) == ((64,), 4, "layer2.0")
    strides = {n: specs[f"backbone.{n}.running_var"].stride for n in ("bn0", "bn1", "bn2")}
    assert strides == {"bn0": 1, "bn1": 2, "bn2": 32}
    layers = dict.fromkeys(spec.layer for spec in specs.values())
    assert tuple(layers) == layer_names("resnet18_v2")


def test_bilinear_kernel_by_the_formula_of_fcn() -> None:
    for size in (2, 3, 4, 64):
        factor = (size + 1) // 2
        center = factor - 1 if size % 2 else factor - 0.5
        for i in range(size):
            for j in range(size):
                expected = (1 - abs(i - center) / factor) * (1 - abs(j - center) / factor)
                assert bilinear_kernel(size)[i, j] == pytest.approx(expected, abs=1e-15)
    weight = bilinear_weight(3, 4)
    assert np.array_equal(weight[1, 1], bilinear_kernel(4))
    assert not weight[0, 1].any()


def half_pixel(image: np.ndarray, factor: int) -> np.ndarray:
    """Bilinear interpolation with half-pixel centres, along both axes, edges repeated."""
    for axis in (0, 1):
        size = image.shape[axis]
        at = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
        low = np.minimum(at.astype(int), size - 2)
        share = np.expand_dims(at - low, tuple(k for k in range(image.ndim) if k != axis))
        image = image.take(low, axis) * (1 - share) + image.take(low + 1, axis) * share
    return image


def test_bilinear_upsampling_is_half_pixel_interpolation_inside_and_fades_outside() -> None:
    image = np.random.default_rng(0).random((4, 5, 2))
    for factor in (2, 8):
        ring = factor // 2
        ours, expected = upsample(image, factor), half_pixel(image, factor)
        inside = (slice(ring, -ring), slice(ring, -ring))
        assert np.allclose(ours[inside], expected[inside], rtol=0, atol=1e-14)
    ones = upsample(np.ones((2, 2, 1)), 32)[..., 0]
    assert ones[32, 32] == pytest.approx(1, abs=1e-14)
    assert ones[0, 32] == pytest.approx(33 / 64)
    assert ones[0, 0] == pytest.approx((33 / 64) ** 2)


def _activations(backend: str, start: Arrays, image: np.ndarray) -> Arrays:
    framework = load_backend(backend)
    return framework.Probe(framework.Trainer(new_config(dtype="float64"), start)).activations(image)


def test_initial_head_upsamples_each_class_map_bilinearly(backend: str) -> None:
    start = initial_weights("resnet18", NUM_CLASSES, seed=0, width=WIDTH)
    image = np.random.default_rng(1).normal(size=(1, 3, 64, 96)).astype(np.float32)
    layers = _activations(backend, start, image)
    expected = upsample(layers["final_conv"][0].transpose(1, 2, 0), 32).transpose(2, 0, 1)
    assert relative_l2(layers["logits"][0], expected) < 1e-14


def test_initial_weights() -> None:
    start = initial_weights("resnet18", 21, seed=0)
    assert all(array.dtype == np.float32 for array in start.values())
    conv = start["backbone.layer2.0.conv1.weight"]
    assert conv.std() == pytest.approx(np.sqrt(2 / (128 * 9)), rel=0.02)
    bound = np.sqrt(6 / (512 + 21))
    assert np.abs(start["final_conv.weight"]).max() == pytest.approx(bound, rel=0.01)
    assert start["final_conv.weight"].std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert (start["backbone.bn1.weight"] == 1).all()
    assert (start["backbone.bn1.running_var"] == 1).all()
    for name in ("backbone.bn1.bias", "backbone.bn1.running_mean", "final_conv.bias"):
        assert not start[name].any()
    again, other = (initial_weights("resnet18", n, seed=s) for n, s in ((21, 0), (6, 1)))
    assert all(np.array_equal(start[name], again[name]) for name in start)
    assert not np.array_equal(start["backbone.conv1.weight"], other["backbone.conv1.weight"])
    fewer = initial_weights("resnet18", 6, seed=0)
    assert np.array_equal(start["backbone.conv1.weight"], fewer["backbone.conv1.weight"])


def test_an_upsampling_that_starts_at_random() -> None:
    bilinear, xavier = (
        initial_weights("resnet18_v2", 6, seed=0, upsample_init=init) for init in UpsampleInit
    )
    weight = xavier.pop("transpose_conv.weight")
    assert np.array_equal(bilinear.pop("transpose_conv.weight"), bilinear_weight(6, 64))
    assert all(np.array_equal(array, bilinear[name]) for name, array in xavier.items())
    bound = np.sqrt(6 / (2 * 6 * 64 * 64))  # fan-in and fan-out: 6 classes, 64x64 taps
    assert 0.999 * bound < np.abs(weight).max() <= bound * (1 + 1e-6)
    assert weight.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)
    assert (bilinear["backbone.bn0.running_var"] == 1).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generic_weights_have_no_symmetry_that_hides_a_bug(architecture: str) -> None:
    for name, array in generic_weights(architecture, NUM_CLASSES, seed=0, width=WIDTH).items():
        assert len(np.unique(array)) == array.size, name
        if array.ndim == 4 and array.shape[2] > 1:
            assert relative_l2(array[:, :, ::-1], array) > 0.5, name
            assert relative_l2(array.transpose(0, 1, 3, 2), array) > 0.5, name


def slow_confusion(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.zeros((num_classes, num_classes), np.int64)
    for t, p in zip(truth.ravel(), prediction.ravel(), strict=True):
        if t != 255:
            counts[t, p] += 1
    return counts


def test_confusion_matrix_against_a_slow_one() -> None:
    random = np.random.default_rng(0)
    truth = random.choice([0, 1, 2, 4, 255], size=(3, 17, 13)).astype(np.uint8)
    prediction = random.integers(0, 6, truth.shape).astype(np.uint8)
    counts = confusion_matrix(truth, prediction, 6)
    assert counts.dtype == np.int64
    assert np.array_equal(counts, slow_confusion(truth, prediction, 6))
    with pytest.raises(ValueError, match="not one of 5 classes"):
        confusion_matrix(truth, prediction, 5)
    with pytest.raises(ValueError, match="truth is"):
        confusion_matrix(truth, prediction[:1], 6)


def test_metrics_by_hand() -> None:
    #            predicted: a  b  c  d
    confusion = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0]])
    result = summarize(confusion, confusion, ["a", "b", "c", "d"])
    assert result["pixel_accuracy"] == pytest.approx(9 / 16)
    assert result["mean_accuracy"] == pytest.approx((6 / 8 + 3 / 4 + 0) / 3)
    assert result["mean_iou"] == pytest.approx((6 / 13 + 3 / 6 + 0) / 3)
    assert result["frequency_weighted_iou"] == pytest.approx((8 * 6 / 13 + 4 * 3 / 6) / 16)
    assert result["per_class"][2] == {"name": "c", "iou": 0.0, "accuracy": 0.0}
    assert result["per_class"][3] == {"name": "d", "iou": None, "accuracy": None}
    assert result["confusion"] == confusion.tolist()


def test_metrics_of_a_class_that_is_only_predicted_and_of_nothing() -> None:
    result = summarize(np.array([[3, 1], [0, 0]]), np.array([[1, 1], [0, 0]]), ["a", "b"])
    assert result["per_class"][1] == {"name": "b", "iou": 0.0, "accuracy": None}
    assert result["mean_iou"] == pytest.approx(3 / 8)
    assert (result["mean_iou_present"], result["classes_present"]) == (pytest.approx(3 / 4), 1)
    assert result["trimap_mean_iou"] == pytest.approx(1 / 2)
    nothing = summarize(np.zeros((2, 2), np.int64), np.zeros((2, 2), np.int64), ["a", "b"])
    assert nothing["mean_iou"] is None
    assert nothing["pixel_accuracy"] is None
    assert (nothing["mean_iou_present"], nothing["classes_present"]) == (None, 0)
    assert nothing["trimap_mean_iou"] is None


def test_borders_are_within_five_pixels_of_another_label_void_too() -> None:
    labels = (
        np.random.default_rng(0)
        .choice(np.array([0, 0, 0, 1, VOID], np.uint8), (9, 13))
        .repeat(7, axis=0)
        .repeat(6, axis=1)
    )
    labels[20:48, 15:50] = 2
    expected = np.full_like(labels, VOID)
    for (row, column), label in np.ndenumerate(labels):
        around = labels[max(0, row - 5) : row + 6, max(0, column - 5) : column + 6]
        if (around != label).any():
            expected[row, column] = label
    found = trimap(labels)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    assert 0 < np.count_nonzero(found == 2) < np.count_nonzero(labels == 2)


def test_head_and_backbone_have_a_rate_each() -> None:
    config = Config(learning_rate=0.1, schedule=Schedule.poly, head_rate=1.7)
    pairs = [learning_rates(config, step, 10) for step in range(10)]
    exact = [0.1 * (1 - step / 10) ** 0.9 for step in range(10)]
    assert pairs == [(float32(rate), float32(1.7 * rate)) for rate in exact]
    assert any(head_rate != float32(1.7 * rate) for rate, head_rate in pairs)  # rounded once


def test_palette_is_voc_s_bit_reversed_colour_map() -> None:
    palette = voc_palette()
    for label in range(256):
        red = green = blue = 0
        rest = label
        for bit in range(7, -1, -1):
            red |= (rest & 1) << bit
            green |= (rest >> 1 & 1) << bit
            blue |= (rest >> 2 & 1) << bit
            rest >>= 3
        assert tuple(palette[label]) == (red, green, blue)
    assert tuple(palette[VOC_CLASSES.index("person")]) == (192, 128, 128)
    assert tuple(palette[255]) == (224, 224, 192)


def test_schedules() -> None:
    constant = Config(schedule=Schedule.constant, learning_rate=0.1)
    poly = Config(schedule=Schedule.poly, learning_rate=0.1)
    assert learning_rates(constant, 7, 10)[0] == float32(0.1) != 0.1
    assert learning_rates(poly, 0, 10)[0] == float32(0.1)
    assert learning_rates(poly, 5, 10)[0] == float32(0.1 * 0.5**0.9)
    assert 0 < learning_rates(poly, 9, 10)[0] < 0.02


def test_normalize() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    expected = (image / 255 - IMAGENET_MEAN) / IMAGENET_STD
    found = normalize(image, Config())
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.allclose(found, expected.transpose(2, 0, 1), rtol=0, atol=1e-6)


def test_relative_l2() -> None:
    assert relative_l2(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.1)
    assert relative_l2(np.zeros(2), np.zeros(2)) == 0
    assert relative_l2(np.ones(2), np.zeros(2)) == np.inf
    with pytest.raises(ValueError, match="shapes differ"):
        relative_l2(np.ones(2), np.ones(3))
