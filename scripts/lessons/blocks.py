"""The blocks of a lesson as HTML: code in columns, pitfalls, solutions, figures, departures."""

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from backends import BACKENDS
from common.errors import InputError
from scripts.lessons.columns import Row, align
from scripts.lessons.dictionary import Things
from scripts.lessons.figures import FIGURES, LABELS
from scripts.lessons.highlight import Line, highlight, imports, with_twins
from scripts.lessons.measured import read_result
from scripts.shared.sources import docstring, snippet
from scripts.shared.workers import ROOT

Place = tuple[str, str]
"""A file, from the root of the project, and a name in it."""

_SHARED = "One text for all three: it needs no framework"
_PLACE = re.compile(r"(\S+\.py): ([\w.]+)")


def _places(text: str) -> list[Place]:
    found = [_PLACE.fullmatch(line.strip()) for line in text.strip().splitlines()]
    if not found or not all(found):
        raise InputError(f"not lines of `file.py: name`: {text.strip()!r}")
    return [(match[1], match[2]) for match in found if match]


def places_of(text: str) -> list[list[Place]]:
    """The places of a block `columns`, the backends' of each of its snippets.

    A line is of all three; or there are three, each with its backend's folder.

    Raises:
        InputError: it is neither.
    """
    lines = _places(text)
    if all(file.partition("/")[0] in BACKENDS for file, _ in lines):
        places = [(f"backends/{file}", name) for file, name in lines]
        several = [places[k : k + len(BACKENDS)] for k in range(0, len(places), len(BACKENDS))]
        if all([file.split("/")[1] for file, _ in of] == list(BACKENDS) for of in several):
            return several
        raise InputError(f"not a line for each of {', '.join(BACKENDS)}: {text.strip()!r}")
    return [[(f"backends/{b}/{file}", name) for b in BACKENDS] for file, name in lines]


