"""Several processes in one run: started here, watched, and ended together; or someone else's.

Each runs the same command line and finds in its environment what its framework's engine wants to
know, as from that engine's own launcher: torchrun; srun, mpirun or JAX's three variables; the
DMLC_ variables. So a run that another launcher has placed is no other case.
"""

import contextlib
import os
import re
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
from common.errors import InputError, LostError, StoppedError, WorkerError
from common.files import reason_of
from common.protocol import Backend, ProcessGroup
from scripts.shared.cli import be_silent, explain, last_line, report, report_to
from scripts.shared.workers import LIMITED

LOOPBACK = "127.0.0.1"

PULSE = "ROSETTA_PULSE"
"""The variable with the descriptor of a pipe: that there is a beat in it a second is watched."""

FOR_EVER = 7 * 24 * 3600.0
"""What engines are told to wait, in seconds, where the launcher watches."""

LOST = 3
"""The exit code of a process that ends since another has."""

GRACE = 3.0
"""Seconds in which the others may end by themselves, once one has failed."""

WORDS = "ROSETTA_WORDS"
"""The variable with the descriptor of what is standard error to the launcher, for process 0."""

SIGNS = re.compile("gloo|nccl|connection|coordination|heartbeat", re.IGNORECASE)
"""What an engine's error tells of where it is another process that has failed."""

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
def joined(
    backend: str, size: int, patience: float, how_to_go_on: Callable[[], str] = str
) -> Iterator[ProcessGroup]:
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
        _end_now(error, how_to_go_on())


def _end_now(error: BaseException, how_to_go_on: str) -> NoReturn:
    """Ends this process, with a line that says why, unless another's end is why."""
    engines = isinstance(error, RuntimeError | ValueError | WorkerError)
    if isinstance(error, LostError) or (engines and SIGNS.search(str(error))):
        code = LOST if is_watched() else 2
        if not is_watched():  # else the launcher says more
            report(_and_how(f"another process is lost: {error}", how_to_go_on))
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
    """Shows the launcher that watches, if one does, that this process is alive.

    What it says is for the user from here on, if it is process 0; what an engine says by itself
    is still kept by the launcher.
    """
    if PULSE not in os.environ:
        return
    if WORDS in os.environ:
        report_to(int(os.environ[WORDS]))
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


