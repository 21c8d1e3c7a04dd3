"""The dictionary of the lessons: every name in it is one."""

import pkgutil
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backends import BACKENDS, load_backend

FILE = Path(__file__).parents[2] / "docs" / "lessons" / "dictionary.toml"
ROWS: list[dict[str, Any]] = tomllib.loads(FILE.read_text())["row"]


def names(row: dict[str, Any], backend: str) -> list[str]:
    """A row's names in a framework; none where it has no such thing."""
    told = row[backend]
    return told if isinstance(told, list) else [told] if told else []


def unknown(told: Iterable[str]) -> list[str]:
    """Those dotted names that lead nowhere."""
    found = []
    for name in told:
        try:
            pkgutil.resolve_name(name)
        except (AttributeError, ImportError):
            found.append(name)
    return found


def test_every_name_is_there(backend: str) -> None:
    load_backend(backend)
    assert unknown(name for row in ROWS for name in names(row, backend)) == []


def test_a_name_that_is_none_is_found() -> None:
    none = ["pathlib.Path.exist", "nonesuch.x"]
    assert unknown(["pathlib.Path.exists", *none]) == none


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
