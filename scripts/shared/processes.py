"""Several processes in one run: started here, watched, and ended together; or someone else's.

Each runs the same command line and finds in its environment what its framework's engine wants to
know, as from that engine's own launcher: torchrun; srun, mpirun or JAX's three variables; the
DMLC_ variables. So a run that another launcher has placed is no other case.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, NoReturn

from backends import load_backend
from common.errors import InputError, LostError
from common.files import reason_of
from common.protocol import Backend, ProcessGroup
from scripts.shared.cli import be_silent, explain, last_line, report
from scripts.shared.workers import LIMITED

LOOPBACK = "127.0.0.1"

PULSE = "ROSETTA_PULSE"
"""The variable with the descriptor of a pipe: that there is a beat in it a second is watched."""

FOR_EVER = 7 * 24 * 3600.0
"""What engines are told to wait, in seconds, where the launcher watches."""

LOST = 3
"""The exit code of a process that ends since another has."""

GRACE = 3.0
"""Seconds in which the others may end by themselves, once one has."""

SIZES = {
    "torch": ("WORLD_SIZE",),
    "mxnet": ("DMLC_NUM_WORKER",),
    "jax": ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"),
}
"""The variables in which a launcher tells a process how many there are, by backend."""


def launched(backend: str) -> int:
    """How many processes a launcher has started for this run, this one among them; 1: none has.

    Raises:
        InputError: what it tells is no number.
    """
    if backend == "jax" and "JAX_COORDINATOR_ADDRESS" in os.environ:
        names = SIZES["jax"][:1]
    else:
        names = SIZES[backend]
    for name in names:
        if name in os.environ:
            text = os.environ[name]
            if not text.isdecimal() or int(text) < 1:
                raise InputError(f"{name}={text!r}: is no number of processes")
            return int(text)
    return 1


def is_watched() -> bool:
    """Whether `run_processes` has started this process."""
    return PULSE in os.environ


# --- in each process


@contextlib.contextmanager
def joined(backend: str, size: int, patience: float) -> Iterator[ProcessGroup]:
    """The processes of this run, this one among them; where `size` is 1, it alone.

    Of several, all but the first say nothing but why they end. If the run ends in an error, so
    does this process, at once: engines wait for the others even then.

    Raises:
        InputError: a launcher has started another number, or none.
        WorkerError: they do not come together.
    """
    framework: Backend = load_backend(backend)
    if size == 1:
        yield framework.Group()
        return
    if launched(backend) != size:
        raise InputError(
            f"--processes {size}: {launched(backend)} started, as {SIZES[backend][0]} tells"
        )
    group: ProcessGroup | None = None
    try:
        group = framework.join(FOR_EVER if is_watched() else patience)
        if group.rank > 0:
            be_silent()
        yield group
        group.leave()
    except BaseException as error:  # whatever it is, nobody waits for it
        _end_now(error, group.rank if group is not None else 0)


def _end_now(error: BaseException, rank: int) -> NoReturn:
    """Ends this process, with a line that says why, unless another's end is why."""
    lost = isinstance(error, LostError | RuntimeError)  # engines raise the latter
    if lost:
        code = LOST
        # the first one's words are for all to read, and the launcher's say more
        if not is_watched() or rank > 0:
            report(f"the other processes are lost: {error}")
    elif isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
    else:
        told = explain(error)
        if told is None:
            traceback.print_exception(error)
        code = 1 if told is None else told
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def show_pulse() -> None:
    """Shows the launcher that watches, if one does, that this process is alive."""
    if PULSE not in os.environ:
        return
    pipe = int(os.environ[PULSE])

    def beat() -> None:
        while True:
            with contextlib.suppress(BlockingIOError):  # nobody has read for a while
                try:
                    os.write(pipe, b".")
                except BrokenPipeError:  # who watched is gone, and so is the run
                    os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1)

    os.set_blocking(pipe, False)
    threading.Thread(target=beat, daemon=True).start()


# --- the launcher


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


