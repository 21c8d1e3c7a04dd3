"""Runs that survive: they go on bit for bit, in any framework, and lose nothing."""

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from backends import BACKENDS, load_backend
from common.config import Config, Schedule
from common.data.shapes import write_shapes
from common.errors import InputError
from common.network.schedule import learning_rates
from common.parity.compare import relative_l2
from common.runs.run_folder import BEST, DAMAGED, LAST, PREVIOUS, Checkpoint, RunFolder
from common.weights.checkpoint import digest, read_tensors, read_weights, write_tensors
from parity_tests.conftest import WHOLE, WIDTH, WIDTHS, command_module, start, start_of, untimed
from scripts.shared import training
from scripts.shared.cli import Heartbeat, console, main
from scripts.shared.plots import plot_runs

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]

SMALL = ("--batch-size", 2, "--crop", 32, 64, "--device", "cpu", "--workers", 0)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 training pairs, so 3 batches of 2 an epoch; 2 of val."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, 7, 2, seed=0)
    return folder


@pytest.fixture
def at_step(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[int, Callable[[], object]], None]]:
    """Has something happen while step `step` is computed; SIGINT is as in a terminal."""

    def arrange(step: int, event: Callable[[], object]) -> None:
        def rates(config: Config, now: int, total: int) -> tuple[float, float]:
            if now == step:
                event()
            return learning_rates(config, now, total)

        monkeypatch.setattr(training, "learning_rates", rates)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield arrange
    signal.signal(signal.SIGINT, before)  # ignored, where the suite is a shell's background job


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def tensors(path: Path) -> dict[str, Any]:
    return read_tensors(path)[0]


def same_bytes(one: Path, other: Path) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Going on


