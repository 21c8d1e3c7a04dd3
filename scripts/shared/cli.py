"""What the commands share: options, the way out on bad input, progress, JSON."""

import contextlib
import enum
import errno
import io
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, get_type_hints

import rich.console
import rich.progress
import rich.table
import rich.text
import typer
import typer.core
from pydantic import TypeAdapter, ValidationError

from backends import BACKENDS, load_backend, missing_packages
from common.config import (
    SETTINGS,
    Architecture,
    Config,
    Device,
    Dtype,
    Freeze,
    Head,
    Inference,
    Schedule,
)
from common.errors import InputError, LostError, StoppedError, WorkerError
from common.files import write_whole
from common.text import visible


class _Console(rich.console.Console):
    """Prints names as they are: no markup, no emoji codes, nothing that a terminal obeys."""

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        return super().render_str("\n".join(map(visible, text.split("\n"))), **options)


console = _Console(highlight=False, markup=False, emoji=False)


HEARTBEAT_SECONDS = 60.0
"""The longest silence of a command that has a progress bar but no terminal."""


class BackendName(enum.StrEnum):
    """The values of `--backend`."""

    torch = "torch"
    mxnet = "mxnet"
    jax = "jax"


_METAVARS = {"number": "X", "integer": "N"}
"""What stands for a value in the help, by its type in JSON schema."""


def setting(field: str, *names: str, metavar: str | None = None, group: str | None = None) -> Any:
    """The Typer option of a field of `Config`: its help, its range and its check are the field's.

    `names` where the option's is not the field's; `group` is the heading above it in the help.
    """
    schema = SETTINGS[field]
    parts = (schema, *schema.get("prefixItems", ()), *schema.get("anyOf", ()))
    bounds = {key: value for part in parts for key, value in part.items()}
    kinds = (_METAVARS[part["type"]] for part in parts if part.get("type") in _METAVARS)
    accepts = TypeAdapter(get_type_hints(Config, include_extras=True)[field])

    def check(value: Any) -> Any:
        try:
            accepts.validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise typer.BadParameter(message) from error
        return value

    return typer.Option(
        *names,
        metavar=metavar or next(kinds, None),
        rich_help_panel=group,
        min=bounds.get("minimum"),
        max=bounds.get("maximum"),
        callback=check,
        help=schema["description"],
    )


ArchitectureOption = Annotated[Architecture, setting("architecture")]
HeadOption = Annotated[Head, setting("head")]
ProcessesOption = Annotated[int, setting("processes")]
PatienceOption = Annotated[float, setting("patience")]
PortOption = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Where they meet; by default any free one."),
]
FreezeOption = Annotated[Freeze, setting("freeze")]
AccumulateOption = Annotated[int, setting("accumulate")]
HeadRateOption = Annotated[float, setting("head_rate")]
BackendOption = Annotated[BackendName, typer.Option(help="The framework that computes.")]
BackendsOption = Annotated[
    list[BackendName] | None,
    typer.Option(
        "--backends",
        "--backend",
        metavar="NAME...",
        help="The frameworks to run: torch, mxnet, jax. Default: every installed one.",
    ),
]
DeviceOption = Annotated[Device, setting("device")]
DtypeOption = Annotated[Dtype, setting("dtype")]
ScheduleOption = Annotated[Schedule, setting("schedule")]
WeightsOption = Annotated[
    Path, typer.Option(help="A network with its head: a checkpoint, or what `convert` can read.")
]
CanonicalOption = Annotated[
    Path, typer.Option(help="Canonical weights, a safetensors file, or a checkpoint.")
]
DataOption = Annotated[
    Path,
    typer.Option(help="A folder in VOC's layout, or one that holds it as VOCdevkit/VOC2012."),
]
FlipOption = Annotated[
    bool, typer.Option("--flip", help="Predict each image mirrored too, and take the mean.")
]
ScalesOption = Annotated[
    list[float] | None,
    typer.Option(
        metavar="S...",
        help="Predict each image in several sizes, 0.75 1 1.25 times its own for instance, and"
        " take the mean.",
        show_default=" ".join(f"{scale:g}" for scale in Inference.scales),
    ),
]
TileOption = Annotated[
    tuple[int, int] | None,
    typer.Option(
        metavar="H W",
        help="Predict large images in tiles of this size, multiples of 32, in less memory.",
    ),
]
OverlapOption = Annotated[
    int,
    typer.Option(
        help="Pixels that tiles share; with 640 (resnet34: 1344) the result is the whole image's."
    ),
]
MaxPixelsOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Refuse pictures of more pixels.")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")
]

