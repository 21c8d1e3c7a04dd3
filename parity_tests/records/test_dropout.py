"""Dropout: off, and said to be; or by masks that are the same in every framework."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import load_backend
from common.parity.compare_records import compare_records
from common.parity.masks import Masks
from common.parity.records import Layer, Record, Tensor, read_record
from parity_tests.records.test_record import IMAGES, on_device, record

AXES = {"w": Tensor((6, 4, 3, 3), "o i h w", True)}


def masks(channels: int, seed: int = 0) -> Masks:
    layers = {"conv": Layer("Conv", {"weight": "w"}, channels)}
    return Masks(seed, layers, AXES)


def test_a_mask_depends_on_the_seed_and_the_call() -> None:
    first = masks(1).next((50, 40), 0.25)
    again, other = masks(1), masks(1, seed=1)
    assert np.array_equal(again.next((50, 40), 0.25), first)
    assert not np.array_equal(again.next((50, 40), 0.25), first)
    assert not np.array_equal(other.next((50, 40), 0.25), first)
    assert set(np.unique(first)) == {0.0, 1 / 0.75}
    assert (first == 0).mean() == pytest.approx(0.25, abs=0.05)
    assert not masks(1).next((3, 4), 1.0).any()


@pytest.mark.parametrize("channels", [6, 4])
def test_a_mask_is_turned_with_the_channels(channels: int) -> None:
    first = masks(1).next((2, channels, 5, 7), 0.5)
    last = masks(-1).next((2, 5, 7, channels), 0.5)
    assert np.array_equal(last, first.transpose(0, 2, 3, 1))
    shared = masks(-1).next((2, 5, 7, channels), 0.5, (1, 2))
    assert np.array_equal(
        shared[:, 0, 0], masks(1).next((2, channels, 5, 7), 0.5, (2, 3))[..., 0, 0]
    )
    # attention's (examples, heads, queries, keys) are no channels of a convolution
    plain = [masks(axis).next((2, 3, 5, 5), 0.5) for axis in (1, -1)]
    assert np.array_equal(*plain)


def models(backend: str) -> tuple[Any, Any]:
    """A network with both kinds of dropout, one of them called twice, and its loss."""
    load_backend(backend)
    if backend == "torch":
        from torch import nn

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.dense = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 6)
                self.planes, self.drop = nn.Dropout2d(0.4), nn.Dropout(0.3)

            def forward(self, x: Any) -> Any:
                x = self.drop(self.planes(self.conv(x)).relu()).mean((2, 3))
                return self.dense(self.drop(self.dense(x).relu()))

        return Net(), lambda y: y.square().sum()
    if backend == "mxnet":
        from mxnet.gluon import HybridBlock
        from mxnet.gluon import nn as gluon

        class Block(HybridBlock):
            def __init__(self) -> None:
                super().__init__()
                self.conv = gluon.Conv2D(6, 3, padding=1, in_channels=3)
                self.dense = gluon.Dense(6, in_units=6)
                self.planes, self.drop = gluon.Dropout(0.4, axes=(2, 3)), gluon.Dropout(0.3)
                self.initialize()

            def hybrid_forward(self, F: Any, x: Any) -> Any:
                x = self.drop(F.relu(self.planes(self.conv(x)))).mean((2, 3))
                return self.dense(self.drop(F.relu(self.dense(x))))

        return Block(), lambda y: (y**2).sum()
    from flax import nnx

    class Module(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.conv = nnx.Conv(3, 6, (3, 3), padding=1, rngs=rngs)
            self.dense = nnx.Linear(6, 6, rngs=rngs)
            self.planes = nnx.Dropout(0.4, broadcast_dims=(1, 2), rngs=rngs)
            self.drop = nnx.Dropout(0.3, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = self.drop(nnx.relu(self.planes(self.conv(x)))).mean((1, 2))
            return self.dense(self.drop(nnx.relu(self.dense(x))))

    return Module(), lambda y: (y**2).sum()


def dropped(backend: str, out: Path, **options: Any) -> Record:
    framework: Any = load_backend(backend)
    model, loss = models(backend)
    framework.record(model, on_device(backend, IMAGES), out=out, loss=loss, **options)
    return read_record(out)


@pytest.mark.needs("torch")
def test_masks_are_the_same_in_every_framework(backend: str, tmp_path: Path) -> None:
    reference = tmp_path / "reference.safetensors"
    a = dropped("torch", reference, dropout=5, generic=0)
    assert a.facts["random"] == []
    assert a.facts["notes"] == ["dropout by masks of seed 5: planes, drop"]
    b = dropped(backend, tmp_path / "b.safetensors", dropout=5, against=reference)
    report = compare_records([a, b], {})
    assert report.passed, report.verdict()
    assert {"train/output", "grad/dense.weight"} <= {d.name for d in report.differences}
    c = dropped(backend, tmp_path / "c.safetensors", dropout=6, against=reference)
    parted = {d.name for d in compare_records([a, c], {}).differences if d.parted}
    assert "train/output" in parted and "eval/output" not in parted


@pytest.mark.parametrize("net", ["mxnet", "jax", "linen"])
@pytest.mark.needs("torch", "mxnet", "jax")
def test_where_nothing_else_differs(net: str, tmp_path: Path) -> None:
    """The dropout of Flax sees the channels last."""
    record("torch", tmp_path, generic=0, dropout=3)
    reference = tmp_path / "torch.safetensors"
    b = record(net, tmp_path, against=reference, dropout=3)
    report = compare_records([read_record(reference), b], {})
    assert {d.stage for d in report.differences if d.parted} == {"buffer"}
    off = record("torch", tmp_path, generic=0)
    assert not np.array_equal(off.arrays["loss"], b.arrays["loss"])


def test_dropout_is_off_and_said_to_be(backend: str, tmp_path: Path) -> None:
    told = dropped(backend, tmp_path / "x.safetensors")
    names = {"planes", "drop"}
    note = next(n for n in told.facts["notes"] if n.startswith("dropout off: "))
    assert set(note.removeprefix("dropout off: ").split(", ")) == names
    assert np.array_equal(told.arrays["train/output"], told.arrays["eval/output"])


def test_steps_take_the_masks_too(backend: str, tmp_path: Path) -> None:
    framework: Any = load_backend(backend)
    ends = []
    for seed in (5, 5, 6):
        model, loss = models(backend)
        if backend == "torch":
            import torch

            optimizer: Any = torch.optim.SGD(model.parameters(), 0.1)
        elif backend == "mxnet":
            from mxnet.gluon import Trainer

            optimizer = Trainer(model.collect_params(), "sgd", {"learning_rate": 0.1})
        else:
            import optax

            optimizer = optax.sgd(0.1)
        out = tmp_path / "x.safetensors"
        options = {"optimizer": optimizer, "steps": 2, "generic": 1, "dropout": seed}
        told = framework.record(model, on_device(backend, IMAGES), out=out, loss=loss, **options)
        ends.append(told.arrays["loss"])
    assert np.array_equal(ends[0], ends[1])
    assert ends[0][0] != ends[2][0] and ends[0][1] != ends[2][1]


@pytest.mark.needs("torch", "mxnet")
def test_the_dropout_of_recurrent_layers_is_off(tmp_path: Path) -> None:
    load_backend("mxnet")
    import torch
    from mxnet import nd
    from mxnet.gluon import rnn

    from backends.mxnet import record as mxnet_record
    from backends.torch import record as torch_record

    values = IMAGES[0].astype(np.float32)
    layer = rnn.LSTM(4, 2, dropout=0.5, input_size=8)
    layer.initialize()
    sequence = torch.nn.Sequential(torch.nn.LSTM(8, 4, 2, dropout=0.5))
    out = tmp_path / "x.safetensors"
    a = torch_record(sequence, torch.from_numpy(values), out=out)
    assert a.facts["notes"] == ["0: its own dropout is off"] and a.facts["random"] == []
    b = mxnet_record(layer, nd.array(values), out=out)
    assert b.facts["notes"] == ["the network: its own dropout is off"] and b.facts["random"] == []
    assert layer._dropout == 0.5
