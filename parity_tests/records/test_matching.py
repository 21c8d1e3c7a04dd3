"""What is matched although the two sides hold it otherwise: shared, fused, under another name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import load_backend
from common.parity.compare_records import compare_records
from common.parity.records import Record, read_record
from common.parity.report import Report

CLASSES, WIDTH = 11, 6
WORDS = np.random.default_rng(0).integers(0, CLASSES, (2, 5))
TOKENS = np.random.default_rng(1).normal(size=(3, 5, WIDTH))


def mean_square(y: Any) -> Any:
    return (y**2).mean()


def torch_nets() -> dict[str, Callable[[], Any]]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, **layers: Any) -> None:
            super().__init__()
            for name, layer in layers.items():
                setattr(self, name, layer)

        def __getattr__(self, name: str) -> Any:
            return super().__getattr__(name)

    class Shared(Net):
        def forward(self, words: Any) -> Any:
            return self.head(torch.tanh(self.dense(self.table(words))))

    class Attention(Net):
        def forward(self, x: Any) -> Any:
            x = self.first(x)
            q, k, v = self.qkv(x).chunk(3, -1) if hasattr(self, "qkv") else map_to_three(self, x)
            return self.last(torch.softmax(q @ k.mT, -1) @ v)

    class Tokens(Net):
        def forward(self, x: Any) -> Any:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
            return self.last(self.prelu(self.first(x)))

    def dense(outputs: int = WIDTH, **options: Any) -> nn.Linear:
        return nn.Linear(WIDTH, outputs, **options)

    def shared() -> Net:
        net = Shared(table=nn.Embedding(CLASSES, WIDTH), dense=dense())
        net.head = dense(CLASSES, bias=False)
        net.head.weight = net.table.weight
        return net

    def parameter(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.ones(shape))

    return {
        "shared": shared,
        "fused": lambda: Attention(first=dense(), qkv=dense(3 * WIDTH), last=dense()),
        "three": lambda: Attention(
            first=dense(), q=dense(), k=dense(), values=dense(), last=dense()
        ),
        "tokens": lambda: Tokens(
            cls=parameter(1, 1, WIDTH),
            pos=parameter(1, 6, WIDTH),
            first=dense(),
            prelu=nn.PReLU(),
            last=dense(),
        ),
    }


def map_to_three(net: Any, x: Any) -> Any:
    return net.q(x), net.k(x), net.values(x)


def flax_nets() -> dict[str, Callable[[], Any]]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    rngs = nnx.Rngs(0)

    def dense(outputs: int = WIDTH, **options: Any) -> nnx.Linear:
        return nnx.Linear(WIDTH, outputs, rngs=rngs, **options)

    class Shared(nnx.Module):
        def __init__(self, head: nnx.Linear | None) -> None:
            self.table, self.dense = nnx.Embed(CLASSES, WIDTH, rngs=rngs), dense()
            self.head = head

        def __call__(self, words: Any) -> Any:
            head = self.head or self.table.attend
            return head(jnp.tanh(self.dense(self.table(words))))

    class Attention(nnx.Module):
        def __init__(self, **layers: Any) -> None:
            for name, layer in layers.items():
                setattr(self, name, layer)

        def __call__(self, x: Any) -> Any:
            x = self.first(x)
            fused = hasattr(self, "qkv")
            q, k, v = jnp.split(self.qkv(x), 3, -1) if fused else map_to_three(self, x)
            return self.last(jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ v)

    class Slope(nnx.Module):
        def __init__(self) -> None:
            self.negative_slope = nnx.Param(jnp.float32(0.01))

        def __call__(self, x: Any) -> Any:
            return jnp.where(x >= 0, x, x * self.negative_slope[...])

    class Tokens(nnx.Module):
        def __init__(self) -> None:
            self.position_embedding = nnx.Param(jnp.ones((6, WIDTH)))
            self.cls_token = nnx.Param(jnp.ones((1, 1, WIDTH)))
            self.first, self.slope, self.last = dense(), Slope(), dense()

        def __call__(self, x: Any) -> Any:
            first = jnp.broadcast_to(self.cls_token[...], (len(x), 1, WIDTH))
            x = jnp.concatenate([first, x], 1) + self.position_embedding[...]
            return self.last(self.slope(self.first(x)))

    return {
        "shared": lambda: Shared(None),
        "untied": lambda: Shared(dense(CLASSES, use_bias=False)),
        "fused": lambda: Attention(first=dense(), qkv=dense(3 * WIDTH), last=dense()),
        "three": lambda: Attention(
            first=dense(), q=dense(), k=dense(), values=dense(), last=dense()
        ),
        "tokens": Tokens,
    }


def gluon_nets() -> dict[str, Callable[[], Any]]:
    from mxnet import nd
    from mxnet.gluon import Block, nn

    class Shared(Block):
        def __init__(self) -> None:
            super().__init__()
            options = {"in_units": WIDTH, "flatten": False}
            self.table, self.dense = nn.Embedding(CLASSES, WIDTH), nn.Dense(WIDTH, **options)
            shared = self.table.params
            self.head = nn.Dense(CLASSES, use_bias=False, params=shared, **options)
            self.initialize()

        def forward(self, words: Any) -> Any:
            return self.head(nd.tanh(self.dense(self.table(words))))

    return {"shared": Shared}


def nets(backend: str) -> dict[str, Callable[[], Any]]:
    return {"torch": torch_nets, "mxnet": gluon_nets, "jax": flax_nets}[backend]()


def optimizer(backend: str, net: Any) -> Any:
    if backend == "torch":
        import torch

        return torch.optim.SGD(net.parameters(), 0.5)
    if backend == "mxnet":
        from mxnet import gluon

        return gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.5})
    import optax

    return optax.sgd(0.5)


def recorded(sides: dict[str, str], inputs: Any, folder: Path) -> tuple[str, Report, Record]:
    """The map that is proposed, without words of a guess, the report, and the second record."""
    files: list[Path] = []
    for backend, name in sides.items():
        framework: Any = load_backend(backend)
        net = nets(backend)[name]()
        about = {"against": files[0], "map": folder / "map.toml"} if files else {"generic": 0}
        out = folder / f"{len(files)}.safetensors"
        steps = {"loss": mean_square, "optimizer": optimizer(backend, net)}
        framework.record(net, inputs, out=out, **steps, **about)
        files.append(out)
    a, b = (read_record(path) for path in files)
    text = (folder / "map.toml").read_text()
    assert "A guess" not in text and "unmatched" not in text
    return text, compare_records([a, b], {}), b


PAIRS: list[dict[str, str]] = [
    {"torch": "shared", "jax": "shared"},
    {"torch": "shared", "mxnet": "shared"},
    {"mxnet": "shared", "jax": "shared"},
    {"jax": "shared", "torch": "shared"},
    {"torch": "fused", "jax": "three"},
    {"jax": "fused", "torch": "three"},
    {"torch": "three", "jax": "fused"},
    {"jax": "three", "torch": "fused"},
    {"torch": "tokens", "jax": "tokens"},
    {"jax": "tokens", "torch": "tokens"},
]


def named(sides: dict[str, str]) -> str:
    return "-".join(f"{backend}_{name}" for backend, name in sides.items())


@pytest.mark.parametrize(
    "sides", [pytest.param(x, marks=pytest.mark.needs(*x), id=named(x)) for x in PAIRS]
)
def test_what_is_held_otherwise_is_equal(sides: dict[str, str], tmp_path: Path) -> None:
    inputs = WORDS if "shared" in sides.values() else TOKENS
    _, report, b = recorded(sides, inputs, tmp_path)
    assert report.first(b.label) is None, report.first(b.label)
    assert report.findings == []


@pytest.mark.needs("torch", "jax")
def test_an_untied_weight_is_told_and_parts_in_training(tmp_path: Path) -> None:
    text, report, b = recorded({"torch": "shared", "jax": "untied"}, WORDS, tmp_path)
    assert text.count('a = "table.weight"') == 2
    assert any("several here, which part in training" in note for note in report.notes)
    first = report.first(b.label)
    assert first is not None and first.name == "final/table.weight"
