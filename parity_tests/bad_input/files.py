"""What may be done to any file."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path


def as_it_is() -> None:
    """Nothing is done to the input."""


def several(*changes: Callable[[], object]) -> Callable[[], None]:
    def change() -> None:
        for one in changes:
            one()

    return change


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> Callable[[], object]:
    """Changes a file's bytes."""
    return lambda: path.write_bytes(change(path.read_bytes()))


def text(path: Path, content: str | bytes) -> Callable[[], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda: path.write_bytes(data)


def missing(*paths: Path) -> Callable[[], None]:
    """Files or folders are gone."""
    return several(*(lambda p=p: shutil.rmtree(p) if p.is_dir() else p.unlink() for p in paths))


def linked(path: Path, target: Path | str) -> Callable[[], None]:
    """Moves a file or a folder, and leaves a link to where it is then."""

    def change() -> None:
        new = Path(target).absolute()
        new.parent.mkdir(exist_ok=True)
        path.rename(new)
        path.symlink_to(new)

    return change


def fifo(path: Path) -> Callable[[], None]:
    """A FIFO that nobody writes into, in a file's place."""
    return several(lambda: path.unlink(missing_ok=True), partial(os.mkfifo, path))


def folder(path: Path) -> Callable[[], None]:
    """A folder in a file's place."""
    return several(lambda: path.unlink(missing_ok=True), path.mkdir)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


def html(data: bytes) -> bytes:
    return b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"


def flipped(data: bytes) -> bytes:
    """A bit of the fourth byte from the end is another: of weights, of a float's last digits."""
    return data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]


NESTED = b'{"data": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
LONG = b'{"data": ' + b"9" * 5_000 + b"}"
"""JSON that makes a parser run out of stack, and a number that Python will not read."""
