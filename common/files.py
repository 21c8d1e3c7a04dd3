"""Files and folders: written whole or not at all, with one line for what goes wrong."""

import contextlib
import hashlib
import os
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


def write_whole(
    path: Path,
    write: Callable[[Path], object],
    check: Callable[[Path], object] = lambda temporary: None,
    previous: Path | None = None,
) -> None:
    """Calls `write` on a temporary file beside `path`, then moves it there: whole or not at all.

    The file is flushed to the disk before it takes the name, and the folder after. `check` reads
    it before it takes the name, and refuses it by an InputError. What had the name keeps
    `previous`.

    Raises:
        InputError: the folder cannot be written to, or the disk is full; `path` is untouched.
    """
    with writing(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o644)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            check(temporary)
            if previous is not None:
                _second_name(path, previous)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` make a folder beside `path`, then moves it there: whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with (
        writing(path),
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as beside,
    ):
        folder = Path(beside) / "new"
        write(folder)
        os.sync()
        folder.replace(path)