def cores_of(rank: int, size: int, cores: list[int]) -> list[int]:
    """Those of a process: as many for each, or one, which it may have to share."""
    count = max(1, len(cores) // size)
    first = rank * count % len(cores)
    return cores[first : first + count]


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
    """A process that is watched; `errors` is its standard error."""

    name: str
    process: subprocess.Popen[bytes]
    pulse: int
    errors: IO[bytes]
    last_beat: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def is_alive(self) -> bool:
        """Whether it has not ended; notes when it has, and when there was a beat."""
        with contextlib.suppress(BlockingIOError):
            if os.read(self.pulse, 4096):
                self.last_beat = time.monotonic()
        if self.ended is None and self.process.poll() is not None:
            self.ended = time.monotonic()
        return self.ended is None

    def blame(self) -> tuple[bool, bool, bool, float]:
        """Sorts those that have failed: whose end is least likely to be another's fault is first.

        A signal from without comes before an error, and that before what is done to a process
        whose engine finds another gone: JAX's aborts.
        """
        code = self.process.returncode
        aborted = code == -signal.SIGABRT
        return code == LOST, aborted, code > 0, self.ended or 0

    def reason(self) -> str:
        """Its name, and why it has ended, in words."""
        code = self.process.returncode
        if code < 0:
            number = signal.Signals(-code)
            memory = ", as by a system out of memory" if number == signal.SIGKILL else ""
            return f"{self.name} was ended by {number.name}{memory}"
        self.errors.seek(0)
        last = last_line(self.errors.read().decode(errors="replace"))
        if last.startswith("error: "):
            return f"{self.name}: {last.removeprefix('error: ')}"
        return f"{self.name} ended with exit code {code}: {last}"


class _Launcher:
    """The processes of a run on this machine."""

    def __init__(
        self, backend: str, size: int, port: int, arguments: list[str], how: Callable[[], str]
    ) -> None:
        self.how_to_go_on = how
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
            self._start(
                name, command, environment(rank, size, port), cores_of(rank, size, self.cores)
            )

    def _start(
        self, name: str, command: list[str], environment: dict[str, str], cores: list[int]
    ) -> None:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        limits = {key: os.environ.get(key, f"{len(cores)}") for key in LIMITED}
        speaks = name.startswith("process 0 ")
        words = os.dup(2)
        told = {PULSE: f"{theirs}"} | ({WORDS: f"{words}"} if speaks else {})
        errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        os.sched_setaffinity(0, cores)  # it inherits them
        try:
            process = subprocess.Popen(
                [sys.executable, *_options(), *command],
                env=os.environ | limits | environment | told,
                pass_fds=[theirs, words] if speaks else [theirs],
                stdin=subprocess.DEVNULL,
                stdout=None if speaks else subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # what a terminal asks for comes from here, and once
            )
        finally:
            os.sched_setaffinity(0, self.cores)
        os.close(theirs)
        os.close(words)
        self.processes.append(_Process(name, process, ours, errors))

    def __enter__(self) -> "_Launcher":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.processes:
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait()
            os.close(one.pulse)
            one.errors.close()

    def forward(self, number: int, _frame: object) -> None:
        """Passes a signal on to those that compute; a second one ends all."""
        if self.asked is not None and number != signal.SIGUSR1:
            ended = f"ended by {signal.Signals(number).name}, with the step undone"
            raise StoppedError(_and_how(ended, self.how_to_go_on()), 128 + number)
        if number != signal.SIGUSR1:
            self.asked = number
        for one in self.processes:
            if one.name.startswith("process") and one.process.poll() is None:
                one.process.send_signal(number)

    def _alive(self) -> list[_Process]:
        """Those that have not ended; all are looked at."""
        return [one for one in self.processes if one.is_alive()]

    def _first_to_fail(self, patience: float) -> _Process:
        """Once one has failed, the others soon do, or hang; if asked to stop, they take a while."""
        deadline = time.monotonic() + (GRACE if self.asked is None else max(GRACE, patience))
        while time.monotonic() < deadline and self._alive():
            time.sleep(0.05)
        return min((one for one in self.processes if one.process.returncode), key=_Process.blame)

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
                return self._first_to_fail(patience)
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
    with _Launcher(backend, size, port or free_port(), arguments, how_to_go_on) as launcher:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
        before = {n: signal.getsignal(n) for n in numbers}
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, launcher.forward)
        try:
            failed = launcher.watch(patience)
            if failed is None:
                return 0
            return _explain(launcher, failed, patience)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _explain(launcher: _Launcher, failed: _Process, patience: float) -> int:
    """Says what has happened, where process 0 has not, and gives the exit code."""
    code = failed.process.poll()
    first = next(one for one in launcher.processes if one.name.startswith("process 0 "))
    told, asked = first.process.poll(), launcher.asked
    if asked is not None and code in (-asked, 128 + asked):
        if told != 128 + asked:
            print(f"ended by {signal.Signals(asked).name}", file=sys.stderr)
        return 128 + asked
    if code is not None and code > 0 and told not in (None, 0, LOST) and told > 0:
        return told
    if code is None:
        reason = f"{failed.name} has shown no sign of life for {patience:g} s"
    else:
        reason = failed.reason()
    report(_and_how(reason, launcher.how_to_go_on()))
    return 2


def _and_how(what: str, how: str) -> str:
    """What has happened, and how the run goes on, unless that is told already or there is none."""
    return what if how in what else f"{what}; {how}"