def _cell(value: Any, digits: int) -> str:
    """A number in so many digits."""
    if isinstance(value, list):
        return ", ".join(_cell(item, digits) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _table(
    by_backend: Mapping[str, Mapping[str, Any] | None], digits: int = 4
) -> list[tuple[str, list[str]]]:
    """A row for each quantity, with the three values."""
    names = dict.fromkeys(name for found in by_backend.values() for name in found or ())
    columns = [by_backend.get(backend) or {} for backend in BACKENDS]
    return [(name, [_cell(own.get(name, "-"), digits) for own in columns]) for name in names]


class Blocks:
    """The blocks of all pages, with what was measured; `figures` gathers those that they show."""

    def __init__(self, environment: Environment, things: Things, results: Path) -> None:
        template = environment.get_template("parts.html")
        self._parts: Any = template.make_module({"labels": [*LABELS.values()]})
        self._things = things
        self._results = results
        self._pitfalls = read_result(results, "pitfalls")["found"]
        self._mutations = read_result(results, "mutations")["found"]
        self.figures: set[str] = set()
        self._shown: set[str] = set()

    def of_a_page(self) -> dict[str, Callable[[str], str]]:
        """What makes each block of one more page, by the name after its fence."""
        self._shown.clear()
        return {
            "columns": self.columns,
            "common": self.common,
            "pitfall": self.pitfall,
            "solution": self.solution,
            "figure": self.figure,
            "departures": self.departures,
            "python": self.python,
        }

    def columns(self, text: str) -> str:
        """Snippets in three columns, each difference with what was measured of it."""
        return "".join(str(self._parts.columns(self._aligned(of))) for of in places_of(text))

    def common(self, text: str) -> str:
        """Snippets that all three share."""
        shown = []
        for file, name in _places(text):
            lines = highlight(snippet(ROOT / file, name))
            owner = file.split("/")[1]
            whose = f"{LABELS[owner]} alone" if owner in LABELS else _SHARED
            place = f"{file}: {name}"
            block = {"whose": whose, "path": place, "source": place, "lines": lines}
            shown.append(str(self._parts.common(block)))
        return "".join(shown)

    def python(self, text: str) -> str:
        """Python that is nobody's."""
        return str(self._parts.python(highlight(text)))

    def pitfall(self, text: str) -> str:
        """A pitfall whole: its numbers, why, and what to write instead."""
        name = text.strip()
        if name not in self._pitfalls:
            raise InputError(f"pitfall {name}: no such pitfall was measured")
        found = self._pitfalls[name]
        instead = [(LABELS[b], found["instead"][b]) for b in BACKENDS]
        told = self._told(name) | {"why": found["why"], "instead": instead}
        return str(self._parts.pitfall(told))

    def solution(self, text: str) -> str:
        """A solution in three columns, its answers, what each says of it, the lines below it."""
        name, _, more = text.strip().partition("\n")
        answers = read_result(self._results, "exercises")["found"].get(name, {})
        if set(answers) != set(BACKENDS):
            raise InputError(f"solution {name}: not measured in all three; --renew measures it")
        places = [(f"scripts/lessons/exercises/{b}.py", name) for b in BACKENDS]
        told = {"title": "Answers", "table": _table(answers, digits=7)}
        words = [docstring(ROOT / file, name).removesuffix(" (differs)") for file, _ in places]
        said = (
            [*zip(LABELS.values(), words, strict=True)] if len({*words}) > 1 else [("", words[0])]
        )
        return str(self._parts.solution(self._aligned(places), told, said, " ".join(more.split())))

    def figure(self, text: str) -> str:
        """A figure by its name; the lines below it are the caption."""
        name, _, caption = text.strip().partition("\n")
        if name not in FIGURES:
            raise InputError(f"figure {name}: there is none, but {', '.join(FIGURES)}")
        self.figures.add(name)
        caption = " ".join(caption.split())
        return str(self._parts.figure(name, FIGURES[name].alt, caption))

    def departures(self, _: str) -> str:
        """What each departure of the book's editions does alone."""
        head = ["what departs", "in the book's tabs", "loss", "mean IoU"]
        rows = [
            [
                entry["title"],
                ", ".join(entry["tabs"]),
                _spread(entry["loss"]),
                _spread(entry["mean_iou"]),
            ]
            for entry in read_result(self._results, "departures")["departures"]
        ]
        return str(self._parts.table(head, rows, "Departures"))

    def _aligned(self, places: Sequence[Place]) -> dict[str, Any]:
        """Snippets for the template: columns of cells, and notes between their rows."""
        codes = [snippet(ROOT / file, name) for file, name in places]
        rows = align(codes)
        coloured = with_twins(
            [
                highlight(code, backend, imports(ROOT / file), self._things)
                for code, backend, (file, _) in zip(codes, BACKENDS, places, strict=True)
            ]
        )
        numbers, notes = self._numbered(rows)
        columns = []
        for k, (backend, (file, name)) in enumerate(zip(BACKENDS, places, strict=True)):
            columns.append(
                {
                    "backend": backend,
                    "label": LABELS[backend],
                    "path": f"{file.removeprefix(f'backends/{backend}/')}: {name}",
                    "source": f"{file}: {name}",
                    "cells": _cells(rows, k, numbers, iter(coloured[k])),
                }
            )
        return {
            "rows": max([*numbers, *(n["row"] for n in notes)]),
            "columns": columns,
            "notes": notes,
        }

    def _numbered(self, rows: Sequence[Row]) -> tuple[list[int], list[dict[str, Any]]]:
        """The row of the grid for each row of code, below the heads, and the notes between them."""
        numbers, notes, number = [], [], 1
        for row in rows:
            number += 1
            numbers.append(number)
            for key in row.keys:
                number += 1
                told = {"key": key} if key in self._shown else self._told(key)
                self._shown.add(key)
                notes.append({"row": number, "told": told})
        return numbers, notes

    def _told(self, key: str) -> dict[str, Any]:
        """What was measured of a difference: the numbers of its pitfall or of its mutation."""
        if key in self._pitfalls:
            found = self._pitfalls[key]
            return {"key": key, "title": found["title"], "table": _table(found["measured"])}
        if key not in self._mutations:
            raise InputError(f"differs({key}): neither a pitfall nor a mutation of it was measured")
        found = self._mutations[key]
        table = _table({backend: _off(entry) for backend, entry in found.items()})
        why = next(iter(found.values()))["why"]
        return {"key": key, "title": f"Written the other way: {why}", "table": table}


def _off(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a mutation puts off, and whether an ordinary test sees it."""
    error = entry["error"]
    return {
        "first value that is off": entry["where"],
        "by, relative, float64": "-" if error is None else f"{error:.1e}",
        "an ordinary test sees it": entry["plain"]["caught"],
    }


def _spread(values: Sequence[float | None]) -> str:
    """The median of several runs, and from where to where they lie."""
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return "diverged"
    middle = f"{statistics.median(finite):.3f}"
    return middle if len(finite) == 1 else f"{middle} ({min(finite):.3f} to {max(finite):.3f})"


def _cells(
    rows: Sequence[Row], column: int, numbers: Sequence[int], lines: Any
) -> list[dict[str, Any]]:
    """The cells of a column, each with its place in the grid and its own of the lines."""
    cells = []
    for row, number in zip(rows, numbers, strict=True):
        units = row.cells[column]
        own: list[Line] = [next(lines) for unit in units for _ in unit.lines]
        key = next((unit.key for unit in units if unit.key), None)
        if own:
            cells.append({"row": number, "key": key, "lines": own})
    return cells
