"""What may not be overlooked, and what is no difference: masks, outputs, what was recorded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from common.parity.compare import compare_records
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