@pytest.mark.parametrize("width", WIDTHS)
def test_a_run_goes_on_bit_for_bit(
    backend: str, width: int, shapes: Path, tmp_path: Path, run_command: Command, at_step: Any
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = ("--backend", backend, "--data", shapes, *SMALL, "--epochs", 3, *start_of(width))
    assert run_command("train", *arguments, "--out", whole)[0] == 0
    at_step(4, interrupt)  # in the middle of the second epoch
    code, _, err = run_command("train", *arguments, "--out", broken)
    assert code == 130
    assert (
        f"stopped by SIGINT after step 5 of 9, saved: python -m scripts.train --resume {broken}"
        in err
    )
    assert not (broken / "metrics.json").exists()
    at_step(5, interrupt)  # at its end, before val is measured
    code, out, err = run_command("train", "--resume", broken)
    assert (code, len(lines(broken / "val.jsonl"))) == (130, 1)
    assert f"{broken}: goes on at step 5 of 9" in out
    at_step(-1, interrupt)
    code, out, err = run_command("train", "--resume", broken)
    assert (code, err) == (0, "")
    told = re.findall(r"^step (\d) of 9, epoch (\d):  loss .* best IoU", out, re.MULTILINE)
    assert told == [("9", "3")]  # without a terminal, at each epoch's end
    assert same_bytes(whole / LAST, broken / LAST)
    assert same_bytes(whole / BEST, broken / BEST)
    for name in ("log.jsonl", "val.jsonl", "metrics.json"):
        assert untimed(whole / name) == untimed(broken / name)
    config = json.loads((broken / "config.json").read_text())
    assert [part["step"] for part in config["history"]] == [0, 5, 6]


def test_what_asks_for_a_checkpoint_gets_one_and_the_run_goes_on(
    shapes: Path, tmp_path: Path, run_command: Command, at_step: Any
) -> None:
    run = tmp_path / "run"
    kept: list[int] = []

    def look() -> None:
        kept.append(Checkpoint.read(run / LAST).step)
        os.kill(os.getpid(), signal.SIGUSR1)

    at_step(1, look)
    arguments = ("--backend", "torch", "--data", shapes, *SMALL, "--steps", 3)
    code, out, err = run_command("train", *arguments, "--out", run, "--weights", start())
    assert (code, err) == (0, "")
    assert "saved after step 2 of 3\n" in out
    assert kept == [0]
    assert [Checkpoint.read(run / name).step for name in (PREVIOUS, LAST)] == [2, 3]


def test_a_terminal_that_is_closed_ends_the_run_in_order(
    shapes: Path, tmp_path: Path, run_command: Command, at_step: Any
) -> None:
    run = tmp_path / "run"
    at_step(1, lambda: os.kill(os.getpid(), signal.SIGHUP))
    arguments = ("--backend", "torch", "--data", shapes, *SMALL, "--steps", 9)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and stays so
    try:
        code, _, err = run_command("train", *arguments, "--out", run, "--weights", start())
    finally:
        signal.signal(signal.SIGHUP, before)
    assert code == 128 + signal.SIGHUP
    assert "stopped by SIGHUP after step 2 of 9, saved: " in err
    assert Checkpoint.read(run / LAST).step == 2


def test_logs_and_results_tell_how_fast_and_by_what(
    shapes: Path, tmp_path: Path, run_command: Command
) -> None:
    run, result = tmp_path / "run", tmp_path / "result.json"
    arguments = ("--backend", "torch", "--data", shapes, *SMALL, "--steps", 4, "--json", result)
    assert run_command("train", *arguments, "--out", run, "--weights", start())[0] == 0
    steps, vals = lines(run / "log.jsonl"), lines(run / "val.jsonl")
    for line, images in [*((line, 2) for line in steps), *((line, 2) for line in vals)]:
        assert line["backend"] == "torch"
        assert line["images_per_second"] == pytest.approx(images / line["seconds"])
        assert 50 < line["peak_mb"] < 100_000
    for path in (result, run / "metrics.json"):
        told = json.loads(path.read_text())["run"]
        assert told["versions"] == vals[-1]["versions"] == load_backend("torch").versions()
        assert (told["backend"], told["device"]) == ("torch", "cpu")
        assert told["seconds"] == pytest.approx(sum(line["seconds"] for line in steps))
        assert told["images_per_second"] == pytest.approx(8 / told["seconds"])
        assert told["peak_mb"] >= steps[-1]["peak_mb"]


@pytest.mark.parametrize("terminal", [False, True])
def test_silence_lasts_a_minute(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr("scripts.shared.cli.time.monotonic", lambda: now)
    monkeypatch.setattr(type(console), "is_terminal", terminal)
    heartbeat = Heartbeat()
    for now, at_once in ((1059.0, False), (1060.0, False), (1061.0, True), (1120.0, False)):
        heartbeat(f"at {now:.0f}", at_once)
    assert capsys.readouterr().out == ("" if terminal else "at 1060\nat 1061\n")


FIRST, *OTHERS = itertools.permutations(BACKENDS)
RELAYS = [
    pytest.param(FIRST, WIDTH),
    *(pytest.param(order, WIDTH, marks=pytest.mark.full) for order in OTHERS),
    pytest.param(FIRST, WHOLE, marks=pytest.mark.full),
]


@pytest.fixture(scope="module")
def relay_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 training pairs and no val split: nine steps of 2, one epoch."""
    folder = tmp_path_factory.mktemp("relay") / "shapes"
    write_shapes(folder, 18, 1, seed=0)
    (folder / "ImageSets" / "Segmentation" / "val.txt").unlink()
    return folder


def relay_id(value: tuple[str, ...] | int) -> str:
    return str(value) if isinstance(value, int) else "-".join(value)


def relay(
    folder: Path,
    data: Path,
    order: tuple[str, ...],
    width: int,
    run_command: Command,
    at_step: Any,
) -> dict[str, Any]:
    """What nine steps in float64 come to, three in each framework."""
    arguments = ("--data", data, *SMALL, "--epochs", 1, "--dtype", "float64", "--out", folder)
    settings = ("--lr", 0.05, "--weight-decay", 1e-3, "--scale", 0.7, 1.4, "--warmup", 0.3)
    settings += start_of(width)
    at_step(2, interrupt)
    assert run_command("train", "--backend", order[0], *arguments, *settings)[0] == 130
    at_step(5, interrupt)
    assert run_command("train", "--resume", folder, "--backend", order[1])[0] == 130
    at_step(-1, interrupt)
    assert run_command("train", "--resume", folder, "--backend", order[2])[0] == 0
    config = json.loads((folder / "config.json").read_text())
    assert [part["backend"] for part in config["history"]] == list(order)
    found = {"loss": np.array([line["loss"] for line in lines(folder / "log.jsonl")])}
    assert len(found["loss"]) == 9
    found |= tensors(folder / LAST)
    shutil.rmtree(folder)
    return found


_STAYED: dict[tuple[str, int], dict[str, Any]] = {}
"""What the runs that never change framework come to; made once."""


@pytest.mark.parametrize("order, width", RELAYS, ids=relay_id)
def test_a_relay_ends_where_a_run_does_that_never_changes_framework(
    order: tuple[str, ...],
    width: int,
    relay_data: Path,
    tmp_path: Path,
    run_command: Command,
    at_step: Any,
) -> None:
    def run(name: str, order: tuple[str, ...]) -> dict[str, Any]:
        return relay(tmp_path / name, relay_data, order, width, run_command, at_step)

    stayed = order[0], width
    if stayed not in _STAYED:
        _STAYED[stayed] = run("stayed", order[:1] * 3)
    found = run("relay", order)
    apart = {name: relative_l2(found[name], array) for name, array in _STAYED[stayed].items()}
    assert len(apart) == 1 + 104 + 64
    assert max(apart.values()) <= 1e-9, max(apart, key=apart.__getitem__)
    # it is another program that computed: equal to the last bit would be the same one
    assert max(apart.values()) > 0


def test_a_finished_run_is_left_as_it_is(
    shapes: Path, tmp_path: Path, run_command: Command
) -> None:
    run = tmp_path / "run"
    arguments = ("--backend", "torch", "--data", shapes, *SMALL, "--steps", 2, "--out", run)
    assert run_command("train", *arguments, "--weights", start())[0] == 0
    before = {p.name: untimed(p) for p in run.iterdir() if p.suffix in (".jsonl", ".json")}
    before.pop("config.json")  # tells of each time that the run went on
    weights = (run / LAST).stat().st_mtime_ns
    code, out, err = run_command("train", "--resume", run)
    assert (code, err) == (0, "")
    assert "goes on at step 2 of 2" in out
    assert {name: untimed(run / name) for name in before} == before
    assert (run / LAST).stat().st_mtime_ns == weights


@pytest.fixture(scope="module")
def stopped(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of two steps, stopped after one."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    command = ["scripts.train", "--backend", "torch", "--data", shapes]
    command += [*SMALL, "--steps", 2, "--stop-after", 1, "--out", run, "--weights", start()]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setattr("sys.argv", list(map(str, command)))
        main(command_module("train").app)
    assert exit_.value.code == 0
    yield run
    shutil.rmtree(run)


# What ends a run


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_goes_missing_on_the_way(
    workers: int, shapes: Path, tmp_path: Path, run_command: Command, at_step: Any
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(shapes, data)
    away, images = tmp_path / "away", data / "JPEGImages"
    away.mkdir()

    def take_away() -> None:  # not those of val: helpers may have read all of the epoch
        for path in images.glob("train_*"):
            path.rename(away / path.name)

    at_step(3, take_away)
    arguments = ("--backend", "torch", "--data", data, *SMALL[:-1], workers, "--epochs", 3)
    code, _, err = run_command("train", *arguments, "--out", run, "--weights", start())
    assert (code, err.count("\n")) == (2, 1)
    assert ".jpg: no such file; saved after step" in err
    assert f"--resume {run} goes on" in err
    step = Checkpoint.read(run / LAST).step
    assert step >= 4
    assert len(lines(run / "log.jsonl")) == step
    for path in away.iterdir():
        path.rename(images / path.name)
    at_step(-1, interrupt)
    assert run_command("train", "--resume", run)[0] == 0
    assert len(lines(run / "log.jsonl")) == 9


# Checkpoints


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 8]))


def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_taken(
    stopped: Path, tmp_path: Path, run_command: Command
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    size = (run / LAST).stat().st_size
    header = struct.unpack("<Q", (run / LAST).read_bytes()[:8])[0]
    good = (run / LAST).read_bytes()
    for at in (9, 200, 3000, header - 20, header + 9, size // 3, size - 1):
        (run / LAST).write_bytes(good)
        flip(run / LAST, at)
        with pytest.raises(InputError, match=str(run / LAST)):
            read_weights(run / LAST)
    code, _, err = run_command("train", "--resume", run)
    assert code == 0
    assert err == (
        f"note: {run / LAST}: damaged: its contents are not those of its content_sha256; going on"
        f" from {run / PREVIOUS}, of step 0\n"
    )
    assert (run / DAMAGED).stat().st_size == size
    assert [line["step"] for line in lines(run / "log.jsonl")] == [0, 1]
    for name in (LAST, PREVIOUS):
        assert read_weights(run / name)


def test_a_digest_covers_names_types_shapes_values_and_metadata() -> None:
    arrays = {"a": np.arange(6.0), "b": np.ones(2, np.float32)}
    base = digest(arrays, {"step": "1"})
    assert digest(dict(reversed(arrays.items())), {"content_sha256": "x", "step": "1"}) == base
    changed = [
        ({**arrays, "a": np.arange(6.0).reshape(2, 3)}, {"step": "1"}),
        ({**arrays, "a": np.arange(6.0).view(np.int64)}, {"step": "1"}),
        ({**arrays, "b": np.full(2, 2, np.float32)}, {"step": "1"}),
        ({"a": arrays["a"], "c": arrays["b"]}, {"step": "1"}),
        (arrays, {"step": "2"}),
        (arrays, {"step": "1", "more": ""}),
    ]
    assert base not in [digest(*each) for each in changed]


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.full)])
def test_kill_9_while_saving_loses_nothing(kills: int, tmp_path: Path) -> None:
    """Children save as fast as they can, each is killed at a moment of its own."""
    (tmp_path / "run").mkdir()
    path, previous = tmp_path / "run" / LAST, tmp_path / "run" / PREVIOUS
    random, lost, kept = np.random.default_rng(0), 0, 0
    code = (
        "import itertools, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from common.weights.checkpoint import DIGEST, digest, read_tensors, write_tensors\n"
        "def check(path):\n"
        "    arrays, facts = read_tensors(path)\n"
        "    assert digest(arrays, facts) == facts[DIGEST]\n"
        "path, first = Path(sys.argv[1]), int(sys.argv[2])\n"
        "for step in itertools.count(first):\n"
        "    arrays = {'w': np.full(30000, step, np.float64)}\n"
        "    facts = {'step': str(step)}\n"
        "    facts[DIGEST] = digest(arrays, facts)\n"
        "    write_tensors(path, arrays, facts, check, path.with_name('previous.safetensors'))\n"
        "    print(step, flush=True)\n"
    )
    step = 0
    for _ in range(kills):
        program = [sys.executable, "-c", code, str(path), str(step + 1)]
        with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = int(process.stdout.readline())  # one save at least is done
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=random.uniform(0, 0.03))
            process.kill()
            said = max([said, *map(int, process.stdout.read().split())])
        arrays, facts = read_tensors(path)
        kept += digest(arrays, facts) == facts["content_sha256"]
        lost += int(facts["step"]) < said
        step = int(facts["step"])
        if previous.exists():
            older, old = read_tensors(previous)
            assert digest(older, old) == old["content_sha256"]
    assert (kept, lost) == (kills, 0)
    assert step > kills


def test_a_new_run_clears_what_a_kill_left_behind(stopped: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    names = (".last.safetensors.abc", ".best.safetensors.x_1", ".previous.safetensors.link")
    for name in (*names, ".tmpBTghB6"):
        (run / name).write_bytes(b"half")
    (run / "log.jsonl").write_text('{"step": 0, "loss": 1}\n{"step": 1, "lo')
    with RunFolder(run) as folder:
        folder.rewind(1)
        assert folder.steps == [{"step": 0, "loss": 1}]
    assert not [p.name for p in run.iterdir() if p.name.startswith(".") and p.name != ".lock"]
    assert lines(run / "log.jsonl") == [{"step": 0, "loss": 1}]


def refuse_link(self: Path, target: Path) -> None:
    if not Path(target).exists():
        raise FileNotFoundError(target)
    raise PermissionError(errno.EPERM, "no links here")


def test_a_file_system_without_links_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "hardlink_to", refuse_link)
    for step in range(3):
        write_tensors(tmp_path / LAST, {"w": np.full(3, step)}, {}, previous=tmp_path / PREVIOUS)
    assert tensors(tmp_path / LAST)["w"][0] == 2
    assert tensors(tmp_path / PREVIOUS)["w"][0] == 1


@pytest.mark.parametrize("links", [True, False])
def test_the_best_checkpoint_is_the_last_of_its_time(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse_link)
    folder, last, best = RunFolder(tmp_path), tmp_path / LAST, tmp_path / BEST

    def save(step: int) -> None:
        previous = tmp_path / PREVIOUS
        write_tensors(last, {"w": np.full(3, step)}, {}, previous=previous)

    for step in range(2):
        save(step)
        for _ in range(2):  # once more changes nothing
            folder.save_best()
        assert best.samefile(last) == links
        assert tensors(best)["w"][0] == step
    for step in range(2, 4):
        save(step)
    assert tensors(best)["w"][0] == 1
    last.rename(tmp_path / DAMAGED)  # as `rewind` does, where the run goes on from the one before
    folder.save_best()
    assert tensors(best)["w"][0] == 2
    names = {BEST, PREVIOUS, DAMAGED}
    assert {path.name for path in tmp_path.iterdir()} == names


# What a run leaves to be seen


def events(folder: Path) -> dict[str, dict[int, float]]:
    """The curves of a TensorBoard folder: name -> step -> value, as TensorBoard reads them."""
    curves: dict[str, dict[int, float]] = {}
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = struct.unpack("<Q", data[at : at + 8])[0]
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.HasField("session_log"):  # what came later in earlier files is void
                for curve in curves.values():
                    for step in [step for step in curve if step >= event.step]:
                        del curve[step]
            for value in event.summary.value:
                curves.setdefault(value.tag, {})[event.step] = value.simple_value
    return curves


def test_tensorboard_shows_the_run(
    shapes: Path, tmp_path: Path, run_command: Command, at_step: Any
) -> None:
    run = tmp_path / "run"
    at_step(4, interrupt)
    arguments = ("--backend", "torch", "--data", shapes, *SMALL, "--epochs", 2, "--out", run)
    assert run_command("train", *arguments, "--weights", start())[0] == 130
    at_step(-1, interrupt)
    assert run_command("train", "--resume", run)[0] == 0
    curves = events(run / "tensorboard")
    log, val = lines(run / "log.jsonl"), lines(run / "val.jsonl")
    assert curves["train/loss"] == {line["step"]: np.float32(line["loss"]) for line in log}
    assert curves["train/rate"] == {line["step"]: np.float32(line["lr"]) for line in log}
    assert set(curves["train/images_per_second"]) == set(range(6))
    assert curves["val/mean_iou"] == {line["step"]: np.float32(line["mean_iou"]) for line in val}


def test_curves_of_several_runs(stopped: Path, tmp_path: Path, run_command: Command) -> None:
    run, other = stopped, tmp_path / "other"
    other.mkdir()
    config = json.loads((run / "config.json").read_text())
    config |= {"seed": 4, "history": [{"backend": "torch"}, {"backend": "jax"}]}
    (other / "config.json").write_text(json.dumps(config))
    losses = [{"step": k, "loss": 2.0 - k / 10, "lr": 0.1, "epoch": 0} for k in range(9)]
    (other / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses))
    vals = [{"step": 3, "mean_iou": 0.25}, {"step": 6, "mean_iou": None}]
    vals.append({"step": 9, "mean_iou": 0.125})
    (other / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in vals))
    files = ("--plot", tmp_path / "curves.png", "--json", tmp_path / "curves.json")
    code, out, err = run_command("curves", run, other, *files)
    assert (code, err) == (0, "")
    assert "torch > jax 4 9 1.2000 0.1250 0.2500" in " ".join(out.split())
    found = json.loads((tmp_path / "curves.json").read_text())
    assert [len(each["steps"]) for each in found] == [1, 9]
    assert found[1]["val"] == vals
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1000
    code, _, err = run_command("curves", other, "--plot", tmp_path / "t.png", "--against", "time")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{other}: --against time, but its log.jsonl has steps without seconds" in err
    code, _, err = run_command("curves", run, "--plot", tmp_path / "t.png", "--against", "time")
    assert (code, err) == (0, "")
    assert (tmp_path / "t.png").read_bytes() != (tmp_path / "curves.png").read_bytes()
    code, _, err = run_command("curves", run, tmp_path)
    assert (code, err) == (2, f"error: {tmp_path}: no run, for it has no config.json\n")


def test_curves_against_time_are_where_the_steps_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda axes, x, y, **_: drawn.append((x, y)))
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda axes, **_: None)
    steps = [{"step": k, "loss": 2.0, "seconds": 60.0 + 30 * k} for k in range(3)]
    val = [{"step": 0, "mean_iou": 0.1}, {"step": 2, "mean_iou": 0.5}]
    run = {"backends": ["torch"], "seed": 0, "steps": steps, "val": val}
    plot_runs(tmp_path / "t.png", [run], against_time=True)
    (times, losses), (val_times, ious) = drawn
    assert (list(times), list(losses)) == ([1.0, 2.5, 4.5], [2.0] * 3)
    assert (list(val_times), ious) == ([0.0, 2.5], [0.1, 0.5])


# Schedules and settings


def test_warm_up_rises_to_the_schedule() -> None:
    config = Config(learning_rate=1.0, warmup=0.25, schedule=Schedule.constant)
    rates = [learning_rates(config, step, 8)[0] for step in range(8)]
    assert rates == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    plain = Config(learning_rate=1.0)
    poly = plain.replace(warmup=0.5)
    assert [learning_rates(poly, step, 8) for step in range(4, 8)] == [
        learning_rates(plain, step, 8) for step in range(4, 8)
    ]
