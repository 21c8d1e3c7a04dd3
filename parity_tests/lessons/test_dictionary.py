"""The dictionary of the lessons: every name in it is one."""

import importlib
import tomllib
from pathlib import Path
from typing import Any

import pytest

from backends import BACKENDS, load_backend

FILE = Path(__file__).parents[2] / "docs" / "lessons" / "dictionary.toml"
ROWS: list[dict[str, Any]] = tomllib.loads(FILE.read_text())["row"]


def names(row: dict[str, Any], backend: str) -> list[str]:
    """A row's names in a framework; none where it has no such thing."""
    told = row[backend]
    return told if isinstance(told, list) else [told] if told else []


def resolve(name: str) -> object:
    """What a dotted name is: of the longest module that can be imported, an attribute's value.

    Raises:
        AttributeError: there is none.
        ImportError: not even its package can be imported.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ImportError(name)


def test_every_name_is_there(backend: str) -> None:
    load_backend(backend)
    unknown = []
    for name in (name for row in ROWS for name in names(row, backend)):
        try:
            resolve(name)
        except (AttributeError, ImportError):
            unknown.append(name)
    assert unknown == []


def test_a_name_that_is_none_is_found() -> None:
    assert resolve("pathlib.Path.exists") is Path.exists
    with pytest.raises(AttributeError, match="exist"):
        resolve("pathlib.Path.exist")
    with pytest.raises(ImportError, match=r"nonesuch\.x"):
        resolve("nonesuch.x")


def test_rows_are_whole_and_told_once() -> None:
    assert len(ROWS) >= 75
    for row in ROWS:
        assert row.keys() - {"note"} == {"group", "idea", *BACKENDS}, row
        assert row.get("note") != "" and any(names(row, backend) for backend in BACKENDS), row
    ideas = [row["idea"] for row in ROWS]
    assert len(set(ideas)) == len(ideas)
    groups = [row["group"] for row in ROWS]
    starts = [b for a, b in zip(["", *groups], groups, strict=False) if a != b]
    assert len(set(starts)) == len(starts) == 13
