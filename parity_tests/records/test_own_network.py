"""The project's own networks are recorded as anyone's are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import load_backend
from common.config import Architecture, Dtype, Head
from common.parity.compare import relative_l2
from common.parity.compare_records import compare_records
from common.parity.records import Record, read_record
from parity_tests.conftest import V1, V2, batches, new_trainer, trace
from parity_tests.records.test_record import on_device

full = pytest.mark.full
NETWORKS = [
    (V1, Head.fcn8s),
    pytest.param(V1, Head.fcn16s, marks=full),
    pytest.param(V1, Head.fcn32s, marks=full),
    pytest.param(V2, Head.fcn8s, marks=full),
    pytest.param(Architecture.resnet34, Head.fcn8s, marks=full),
]


def record(backend: str, folder: Path, network: dict[str, Any], **options: Any) -> Record:
    framework: Any = load_backend(backend)
    model = new_trainer(backend, dtype=Dtype.float64, **network).model  # type: ignore[attr-defined]
    images = on_device(backend, batches().image[0])
    out = folder / f"{backend}.safetensors"
    framework.record(model, images, loss=lambda y: (y**2).mean(), out=out, **options)
    return read_record(out)


@pytest.mark.parametrize(("architecture", "head"), NETWORKS)
@pytest.mark.needs("torch", "mxnet", "jax")
def test_three_records_are_one_network(
    architecture: Architecture, head: Head, tmp_path: Path
) -> None:
    network = {"architecture": architecture, "head": head}
    reference = record("torch", tmp_path, network, generic=0)
    found = [
        record(backend, tmp_path, network, against=tmp_path / "torch.safetensors")
        for backend in ("mxnet", "jax")
    ]
    for one in found:
        assert one.map is not None and not one.map.unmatched.get("a")
        assert len(one.map.entries) == len(reference.tensors)
    report = compare_records([reference, *found], {})
    parted = [d for d in report.differences if d.parted]
    # MXNet's BatchNorm keeps a biased variance, which training puts right in the buffers
    for d in parted:
        assert d.name.endswith("running_var") and "biased" in d.cause
    assert {d.trace for d in parted} <= {"mxnet"}


@pytest.mark.needs("torch")
def test_a_record_holds_what_a_trace_holds(tmp_path: Path) -> None:
    network = {"head": Head.fcn8s}
    found = record("torch", tmp_path, network).arrays
    traced = trace("torch", Dtype.float64, **network)
    pairs = {
        "eval/logits": "eval/output",
        "train/logits": "train/output",
        "train/stem": "train/backbone.layer1.0:in",
        "train/layer3.1": "train/backbone.layer3.1:out",
        "train/fuse16": "train/up_layer3:in",
        "buffer/backbone.layer4.1.bn2.running_var": "buffer/backbone.layer4.1.bn2.running_var",
    }
    for name, other in pairs.items():
        assert relative_l2(found[other], np.asarray(traced[name])) < 1e-13, name
