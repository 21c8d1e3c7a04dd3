"""Runs on several processes: they are one run, and end together, whatever happens to one."""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from common.data.shapes import write_shapes
from common.errors import InputError
from common.parity.compare import relative_l2
from common.protocol import Array
from common.runs.agreement import check_alike
from common.runs.run_folder import LAST, PREVIOUS, Checkpoint
from common.weights.checkpoint import read_tensors
from parity_tests.conftest import start
from scripts.shared.processes import HELPERS, LOST, check_port, cores_of, free_port, launched

Command = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
MARK = "ROSETTA_TEST"
"""A variable that every process of a run has inherited, however it was started."""

SMALL = ("--batch-size", 4, "--crop", 32, 64, "--device", "cpu", "--workers", 1)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 training pairs, so 4 batches of 4 an epoch, and no val split."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, 18, 1, seed=0)
    (folder / "ImageSets" / "Segmentation" / "val.txt").unlink()
    return folder


@pytest.fixture(autouse=True, scope="module")
def answered() -> Iterator[None]:
    """Signals as from a terminal: in the background of a shell some are ignored, and stay so."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def tensors(path: Path) -> dict[str, Any]:
    return read_tensors(path)[0]


def same_bytes(one: Path, other: Path) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


def environment_of(pid: int) -> dict[str, str]:
    """A process's variables; none, where it has ended."""
    try:
        text = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)


def parent_of(pid: int) -> int:
    """The process that has started another; 0, where that has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def shared_memory(pid: int) -> set[Path]:
    """What a process holds in /dev/shm by a name; what has none is gone with the process."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    names = {line[line.index("/dev/shm/") :] for line in lines if "/dev/shm/" in line}
    return {Path(name) for name in names if not name.endswith(" (deleted)")}


RANKS = ("RANK", "JAX_PROCESS_ID", "DMLC_TASK_ID")


