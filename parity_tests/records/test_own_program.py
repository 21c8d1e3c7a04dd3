"""The example of `docs/port/numpy_record.py`: a record that nothing of the project has written."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from backends import load_backend
from common.parity.compare_records import compare_records
from common.parity.records import read_record

pytestmark = pytest.mark.needs("torch")
EXAMPLE = Path(__file__).parents[2] / "docs" / "port" / "numpy_record.py"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """PyTorch's record, and the example's."""
    import torch
    from torch import nn

    files = [tmp_path / f"{name}.safetensors" for name in ("reference", "numpy")]
    framework: Any = load_backend("torch")
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.linspace(-1, 2, 20).reshape(5, 4)
    framework.record(model, x, loss=lambda y: y.square().mean(), generic=0, out=files[0])
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), *map(str, files)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    return files


def test_the_example_equals_pytorch(files: list[Path]) -> None:
    report = compare_records([read_record(path) for path in files], {})
    assert report.passed, report.verdict()
    compared = {d.name for d in report.differences}
    assert {"eval/0:out", "train/2:in", "loss[0]", "grad/0.weight", "grad/2.bias"} <= compared


def test_a_mistake_in_it_is_found(files: list[Path]) -> None:
    arrays = load_file(files[1])
    with safe_open(files[1], "np") as file:
        metadata = file.metadata()
    arrays["grad/0.bias"] = np.ascontiguousarray(arrays["grad/0.bias"] / 5)  # a mean for a sum
    save_file(arrays, files[1], metadata)
    report = compare_records([read_record(path) for path in files], {})
    first = report.first("numpy")
    assert first is not None
    assert first.name == "grad/0.bias"
