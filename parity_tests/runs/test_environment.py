"""What a batch queue's machine lacks: locks, shared memory, room; and what its settings break."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from multiprocessing.heap import Arena
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from backends import BACKENDS, load_backend
from common.config import Config, Dtype, Freeze
from common.data.batches import training_batches
from common.data.dataset import Dataset, open_dataset
from common.data.shapes import write_shapes
from common.data.voc2012 import _held
from common.errors import InputError
from common.parity.traces import weights_size
from common.runs.run_folder import BEST, LAST, PREVIOUS, RunFolder
from common.weights.checkpoint import write_tensors
from parity_tests.conftest import new_config, start, trace
from scripts.shared.cli import main, new_app, time_left
from scripts.shared.outputs import check_room
from scripts.shared.speed.turns import threads

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, 4, 1, seed=0)
    return open_dataset(folder, "train")


# Locks


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_a_run_and_a_preparation_are_made_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    told = r"cannot be locked \(.*\); see that nothing else writes there"
    with RunFolder(tmp_path / "run") as folder, pytest.warns(UserWarning, match=f"run: {told}"):
        folder.create()
    with pytest.warns(UserWarning, match=f"voc: {told}"), _held(tmp_path / "voc"):
        pass


# Memory that processes share


@pytest.mark.parametrize("room", [0, 1])
@pytest.mark.parametrize("fault", [(Arena, "_choose_dir"), (os, "posix_fallocate")])
def test_without_shared_memory_the_same_batches_are_read_by_fewer_processes(
    shapes: Dataset, monkeypatch: pytest.MonkeyPatch, fault: tuple[Any, str], room: int
) -> None:
    config = Config(num_classes=6, batch_size=1, crop=(32, 64), steps=5, workers=0)
    alone = list(training_batches(shapes, config))
    before, calls = getattr(*fault), iter(range(room))

    def refuse(*arguments: object) -> object:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return before(*arguments)

    monkeypatch.setattr(*fault, refuse)
    told = f"--workers 2: for no more than {room}: No space left"
    with pytest.warns(UserWarning, match=told):
        others = list(training_batches(shapes, config.replace(workers=2)))
    for one, other in zip(alone, others, strict=True):
        assert one.names == other.names
        assert one.image.tobytes() == other.image.tobytes()
        assert one.label.tobytes() == other.label.tobytes()


# Python's own options


STEP = """
import sys
import numpy as np
from backends import load_backend
from common.config import Config
from common.network.initial import initial_weights

