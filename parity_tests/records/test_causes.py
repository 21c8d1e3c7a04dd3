"""What a normalisation is, fitted to its values; and a dense layer by another name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import load_backend
from common.parity.causes import fit_eps
from common.parity.compare_records import compare_records
from common.parity.records import Record, read_record

IMAGES = np.random.default_rng(2).normal(size=(3, 8, 4, 5)).astype(np.float32)


def torch_norm(kind: str, eps: float) -> Any:
    from torch import nn

    kinds: dict[str, Any] = {
        "LayerNorm": nn.LayerNorm((4, 5), eps=eps),
        "LayerNorm without weights": nn.LayerNorm(5, eps=eps, elementwise_affine=False),
        "RMSNorm": nn.RMSNorm(5, eps=eps),
        "GroupNorm": nn.GroupNorm(2, 8, eps=eps),
        "InstanceNorm": nn.InstanceNorm2d(8, eps=eps, affine=True),
    }
    return nn.Sequential(nn.Conv2d(8, 8, 1), kinds[kind])


def recorded(backend: str, model: Any, out: Path, **options: Any) -> Record:
    framework: Any = load_backend(backend)
    if backend == "torch":
        import torch

        given: Any = torch.from_numpy(IMAGES)
    elif backend == "mxnet":
        from mxnet import nd

        given = nd.array(IMAGES)
    else:
        import jax.numpy as jnp

        given = jnp.asarray(IMAGES.transpose(0, 2, 3, 1))
    framework.record(model, given, out=out, **options)
    return read_record(out)


KINDS = ["LayerNorm", "LayerNorm without weights", "RMSNorm", "GroupNorm", "InstanceNorm"]


@pytest.mark.needs("torch")
@pytest.mark.parametrize("kind", KINDS)
def test_another_epsilon_is_named(kind: str, tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    a = recorded("torch", torch_norm(kind, 1e-5), files[0], generic=0)
    assert fit_eps(a, "1") == pytest.approx(1e-5, rel=1e-6)
    assert fit_eps(a, "0") is None
    b = recorded("torch", torch_norm(kind, 1e-6), files[1], against=files[0])
    report = compare_records([a, b], {})
    if not a.layers["1"].tensors:  # it is paired with nothing
        return
    told = next(d for d in report.differences if d.status == "new")
    kind = a.layers["1"].kind
    assert told.cause == f"{kind} with eps 1e-06; in a with eps 1e-05"


@pytest.mark.needs("torch")
def test_what_is_no_norm_fits_none(tmp_path: Path) -> None:
    """A GroupNorm that is something else besides has no epsilon."""
    from torch import nn

    class GroupNorm(nn.GroupNorm):
        def forward(self, x: Any) -> Any:
            return super().forward(x).relu()

    model = nn.Sequential(nn.Conv2d(8, 8, 1), GroupNorm(2, 8))
    assert fit_eps(recorded("torch", model, tmp_path / "a.safetensors", generic=0), "1") is None


@pytest.mark.needs("mxnet")
@pytest.mark.parametrize("kind", ["LayerNorm", "GroupNorm"])
def test_the_norms_of_gluon(kind: str, tmp_path: Path) -> None:
    load_backend("mxnet")
    from mxnet.gluon import nn

    norms = {
        "LayerNorm": lambda: nn.LayerNorm(epsilon=1e-3, in_channels=5),
        "GroupNorm": lambda: nn.GroupNorm(2, epsilon=1e-3),
    }
    model = nn.HybridSequential()
    model.add(nn.Conv2D(8, 1, in_channels=8), norms[kind]())
    model.initialize()
    a = recorded("mxnet", model, tmp_path / "a.safetensors", generic=0)
    assert fit_eps(a, "1") == pytest.approx(1e-3, rel=1e-6)


@pytest.mark.needs("torch", "mxnet")
@pytest.mark.parametrize("kind", ["LayerNorm", "LeakyReLU", "ELU"])
def test_an_attribute_of_gluon_s_is_a_float32(kind: str, tmp_path: Path) -> None:
    load_backend("mxnet")
    import mxnet.gluon.nn as gluon
    from torch import nn

    values: dict[str, list[Any]] = {"LayerNorm": [5], "LeakyReLU": [0.01], "ELU": [0.7]}
    own = {"LayerNorm": {"in_channels": 5}, "LeakyReLU": {"alpha": 0.01}, "ELU": {"alpha": 0.7}}
    model = nn.Sequential(nn.Linear(5, 5), getattr(nn, kind)(*values[kind]), nn.Linear(5, 5))
    port = gluon.HybridSequential()
    port.add(gluon.Dense(5, in_units=5, flatten=False), getattr(gluon, kind)(**own[kind]))
    port.add(gluon.Dense(5, in_units=5, flatten=False))
    port.initialize()
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    a = recorded("torch", model, files[0], generic=0)
    b = recorded("mxnet", port, files[1], against=files[0])
    first = compare_records([a, b], {}).first("b")
    assert first is not None
    assert first.cause.startswith("probably an attribute in float32")


@pytest.mark.needs("jax")
@pytest.mark.parametrize("kind", ["LayerNorm", "GroupNorm", "RMSNorm"])
def test_the_norms_of_flax(kind: str, tmp_path: Path) -> None:
    from flax import nnx

    rngs = nnx.Rngs(0)
    options = {"num_groups": 2} if kind == "GroupNorm" else {}
    norm = getattr(nnx, kind)(8, epsilon=1e-4, rngs=rngs, **options)
    model = nnx.Sequential(nnx.Conv(8, 8, (1, 1), rngs=rngs), norm)
    a = recorded("jax", model, tmp_path / "a.safetensors", generic=0)
    assert fit_eps(a, "layers.1") == pytest.approx(1e-4, rel=1e-6)


@pytest.mark.needs("torch")
def test_the_conv1d_of_hugging_face_is_a_dense_layer(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Conv1D(nn.Module):
        def __init__(self, makes: int, reads: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(reads, makes))
            self.bias = nn.Parameter(torch.zeros(makes))

        def forward(self, x: Any) -> Any:
            return x @ self.weight + self.bias

    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    a = recorded("torch", nn.Sequential(nn.Linear(5, 6)), files[0], generic=0)
    b = recorded("torch", nn.Sequential(Conv1D(6, 5)), files[1], against=files[0])
    report = compare_records([a, b], {})
    assert report.passed, report.verdict()
    assert b.map is not None and b.map.entries[0].axes == "o i -> i o"
    assert "local/eval/0:out" in {d.name for d in report.differences}


@pytest.mark.needs("torch")
@pytest.mark.parametrize("name", ["BatchNorm", "ChannelNorm", "GroupNorm"])
def test_a_norm_of_the_user_s_own_is_fitted_to_nothing(name: str, tmp_path: Path) -> None:
    """Its scale is of another axis than the library's: no epsilon is told, and none is made up."""
    import torch
    from torch import nn

    class Own(nn.Module):
        def __init__(self, eps: float) -> None:
            super().__init__()
            self.eps = eps
            self.weight = nn.Parameter(torch.ones(8, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            spread = x.var(1, keepdim=True, unbiased=False)
            return self.weight * (x - x.mean(1, keepdim=True)) / (spread + self.eps).sqrt()

    Own.__name__ = name
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    models = [nn.Sequential(nn.Conv2d(8, 8, 1), Own(eps)) for eps in (1e-5, 1e-3)]
    a = recorded("torch", models[0], files[0], generic=0)
    b = recorded("torch", models[1], files[1], against=files[0])
    assert a.layers["1"].kind == name
    assert fit_eps(a, "1") is None
    first = compare_records([a, b], {}).first("b")
    assert first is not None
    assert (first.name, first.cause) == (
        "local/eval/1:out",
        f"{name}(eps=0.001); in a {name}(eps=1e-05)",
    )
