"""Files and folders: written whole or not at all, with one line for what goes wrong."""

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors

from common.errors import InputError


def reason_of(error: Exception) -> str:
    """What the system or a library says of an error, in one line."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split())
    return said or type(error).__name__


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
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: {fault}: {reason_of(error)}") from error


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _stream(path: Path) -> int | None:
    """A descriptor to write into where `path` is a device, a FIFO or standard output.

    These are no names of a file that could be replaced; None for all else.
    """
    if not path.exists():
        return None
    status = path.stat()
    for standard in (1, 2):
        with contextlib.suppress(OSError):  # it is closed
            if os.path.samestat(status, os.fstat(standard)):
                print(end="", flush=True)  # what was said before comes first
                return os.dup(standard)
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return None
    return os.open(path, os.O_WRONLY)


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
        stream = _stream(path)
        if stream is not None:
            _write_into(stream, write, check)
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


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` make a folder beside `path`, then moves it there: whole or not at all.

    Where `path` is a link, the folder that it leads to is made.

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
            folder.replace(target)
