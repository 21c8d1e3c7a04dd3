"""Weights files and checkpoints: round trips bit for bit, and every fault named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from backends import BACKENDS, load_backend
from common.config import IMAGENET_MEAN, IMAGENET_STD, Config, Dtype
from common.data.voc import VOC_CLASSES
from common.errors import InputError
from common.files import sha256, write_whole
from common.network.initial import generic_weights
from common.network.tensors import tensors
from common.protocol import Arrays
from common.weights.checkpoint import (
    Weights,
    check_arrays,
    class_count,
    read_tensors,
    read_weights,
    write_tensors,
    write_weights,
)
from parity_tests.weights.conftest import (
    CLASSES,
    NAMES,
    V1,
    WIDTH,
    batches,
    config,
    initial,
    new_trainer,
    weights,
)


@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.float64])
def test_round_trip_through_a_backend(backend: str, dtype: Dtype) -> None:
    exported = new_trainer(backend, dtype=dtype).weights()
    assert list(exported) == list(weights())
    for name, array in exported.items():
        assert array.dtype == dtype
        assert array.flags.c_contiguous, name
        assert np.array_equal(array, weights()[name].astype(dtype)), name


@pytest.mark.parametrize("second", BACKENDS)
def test_a_trained_state_moves_between_backends(backend: str, second: str, tmp_path: Path) -> None:
    """Weights, buffers and momentum, through a file, and the other backend goes on alike."""
    first = new_trainer(backend, dtype=Dtype.float64)
    first.step(batches().image[0], batches().label[0], 0.01)
    path = tmp_path / "W.safetensors"
    write_weights(path, Weights(first.weights(), "resnet18", NAMES, momentum=first.momentum()))
    start = read_weights(path)
    whole = config(dtype=Dtype.float64)
    other = load_backend(second).Trainer(whole, start.arrays)
    other.load_momentum(start.momentum)
    assert all(np.array_equal(a, first.weights()[n]) for n, a in other.weights().items())
    assert all(np.array_equal(a, first.momentum()[n]) for n, a in other.momentum().items())
    losses = [t.step(batches().image[1], batches().label[1], 0.01) for t in (first, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)


def test_arrays_that_are_not_contiguous_are_read_right(backend: str, tmp_path: Path) -> None:
    turned = {n: np.asfortranarray(a) for n, a in weights().items()}
    trainer = load_backend(backend).Trainer(config(dtype=Dtype.float64), turned)
    assert all(np.array_equal(a, weights()[n]) for n, a in trainer.weights().items())
    write_weights(tmp_path / "W.safetensors", Weights(turned, "resnet18", NAMES))
    read = read_weights(tmp_path / "W.safetensors").arrays
    assert all(np.array_equal(a, weights()[n]) for n, a in read.items())


def test_a_backend_s_own_file_keeps_every_bit(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    load_backend(backend).write_arrays(path, weights(), {})
    read, _ = load_backend(backend).read_arrays(path)
    assert read.keys() == weights().keys()
    for name, array in read.items():
        assert array.dtype == np.float64
        assert np.array_equal(array, weights()[name]), name


def test_metadata(tmp_path: Path) -> None:
    path = tmp_path / "W.safetensors"
    arrays = initial(num_classes=3)
    write_weights(
        path, Weights(arrays, "resnet18", ("a", "b", "ü"), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    )
    found = read_weights(path)
    assert (found.architecture, found.num_classes) == ("resnet18", 3)
    assert found.class_names == ("a", "b", "ü")
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert json.loads(safetensors.safe_open(path, "numpy").metadata()["mean"]) == [0.1, 0.2, 0.3]


def test_absent_metadata_means_voc_and_imagenet(tmp_path: Path) -> None:
    path = tmp_path / "W.safetensors"
    arrays = generic_weights("resnet18", len(VOC_CLASSES), 0, WIDTH)
    safetensors.numpy.save_file(arrays, path, {"unknown": "ignored"})
    found = read_weights(path)
    assert found.class_names == VOC_CLASSES
    assert found.mean == Config().mean
    assert found.momentum == {}


def test_classes_of_which_nothing_is_known_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "W.safetensors"
    safetensors.numpy.save_file(initial(num_classes=3), path)
    found = read_weights(path)
    assert found.class_names == ("class_0", "class_1", "class_2")
    assert (found.mean, found.std, found.extra) == (IMAGENET_MEAN, IMAGENET_STD, {})


def test_a_checkpoint_holds_momentum_and_what_else_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "W.safetensors"
    arrays = initial()
    momentum = {name: 3 * array for name, array in arrays.items() if "running" not in name}
    write_weights(path, Weights(arrays, V1, NAMES, momentum=momentum, extra={"step": "7"}))
    stored, metadata = read_tensors(path)
    assert {name for name in stored if name not in arrays} == {f"momentum/{n}" for n in momentum}
    assert metadata.keys() - read_weights(path).extra.keys() == set()
    found = read_weights(path)
    assert found.extra["step"] == "7"
    assert set(found.arrays) == set(arrays)
    assert all(np.array_equal(found.momentum[name], array) for name, array in momentum.items())
    assert set(found.momentum) == set(momentum)


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("21", 21), ("255", 255), *((t, None) for t in ("0", "256", "0021", "-1", "²", ""))],
)
def test_a_number_of_classes_is_from_1_to_255(text: str, count: int | None) -> None:
    assert class_count(text) == count


def test_empty_arrays_are_read_and_huge_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "W.safetensors"
    write_tensors(path, {"a": np.zeros((0, 3), np.float32), "b": np.zeros((0, 1 << 24))}, {})
    assert read_tensors(path)[0]["a"].shape == (0, 3)
    write_tensors(path, {"a": np.zeros(((1 << 24) + 1, 0), np.float32)}, {})
    with pytest.raises(InputError, match=r"a is \(16777217, 0\): huge, and holds nothing"):
        read_tensors(path)


def _without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {n: a for n, a in arrays.items() if n != name}


def _with(name: str, array: object) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: np.asarray(array)}


FAULTS = {
    "missing": (_without("backbone.bn1.bias"), r"backbone\.bn1\.bias \(8,\) is missing"),
    "the first": (
        _without("backbone.conv1.weight"),
        r"backbone\.conv1\.weight \(64, 3, 7, 7\) is missing \(and 100 more\)",
    ),
    "extra": (_with("fc.weight", np.ones((2, 3))), r"fc\.weight \(2, 3\) is not part of resnet18"),
    "shape": (
        _with("backbone.conv1.weight", np.ones((8, 3, 3, 3))),
        r"backbone\.conv1\.weight is \(8, 3, 3, 3\), not \(8, 3, 7, 7\)",
    ),
    "transposed": (
        _with("backbone.layer2.0.downsample.0.weight", np.ones((8, 16, 1, 1))),
        r"is \(8, 16, 1, 1\), not \(16, 8, 1, 1\)",
    ),
    "float16": (_with("final_conv.bias", np.ones(CLASSES, np.float16)), "is float16, not float32"),
    "integer": (_with("final_conv.bias", np.ones(CLASSES, np.int64)), "is int64, not float32"),
    "nan": (_with("final_conv.bias", np.full(CLASSES, np.nan)), "holds NaN or infinity"),
    "classes": (_with("final_conv.bias", np.ones(6)), r"is \(6,\), not \(5,\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tensor_that_does_not_fit_is_named(fault: str, tmp_path: Path) -> None:
    change, message = FAULTS[fault]
    path = tmp_path / "W.safetensors"
    write_tensors(
        path, change(weights()), {"architecture": "resnet18", "num_classes": str(CLASSES)}
    )
    with pytest.raises(InputError, match=message) as error:
        read_weights(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_several_faults_are_counted() -> None:
    arrays = {n: a for n, a in weights().items() if "layer4" not in n}
    with pytest.raises(InputError, match=r"is missing \(and 24 more\)"):
        check_arrays(Path("W"), arrays, "resnet18", CLASSES)


METADATA = {
    "architecture": ({"architecture": "resnet50"}, "architecture 'resnet50' is unknown"),
    "num_classes": ({"num_classes": "many"}, "num_classes is 'many'"),
    "another count": ({"num_classes": "6"}, "not resnet18 with 6 classes"),
    "names": ({"class_names": '["a", "b"]'}, "class_names has 2 entries, not 5"),
    "no list": ({"class_names": "5"}, "class_names is not a list"),
    "mean": ({"mean": "[1, 2"}, "mean is not a list"),
    "std": ({"std": '["a", "b", "c"]'}, "std is not a list"),
}


@pytest.mark.parametrize("fault", METADATA)
def test_metadata_that_is_wrong_is_named(fault: str, tmp_path: Path) -> None:
    metadata, message = METADATA[fault]
    path = tmp_path / "W.safetensors"
    write_tensors(path, weights(), metadata)
    with pytest.raises(InputError, match=message):
        read_weights(path)


@pytest.mark.parametrize("size", [0, 7, 100, 5000, -1])
def test_a_truncated_file_is_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "W.safetensors"
    write_weights(path, Weights(weights(), "resnet18", NAMES))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read_weights(path)


def test_a_missing_file_and_another_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_weights(tmp_path / "none")
    (tmp_path / "text").write_text("not weights at all, but long enough for a header")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read_tensors(tmp_path / "text")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "W.safetensors"
    path.write_text("old")

    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        write_whole(path, fails)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_whole(tmp_path / "none" / "W", fails)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_shapes_are_the_specs() -> None:
    for name, spec in tensors("resnet18", CLASSES, WIDTH).items():
        assert weights()[name].shape == spec.shape


def test_the_same_contents_are_the_same_bytes(tmp_path: Path) -> None:
    arrays = {"b": np.arange(3.0), "a": np.ones((2, 2), np.float32)}
    facts = {f"key {k}": 'ä\n"\\\t\u0001' * k for k in range(12)}
    for k in range(4):
        write_tensors(tmp_path / f"{k}", arrays, facts)
    write_tensors(tmp_path / "reversed", arrays, dict(reversed(facts.items())))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    found, told = read_tensors(tmp_path / "0")
    assert told == facts
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    for k in range(8):  # headers are filled up to multiples of 8 bytes
        facts = {f"key {k}": "x" for k in range(5)} | {"length": "y" * k}
        written = set()
        for order in (facts, dict(reversed(facts.items())), facts):
            write_tensors(tmp_path / "padded", arrays, order)
            written.add((tmp_path / "padded").read_bytes())
        assert len(written) == 1
    write_tensors(tmp_path / "bare", arrays, {})
    assert read_tensors(tmp_path / "bare")[1] == {}