def check_port(port: int) -> None:
    """Refuses a port that is taken.

    Raises:
        InputError: it is.
    """
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((LOOPBACK, port))
        except OSError as error:
            raise InputError(f"--port {port}: {reason_of(error)}") from error


def _torch(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        "RANK": f"{rank}",
        "LOCAL_RANK": f"{rank}",
        "WORLD_SIZE": f"{size}",
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": f"{port}",
        "GLOO_SOCKET_IFNAME": "lo",  # gloo would listen where the machine's name leads
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # it warns of what we ask for on purpose
    }


def _jax(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        "JAX_COORDINATOR_ADDRESS": f"{LOOPBACK}:{port}",
        "JAX_PROCESS_ID": f"{rank}",
        "JAX_LOCAL_PROCESS_ID": f"{rank}",
        "JAX_NUM_PROCESSES": f"{size}",
    }


def _mxnet(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        "DMLC_PS_ROOT_URI": LOOPBACK,
        "DMLC_PS_ROOT_PORT": f"{port}",
        "DMLC_NODE_HOST": LOOPBACK,
        "DMLC_NUM_WORKER": f"{size}",
        "DMLC_NUM_SERVER": "1",
        "DMLC_ROLE": "worker",
        "DMLC_TASK_ID": f"{rank}",
        "DMLC_LOCAL_RANK": f"{rank}",
    }


ENVIRONMENTS: Mapping[str, Callable[[int, int, int], dict[str, str]]] = {
    "torch": _torch,
    "mxnet": _mxnet,
    "jax": _jax,
}
"""What a process finds in its environment, by backend: of its rank, their number, the port."""

HELPERS = {"mxnet": ("scheduler", "server")}
"""Processes beside those that compute, by the role that MXNet knows them by."""

HELP = ["-c", "import scripts.shared.processes as p; p.show_pulse(); p.load_backend('mxnet')"]
"""What a helper runs: MXNet serves as soon as it is imported, and ends when the others have."""


@dataclass
class _Process:
    """A process that is watched."""

    name: str
    process: subprocess.Popen[bytes]
    pulse: int
    errors: IO[bytes] | None
    last_beat: float = field(default_factory=time.monotonic)

    def is_alive(self) -> bool:
        """Whether it has shown a beat in the last second or so; `last_beat` is when it did."""
        with contextlib.suppress(BlockingIOError):
            if os.read(self.pulse, 4096):
                self.last_beat = time.monotonic()
        return self.process.poll() is None

    def is_killed(self) -> bool:
        """Whether a signal has ended it."""
        return (self.process.returncode or 0) < 0

    def reason(self) -> str:
        """Why it has ended, in words."""
        code = self.process.returncode
        if code < 0:
            number = signal.Signals(-code)
            memory = ", as by a system out of memory" if number == signal.SIGKILL else ""
            return f"was ended by {number.name}{memory}"
        return f"ended with exit code {code}"

    def said(self) -> str:
        """Its last words, where they were not for all to read."""
        if self.errors is None:
            return ""
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace")
        return last_line(text).removeprefix("error: ") if text.strip() else ""


