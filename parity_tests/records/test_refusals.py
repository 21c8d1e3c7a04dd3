"""What cannot be recorded, or compared, is refused in one line."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import load_backend
from common.errors import InputError
from common.parity.compare_records import compare_records
from common.parity.records import read_record
from common.parity.traces import FORMAT
from common.weights.checkpoint import write_tensors
from parity_tests.records.test_port import python
from parity_tests.records.test_record import IMAGES, NETS, on_device, record


def optimizer_of(backend: str, model: Any) -> Any:
    if backend == "torch":
        import torch

        return torch.optim.SGD(model.parameters(), 0.1)
    if backend == "mxnet":
        from mxnet.gluon import Trainer

        return Trainer(model.collect_params(), "sgd", {"learning_rate": 0.1})
    import optax

    return optax.sgd(0.1)


def still(backend: str, net: Callable[[], Any]) -> Any:
    """An optimizer that moves nothing: of another model, or with a rate of zero."""
    if backend == "torch":
        return optimizer_of(backend, net())
    if backend == "mxnet":
        from mxnet.gluon import Trainer

        return Trainer(net().collect_params(), "sgd", {"learning_rate": 0.0})
    import optax

    return optax.sgd(0.0)


REFUSED: dict[str, tuple[Callable[[str, Any], dict[str, Any]], str]] = {
    "no module": (lambda b, m: {"model": len}, "builtin_function_or_method: not a (module|block)"),
    "a loss of many values": (
        lambda b, m: {"loss": lambda y: (y[0] if b == "mxnet" else y["classes"]) * 1},
        r"loss: makes values of shape \(2, 5\), not one$",
    ),
    "a loss that fails": (
        lambda b, m: {"loss": lambda y: m.NO_SUCH_NAME},
        "loss: cannot be computed of what the model returns: AttributeError: module '.+' has no",
    ),
    "a loss that is no array": (
        lambda b, m: {"loss": lambda y: 3.0},
        "loss: makes float, not an array of one value$",
    ),
    "a loss without train mode": (
        lambda b, m: {"train": False},
        "loss: is one of train mode, and train=False leaves that out$",
    ),
    "an optimizer without a loss": (
        lambda b, m: {"loss": None, "optimizer": optimizer_of(b, m.Net())},
        "optimizer: there is no loss to make steps with$",
    ),
    "no steps": (lambda b, m: {"steps": 0}, "steps: 0; the first is always made$"),
    "a pattern that fits nothing": (
        lambda b, m: {"keep": "encoder.*"},
        r"keep: no layer's path fits 'encoder\.\*'$",
    ),
    "a reference that is not there": (
        lambda b, m: {"against": "nowhere.safetensors"},
        "nowhere.safetensors: ",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_recorded(backend: str, what: str, tmp_path: Path) -> None:
    load_backend(backend)
    module = importlib.import_module(f"parity_tests.records.{NETS[backend][0]}")
    options, message = REFUSED[what]
    with pytest.raises(InputError, match=f"^{message}"):
        record(backend, tmp_path, **options(backend, module))
    assert not [*tmp_path.iterdir()]


def test_inputs_that_do_not_fit(backend: str, tmp_path: Path) -> None:
    framework: Any = load_backend(backend)
    module = importlib.import_module(f"parity_tests.records.{NETS[backend][0]}")
    images = on_device(backend, IMAGES[:, :2])
    with pytest.raises(InputError, match=r"^the model cannot be run on these inputs: \w+: .+") as e:
        framework.record(module.Net(), images, out=tmp_path / "x.safetensors")
    assert "Traceback" not in str(e.value) and "\n" not in str(e.value)


def test_steps_that_move_nothing(backend: str, tmp_path: Path) -> None:
    """The optimizer holds the weights of another model, or its rate is zero."""
    load_backend(backend)
    module = importlib.import_module(f"parity_tests.records.{NETS[backend][0]}")
    with pytest.raises(InputError, match="optimizer: its steps move no weight"):
        record(backend, tmp_path, optimizer=still(backend, module.Net), steps=2)


def test_a_loss_that_no_weight_moves(backend: str, tmp_path: Path) -> None:
    framework: Any = load_backend(backend)
    module = importlib.import_module(f"parity_tests.records.{NETS[backend][0]}")
    images, out = on_device(backend, IMAGES), tmp_path / "x.safetensors"
    with pytest.raises(InputError, match=r"loss: no weight has a gradient|cannot be run on these"):
        framework.record(module.Net(), images, out=out, loss=lambda y: (images * 0).sum())


@pytest.mark.needs("torch")
def test_tensors_without_values(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from backends.torch import record as torch_record

    x = torch.ones(2, 3)
    with pytest.warns(FutureWarning, match="deprecated"):
        old = nn.utils.weight_norm(nn.Linear(3, 2))
    loss = old(x).mean()  # as a user who has trained it
    loss.backward()
    refused: list[tuple[nn.Module, torch.Tensor, str]] = [
        (nn.Linear(3, 2, device="meta"), x, "weight: has no values, on the device meta"),
        (nn.LazyLinear(2), x, "weight: has no values yet; call the module once"),
        (nn.Linear(3, 2), torch.eye(3).to_sparse(), "input 0.0: sparse; give it dense, to_dense()"),
        (
            old,
            x,
            "Linear: cannot be copied: a weight is made of others: nn.utils.remove_weight_norm",
        ),
    ]
    for model, given, message in refused:
        with pytest.raises(InputError, match=f"^{re.escape(message)}"):
            torch_record(model, given, out=tmp_path / "x.safetensors")


@pytest.mark.needs("torch")
def test_where_a_nan_is_first(tmp_path: Path) -> None:
    from parity_tests.records.torch_net import Net

    model = Net()
    model.down.register_forward_hook(lambda layer, x, y: y.log())
    told = record("torch", tmp_path, model=model)
    report = compare_records([told, told.__class__("b", told.arrays, told.metadata)], {})
    assert not report.passed
    assert all(f.text.startswith("NaN first in eval/up:in, ") for f in report.findings)
    assert len(report.findings) == 2


@pytest.mark.needs("torch")
def test_inputs_of_another_shape(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from backends.torch import record as torch_record

    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file, size, options in zip(files, (8, 6), ({}, {"against": files[0]}), strict=True):
        torch_record(nn.Conv2d(3, 4, 3), torch.ones(1, 3, size, size), out=file, **options)
        model = nn.Sequential(nn.Conv2d(3, 4, 3))
        torch_record(model, torch.ones(1, 3, size, size), out=file, **options)
    with pytest.raises(InputError, match="b: made from other inputs than a"):
        compare_records([read_record(path) for path in files], {})


@pytest.mark.needs("torch")
def test_records_and_our_own_traces_do_not_mix(tmp_path: Path) -> None:
    record("torch", tmp_path)
    write_tensors(tmp_path / "ours.safetensors", {"eval/stem": np.ones(3)}, FORMAT)
    files = ["torch.safetensors", "ours.safetensors"]
    for command in (
        ["scripts.compare", *files],
        ["scripts.match", *files, "--out", "map.toml"],
        ["scripts.match", "torch.safetensors", "nowhere.safetensors", "--out", "map.toml"],
    ):
        done = python(tmp_path, "-m", *command)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
