"""Recurrent layers: PyTorch's and Gluon's packed gates and doubled biases against Flax's cells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import load_backend
from common.parity.compare_records import compare_records
from common.parity.mapping import Entry, Map, read_map
from common.parity.records import read_record
from common.parity.report import Report

SEQUENCES = np.random.default_rng(1).normal(size=(2, 7, 3)).astype(np.float32)


def test_an_addend() -> None:
    """Two biases of one side are the sum of the other's, and back the sum cannot be told apart."""
    two = {"one": np.array([1.0, 2.0]), "two": np.array([10.0, 20.0])}
    found = Map((Entry("two", "sum", addend="a"), Entry("one", "sum")))
    assert np.array_equal(found.to_b(two)["sum"], [11, 22])
    assert found.to_a({"sum": np.ones(2)}) == {}
    gradients = found.to_a({"sum": np.ones(2)}, gradients=True)
    assert {name: array.tolist() for name, array in gradients.items()} == {
        "one": [1, 1],
        "two": [1, 1],
    }
    back = Map((Entry("sum", "two", addend="b"), Entry("sum", "one")))
    there = back.to_b({"sum": np.array([11.0, 22.0])})
    assert {n: a.tolist() for n, a in there.items()} == {"one": [11, 22], "two": [0, 0]}
    assert np.array_equal(back.to_a(two)["sum"], [11, 22])
    assert np.array_equal(back.to_a(two, gradients=True)["sum"], two["one"])


def test_parts_along_another_axis() -> None:
    gates = {f"gate{k}": np.full((3, 2), k) for k in range(4)}
    found = Map(tuple(Entry(name, "all", into=(k, 4), along=1) for k, name in enumerate(gates)))
    there = found.to_b(gates)
    assert there["all"].tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]] * 3
    assert all(np.array_equal(found.to_a(there)[name], gates[name]) for name in gates)


def torch_net(kind: str, **options: Any) -> Any:
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = getattr(nn, kind)(3, 5, batch_first=True, **options)
            self.head = nn.Linear(10 if options else 5, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.rnn(x)[0])

    return Net()