ForceOption = Annotated[
    bool, typer.Option("--force", help="Write over files of another kind than the result's.")
]


class GroupedCommand(typer.core.TyperCommand):
    """A command whose help lists its options under the headings of their `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes them, the groups in the order of their first options; --help is in the first."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                group = getattr(parameter, "rich_help_panel", None) or "Options"
                groups.setdefault(group, []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records, col_max=24)


def new_app() -> typer.Typer:
    """An application for `main`: plain help, no tracebacks of its own."""
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"max_content_width": 100},
    )


def report(message: str) -> None:
    """One line on standard error."""
    print(f"error: {visible(' '.join(message.split()))}", file=sys.stderr)


def say(message: str) -> None:
    """One line on standard output; names in it are shown, not obeyed."""
    print(visible(message))


def fail(message: str) -> NoReturn:
    """One line on standard error, and exit code 2."""
    report(message)
    raise SystemExit(2)


def choose_backends(names: Sequence[str] | None) -> list[str]:
    """The backends to run: the given ones, or all that are installed.

    Raises:
        InputError: a given one is not installed, or none is.
    """
    for name in names or ():
        if missing_packages(name):
            load_backend(name)  # raises, and says how to install it
    chosen = list(dict.fromkeys(map(str, names or ())))
    chosen = chosen or [name for name in BACKENDS if not missing_packages(name)]
    if not chosen:
        raise InputError("no backend is installed; install one with: pip install '.[torch]'")
    return chosen


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _spread(arguments: Sequence[str], numbers: Sequence[str]) -> list[str]:
    """`--backends torch jax` as `--backends torch --backends jax`, which is what Typer knows.

    So too the options in `numbers`, whose values are numbers.
    """
    spread: list[str] = []
    for argument in arguments:
        option = spread[-2] if len(spread) > 1 else ""
        names = option in ("--backends", "--backend") and argument in set(BackendName)
        if names or (option in numbers and _is_number(argument)):
            spread.append(option)
        spread.append(argument)
    return spread


_silent = False


def be_silent() -> None:
    """Lets this process say nothing more but why it fails: another speaks for it."""
    global _silent
    _silent = True
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def note(message: Warning | str, *_: object) -> None:
    """A word on standard error, of a warning without the place in our code that gave it."""
    if not _silent:
        print(f"note: {visible(str(message))}", file=sys.stderr)


class _Output(io.FileIO):
    """A standard stream that outlives its reader: `| head` or a closed terminal ends no command."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return len(data)


def _open_stream(name: str, descriptor: int | None = None) -> None:
    """Has a stream show each line at once, and escape what it has no code for.

    A test's stand-in for it stays.
    """
    stream = getattr(sys, name)
    if type(stream) is io.TextIOWrapper:
        place = stream.fileno() if descriptor is None else descriptor
        buffer = io.BufferedWriter(_Output(place, "w", closefd=False))
        encoding, escape = stream.encoding, "backslashreplace"
        setattr(sys, name, io.TextIOWrapper(buffer, encoding, escape, line_buffering=True))


def report_to(descriptor: int) -> None:
    """Has Python's words on standard error go elsewhere; a library's own stay where they are."""
    _open_stream("stderr", descriptor)


