"""Records in float32 and bfloat16, judged by one in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from common.parity.compare_records import compare_records
from common.parity.records import read_record
from common.parity.tolerances import EPS
from parity_tests.records.test_record import record, reference

__all__ = ["reference"]

NETS = ["torch", "mxnet", "jax", "linen"]


def ported(reference: Path, net: str, folder: Path, **options: Any) -> Any:
    return record(net, folder, against=reference / "torch.safetensors", **options)


@pytest.mark.needs("torch", "mxnet", "jax")
@pytest.mark.parametrize("net", NETS)
def test_a_port_in_float32(reference: Path, net: str, tmp_path: Path) -> None:
    first = read_record(reference / "torch.safetensors")
    found = ported(reference, net, tmp_path, dtype="float32")
    passes = [a for n, a in found.arrays.items() if n.startswith(("eval/", "train/", "grad/"))]
    assert {array.dtype for array in passes} == {np.dtype("float32")}
    assert found.dtype == "float32"
    report = compare_records([first, found], {})
    assert {d.name for d in report.differences if d.parted} <= {"buffer/norm.running_var"}
    errors = {d.name: d.error for d in report.differences}
    assert EPS["float64"] * 1e3 < errors["eval/output.classes"] < EPS["float32"] * 10
    assert errors["local/train/down:out"] < 8 * EPS["float32"]


@pytest.mark.needs("torch", "jax")
def test_a_mistake_in_float32(reference: Path, tmp_path: Path) -> None:
    from parity_tests.records.jax_net import Net

    first = read_record(reference / "torch.safetensors")
    wrong = ported(reference, "jax", tmp_path, dtype="float32", model=Net(epsilon=1e-3))
    right = ported(reference, "torch", tmp_path, dtype="float32")
    for others in ([wrong], [right, wrong]):
        found = compare_records([first, *others], {}).first("jax")
        assert found is not None
        assert (found.name, found.place) == ("local/eval/norm:out", "made by BatchNorm2d")
        assert "eps 0.001; in torch" in found.cause


@pytest.mark.needs("torch", "jax")
def test_two_with_one_mistake_do_not_vouch_for_each_other(reference: Path, tmp_path: Path) -> None:
    """Flax lets the biased variance into its buffers, Linen as NNX."""
    first = read_record(reference / "torch.safetensors")
    others = [ported(reference, net, tmp_path, dtype="float32") for net in ("jax", "linen")]
    report = compare_records([first, *others], {})
    parted = {(d.trace, d.name) for d in report.differences if d.parted}
    assert parted == {(net, "buffer/norm.running_var") for net in ("jax", "linen")}
    judged = next(d for d in report.differences if d.name == "eval/down:out")
    assert judged.tolerance is not None
    assert "twice the furthest of the others" in judged.tolerance.source
    two = [d.error for d in report.differences if d.name == "eval/down:out"]
    limit = max(2 * two[1], others[0].noise["eval/down:out"]) + 8 * EPS["float32"]
    assert judged.tolerance.limit == pytest.approx(limit)


@pytest.mark.needs("torch", "jax")
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types")  # JAX's own
@pytest.mark.parametrize("net", ["torch", "jax", "linen"])
def test_a_port_in_bfloat16(reference: Path, net: str, tmp_path: Path) -> None:
    first = read_record(reference / "torch.safetensors")
    found = ported(reference, net, tmp_path, dtype="bfloat16")
    assert found.arrays["eval/output.classes"].dtype == np.float32  # NumPy has no bfloat16
    report = compare_records([first, found], {})
    assert report.passed, report.verdict()
    errors = {d.name: d.error for d in report.differences}
    assert EPS["bfloat16"] / 8 < errors["eval/down:out"] < EPS["bfloat16"] * 4


@pytest.mark.needs("torch")
def test_what_is_refused(reference: Path, tmp_path: Path) -> None:
    found = ported(reference, "torch", tmp_path, dtype="float32")
    first = read_record(reference / "torch.safetensors")
    with pytest.raises(InputError, match="torch: in float32; give the record in float64 first"):
        compare_records([found, first], {})
    with pytest.raises(InputError, match="dtype float16: records are made in float64, float32"):
        record("torch", tmp_path, dtype="float16")


@pytest.mark.needs("mxnet")
def test_mxnet_has_no_bfloat16(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dtype bfloat16: MXNet does not compute in it"):
        record("mxnet", tmp_path, dtype="bfloat16")


def rectified(scale: float = 1.0) -> Any:
    """Two layers around a ReLU, of whose 64 units one is a rounding of float32 above 0.

    Its gradient is there in float64 alone; `scale` is a mistake in the gradient.
    """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(1, 64), nn.Linear(64, 3)
            with torch.no_grad():
                self.first.weight.copy_(torch.linspace(1, 2, 64)[:, None])
                self.first.bias.fill_(0.5)
            self.double()
            with torch.no_grad():
                self.first.bias[5] = 1e-12 - self.first.weight[5].float().double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.last(self.first(x).relu())
            return y * scale + (y * (1 - scale)).detach()

    torch.manual_seed(0)
    return Net()


@pytest.mark.needs("torch")
def test_a_relu_that_decides_otherwise_is_no_mistake(tmp_path: Path) -> None:
    import torch

    from backends.torch import record as torch_record

    files = [tmp_path / f"{name}.safetensors" for name in ("double", "single", "wrong")]
    inputs, options = torch.ones(1, 1), {"loss": lambda y: y.square().mean()}
    torch_record(rectified(), inputs, out=files[0], **options)
    again = {"against": files[0], "dtype": "float32"} | options
    torch_record(rectified(), inputs, out=files[1], **again)
    torch_record(rectified(0.5), inputs, out=files[2], **again)
    double, single, wrong = (read_record(path) for path in files)
    assert (double.arrays["train/last:in"] == 0).sum() == 0
    assert (single.arrays["train/last:in"] == 0).sum() == 1
    single.facts["noise"]["grad/first.weight"] = 1e-7  # as where no repetition meets it
    report = compare_records([double, single], {})
    assert report.passed, report.verdict()
    gradient = next(d for d in report.differences if d.name == "grad/first.weight")
    assert gradient.error > 1e-3
    assert gradient.tolerance is not None
    assert "is 0 on one side alone" in gradient.tolerance.note
    assert gradient.tolerance.limit == pytest.approx(5 / 8)
    found = compare_records([double, wrong], {}).first("wrong")
    assert found is not None
    assert found.name == "grad/last.weight"
