"""Recorders of the three frameworks on one network that nothing of the program knows."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import load_backend
from common.parity.compare import compare_records
from common.parity.records import Record, read_record
from common.parity.report import Report
from common.protocol import Array

IMAGES = np.random.default_rng(7).normal(size=(2, 3, 8, 8))

NETS = {
    "torch": ("torch_net", "Net"),
    "mxnet": ("mxnet_net", "Net"),
    "jax": ("jax_net", "Net"),
    "linen": ("jax_net", "LinenNet"),
}


def on_device(backend: str, images: Array) -> Any:
    """The images as a user of the framework has them, in its layout."""
    single = images.astype(np.float32)
    if backend == "torch":
        import torch

        return torch.from_numpy(single)
    if backend == "mxnet":
        from mxnet import nd

        return nd.array(single)
    import jax.numpy as jnp

    return jnp.asarray(single.transpose(0, 2, 3, 1))


def record(net: str, folder: Path, **options: Any) -> Record:
    """Records a net, or the model that `options` bring, and reads what was written."""
    backend = "jax" if net == "linen" else net
    framework: Any = load_backend(backend)
    module = importlib.import_module(f"parity_tests.records.{NETS[net][0]}")
    images = on_device(backend, IMAGES)
    model = options.pop("model", None) or getattr(module, NETS[net][1])()
    if net == "linen":
        import jax

        options |= {"variables": model.init(jax.random.key(0), images), "train": {"train": True}}
    out = folder / f"{net}.safetensors"
    framework.record(model, images, out=out, **({"loss": module.loss} | options))
    return read_record(out)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of PyTorch's record, which the others are held against."""
    folder = tmp_path_factory.mktemp("records")
    record("torch", folder, generic=0)
    return folder


def against(reference: Path, net: str, folder: Path, **options: Any) -> Report:
    """A net with the reference's weights, by a map of its own, against the reference."""
    files = {"against": reference / "torch.safetensors", "map": folder / "map.toml"}
    ported = record(net, folder, **files, **options)
    return compare_records([read_record(files["against"]), ported], {})


NAMES = {
    "torch": ("weight", "running_mean"),
    "mxnet": ("gamma", "running_mean"),
    "jax": ("scale", "mean"),
}


def test_what_a_record_holds(backend: str, tmp_path: Path) -> None:
    found = record(backend, tmp_path, generic=0)
    scale, mean = NAMES[backend]
    names = {f"{mode}/stem:{side}" for mode in ("eval", "train") for side in ("in", "out")}
    names |= {"eval/shared@2:in", "eval/output.0" if backend == "mxnet" else "eval/output.classes"}
    names |= {f"grad/norm.{scale}", f"buffer/norm.{mean}", f"weight/norm.{mean}", "loss", "input"}
    assert names <= found.arrays.keys()
    assert all(array.dtype == np.float64 for array in found.arrays.values())
    assert found.order.index("eval/shared:out") < found.order.index("eval/shared@2:in")
    first, second = (found.arrays[f"eval/shared{call}"] for call in (":out", "@2:in"))
    assert np.array_equal(first, second)
    assert found.facts["random"] == []
    unused = [n for n in found.tensors if n.startswith("unused")]
    gradients = [found.arrays.get(f"grad/{n}") for n in unused]
    assert len(unused) == 2 and all(g is None or not g.any() for g in gradients)


@pytest.mark.parametrize("net", ["mxnet", "jax", "linen"])
def test_a_port_equals_its_model(reference: Path, net: str, tmp_path: Path) -> None:
    report = against(reference, net, tmp_path)
    parted = [d for d in report.differences if d.parted]
    # Flax and MXNet let the biased variance into the buffer, and MXNet's momentum is a float32
    buffers = ["running_mean", "running_var"] if net == "mxnet" else ["running_var"]
    assert [d.name for d in parted] == [f"buffer/norm.{name}" for name in buffers]
    decay = "0.899999976" if net == "mxnet" else "0.9"
    assert all(f"decay {decay}, biased variance, eps 1e-05" in d.cause for d in parted)
    names = {d.name for d in report.differences}
    assert {"local/train/down:out", "train/shared@2:out", "grad/up.weight", "loss[0]"} <= names
    assert {"eval/output.classes", "train/output.vector", "buffer/norm.running_mean"} <= names
    assert not report.findings