def say_now(text: str) -> None:
    """Writes to standard error from a signal's handler: not by print, which it may interrupt."""
    os.write(sys.stderr.fileno(), text.encode())


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    name = signal.Signals(number).name
    say_now(f"\nended by {name}\n")
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Has SIGTERM and SIGHUP end a command as Ctrl-C does: what it has begun is cleared away.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored.
    """
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def main(app: typer.Typer, numbers: Sequence[str] = ()) -> None:
    """Runs a command. Bad input of any kind is one line on standard error and exit code 2.

    `numbers`: its options that take several numbers, as in `--batch-size 1 4 8`.
    """
    _open_stream("stdout")
    _open_stream("stderr")
    warnings.showwarning = note  # type: ignore[assignment]  # of its parameters, one is shown
    try:
        with _ending_in_order():
            code = app(_spread(sys.argv[1:], numbers), standalone_mode=False)
    except BaseException as error:
        told = explain(error)
        if told is None:
            raise
        raise SystemExit(told) from None
    if code == 130:  # Ctrl-C in a command: newer Typers return it
        print("interrupted", file=sys.stderr)
    raise SystemExit(code if isinstance(code, int) else 0)


def explain(error: BaseException) -> int | None:
    """Says what has ended a command, in a line; its exit code, or None of a fault of ours."""
    match error:
        case InputError() | WorkerError() | LostError() | Warning():  # a note under `-W error`
            report(str(error))
        case StoppedError():
            if not _silent:
                print(visible(str(error)), file=sys.stderr)
            return error.code
        case typer.TyperException():
            report(error.format_message().replace("Value error, ", ""))  # pydantic's
        case OSError():  # a name that is too long, a folder without permission, ...
            report(f"{error.filename or 'error'}: {error.strerror or error}")
        case KeyboardInterrupt() | typer.Abort():
            print("interrupted", file=sys.stderr)
            return 130
        case _:
            return None
    return 2


def last_line(said: str) -> str:
    """What a process said last on standard error: its reason, as a rule."""
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def fraction(value: float | None) -> str:
    """A metric or a loss, as the tables show it."""
    return "-" if value is None else f"{value:.4f}"


def write_json(path: Path | None, result: Any) -> None:
    """Writes `result` as JSON, whole or not at all; nothing for None.

    Raises:
        InputError: the file cannot be written.
    """
    if path is not None:
        text = json.dumps(result, indent=2) + "\n"
        write_whole(path, lambda temporary: temporary.write_text(text))


def time_left(seconds: float) -> str:
    """What a line of progress ends in, where it is a minute or more."""
    return f", about {seconds / 60:.0f} min left" if seconds >= 60 else ""


def progress(description: str) -> rich.progress.Progress:
    """A progress bar with a count, the time left and a free field `status`."""
    return rich.progress.Progress(
        rich.progress.TextColumn(description, markup=False),
        rich.progress.BarColumn(bar_width=12),
        rich.progress.MofNCompleteColumn(),
        # in a narrow terminal it goes on in the next line
        rich.progress.TextColumn(
            "{task.fields[status]}", markup=False, table_column=rich.table.Column()
        ),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )


class Heartbeat:
    """Where there is no terminal, and so no moving bar: a line a minute."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def __call__(self, line: str, at_once: bool = False) -> None:
        """Prints it if it is due, or is to be said `at_once`."""
        due = time.monotonic() - self._said_at >= HEARTBEAT_SECONDS
        if not console.is_terminal and (due or at_once):
            console.print(line, soft_wrap=True)
            self._said_at = time.monotonic()


@contextlib.contextmanager
def run_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over whole runs; gives what is to be called with the count so far."""
    heartbeat, start = Heartbeat(), time.monotonic()
    with progress(description) as bar:
        task = bar.add_task("", total=total, status="runs")

        def show(count: int) -> None:
            bar.update(task, completed=count)
            left = time_left((time.monotonic() - start) * (total - count) / count)
            heartbeat(f"{description}: {count} of {total} runs{left}", at_once=True)

        yield show


@contextlib.contextmanager
def image_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar with images a second; gives what is to be called with the count so far."""
    heartbeat = Heartbeat()
    with progress(description) as bar:
        task, start = bar.add_task("", total=total, status=""), time.perf_counter()

        def show(count: int) -> None:
            rate = count / (time.perf_counter() - start)
            bar.update(task, completed=count, status=f"{rate:.2f} images/s")
            left = time_left((total - count) / rate)
            heartbeat(f"{description}: {count} of {total}, {rate:.2f} images/s{left}")

        yield show