class _Launcher:
    """The processes of a run on this machine."""

    def __init__(self, backend: str, size: int, port: int, arguments: list[str]) -> None:
        self.cores = sorted(os.sched_getaffinity(0))
        self.processes: list[_Process] = []
        self.asked: int | None = None
        environment = ENVIRONMENTS[backend]
        for role in HELPERS.get(backend, ()):
            told = environment(0, size, port) | {"DMLC_ROLE": role}
            self._start(role, HELP, told, self.cores)
        command = ["-m", *arguments]
        for rank in range(size):
            name = f"process {rank} of {size}"
            self._start(name, command, environment(rank, size, port), self._share(rank, size))

    def _share(self, rank: int, size: int) -> list[int]:
        """The cores of a process: as many for each, or one, which it may have to share."""
        count = max(1, len(self.cores) // size)
        first = rank * count % len(self.cores)
        return self.cores[first : first + count]

    def _start(
        self, name: str, command: list[str], environment: dict[str, str], cores: list[int]
    ) -> None:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        limits = {key: os.environ.get(key, f"{len(cores)}") for key in LIMITED}
        speaks = name.startswith("process 0 ")
        errors = None if speaks else tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        os.sched_setaffinity(0, cores)  # it inherits them
        try:
            process = subprocess.Popen(
                [sys.executable, *_options(), *command],
                env=os.environ | limits | environment | {PULSE: f"{theirs}"},
                pass_fds=[theirs],
                stdin=subprocess.DEVNULL,
                stdout=None if speaks else subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # what a terminal asks for comes from here, and once
            )
        finally:
            os.sched_setaffinity(0, self.cores)
        os.close(theirs)
        self.processes.append(_Process(name, process, ours, errors))

    def __enter__(self) -> "_Launcher":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.processes:
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait()
            os.close(one.pulse)
            if one.errors is not None:
                one.errors.close()

    def forward(self, number: int, _frame: object) -> None:
        """Passes a signal on to those that compute; a second one ends all."""
        if self.asked is not None and number != signal.SIGUSR1:
            raise KeyboardInterrupt
        if number != signal.SIGUSR1:
            self.asked = number
        for one in self.processes:
            if one.name.startswith("process") and one.process.poll() is None:
                one.process.send_signal(number)

    def _alive(self) -> list[_Process]:
        """Those that have not ended; all are looked at."""
        return [one for one in self.processes if one.is_alive()]

    def _first_to_fail(self) -> _Process:
        """Whose end is not that another has: once one has failed, the others soon do, or hang."""
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and self._alive():
            time.sleep(0.05)
        failed = [one for one in self.processes if one.process.returncode]
        return min(
            failed,
            key=lambda one: (one.process.returncode == LOST, not one.is_killed(), not one.said()),
        )

    def watch(self, patience: float) -> _Process | None:
        """Waits until all have ended well, or one has not, or has shown no pulse: that one."""
        turn = time.monotonic()
        while True:
            asleep, turn = time.monotonic() - turn, time.monotonic()
            if asleep > 1:  # this process itself was stopped, or had to wait
                for one in self.processes:
                    one.last_beat += asleep
            alive = self._alive()
            if any(one.process.returncode for one in self.processes):
                return self._first_to_fail()
            if not alive:
                return None
            late = time.monotonic() - patience
            silent = [one for one in alive if one.last_beat < late]
            if silent:
                return silent[0]
            time.sleep(0.05)


def _options() -> list[str]:
    """Python's own options, of this process."""
    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined,no-any-return]


def run_processes(
    backend: str,
    size: int,
    port: int | None,
    patience: float,
    how_to_go_on: Callable[[], str] = lambda: "",
) -> int:
    """Runs this command line in `size` processes on this machine; the exit code of all.

    When one fails, or shows no sign of life for `patience` seconds, all are ended, and a line says
    which and how to go on.

    Raises:
        InputError: the port is taken.
    """
    if port is not None:
        check_port(port)
    module = sys.modules["__main__"].__spec__
    assert module is not None
    arguments = [module.name.removesuffix(".__main__"), *sys.argv[1:]]
    with _Launcher(backend, size, port or free_port(), arguments) as launcher:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
        before = {n: signal.getsignal(n) for n in numbers}
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, launcher.forward)
        try:
            failed = launcher.watch(patience)
            if failed is None:
                return 0
            return _explain(launcher, failed, patience, how_to_go_on)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _explain(
    launcher: _Launcher, failed: _Process, patience: float, how_to_go_on: Callable[[], str]
) -> int:
    """Says what has happened, and gives the exit code."""
    code = failed.process.poll()
    if code is None:
        reason = f"has shown no sign of life for {patience:g} s"
    else:
        reason = failed.said() or failed.reason()
    first = next(one for one in launcher.processes if one.name.startswith("process 0 "))
    told = first.process.poll()
    if launcher.asked is not None and told == 128 + launcher.asked:
        return told  # it has said so
    if failed is first and code is not None and code > 0:
        return code  # it has said why
    more = how_to_go_on()
    report(f"{failed.name} {reason}{f'; {more}' if more else ''}")
    return 2 if code is None or code < 0 else code
