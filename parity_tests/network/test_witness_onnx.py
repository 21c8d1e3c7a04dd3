"""ONNX Runtime computes what the backends compute, from one graph at any size and batch size."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from common.config import Architecture, Dtype, Head
from common.files import sha256
from common.network.tensors import layer_names
from common.parity.compare import relative_l2
from common.weights.checkpoint import Weights, read_tensors, write_tensors, write_weights
from parity_tests.conftest import NUM_CLASSES, V1, V2, batches, new_config, new_probe, weights
from scripts.shared.onnx import export_onnx
from scripts.witness.onnx import onnx_trace

CLASSES = [f"class {k}" for k in range(NUM_CLASSES)]


def export(folder: Path, architecture: Architecture, head: Head = Head.fcn32s) -> Path:
    config = new_config(architecture=architecture, head=head)
    export_onnx(folder / "network.onnx", weights(architecture, head=head), config, {})
    return folder / "network.onnx"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("onnx"), V1)


# neither the sizes nor the batch size that the graph was traced with
@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 3, 32, 96), (3, 3, 50, 75)])
def test_every_layer_is_near_the_float64_truth(graph: Path, shape: tuple[int, ...]) -> None:
    hold(graph, shape, V1)


def test_every_layer_of_v2_with_both_skips(tmp_path: Path) -> None:
    hold(export(tmp_path, V2, Head.fcn8s), (1, 3, 50, 75), V2, Head.fcn8s)


def hold(
    graph: Path,
    shape: tuple[int, ...],
    architecture: Architecture,
    head: Head = Head.fcn32s,
) -> None:
    images = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    found = onnx_trace(graph, images)
    probe = new_probe("torch", dtype=Dtype.float64, architecture=architecture, head=head)
    truth, layers = probe.activations(images), layer_names(architecture, head)
    assert found.keys() == {"eval/mask", *(f"eval/{name}" for name in layers)}
    for name in layers:
        assert found[f"eval/{name}"].dtype == np.float32
        assert relative_l2(found[f"eval/{name}"], truth[name]) <= 1e-5, name
    mask = found["eval/mask"]
    assert (mask.dtype, mask.shape) == (np.uint8, (shape[0], *shape[2:]))
    best = np.sort(truth["logits"], axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-4 * np.abs(best).max()
    assert clear.mean() > 0.99
    assert np.array_equal(mask[clear], truth["logits"].argmax(axis=1)[clear])


def test_the_graph_is_sound_and_free_in_batch_height_and_width(graph: Path) -> None:
    model = onnx.load(graph)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == list(layer_names(V1))
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        assert all(dims[axis].dim_param for axis in (0, 2, 3)), value.name
    assert not [node.op_type for node in model.graph.node if node.domain]


def test_the_file_needs_nothing_of_ours(graph: Path) -> None:
    session = onnxruntime.InferenceSession(graph.read_bytes(), providers=["CPUExecutionProvider"])
    image = batches().image[0]
    (logits,) = session.run(["logits"], {"image": image})
    truth = new_probe("torch", dtype=Dtype.float64).activations(image)["logits"]
    assert relative_l2(logits, truth) <= 1e-5


def test_as_a_command(tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]) -> None:
    w, b, t = (tmp_path / f"{name}.safetensors" for name in "WBT")
    write_weights(w, Weights(weights(), "resnet18", CLASSES))
    image, label = batches().image[:1], batches().label[:1]
    write_tensors(b, {"image": image, "label": label}, {})
    graph = tmp_path / "network.onnx"
    options = ("witness.onnx", "--weights", w, "--batches", b, "--out", t)
    code, _, err = run_command(*options, "--onnx", graph)
    assert (code, err) == (0, "")
    arrays, metadata = read_tensors(t)
    expected = onnx_trace(graph, image[0])
    assert arrays.keys() == expected.keys()
    assert all(relative_l2(arrays[name], array) <= 1e-6 for name, array in expected.items())
    assert json.loads(metadata.pop("versions"))["onnxruntime"] == onnxruntime.__version__
    assert metadata == {
        "format": "rosetta-trace",
        "schema": "1",
        "backend": "onnxruntime",
        "device": "cpu",
        "dtype": "float32",
        "architecture": "resnet18",
        "head": "fcn32s",
        "num_classes": str(NUM_CLASSES),
        "weights_sha256": sha256(w),
        "batches_sha256": sha256(b),
        "groups": "eval",
    }
    code, _, err = run_command(*options[:-1], tmp_path / "none" / "T.safetensors")
    assert code == 2
    assert err.startswith(f"error: {tmp_path}/none/T.safetensors: no such folder")