assert False, "not under -O"
config = Config(num_classes=3, width=2)
backend = load_backend(sys.argv[1])
trainer = backend.Trainer(config, initial_weights("resnet18", 3, seed=0, width=2))
images, labels = np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 32, 32), np.uint8)
print(trainer.step(images, labels, 0.1), trainer.predict(images).shape)
"""


@pytest.mark.parametrize(
    "backend",
    ["mxnet", *(pytest.param(name, marks=pytest.mark.full) for name in ("torch", "jax"))],
)
def test_without_docstrings_and_with_warnings_as_errors(backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-OO", "-W", "error", "-c", STEP, backend],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" (2, 32, 32)\n")


def test_a_note_is_one_line_where_warnings_are_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = new_app()

    @app.command()
    def command() -> None:
        warnings.warn("this is slow", stacklevel=2)

    monkeypatch.setattr("sys.argv", ["command"])
    for action, code, said in (("error", 2, "error: "), ("always", 0, "note: ")):
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            warnings.simplefilter(action)
            main(app)
        assert (ended.value.code, capsys.readouterr().err) == (code, f"{said}this is slow\n")


# Threads


@pytest.mark.parametrize("text", ["garbage", "", "0", "-2", "4,2", "1e3", "99999"])
def test_threads_that_are_no_number_are_one_line(
    backend: str, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(InputError, match=f"OMP_NUM_THREADS='{text}': is no number"):
        load_backend(backend)
    with pytest.raises(InputError, match="is no number of threads"):
        threads()


# Signals


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """As in a terminal, whatever started the suite."""
    usual = {signal.SIGINT: signal.default_int_handler}
    usual |= dict.fromkeys((signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL)
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) == usual[number]  # a command leaves none of its own
        signal.signal(number, handler)


SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name
)


@SIGNALS
def test_a_signal_while_a_file_is_written_leaves_what_was_there(
    tmp_path: Path,
    run_command: Command,
    monkeypatch: pytest.MonkeyPatch,
    usual_signals: None,
    number: signal.Signals,
) -> None:
    out = tmp_path / "out.safetensors"
    assert run_command("convert", start(), out)[0] == 0
    before = out.read_bytes()

    def write_half(arrays: object, path: Path, metadata: object) -> None:
        path.write_bytes(before[:1000])
        os.kill(os.getpid(), number)

    monkeypatch.setattr(safetensors.numpy, "save_file", write_half)
    code, _, err = run_command("convert", start(), out)
    assert code == 128 + number
    assert err.strip() == ("interrupted" if number == signal.SIGINT else f"ended by {number.name}")
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_bytes() == before


def _written(folder: Path) -> bool:
    """Whether there are pictures, and none that is still being written."""
    names = [path.name for path in folder.iterdir()]
    return bool(names) and not any(name.startswith(".") for name in names)


@SIGNALS
def test_a_signal_lets_the_pictures_that_are_begun_be_written(
    tmp_path: Path,
    run_command: Command,
    monkeypatch: pytest.MonkeyPatch,
    usual_signals: None,
    number: signal.Signals,
) -> None:
    for k in range(3):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{k}.jpg")
    save = Image.Image.save

    signals = iter([number])  # the second would end the process at once

    def interrupted(picture: Image.Image, *arguments: Any, **keywords: Any) -> None:
        for one in signals:
            os.kill(os.getpid(), one)
        save(picture, *arguments, **keywords)

    monkeypatch.setattr(Image.Image, "save", interrupted)
    folder = tmp_path / "out"
    options = ("--backend", "torch", "--weights", start(), "--out", folder)
    code, out, _ = run_command("predict", *options, *sorted(tmp_path.glob("*.jpg")))
    assert code == 128 + number
    assert "images done" not in out
    until = time.monotonic() + 30  # a process waits for its threads before it ends
    while not _written(folder) and time.monotonic() < until:
        time.sleep(0.01)
    assert _written(folder)


# Sizes and times


def test_the_size_of_a_trace_is_known_before() -> None:
    for settings in ({}, {"freeze": Freeze.batch_norm}):
        arrays = trace("torch", Dtype.float32, **settings)
        of_layers = ("eval/", "train/", "loss")
        held = sum(a.nbytes for name, a in arrays.items() if not name.startswith(of_layers))
        assert weights_size(new_config(dtype=Dtype.float32, **settings)) == held


Usage = namedtuple("Usage", "free")


def test_what_the_disk_has_no_room_for_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(424_000_000))
    check_room(tmp_path / "new" / "out", 424_000_000)
    with pytest.raises(InputError, match=r"out: takes 1\.1 GB, 424 MB are free"):
        check_room(tmp_path / "new" / "out", 1_100_000_000)


def test_the_time_left_is_told_from_a_minute_on() -> None:
    assert time_left(59) == ""
    assert time_left(600) == ", about 10 min left"


@pytest.mark.needs("mxnet", "jax")
def test_a_relay_tells_its_size_and_keeps_the_ends_of_the_runs_that_stay(
    tmp_path: Path, shapes: Dataset, run_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, most = tmp_path / "relay", 0

    def train(program: list[str], **_: object) -> Any:
        nonlocal most
        where = program.index("--out" if "--out" in program else "--resume")
        folder = Path(program[where + 1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log.jsonl").write_text(json.dumps({"loss": 1.0}) + "\n")
        for name in (LAST, PREVIOUS, BEST):
            write_tensors(folder / name, {"w": np.ones(3)}, {})
        most = max(most, len(list(out.rglob("*.safetensors"))))
        return subprocess.CompletedProcess(program, 0)

    monkeypatch.setattr(subprocess, "run", train)
    code, said, err = run_command("relay", "--data", shapes.root, "--out", out, "--steps", 3)
    assert (code, err) == (0, "")
    assert f"{out}: 9 runs of 3 steps each, 1.3 GB at most" in said
    assert "relay: 9 of 9 runs" in said
    left = {str(path.relative_to(out)) for path in out.rglob("*.safetensors")}
    assert left == {f"{backend}/{LAST}" for backend in BACKENDS}
    assert most == 6
