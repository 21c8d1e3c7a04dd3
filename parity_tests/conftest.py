"""What tests share: the backends, generic weights and batches, and a trace of each backend."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backends import BACKENDS, load_backend
from common.config import Architecture, Config, Dtype
from common.network.initial import generic_weights
from common.network.schedule import float32
from common.parity.traces import Batches, generic_batches, make_trace
from common.protocol import Arrays, Trainer

NUM_CLASSES, STEPS = 21, 20
RATES = [float32(1e-2)] * (STEPS // 2) + [float32(1e-3)] * (STEPS // 2)
"""Twenty steps; the rate drops tenfold on the way, which shows where a momentum keeps it."""
V1, V2 = Architecture.resnet18, Architecture.resnet18_v2


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend's name; a test that uses it runs once a backend and carries its name."""
    return str(request.param)


@functools.cache
def weights(architecture: Architecture = V1) -> Arrays:
    """Generic weights whose values are float32, so that both types start from the same numbers."""
    arrays = generic_weights(architecture, NUM_CLASSES, seed=3)
    return {k: v.astype(np.float32).astype(np.float64) for k, v in arrays.items()}


@functools.cache
def batches() -> Batches:
    """Batches of two 64x96 images with void spread unevenly; float32 values, as `weights`."""
    data = generic_batches(STEPS, 2, 64, 96, NUM_CLASSES, seed=4)
    return Batches(data.image.astype(np.float32), data.label)


def new_trainer(name: str, **config: object) -> Trainer:
    """A fresh trainer on the generic weights."""
    settings: dict[str, object] = {"num_classes": NUM_CLASSES, "weight_decay": 1e-3}
    whole = Config(**(settings | config))  # type: ignore
    return load_backend(name).Trainer(whole, weights(whole.architecture))


def trace(name: str, dtype: Dtype, architecture: Architecture = V1) -> Arrays:
    """The trace of a backend, of v2 over the steps next to the drop alone; made once a session."""
    return _trace(name, dtype, architecture)


@functools.cache
def _trace(name: str, dtype: Dtype, architecture: Architecture) -> Arrays:
    config = Config(architecture, num_classes=NUM_CLASSES, dtype=dtype, weight_decay=1e-3)
    rates = RATES if architecture == V1 else RATES[STEPS // 2 - 2 : STEPS // 2 + 2]
    trainer = load_backend(name).Trainer(config, weights(architecture))
    return make_trace(trainer, batches(), config, rates)


def command_module(name: str) -> Any:
    """The module that `python -m scripts.<name>` runs."""
    package = importlib.import_module(f"scripts.{name}")
    is_package = hasattr(package, "__path__")
    return importlib.import_module(f"scripts.{name}.__main__") if is_package else package


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable:
    """Runs `python -m scripts.<name> ARGS` in this process: (exit code, stdout, stderr)."""
    from scripts.shared.cli import main

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        command = command_module(name)
        monkeypatch.setattr("sys.argv", [f"scripts.{name}", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(command.app, getattr(command, "NUMBERS", ()))
        out, err = capfd.readouterr()
        return int(exit_.value.code or 0), out, err

    return run
