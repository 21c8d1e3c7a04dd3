"""Files and folders: written whole or not at all, with one line for what goes wrong."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import shutil
import stat
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import safetensors

from common.errors import InputError


def reason_of(error: Exception) -> str:
    """What the system or a library says of an error, in one line."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split())
    return said or type(error).__name__


def shortened(text: str) -> str:
    """A text of anyone's in a message: quoted, what cannot be printed escaped, its end left out."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns what goes wrong in reading `path` into an InputError of one line that names it."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise InputError(f"{path}: cannot be read: {reason_of(error)}") from error


@contextlib.contextmanager
def writing(path: Path, fault: str = "cannot be written") -> Iterator[None]:
    """Turns a full disk and the like into an InputError of one line that names `path`."""
    try:
        yield
    # a name that is no text has no code
    except (OSError, safetensors.SafetensorError, UnicodeEncodeError) as error:
        raise InputError(f"{path}: {fault}: {reason_of(error)}") from error


TEXT_LIMIT, JSON_LIMIT = 1 << 26, 1 << 28
"""In bytes, of lists of names and settings, and of JSON: nobody's come near it."""

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "FIFO",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFSOCK: "socket",
}


def check_file(path: Path, most: int | None = None) -> None:
    """Refuses what is no regular file of at most `most` bytes, before it is opened.

    To open a FIFO may take forever, and to open a device may do something.

    Raises:
        InputError: there is nothing, or a folder, a FIFO, a device; or it is larger.
    """
    with naming(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "thing of another kind")
        raise InputError(f"{path}: no file, but a {kind}")
    if most is not None and status.st_size > most:
        raise InputError(f"{path}: too large: {status.st_size} bytes, and {most} are the limit")


def check_folder(path: Path) -> None:
    """Refuses a folder that holds anything but files and folders, at any depth.

    Raises:
        InputError: as `check_file`, of the first of them.
    """
    for folder, _, names in os.walk(path):
        for name in sorted(names):
            check_file(Path(folder, name))


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        InputError: as `check_file`, or it cannot be read.
    """
    check_file(path, most)
    with naming(path), path.open("rb") as file:
        return file.read(most)


_DEPTH, _DIGITS = 64, 20
"""JSON's limits: beyond them is no result of any program's, but what makes one run out of stack."""


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _inside(values: list[Any]) -> list[Any]:
    """The lists and objects that are in some."""
    held = (value.values() if isinstance(value, dict) else value for value in values)
    return [x for x in itertools.chain.from_iterable(held) if isinstance(x, dict | list)]


def parse_json(text: str | bytes) -> Any:
    """JSON from anyone: lists and objects are nested 64 deep, integers have 20 digits at most.

    Raises:
        ValueError: it is no JSON, or not such.
    """
    try:
        found = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deep") from None
    level = _inside([[found]])
    for _ in range(_DEPTH):
        level = _inside(level)
    if level:
        raise ValueError("nested too deep")
    return found


def parse_toml(data: bytes) -> dict[str, Any]:
    """TOML from anyone.

    Raises:
        ValueError: it is no TOML, or not UTF-8, or nested too deep.
    """
    try:
        return tomllib.loads(data.decode())
    except RecursionError:
        raise ValueError("nested too deep") from None


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock(file: IO[Any], path: Path) -> bool:
    """Keeps an open file for this process until it is closed; False where another one does.

    On a file system without locks nothing is kept, and a warning says so of `path`.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        told = f"{path}: cannot be locked ({reason_of(error)}); see that nothing else writes there"
        warnings.warn(told, stacklevel=2)
    return True


def _second_name(path: Path, name: Path) -> None:
    """Lets `name` be what `path` is, in place of what it was; without links, `path` moves there."""
    spare = name.with_name(f".{name.name}.link")
    spare.unlink(missing_ok=True)
    try:
        spare.hardlink_to(path)
        spare.replace(name)
    except FileNotFoundError:  # there is none yet
        pass
    except OSError:  # a file system without links
        path.replace(name)


def _standard(path: Path) -> int | None:
    """The descriptor of standard output or error, where `path` is what it leads to."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # it is closed
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
    return None


def is_stream(path: Path) -> bool:
    """Whether `path` is written into, not replaced: a device, a FIFO, standard output."""
    if not path.exists():
        return False
    return _standard(path) is not None or not (path.is_file() or path.is_dir())


def _open_stream(path: Path) -> int:
    standard = _standard(path)
    if standard is None:
        return os.open(path, os.O_WRONLY)
    print(end="", flush=True)  # what was said before comes first
    return os.dup(standard)


def _target(path: Path) -> Path:
    """What a link leads to, be it there or not; else `path` itself."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(
    path: Path,
    write: Callable[[Path], object],
    check: Callable[[Path], object] = lambda temporary: None,
    previous: Path | None = None,
) -> None:
    """Calls `write` on a temporary file beside `path`, then moves it there: whole or not at all.

    The file is flushed to the disk before it takes the name, and the folder after. `check` reads
    it before it takes the name, and refuses it by an InputError. What had the name keeps
    `previous`. The new file has the permissions of the old one, else those of any new file. Where
    `path` is a link, what it leads to is written; a device, a FIFO or standard output is written
    into.

    Raises:
        InputError: the folder cannot be written to, or the disk is full; `path` is untouched.
    """
    with writing(path):
        if is_stream(path):
            _write_into(_open_stream(path), write, check)
            return
        target = _target(path)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        temporary.touch(exist_ok=False)  # unlike tempfile's, with the permissions of any new file
        try:
            mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)
            write(temporary)
            temporary.chmod(mode)
            _sync(temporary)
            check(temporary)
            if previous is not None:
                _second_name(target, previous)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(target.parent)


def _write_into(
    stream: int, write: Callable[[Path], object], check: Callable[[Path], object]
) -> None:
    """Copies what `write` makes into a descriptor, and closes it."""
    with os.fdopen(stream, "wb") as file, tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "new"
        write(temporary)
        check(temporary)
        with temporary.open("rb") as made:
            shutil.copyfileobj(made, file)


def check_new_folder(path: Path) -> None:
    """That a folder can be made here.

    Raises:
        InputError: there is something already, and it is not an empty folder.
    """
    with writing(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path}: exists and is not an empty folder")


def write_folder(path: Path, write: Callable[[Path], object], over: bool = False) -> None:
    """Has `write` make a folder beside `path`, then moves it there: whole or not at all.

    Where `path` is a link, the folder that it leads to is made. What is there must be empty, or, if
    `over`, is removed once the new one stands in its place.

    Raises:
        InputError: it cannot be written.
    """
    with writing(path):
        target = _target(path)
        beside = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
        with beside as temporary:
            folder = Path(temporary) / "new"
            write(folder)
            os.sync()
            old = Path(temporary) / "old"
            try:
                if over and target.exists():
                    target.rename(old)
                folder.replace(target)
            except BaseException:
                if old.exists():
                    old.replace(target)
                raise


def write_new_folder(path: Path, write: Callable[[Path], object]) -> None:
    """`write_folder`, where there is nothing or an empty folder; those above it are made.

    Raises:
        InputError: there is something already, or it cannot be written.
    """
    path = path.resolve()
    check_new_folder(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_folder(path, write)
