"""What tests share: the backends, generic weights and batches, and a trace of each backend."""

import functools
import gc
import importlib
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from PIL import Image

from backends import BACKENDS, load_backend
from common.config import Architecture, Config, Dtype, Head, float32
from common.data.shapes import SHAPES_CLASSES
from common.network.initial import generic_weights, initial_weights
from common.parity.traces import Batches, generic_batches, make_trace
from common.protocol import Arrays, Probe, Trainer
from common.weights.checkpoint import Weights, read_tensors, write_tensors, write_weights

WIDTH, NUM_CLASSES = 8, 5
"""A thin network: the same code at a fortieth of the arithmetic."""
WHOLE = Config.width
"""The width of the real network, which goes with its 21 classes; one test of each kind has it."""
STEPS = 3
RATES = [float32(1e-2), float32(1e-2), float32(1e-3)]
"""The rate drops tenfold on the way, which shows where a momentum keeps it."""
V1, V2 = Architecture.resnet18, Architecture.resnet18_v2


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend's name; a test that uses it runs once a backend and carries its name."""
    return str(request.param)


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Ends a test that hangs, after a minute."""

    def end(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def classes_of(width: int) -> int:
    """The number of classes that tests give a network of a width."""
    return Config.num_classes if width == WHOLE else NUM_CLASSES


@functools.cache
def weights(
    architecture: Architecture = V1, width: int = WIDTH, head: Head = Head.fcn32s
) -> Arrays:
    """Generic weights whose values are float32, so that both types start from the same numbers."""
    arrays = generic_weights(architecture, classes_of(width), seed=3, width=width, head=head)
    return {k: v.astype(np.float32).astype(np.float64) for k, v in arrays.items()}


@functools.cache
def batches(width: int = WIDTH) -> Batches:
    """Batches of two 64x96 images with void spread unevenly; float32 values, as `weights`."""
    data = generic_batches(STEPS, 2, 64, 96, classes_of(width), seed=4)
    return Batches(data.image.astype(np.float32), data.label)


def new_config(**settings: Any) -> Config:
    """The tests' network; `settings` as in `Config`."""
    width = settings.get("width", WIDTH)
    usual = {"num_classes": classes_of(width), "width": width, "weight_decay": 1e-3}
    return Config(**(usual | settings))


def new_trainer(name: str, **settings: Any) -> Trainer:
    """A fresh trainer on the generic weights."""
    config = new_config(**settings)
    start = weights(config.architecture, config.width, config.head)
    return load_backend(name).Trainer(config, start)


def new_probe(name: str, **settings: Any) -> Probe:
    """A probe of a fresh trainer on the generic weights."""
    return load_backend(name).Probe(new_trainer(name, **settings))


@functools.cache
def start(architecture: Architecture = V1) -> Path:
    """A file of a thin network's initial weights, of the drawn shapes' classes, to train from."""
    path = _SHARED[-1] / f"start-{os.getpid()}-{architecture}.safetensors"
    arrays = initial_weights(architecture, len(SHAPES_CLASSES), seed=0, width=WIDTH)
    write_weights(path, Weights(arrays, architecture, SHAPES_CLASSES))
    return path


def start_of(width: int) -> tuple[object, ...]:
    """The options of `train` that give its network a width; the real one needs none."""
    return () if width == WHOLE else ("--weights", start())


WIDTHS = [WIDTH, pytest.param(WHOLE, marks=pytest.mark.full)]
"""For the tests that the real network passes too."""


@functools.cache
def trace(
    name: str,
    dtype: Dtype,
    architecture: Architecture = V1,
    width: int = WIDTH,
    **settings: Any,
) -> Arrays:
    """The trace of a backend; made once a session, whichever of its processes comes first."""
    about = (name, dtype, architecture, width, *itertools.chain(*settings.items()))
    path = _SHARED[-1] / f"{'-'.join(map(str, about))}.safetensors"
    with filelock.FileLock(f"{path}.lock"):
        if not path.exists():
            network = {"architecture": architecture, "dtype": dtype, "width": width, **settings}
            config, probe = new_config(**network), new_probe(name, **network)
            rates = [(rate, float32(rate * config.head_rate)) for rate in RATES]
            write_tensors(path, make_trace(probe, batches(width), config, rates), {})
    return read_tensors(path)[0]


_SHARED: list[Path] = []


@pytest.fixture(autouse=True)
def pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `--max-pixels` sets holds for a process: for a test, here."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.fixture(scope="session", autouse=True)
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder that all processes of this session share; pytest removes it at the end."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a process's own folder lies in the session's
        base = base.parent
    _SHARED.append(base / "traces")
    _SHARED[-1].mkdir(exist_ok=True)


def untimed(path: Path) -> Any:
    """A run's JSON file or lines of JSON, without the times and memory that no two runs share."""
    text = path.read_text()
    found = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else None
    return _untimed(json.loads(text) if found is None else found)


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(item) for key, item in value.items() if key not in TIMES}
    return [_untimed(item) for item in value] if isinstance(value, list) else value


TIMES = ("seconds", "images_per_second", "peak_mb")


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


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The browser, with an empty profile; it asks the network for nothing of its own."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_AVOID_STATS", "true")
        service = webdriver.ChromeService(executable_path="/usr/bin/chromedriver")
        driver = webdriver.Chrome(options=options, service=service)
        yield driver
        driver.quit()


COMPILED_ANEW = {
    *("test_decay_on_kernels_alone", "test_without_momentum_v_is_the_gradient"),
    *("test_the_loss_falls", "test_eval_changes_no_buffer_and_train_changes_all"),
    *("test_a_step_from_pictures_is_one_from_normalised_images",),
    *("test_a_batch_of_one_pixel_is_one_for_frozen_norms",),
    *("test_what_is_frozen_keeps_its_bits_also_after_a_stop",),
    *("test_a_step_in_parts_is_the_sum_of_steps_on_the_parts", "test_frozen_norms_keep_their_bits"),
    *("test_a_process_apart_takes_its_share_and_waits_for_nobody",),
    *("test_what_a_record_holds", "test_steps_of_the_user_s_optimizer"),
    *("test_a_batch_that_is_void_changes_nothing_but_by_decay",),
    *("test_a_solution_finds_the_same_in_each_framework",),
}
"""Tests whose step JAX compiles for themselves alone, a quarter of a minute each."""


def pytest_collection_finish() -> None:
    """What the frameworks have made at import stays: no collection looks through it again."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In JAX they are in the full suite alone."""
    for item in items:
        if getattr(item, "originalname", "") in COMPILED_ANEW and "[jax" in item.name:
            item.add_marker(pytest.mark.full)