def gluon_net(kind: str, **options: Any) -> Any:
    from mxnet.gluon import HybridBlock, nn, rnn

    class Net(HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = getattr(rnn, kind)(5, input_size=3, layout="NTC", **options)
            self.head = nn.Dense(2, flatten=False, in_units=10 if options else 5)
            self.initialize()

        def forward(self, x: Any) -> Any:
            return self.head(self.rnn(x))

    return Net()


def nnx_net(cell: str, both: bool = False) -> Any:
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            one, two = (nnx.RNN(getattr(nnx, cell)(3, 5, rngs=rngs)) for _ in range(2))
            self.rnn = nnx.Bidirectional(one, two) if both else one
            self.head = nnx.Linear(10 if both else 5, 2, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(self.rnn(x))

    return Net()


def linen_net(cell: str) -> Any:
    from flax import linen

    class Net(linen.Module):
        @linen.compact  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return linen.Dense(2)(linen.RNN(getattr(linen, cell)(5))(x))

    return Net()


def record(model: Any, backend: str, out: Path, **options: Any) -> None:
    framework: Any = load_backend(backend)
    if backend == "torch":
        import torch

        given: Any = torch.from_numpy(SEQUENCES)
    elif backend == "mxnet":
        from mxnet import nd

        given = nd.array(SEQUENCES)
    else:
        import jax
        from flax import linen

        given = jax.numpy.asarray(SEQUENCES)
        if isinstance(model, linen.Module):
            options |= {"variables": model.init(jax.random.key(0), given)}
    framework.record(model, given, out=out, loss=lambda y: (y**2).sum(), **options)


def ported(folder: Path, a: tuple[Any, str], b: tuple[Any, str]) -> Report:
    """`b`, as a port of `a`, against it."""
    files = [folder / "a.safetensors", folder / "b.safetensors"]
    record(*a, files[0], generic=0)
    record(*b, files[1], against=files[0], map=folder / "map.toml")
    return compare_records([read_record(path) for path in files], {})


CELLS = ["LSTM OptimizedLSTMCell", "LSTM LSTMCell", "RNN SimpleCell"]
GRADIENTS = {f"grad/rnn.{what}_{x}h_l0" for what in ("weight", "bias") for x in "ih"}


@pytest.mark.needs("torch", "jax")
@pytest.mark.parametrize("kinds", CELLS)
def test_a_cell_of_nnx(kinds: str, tmp_path: Path) -> None:
    kind, cell = kinds.split()
    report = ported(tmp_path, (torch_net(kind), "torch"), (nnx_net(cell), "jax"))
    assert report.passed, report.verdict()
    assert {d.name for d in report.differences} >= GRADIENTS | {"local/train/rnn:out.0"}


@pytest.mark.needs("torch", "jax")
@pytest.mark.parametrize("kinds", [*CELLS, "GRU GRUCell"])
def test_a_cell_of_linen(kinds: str, tmp_path: Path) -> None:
    kind, cell = kinds.split()
    report = ported(tmp_path, (torch_net(kind), "torch"), (linen_net(cell), "jax"))
    assert report.passed, report.verdict()
    assert {d.name for d in report.differences} >= GRADIENTS | {"eval/head:in"}


@pytest.mark.needs("torch", "jax")
def test_a_port_to_pytorch(tmp_path: Path) -> None:
    """The gates go into one tensor, and one of the two biases is zero."""
    report = ported(tmp_path, (nnx_net("LSTMCell"), "jax"), (torch_net("LSTM"), "torch"))
    assert report.passed, report.verdict()
    assert "grad/rnn.cell.if_.kernel" in {d.name for d in report.differences}
    b = read_record(tmp_path / "b.safetensors")
    assert not b.tensor("rnn.bias_ih_l0").any() and b.tensor("rnn.bias_hh_l0").all()


@pytest.mark.needs("torch", "jax")
def test_both_directions(tmp_path: Path) -> None:
    model = torch_net("LSTM", bidirectional=True)
    port = nnx_net("OptimizedLSTMCell", both=True)
    report = ported(tmp_path, (model, "torch"), (port, "jax"))
    assert report.passed, report.verdict()
    told = {e.a: e.b for e in read_map(tmp_path / "map.toml").entries}
    assert told["rnn.weight_ih_l0_reverse"] == "rnn.backward_rnn.cell.dense_i.kernel"


@pytest.mark.needs("torch", "jax")
def test_what_a_gru_of_nnx_cannot_hold_is_said(tmp_path: Path) -> None:
    model = torch_net("GRU")
    report = ported(tmp_path, (model, "torch"), (nnx_net("GRUCell"), "jax"))
    assert report.first("b") is not None
    why = "the last gate of rnn.cell has no bias of the state"
    assert f"b: reference's rnn.bias_hh_l0 has none here: {why}" in report.notes
    import torch

    with torch.no_grad():
        model.rnn.bias_hh_l0[10:] = 0
    files = [tmp_path / "c.safetensors", tmp_path / "d.safetensors"]
    record(model, "torch", files[0])
    record(nnx_net("GRUCell"), "jax", files[1], against=files[0])
    report = compare_records([read_record(path) for path in files], {})
    assert not any(d.parted for d in report.differences if not d.name.endswith("bias_hh_l0"))


@pytest.mark.needs("torch", "mxnet")
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "LSTM both ways"])
def test_a_layer_of_gluon(kind: str, tmp_path: Path) -> None:
    load_backend("mxnet")
    kind, *both = kind.split(maxsplit=1)
    models = (f(kind, **({"bidirectional": True} if both else {})) for f in (torch_net, gluon_net))
    report = ported(tmp_path, *zip(models, ("torch", "mxnet"), strict=True))
    assert report.passed, report.verdict()
    assert {d.name for d in report.differences} >= GRADIENTS | {"eval/rnn:out.0"}


@pytest.mark.needs("mxnet", "jax")
def test_gluon_to_flax(tmp_path: Path) -> None:
    load_backend("mxnet")
    report = ported(tmp_path, (gluon_net("LSTM"), "mxnet"), (linen_net("LSTMCell"), "jax"))
    assert report.passed, report.verdict()
    assert "grad/rnn._unfused.0.h2h_bias" in {d.name for d in report.differences}
