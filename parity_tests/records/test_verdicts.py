"""What may not be overlooked, and what is no difference: masks, outputs, what was recorded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from common.parity.compare_records import compare_records
from common.parity.mapping import Entry, Map, read_map
from common.parity.records import read_record
from common.parity.report import Report

pytestmark = pytest.mark.needs("torch")


def compared(
    folder: Path, a: Any, b: Any, inputs: Any, mine: dict[str, Any], theirs: dict[str, Any]
) -> Report:
    """The report on two networks of PyTorch, each recorded with options of its own."""
    from backends.torch import record

    files = [folder / f"{name}.safetensors" for name in "ab"]
    record(a, inputs, out=files[0], generic=0, **mine)
    record(b, inputs, out=files[1], against=files[0], **theirs)
    return compare_records([read_record(path) for path in files], {})


def mean(y: Any) -> Any:
    return y.square().mean()


def returning(make: Callable[[Any, Any], Any]) -> Any:
    """A network of two layers, and what it makes of both."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> Any:
            y = self.a(x)
            return make(y, self.b(y))

    return Net()


def test_a_mask_of_infinities_is_no_difference(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            later = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
            return self.layer(x, src_mask=later)

    x, loss = torch.linspace(-1, 1, 80).reshape(2, 5, 8), {"loss": mean}
    report = compared(tmp_path, Masked(), Masked(), x, loss, loss)
    assert report.passed, report.verdict()


def test_an_output_that_is_left_out_is_a_finding(tmp_path: Path) -> None:
    import torch

    both, one = returning(lambda a, b: (a, b)), returning(lambda a, b: (a,))
    report = compared(tmp_path, both, one, torch.ones(2, 4), {}, {})
    assert not report.passed
    told = {finding.text for finding in report.findings}
    assert "returns 1 arrays in eval mode, a 2" in told


def test_outputs_of_other_names_are_paired_in_order(tmp_path: Path) -> None:
    import torch

    named = returning(lambda a, b: {"z": a, "y": b})
    plain = returning(lambda a, b: (a, b))
    assert compared(tmp_path, named, plain, torch.ones(2, 4), {}, {}).passed
    swapped = returning(lambda a, b: (b, a))
    assert not compared(tmp_path, named, swapped, torch.ones(2, 4), {}, {}).passed


def test_what_one_side_was_recorded_without(tmp_path: Path) -> None:
    import torch

    def net() -> Any:
        return returning(lambda a, b: b)

    def stepped(model: Any, steps: int) -> dict[str, Any]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return {"loss": mean, "optimizer": optimizer, "steps": steps}

    loss, x = {"loss": mean}, torch.ones(2, 4)
    a, b = net(), net()
    for mine, theirs, text in (
        (loss, {}, "b was recorded without loss=, a with it"),
        ({}, loss, "a was recorded without loss=, b with it"),
        (stepped(a, 2), loss, "b was recorded without optimizer=, a with it"),
        (stepped(a, 3), stepped(b, 2), "makes 2 steps, a 3"),
    ):
        report = compared(tmp_path, a, b, x, mine, theirs)
        assert not report.passed
        assert text in {finding.text for finding in report.findings}
    assert compared(tmp_path, a, b, x, stepped(a, 2), stepped(b, 2)).passed


@pytest.mark.parametrize(
    "change, cause",
    [
        ("running", "its running statistics, which stay as they are, in train mode"),
        ("halved", "decay 0.9, unbiased variance"),
        ("eps", "decay 0.9, unbiased variance, eps 0.01"),
    ],
)
def test_a_batch_norm_is_told_as_it_is(change: str, cause: str, tmp_path: Path) -> None:
    import torch
    from torch import nn
    from torch.nn import functional

    class Own(nn.BatchNorm1d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if change == "halved":
                return super().forward(x) / 2
            tensors = self.running_mean, self.running_var, self.weight, self.bias
            return functional.batch_norm(x, *tensors, training=False, eps=self.eps)

    norm = nn.BatchNorm1d(4, eps=0.01) if change == "eps" else Own(4)
    a, b = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Sequential(nn.Linear(3, 4), norm)
    x = torch.linspace(-1, 1, 24).reshape(8, 3) ** 2
    loss = {"loss": mean}
    report = compared(tmp_path, a, b, x, loss, loss)
    told = [d.cause for d in report.differences if d.name.startswith("local/train/1:out")]
    told += [d.cause for d in report.differences if d.cause]
    sound = "in a with decay 0.9, unbiased variance, eps 1e-05"
    assert f"BatchNorm with {cause}; {sound}" in told


def test_what_cannot_be_copied_is_refused(tmp_path: Path) -> None:
    import threading

    import torch
    from torch import nn

    from backends.torch import record

    model = nn.Sequential(nn.Linear(3, 3))
    model.lock = threading.Lock()
    with pytest.raises(InputError, match="Sequential: cannot be copied: cannot pickle"):
        record(model, torch.ones(2, 3), out=tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("steps", 2.0, "steps: 2.0 is neither a number nor a sequence of further inputs"),
        ("generic", -1, "generic: -1 is no seed, a whole number from 0"),
        ("generic", 1.5, "generic: 1.5 is no seed, a whole number from 0"),
        ("out", None, "out: None is no path"),
        ("keep", None, "keep: None is no pattern"),
    ],
)
def test_options_that_are_none(option: str, value: Any, message: str, tmp_path: Path) -> None:
    import torch
    from torch import nn

    from backends.torch import record

    options = {"out": tmp_path / "x.safetensors", option: value}
    with pytest.raises(InputError, match=f"^{message}$"):
        record(nn.Linear(3, 3), torch.ones(2, 3), **options)


@pytest.mark.parametrize("name", ["x:out", "y@2"])
def test_names_that_a_record_cannot_hold(name: str, tmp_path: Path) -> None:
    import torch
    from torch import nn

    from backends.torch import record

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({name: nn.Linear(3, 3)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return next(iter(self.parts.values()))(x)

    with pytest.raises(InputError, match=f"^parts.{name}: a record keeps ':' and '@' in names"):
        record(Net(), torch.ones(2, 3), out=tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "key, value",
    [
        ("noise", None),
        ("noise", {"loss[0]": "small"}),
        ("order", [1]),
        ("notes", None),
        ("random", [1]),
    ],
)
def test_a_record_that_tells_nonsense(key: str, value: Any, tmp_path: Path) -> None:
    import json

    import torch
    from safetensors import safe_open
    from safetensors.numpy import save_file
    from torch import nn

    from backends.torch import record

    path = tmp_path / "x.safetensors"
    found = record(nn.Linear(3, 3), torch.ones(2, 3), out=path)
    with safe_open(path, "np") as file:
        metadata, arrays = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    metadata["record"] = json.dumps({**found.facts, "same": {}, key: value})
    save_file(arrays, path, metadata)
    with pytest.raises(InputError, match="its metadata do not describe a record"):
        read_record(path)


@pytest.mark.parametrize(
    "entry, message",
    [
        ("axes = 3", "axes 3 is no text"),
        ('axes = "(o p) i -> o p i", sizes = {p = 0}', "are not all whole numbers from 1"),
        ('axes = "o i -> i o", flip = "z"', "flip 'z' is no axis of 'o i -> i o'"),
        ("along = -1", "along -1 is no axis"),
    ],
)
def test_a_map_s_entry_that_is_none(entry: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text(f'tensor = [{{a = "w", b = "v", {entry}}}]\n')
    with pytest.raises(InputError, match=f"tensor 1: .*{message}"):
        read_map(path)


def test_a_network_may_be_a_layer(tmp_path: Path) -> None:
    import torch
    from torch import nn

    x, loss = torch.ones(2, 3), {"loss": mean}
    report = compared(tmp_path, nn.Linear(3, 3), nn.Linear(3, 3), x, loss, loss)
    assert report.passed, report.verdict()
    assert {"eval/output", "grad/weight"} <= {d.name for d in report.differences}


def test_a_map_that_does_not_fit_is_told_in_a_line(tmp_path: Path) -> None:
    import torch
    from torch import nn

    x, none = torch.ones(2, 3), dict[str, Any]()
    compared(tmp_path, nn.Linear(3, 3), nn.Linear(3, 3), x, none, none)
    records = [read_record(tmp_path / f"{name}.safetensors") for name in "ab"]
    wrong = Map((Entry("weight", "weight", "o i k -> k i o"), Entry("bias", "bias")))
    with pytest.raises(InputError, match=r"^b: its map does not fit: ") as caught:
        compare_records(records, {"b": wrong})
    assert "\n" not in str(caught.value)


def test_complex_numbers_are_refused_by_name(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from backends.torch import record

    class Turned(nn.Module):
        def __init__(self, held: bool) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            turn = torch.polar(torch.ones(2), torch.tensor([0.1, 2.0]))
            if held:
                self.register_buffer("turn", turn)
            else:
                self.plain = [turn]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            turn: Any = self.plain[0] if hasattr(self, "plain") else self.turn
            return torch.view_as_complex(self.a(x).reshape(-1, 2, 2)) * turn

    for held, name in ((True, "turn"), (False, "eval/output")):
        with pytest.raises(InputError, match=f"^{name}: complex; a record holds real numbers"):
            record(Turned(held), torch.ones(2, 4), out=tmp_path / "x.safetensors")


def test_a_loss_that_reads_the_model_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from backends.torch import record

    model = nn.Linear(6, 2)
    model.weight.grad = torch.ones(2, 6)
    with pytest.raises(InputError, match=r"^loss: it reads weight: give it what the model returns"):
        record(
            model,
            torch.ones(3, 6),
            loss=lambda y: y.mean() + model.weight.sum(),
            out=tmp_path / "x.safetensors",
        )
    assert torch.equal(model.weight.grad, torch.ones(2, 6))
    assert model.bias.grad is None


def test_a_model_of_float32_alone_is_pointed_to_its_dtype(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from backends.torch import record

    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x.float())

    out = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match=r"dtype='float32' records that$"):
        record(Single(), torch.ones(2, 4), out=out)
    assert record(Single(), torch.ones(2, 4), out=out, dtype="float32").dtype == "float32"


def test_what_is_trained_on_one_side_alone_is_a_finding(tmp_path: Path) -> None:
    import torch
    from torch import nn

    def net(bias: bool, norm: bool) -> Any:
        layers = [nn.Linear(3, 4, bias=bias), nn.BatchNorm1d(4) if norm else nn.Tanh()]
        if bias:
            nn.init.zeros_(layers[0].bias)
        return nn.Sequential(*layers, nn.Linear(4, 2))

    x, loss = torch.linspace(-1, 1, 24).reshape(8, 3) ** 2, {"loss": mean}
    report = compared(tmp_path, net(False, False), net(True, False), x, loss, loss)
    told = "0.bias has a gradient and no counterpart: it is trained here alone"
    assert [finding.text for finding in report.findings] == [told]
    records = [read_record(tmp_path / f"{name}.safetensors") for name in "ab"]
    given = {"b": records[1].map}
    del records[1].facts["map"]  # as of a record made without a reference, and compare --map
    assert given["b"] is not None
    again = compare_records(records, {"b": given["b"]})
    assert [finding.text for finding in again.findings] == [told]
    # in front of a BatchNorm its gradient vanishes, and nothing is trained otherwise
    assert compared(tmp_path, net(False, True), net(True, True), x, loss, loss).passed


def test_the_random_state_of_numpy_is_kept(tmp_path: Path) -> None:
    import pickle
    import random

    import numpy as np
    import torch
    from torch import nn

    from backends.torch import record

    class Noisy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + np.random.normal() + random.random()

    np.random.seed(5)
    random.seed(5)
    before = pickle.dumps((np.random.get_state(), random.getstate()))
    found = record(Noisy(3, 3), torch.ones(2, 3), out=tmp_path / "x.safetensors")
    assert pickle.dumps((np.random.get_state(), random.getstate())) == before
    assert "eval/output" in found.facts["random"]


def test_what_is_no_optimizer(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from backends.torch import record

    options: dict[str, Any] = {"loss": mean, "optimizer": torch.optim.SGD}
    with pytest.raises(InputError, match="is no optimizer of PyTorch"):
        record(nn.Linear(3, 3), torch.ones(2, 3), out=tmp_path / "x.safetensors", **options)


def test_a_tensor_is_not_made_twice(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text('tensor = [{a = "w", b = "v"}, {a = "u", b = "v"}]\n')
    with pytest.raises(InputError, match="tensor 2: v is made above already"):
        read_map(path)


@pytest.mark.needs("jax")
def test_a_transposed_convolution_of_flax_may_have_its_kernel_as_pytorch(tmp_path: Path) -> None:
    import jax.numpy as jnp
    import torch
    from flax import nnx
    from torch import nn

    from backends.jax import record as jax_record
    from backends.torch import record

    class Up(nnx.Module):
        def __init__(self) -> None:
            sizes = {"kernel_size": (2, 2), "strides": (2, 2), "transpose_kernel": True}
            self.up = nnx.ConvTranspose(4, 4, **sizes, rngs=nnx.Rngs(0))

        def __call__(self, x: Any) -> Any:
            return self.up(x)

    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    x = torch.linspace(-1, 1, 2 * 4 * 9).reshape(2, 4, 3, 3)
    record(nn.Sequential(nn.ConvTranspose2d(4, 4, 2, 2)), x, out=files[0], generic=0)
    given = jnp.asarray(x.numpy().transpose(0, 2, 3, 1))
    jax_record(Up(), given, out=files[1], against=files[0])
    report = compare_records([read_record(path) for path in files], {})
    assert report.passed, report.verdict()
