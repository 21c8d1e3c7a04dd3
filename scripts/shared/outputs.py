"""Where a command may write, found out before all the work: nothing of anyone's is lost."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from common.errors import InputError
from common.files import JSON_LIMIT, is_stream, naming, parse_json, read_bytes
from common.parity.mapping import read_map
from scripts.shared.weights_files import MXNET, SAFETENSORS, TORCH, container_of

JSON, PNG, HTML, MAP, ONNX = "JSON", "PNG", "HTML", "map", "ONNX"
"""Kinds of results, beside the containers of weights."""

Place = tuple[Path | None, str]
"""A file that a command writes, None where it was not asked for, and its kind."""


def _begins(start: bytes, path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)).lower() == start.lower()


def _is_json(path: Path) -> bool:
    try:
        parse_json(read_bytes(path, JSON_LIMIT))
    except ValueError:
        return False
    return True


def _is_map(path: Path) -> bool:
    read_map(path)
    return True


def _is_container(container: str, path: Path) -> bool:
    return container_of(path) == container


_KINDS: Mapping[str, Callable[[Path], bool]] = {
    JSON: _is_json,
    PNG: partial(_begins, b"\x89PNG\r\n\x1a\n"),
    HTML: partial(_begins, b"<!doctype html"),
    MAP: _is_map,
    ONNX: partial(_begins, b"\x08"),  # the first field of its protocol buffer, `ir_version`
    **{kind: partial(_is_container, kind) for kind in (SAFETENSORS, TORCH, MXNET)},
}


def _is_of(path: Path, kind: str) -> bool:
    """Whether nothing is lost when a result of a kind takes the place of a file."""
    if path.stat().st_size == 0:
        return True
    try:
        return _KINDS[kind](path)
    except InputError:  # what cannot be read as that is of another kind
        return False


def _identity(path: Path) -> tuple[int, int]:
    """The same for all names of a file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def check_places(
    *places: Place,
    reads: Iterable[Path | None] = (),
    made: Path | None = None,
    force: bool = False,
) -> None:
    """Refuses results that could not be written in the end, or that would take another's place.

    `reads` are the files and folders that the command reads, `made` is a folder that it will make.
    With `force`, what is no result of the same kind may be written over.

    Raises:
        InputError: a file's folder is not there, or the file is a folder; it is read by the
            command; two results are one; or what is there is of another kind.
    """
    read = [path for path in reads if path is not None and path.exists()]
    files = {_identity(path) for path in read}
    folders = {path.resolve() for path in read if path.is_dir()}
    taken: set[Path] = set()
    for path, kind in places:
        if path is None:
            continue
        folder = path.absolute().parent
        with naming(path):  # a name may be too long
            if not folder.is_dir() and (made is None or folder != made.absolute()):
                raise InputError(f"{path}: no such folder: {path.parent}")
            if path.is_dir():
                raise InputError(f"{path}: is a folder")
            if is_stream(path):
                continue
            if path.resolve() in taken:
                raise InputError(f"{path}: would be two results at once")
            taken.add(path.resolve())
            if not path.exists():
                continue
            if _identity(path) in files or not folders.isdisjoint(path.resolve().parents):
                raise InputError(f"{path}: would overwrite the input")
            if not force and not _is_of(path, kind):
                raise InputError(f"{path}: is there, and is no {kind}; --force writes over it")


def size_in_words(size: int) -> str:
    """A number of bytes as people say it: 424 MB, 1.1 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def check_room(path: Path, size: int) -> None:
    """Refuses work whose result of `size` bytes the disk has no room for.

    Raises:
        InputError: it has less.
    """
    if is_stream(path):
        return
    folder = next(above for above in path.absolute().parents if above.exists())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise InputError(f"{path}: takes {size_in_words(size)}, {size_in_words(free)} are free")
