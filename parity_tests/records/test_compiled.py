"""Compiled models are recorded eagerly, and what they return compiled is held against that."""

import re
from pathlib import Path
from typing import Any

import pytest

from backends import load_backend
from common.parity.compare_records import compare_records
from common.parity.records import Record, read_record
from parity_tests.records.test_record import IMAGES, equal, on_device, record

LAYERS = {"stem", "norm", "shared", "down", "up", "drop", "flat"}


def check(told: Record, wrong: bool) -> None:
    """That the layers are there, and that what is returned compiled is told, and judged."""
    assert set(told.calls) >= LAYERS
    note = next(note for note in told.facts["notes"] if "compiled" in note)
    error = re.fullmatch("recorded eagerly; what it returns compiled is (.+) off", note)
    assert error is not None
    if not wrong:
        assert float(error[1]) < 1e-14
        assert told.facts["findings"] == {}
        return
    assert float(error[1]) == pytest.approx(1e-3, rel=0.2)
    report = compare_records([told, read_record_again(told)], {})
    assert not report.passed
    text = "compiled, the network returns another eval/output"
    assert report.findings[0].text.startswith(text)


def read_record_again(told: Record) -> Record:
    return Record("again", told.arrays, told.metadata)


def wrong_compiler(graph: Any, inputs: Any) -> Any:
    """A compiler of PyTorch that scales what it compiles."""
    return lambda *arguments: [
        value * (1 + 1e-3) if value.is_floating_point() else value for value in graph(*arguments)
    ]


@pytest.mark.needs("torch")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
@pytest.mark.parametrize("how", ["wrapped", "in place", "inside"])
def test_torch_compile(how: str, wrong: bool, tmp_path: Path) -> None:
    import torch

    from parity_tests.records.torch_net import Net

    torch._dynamo.reset()
    model: Any = Net()
    settings: Any = {"backend": wrong_compiler if wrong else "eager"}
    if how == "wrapped":
        model = torch.compile(model, **settings)
    elif how == "in place":
        model.compile(**settings)
    else:
        model.flat = torch.compile(model.flat, **settings)
    images = on_device("torch", IMAGES)
    model.train()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    told = record("torch", tmp_path, model=model)
    check(told, wrong)
    assert not any("_orig_mod" in name for name in told.tensors)
    assert model.training and not model.norm.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model(images)["classes"].dtype == torch.float32


@pytest.mark.needs("mxnet")
@pytest.mark.filterwarnings("ignore:Parameter .* is not used")
@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_a_hybridized_block(static: bool, wrong: bool, tmp_path: Path) -> None:
    load_backend("mxnet")
    from mxnet import nd

    from parity_tests.records.mxnet_net import Net

    class Scaled(Net):
        """What is made of symbols is another function."""

        def hybrid_forward(self, F: Any, x: Any) -> Any:
            factor = 1.001 if wrong and F is not nd else 1
            return [value * factor for value in super().hybrid_forward(F, x)]

    model, images = Scaled(), on_device("mxnet", IMAGES)
    model.hybridize(static_alloc=static, static_shape=static)
    before, graph = model(images)[0].asnumpy(), model._cached_op
    check(record("mxnet", tmp_path, model=model), wrong)
    assert model._active and model._cached_op is graph
    assert equal(model(images)[0].asnumpy(), before)


@pytest.mark.needs("jax")
@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_a_jitted_module(wrong: bool, tmp_path: Path) -> None:
    import jax
    from flax import nnx

    from parity_tests.records.jax_net import Net

    class Jitted(Net):
        def scaled(self, x: Any) -> Any:
            factor = 1.001 if wrong else 1
            return jax.tree.map(lambda value: value * factor, Net.__call__(self, x))

        __call__ = nnx.jit(scaled)

    call: Any = Jitted.__call__
    call.__wrapped__ = Net.__call__
    check(record("jax", tmp_path, model=Jitted()), wrong)


@pytest.mark.needs("jax")
def test_what_a_transform_hides_is_said(tmp_path: Path) -> None:
    from flax import linen, nnx

    from backends.jax import record as jax_record
    from parity_tests.records.jax_net import LinenNet, Net

    class Inner(nnx.Module):
        def __init__(self) -> None:
            self.net = Net()

        @nnx.remat  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return self.net(x)["vector"]

    class Outer(linen.Module):
        @linen.compact  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return linen.remat(LinenNet)()(x)["vector"]

    import jax

    images, out = on_device("jax", IMAGES), tmp_path / "x.safetensors"
    variables = Outer().init(jax.random.key(0), images)
    hidden = "inside a transform, as scan or remat, nothing is seen"
    for model, options in ((Inner(), {}), (Outer(), {"variables": variables})):
        jax_record(model, images, out=out, **options)
        told = read_record(out)
        assert told.calls == []
        notes = [note for note in told.facts["notes"] if hidden in note]
        assert notes == [f"the network: {hidden}"]