class Run:
    """A command in a process of its own, and all processes that come of it.

    Whatever is left of them is killed with the `with` block.
    """

    def __init__(self, folder: Path, *arguments: object, **environment: str) -> None:
        self.mark = f"{folder}-{time.monotonic_ns()}"
        self.shared: set[Path] = set()
        """Memory in /dev/shm that any of them was seen to hold, if it has a name."""
        self.temporary = folder.with_name("temporary")
        self.temporary.mkdir(exist_ok=True)
        inherited = {key: value for key, value in os.environ.items() if key not in RANKS}
        told = {MARK: self.mark, "TMPDIR": str(self.temporary), **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=ROOT,
            env=inherited | told,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.all():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()

    def all(self) -> list[int]:
        """Every process that is alive."""
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        return [pid for pid in pids if environment_of(pid).get(MARK) == self.mark]

    def parts(self) -> dict[str, int]:
        """The launcher, and what it has started, by rank or role."""
        found = {"launcher": self.process.pid}
        for pid in self.all():
            self.shared |= shared_memory(pid)
            if parent_of(pid) == self.process.pid:
                told = environment_of(pid)
                role = told.get("DMLC_ROLE", "worker")
                ranks = [told[name] for name in RANKS if name in told]
                if ranks:
                    found[ranks[0] if role == "worker" else role] = pid
        return found

    def ends(self, seconds: float) -> tuple[int, str, str]:
        """Exit code and words, once every process has ended, which must be soon."""
        deadline = time.monotonic() + seconds
        self.shared.update(*map(shared_memory, self.all()))
        out, err = self.process.communicate(timeout=seconds)
        while self.all() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.all() == []
        assert [path for path in self.temporary.rglob("*") if path.is_file()] == []
        assert [path for path in self.shared if path.exists()] == []
        return self.process.returncode, out, err


def wait_for(done: Callable[[], bool], seconds: float = 240) -> None:
    """Returns when something is done."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def steps_of(folder: Path) -> int:
    """How many steps are in the log."""
    log = folder / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


# What several processes agree on


class Told:
    """A group whose other process has told what it has."""

    rank, size, local_rank = 1, 2, 1

    def __init__(self, other: Array) -> None:
        self.other = other

    def sum(self, values: Array) -> Array:
        self.own = values
        return values + self.other

    def leave(self) -> None: ...


def test_what_processes_have_otherwise_is_named() -> None:
    first = Told(np.zeros(()))
    facts = {"versions": "1", "settings": "s", "weights": "w", "data": "d"}
    with pytest.raises(InputError):
        check_alike(first, facts)
    others = first.own[::-1]
    check_alike(Told(others), facts)
    with pytest.raises(InputError, match=r"^process 1 has other settings, data than process 0$"):
        check_alike(Told(others), facts | {"settings": "t", "data": "e"})


def test_each_process_has_its_share_of_the_cores() -> None:
    assert [cores_of(rank, 2, [0, 1, 4, 5, 7]) for rank in range(2)] == [[0, 1], [4, 5]]
    assert [cores_of(rank, 3, [2, 3]) for rank in range(3)] == [[2], [3], [2]]


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: Address already in use"):
            check_port(port)
    check_port(port)
    check_port(free_port())


def test_how_many_a_launcher_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"torch": "WORLD_SIZE", "mxnet": "DMLC_NUM_WORKER", "jax": "SLURM_STEP_NUM_TASKS"}
    for backend, name in told.items():
        assert launched(backend) == 1
        monkeypatch.setenv(name, "3")
        assert launched(backend) == 3
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")  # comes before Slurm's
    assert launched("jax") == 1
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InputError, match="WORLD_SIZE='two': is no number of processes"):
        launched("torch")


# The launcher, with processes that need no framework

KILLED = "was ended by SIGKILL, as by a system out of memory"
HANGS, DIES = "time.sleep(60)", "os.kill(os.getpid(), signal.SIGKILL)"
STOPS = "os.kill(os.getpid(), signal.SIGSTOP)"

FAULTS = {
    "killed": (DIES, HANGS, f"process 0 of 2 {KILLED}"),
    "other-aborts": (DIES, "time.sleep(0.5); os.abort()", f"process 0 of 2 {KILLED}"),
    "other-is-lost": (f"sys.exit({LOST})", f"time.sleep(1); {DIES}", f"process 1 of 2 {KILLED}"),
    "input": (HANGS, "cli.fail('a.jpg: bad')", "process 1 of 2: a.jpg: bad"),
    "fault": (HANGS, "1 / 0", "process 1 of 2 ended with exit code 1: ZeroDivisionError: "),
    "stopped": (HANGS, STOPS, "process 1 of 2 has shown no sign of life for 2 s"),
    "engine": ("os.write(2, b'noise'); sys.exit(3)", "sys.exit(3)", "ended with exit code 3: "),
}
"""What processes 0 and 1 do, and what is said of it."""


CHILD = """
import os, signal, sys, time
from scripts.shared import cli, processes

app = cli.new_app()

@app.command()
def go():
    processes.show_pulse()
    if not processes.is_watched():
        sys.exit(processes.run_processes("torch", 2, None, 2, lambda: "so it goes on"))
    if os.environ["RANK"] == "0":
        {first}
    else:
        {second}

cli.main(app)
"""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[[str, str], Run]]:
    """Starts two processes of these lines of Python, by torch's launcher, patience 2 s."""
    runs = []

    def begin(first: str, second: str) -> Run:
        child = CHILD.format(first=first, second=second)
        (tmp_path / "child.py").write_text(child)
        runs.append(Run(tmp_path / "run", "child", PYTHONPATH=f"{tmp_path}:{ROOT}"))
        return runs[-1]

    yield begin
    for run in runs:
        run.__exit__()


@pytest.mark.parametrize("fault", FAULTS)
def test_one_line_names_the_process_that_failed(
    fault: str, launch: Callable[[str, str], Run]
) -> None:
    first, second, told = FAULTS[fault]
    code, out, err = launch(first, second).ends(30)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert err.endswith("; so it goes on\n")


def test_processes_end_soon_after_their_launcher(launch: Callable[[str, str], Run]) -> None:
    run = launch(HANGS, HANGS)
    wait_for(lambda: len(run.parts()) == 3)
    run.process.kill()
    assert run.ends(20) == (-signal.SIGKILL, "", "")


def test_a_second_signal_ends_all_at_once(launch: Callable[[str, str], Run]) -> None:
    deaf = "signal.signal(15, lambda *_: print('asked', flush=True)); [time.sleep(9) for _ in 'ab']"
    run = launch(deaf, "signal.signal(15, signal.SIG_IGN); " + HANGS)
    wait_for(lambda: len(run.parts()) == 3)
    time.sleep(3)  # until they have imported all
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    run.process.send_signal(signal.SIGTERM)
    told = "ended by SIGTERM, with the step undone; so it goes on\n"
    assert run.ends(20) == (128 + signal.SIGTERM, "asked\n", told)


# One run


def listeners(run: Run) -> set[tuple[str, int]]:
    """The addresses, as the kernel writes them, and ports at which processes of a run listen."""
    inodes = set()
    for pid in run.all():
        with contextlib.suppress(OSError):
            inodes |= {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                address, _, port = fields[1].partition(":")
                found.add((address, int(port, 16)))
    return found


LOOPBACK = {
    "0100007F",
    "00000000000000000000000001000000",
    "0000000000000000FFFF00000100007F",
}
"""127.0.0.1, ::1, ::ffff:127.0.0.1."""


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 training pairs; of the first batch, process 0 of 2 has nothing but void."""
    folder = tmp_path_factory.mktemp("uneven") / "shapes"
    write_shapes(folder, 4, 1, seed=0)
    (folder / "ImageSets" / "Segmentation" / "val.txt").unlink()
    order = np.random.default_rng([0, 0]).permutation(4)
    for index in order[:2]:
        path = folder / "SegmentationClass" / f"train_{index:05d}.png"
        with Image.open(path) as mask:
            mask.paste(255, (0, 0, *mask.size))
            mask.save(path)
    return folder


def test_two_processes_are_one_run(
    backend: str, uneven: Path, tmp_path: Path, run_command: Command
) -> None:
    """Of as many parts in one process, in float64; they listen on loopback alone.

    And go on in one, of PyTorch, which compiles nothing.

    Pixels that each counts for itself, the first process's buffers in place of all processes',
    statistics over both, or a server of MXNet's that adds in float32, as most do, would show.
    """
    two, one, port = tmp_path / "two", tmp_path / "one", free_port()
    command = ("--backend", backend, "--data", uneven, *SMALL, "--steps", 4, "--dtype", "float64")
    command += ("--weights", start(), "--weight-decay", 1e-3, "--lr", 0.01, "--crop", 64, 96)
    several = ("scripts.train", *command, "--processes", 2, "--port", port)
    several += ("--stop-after", 3, "--out", two)
    seen = set()
    with Run(two, *several, PORT="1") as run:
        while run.process.poll() is None:
            seen |= listeners(run)
            time.sleep(0.1)
        code, out, err = run.ends(30)
    assert code == 0
    assert all(line.startswith("note: ") for line in err.splitlines())  # of classes without pixels
    assert "stopped after step 3 of 4, saved: " in out
    assert {address for address, _ in seen} <= LOOPBACK
    ports = {number for _, number in seen}
    assert port in ports
    assert 1 not in ports  # an inherited PORT is ps-lite's own
    assert run_command("train", *command, "--accumulate", 2, "--out", one)[0] == 0
    code, out, err = run_command("train", "--resume", two, "--processes", 1, "--backend", "torch")
    assert code == 0
    assert f"{two}: goes on at step 3 of 4" in out
    first, other = tensors(one / LAST), tensors(two / LAST)
    apart = {name: relative_l2(other[name], array) for name, array in first.items()}
    assert max(apart.values()) <= 1e-9, max(apart, key=apart.__getitem__)


# Faults


def command_of(backend: str, data: Path, out: Path, *more: object) -> tuple[object, ...]:
    command = ("scripts.train", "--backend", backend, "--data", data, *SMALL, "--steps", 200)
    return (*command, "--weights", start(), "--patience", 15, "--out", out, *more)


def names_of(backend: str) -> dict[str, str]:
    """What is told of a process, by what `Run.parts` calls it."""
    told = {"0": "process 0 of 2", "1": "process 1 of 2"}
    return told | {role: role for role in HELPERS.get(backend, ())}


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_killed_or_stopped_is_named(
    number: signal.Signals, backend: str, shapes: Path, tmp_path: Path
) -> None:
    told = {
        signal.SIGKILL: KILLED,
        signal.SIGSTOP: "has shown no sign of life for 15 s",
    }
    for part, name in names_of(backend).items():
        out = tmp_path / f"run-{part}"
        with Run(out, *command_of(backend, shapes, out, "--processes", 2)) as run:
            wait_for(lambda: steps_of(out) >= 2)  # noqa: B023
            os.kill(run.parts()[part], number)
            code, _, err = run.ends(40)
        going_on = f"python -m scripts.train --resume {out} goes on"
        assert (code, err) == (2, f"error: {name} {told[number]}; {going_on}\n")
        # without its scheduler MXNet goes on for as long as the others are given to end
        assert Checkpoint.read(out / LAST).step == 0 or part == "scheduler"


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_saves_once_and_stops(
    number: signal.Signals, backend: str, shapes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with Run(out, *command_of(backend, shapes, out, "--processes", 2)) as run:
        wait_for(lambda: steps_of(out) >= 1)
        run.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: Checkpoint.read(out / LAST).step > 0)
        kept = Checkpoint.read(out / LAST).step
        wait_for(lambda: steps_of(out) > kept)
        run.process.send_signal(number)
        code, said, err = run.ends(60)
    step = Checkpoint.read(out / LAST).step
    assert step > kept
    assert Checkpoint.read(out / PREVIOUS).step == kept
    assert f"saved after step {kept} of 200" in said
    assert (code, err) == (
        128 + number,
        "\nfinishing the step, then saving; once more stops at once\n"
        f"stopped by {number.name} after step {step} of 200, saved:"
        f" python -m scripts.train --resume {out} goes on\n",
    )


@pytest.mark.full
def test_a_disk_that_fills_up_ends_all(backend: str, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with Run(out, *command_of(backend, shapes, out, "--processes", 2)) as run:
        wait_for(lambda: steps_of(out) >= 1)
        hard = resource.prlimit(run.parts()["0"], resource.RLIMIT_FSIZE)[1]
        resource.prlimit(run.parts()["0"], resource.RLIMIT_FSIZE, (60_000, hard))
        run.process.send_signal(signal.SIGUSR1)
        code, _, err = run.ends(60)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {out / LAST}: cannot be written: ")
    assert Checkpoint.read(out / LAST).step == 0


@pytest.mark.full
def test_a_picture_that_turns_bad_for_one_process(
    backend: str, shapes: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(shapes, data)
    order = np.random.default_rng([0, 1]).permutation(18)
    picture = data / "JPEGImages" / f"train_{order[3]:05d}.jpg"  # process 1's, in epoch 2
    command = command_of(backend, data, out, "--processes", 2, "--workers", 0)
    with Run(out, *command) as run:
        wait_for(lambda: steps_of(out) >= 1)
        picture.write_bytes(b"no picture")
        code, _, err = run.ends(120)
    assert (code, err.count("\n")) == (2, 1)
    assert str(picture) in err
    step = Checkpoint.read(out / LAST).step
    assert f"; saved after step {step}: python -m scripts.train --resume {out} goes on" in err


@pytest.mark.full
def test_two_runs_at_once_do_not_meet(backend: str, uneven: Path, tmp_path: Path) -> None:
    command = ("scripts.train", "--backend", backend, "--data", uneven, *SMALL, "--steps", 2)
    command += ("--weights", start(), "--processes", 2)
    one, other = tmp_path / "one", tmp_path / "other"
    with Run(one, *command, "--out", one) as first, Run(other, *command, "--out", other) as second:
        assert [run.process.wait(240) for run in (first, second)] == [0, 0]
    assert same_bytes(one / LAST, other / LAST)


def test_what_one_process_cannot_do_is_told_once(shapes: Path, tmp_path: Path) -> None:
    """Before anything starts, or by the one that writes: the others end with it."""
    (tmp_path / "file").touch()
    out = tmp_path / "run"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with Run(out, *command_of("torch", shapes, out, "--processes", 2, "--port", port)) as run:
            told = run.ends(30)
    assert told == (2, "", f"error: --port {port}: Address already in use\n")
    out = tmp_path / "file" / "run"
    with Run(tmp_path / "run", *command_of("torch", shapes, out, "--processes", 2)) as run:
        code, said, err = run.ends(60)
    assert (code, said, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {tmp_path / 'file'}")
    assert "Not a directory" in err


# Other launchers


def told_by_hand(backend: str, rank: int, port: int) -> dict[str, str]:
    """What docs/processes.md says to set."""
    if backend == "jax":
        told = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
        return {**told, "JAX_PROCESS_ID": f"{rank}"}
    if backend == "torch":
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "WORLD_SIZE": "2"}
        return {**told, "RANK": f"{rank}"}
    told = {"DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": f"{port}"}
    told |= {"DMLC_NUM_WORKER": "2", "DMLC_NUM_SERVER": "1", "DMLC_NODE_HOST": "127.0.0.1"}
    return {**told, "DMLC_ROLE": ("scheduler", "server", "worker", "worker")[rank]}


@pytest.mark.full
def test_processes_started_by_hand_are_one_run(backend: str, uneven: Path, tmp_path: Path) -> None:
    out, port = tmp_path / "run", free_port()
    command = ("scripts.train", "--backend", backend, "--data", uneven, *SMALL, "--steps", 2)
    command += ("--weights", start(), "--out", out)
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(Run(out, *command, **told_by_hand(backend, rank, port)))
            for rank in range(4 if backend == "mxnet" else 2)
        ]
        assert [run.process.wait(240) for run in runs] == [0] * len(runs)
    assert Checkpoint.read(out / LAST).config.processes == 2


def otherwise(thing: str, shapes: Path, folder: Path) -> tuple[tuple[object, ...], dict[str, str]]:
    """Options and variables with which a process has other `thing` than one without them."""
    if thing == "weights":
        path = folder / "other.safetensors"
        arrays, text = read_tensors(start())
        arrays["final_conv.bias"] = arrays["final_conv.bias"] + np.float32(1e-6)
        save_file(arrays, path, text)
        return ("--weights", path), {}
    if thing == "data":
        shutil.copytree(shapes, folder / "other")
        picture = folder / "other" / "JPEGImages" / "train_00003.jpg"
        picture.write_bytes(picture.read_bytes() + b"\0")
        return ("--data", folder / "other"), {}
    (folder / "sitecustomize.py").write_text("import numpy; numpy.__version__ += '.1'")
    return (), {"PYTHONPATH": f"{folder}"}


@pytest.mark.full
@pytest.mark.parametrize("thing", ["weights", "data", "versions"])
def test_processes_that_are_not_alike_end(
    thing: str, backend: str, shapes: Path, tmp_path: Path
) -> None:
    out, port = tmp_path / "run", free_port()
    command = (*command_of(backend, shapes, out), "--steps", 2)
    options, variables = otherwise(thing, shapes, tmp_path)
    with contextlib.ExitStack() as stack:
        runs = []
        for rank in range(4 if backend == "mxnet" else 2):
            told, more = told_by_hand(backend, rank, port), ()
            if rank == (3 if backend == "mxnet" else 1):
                told, more = told | variables, options
            runs.append(stack.enter_context(Run(out, *command, *more, **told)))
        for run in runs[-2:]:  # those that compute
            _, err = run.process.communicate(timeout=120)
            last = err.splitlines()[-1]
            assert run.process.returncode == 2
            assert last == f"error: process 1 has other {thing} than process 0"
    assert not out.exists()


@pytest.mark.full
def test_a_process_that_comes_late_is_waited_for(
    backend: str, uneven: Path, tmp_path: Path
) -> None:
    out, port = tmp_path / "run", free_port()
    command = ("scripts.train", "--backend", backend, "--data", uneven, *SMALL, "--steps", 2)
    command += ("--weights", start(), "--patience", 120, "--out", out)
    with contextlib.ExitStack() as stack:
        runs: list[Run] = []
        for rank in range(4 if backend == "mxnet" else 2):
            if runs and rank in (1, 3):
                time.sleep(20)
            told = told_by_hand(backend, rank, port)
            runs.append(stack.enter_context(Run(out, *command, **told)))
        assert [run.process.wait(240) for run in runs] == [0] * len(runs)
    assert Checkpoint.read(out / LAST).step == 2


def told_by_slurm(rank: int) -> dict[str, str]:
    job, told = f"{os.getpid()}", {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}
    told |= {"SLURM_JOB_ID": job, "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    return {**told, "SLURM_PROCID": f"{rank}", "SLURM_LOCALID": f"{rank}"}


def told_by_open_mpi(rank: int) -> dict[str, str]:
    told = {"OMPI_MCA_orte_hnp_uri": f"{os.getpid() * 4096}.0;tcp://127.0.0.1:1"}
    told |= {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": f"{rank}"}
    return {**told, "OMPI_COMM_WORLD_LOCAL_RANK": f"{rank}"}


@pytest.mark.full
@pytest.mark.needs("jax")
@pytest.mark.parametrize("told_by", [told_by_slurm, told_by_open_mpi])
def test_jax_in_a_job_of_slurm_or_open_mpi(
    told_by: Callable[[int], dict[str, str]], uneven: Path, tmp_path: Path
) -> None:
    """That is, with the variables that they set."""
    out = tmp_path / "run"
    command = ("scripts.train", "--backend", "jax", "--data", uneven, *SMALL, "--steps", 2)
    command += ("--weights", start(), "--out", out)
    first, second = (Run(out, *command, **told_by(rank)) for rank in range(2))
    with first, second:
        assert [run.process.wait(240) for run in (first, second)] == [0, 0]
    assert Checkpoint.read(out / LAST).config.processes == 2


@pytest.mark.full
def test_who_waits_in_vain_ends(backend: str, uneven: Path, tmp_path: Path) -> None:
    """The other never comes, and nobody watches."""
    out = tmp_path / "run"
    command = ("scripts.train", "--backend", backend, "--data", uneven, *SMALL, "--steps", 2)
    command += ("--weights", start(), "--out", out, "--patience", 5)
    told = told_by_hand(backend, 2 if backend == "mxnet" else 0, free_port())
    with Run(out, *command, **told) as run:
        code, _, err = run.ends(60)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert not out.exists()


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_torchrun(number: signal.Signals, shapes: Path, tmp_path: Path) -> None:
    """Its processes are one run; one that is lost, or stopped, ends the other in time."""
    out = tmp_path / "run"
    agent = ("torch.distributed.run", "--standalone", "--nproc_per_node", 2, "-m")
    with Run(out, *agent, *command_of("torch", shapes, out, "--patience", 8)) as run:
        wait_for(lambda: steps_of(out) >= 2)
        os.kill(run.parts()["1"], number)
        wait_for(lambda: "0" not in run.parts(), 40)
        if number == signal.SIGSTOP:  # torchrun's SIGTERM waits until it is awake
            os.kill(run.parts()["1"], signal.SIGKILL)
        assert run.process.wait(60) == 1
    assert Checkpoint.read(out / LAST).step == 0


# Kills


def saved_step(folder: Path) -> int:
    """The step of the last checkpoint; 0: there is none."""
    if not (folder / LAST).exists():
        return 0
    with safe_open(folder / LAST, "numpy") as file:
        return int(file.metadata()["step"])


@pytest.mark.full
def test_kill_9_at_random_moments_loses_nothing(
    backend: str, shapes: Path, tmp_path: Path, kills: int = 20
) -> None:
    """Of the launcher, or of any process that it has started: in half of them before a step."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = ("scripts.train", "--backend", backend, "--data", shapes, *SMALL, "--processes", 2)
    command += ("--save-minutes", 0, "--steps", 3 * kills, "--weights", start())
    begun = time.monotonic()
    with Run(whole, *command, "--out", whole) as run:
        wait_for(lambda: steps_of(whole) > 0)
        start_up = time.monotonic() - begun
        assert run.ends(1200)[0] == 0
    log = (whole / "log.jsonl").read_text().splitlines()
    pace = min(json.loads(line)["seconds"] for line in log)
    random, step = np.random.default_rng(0), 0
    going_on = ("scripts.train", "--resume", broken)
    for kill in range(kills):
        begins = not (broken / LAST).exists()
        if begins:
            shutil.rmtree(broken, ignore_errors=True)
        with Run(broken, *((*command, "--out", broken) if begins else going_on)) as run:
            victim = random.choice(["launcher", "0", "1", *HELPERS.get(backend, ())])
            wait_for(lambda: victim in run.parts())  # noqa: B023  it does so here
            until = time.monotonic() + (240 if kill % 2 else random.uniform(0, 0.8 * start_up))
            wait_for(lambda: saved_step(broken) > step or time.monotonic() > until)  # noqa: B023
            if kill % 2:
                time.sleep(random.uniform(0, 1.5 * pace))
            os.kill(run.parts()[victim], signal.SIGKILL)
            code, _, err = run.ends(30)
        print(f"kill {kill}: {victim} after step {step}, code {code}, {err!r}", flush=True)
        if victim == "launcher":
            assert (code, err) == (-signal.SIGKILL, "")
        else:
            name = f"process {victim} of 2" if victim.isdecimal() else victim
            assert (code, err.count("\n")) == (2, 1)
            assert err.startswith(f"error: {name} was ended by SIGKILL")
        if (broken / LAST).exists():
            found = Checkpoint.read(broken / LAST).step
            assert found >= step
            step = found
    with Run(broken, *going_on) as run:
        assert run.ends(1200)[0] == 0
    assert same_bytes(whole / LAST, broken / LAST)
