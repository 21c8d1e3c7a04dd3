"""The dictionary: an idea a row, and what each framework calls it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from backends import BACKENDS
from common.errors import InputError
from common.files import TEXT_LIMIT, naming, parse_toml, read_bytes


@dataclass(frozen=True)
class Idea:
    """A row: the names of each backend's framework, none where it has no such thing."""

    group: str
    idea: str
    names: Mapping[str, tuple[str, ...]]
    note: str


def read_dictionary(path: Path) -> list[Idea]:
    """The rows of the file, in its order.

    Raises:
        InputError: it cannot be read, or a row lacks a field or has one too many.
    """
    data = read_bytes(path, TEXT_LIMIT)
    with naming(path):
        rows = parse_toml(data)["row"]
        if not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{path}: a row is no table")
    return [_idea(path, number, row) for number, row in enumerate(rows, start=1)]


def _idea(path: Path, number: int, row: dict[str, str | list[str]]) -> Idea:
    needed = {"group", "idea", *BACKENDS}
    if not needed <= row.keys() <= needed | {"note"}:
        odd = ", ".join(sorted(row.keys() ^ needed))
        raise InputError(f"{path}: row {number}: lacks or does not know {odd}")
    names = {backend: _several(row[backend]) for backend in BACKENDS}
    for name in (name for several in names.values() for name in several):
        if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name)):
            raise InputError(f"{path}: row {number}: {name!r} is no dotted name")
    return Idea(str(row["group"]), str(row["idea"]), names, str(row.get("note", "")))


def _several(names: str | list[str]) -> tuple[str, ...]:
    """A name, or several, or none."""
    return tuple(filter(None, names if isinstance(names, list) else [names]))


class Things:
    """What a name in a backend's source is a name of: the rows of the dictionary that hold it."""

    def __init__(self, ideas: list[Idea]) -> None:
        self._whole: dict[str, set[str]] = {}
        self._methods: dict[tuple[str, str], set[str]] = {}
        for backend, name, row in _names(ideas):
            *owner, last = name.replace("mxnet.ndarray.", "mxnet.nd.").split(".")
            self._whole.setdefault(".".join([*owner, last]), set()).add(row)
            if owner and owner[-1][0].isupper():
                self._methods.setdefault((backend, last), set()).add(row)

    def of(self, name: str) -> set[str]:
        """Those of a dotted name that begins with its package."""
        return self._whole.get(name, set())

    def of_method(self, backend: str, name: str) -> set[str]:
        """Those of a method or attribute of any class of the framework."""
        return self._methods.get((backend, name), set())


def _names(ideas: list[Idea]) -> Iterator[tuple[str, str, str]]:
    """Backend, name, and what its row is called."""
    for number, idea in enumerate(ideas):
        for backend, names in idea.names.items():
            for name in names:
                yield backend, name, f"#{number}"
