"""Three texts of one thing, line by line beside each other.

A text falls into statements and comments. Those that are alike stand in one row; what has no like
between two such rows shares a row with the others' that have none. The comments of one
`# differs(key):` always share a row.
"""

import collections
import functools
import io
import re
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import InputError

KEY = re.compile(r"# differs\((\w+)\):")
_COMMENT = "#"
_SILENT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


@dataclass(frozen=True)
class Unit:
    """A statement, the head of a compound one, or a comment, with all its lines."""

    lines: tuple[str, ...]
    kind: str
    """`#` for a comment, else a statement's keyword; of one without, what is assigned to."""
    words: collections.Counter[str]
    """Its names and literals."""
    key: str | None
    """That of its `# differs(key):`."""


@dataclass(frozen=True)
class Row:
    """A place in all columns: in each the units that stand there, mostly one or none."""

    cells: tuple[tuple[Unit, ...], ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Those of its units, each once."""
        found = (unit.key for cell in self.cells for unit in cell if unit.key)
        return tuple(dict.fromkeys(found))


def units(code: str) -> list[Unit]:
    """The units of a text, in its order; a comment that has a mark of its own begins another."""
    lines = code.splitlines()
    spans: list[tuple[int, int]] = []
    begun: int | None = None
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        row = token.start[0] - 1
        if token.type == tokenize.COMMENT and begun is None:
            marked = re.match(r"# \w+(\(\w+\))?:", token.string)
            if spans and spans[-1][1] == row and _is_comment(lines[row - 1]) and not marked:
                spans[-1] = spans[-1][0], row + 1
            else:
                spans.append((row, row + 1))
        elif token.type == tokenize.NEWLINE and begun is not None:
            spans.append((begun, row + 1))
            begun = None
        elif token.type not in _SILENT and token.type != tokenize.COMMENT and begun is None:
            begun = row
    return [_unit(tuple(lines[first:last])) for first, last in spans]


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith(_COMMENT)


def _unit(lines: tuple[str, ...]) -> Unit:
    text = "\n".join(lines)
    key = KEY.search(text)
    words = re.findall(r"\w+", re.sub(r"#.*", "", text) or text)
    first = _COMMENT if _is_comment(lines[0]) else (words or [""])[0]
    return Unit(lines, first, collections.Counter(words), key and key[1])


_FAR, _SAME_KEY = 0.3, 100.0
"""Units less alike than this have nothing to do with each other; a key outweighs all else."""


def likeness(one: Unit, other: Unit) -> float:
    """How much two units are one thing: 0 if they are not, about 1 if they are."""
    if one.key and one.key == other.key:
        return _SAME_KEY
    if (one.key and other.key) or (one.kind == _COMMENT) != (other.kind == _COMMENT):
        return 0.0
    shared = sum((one.words & other.words).values())
    total = sum(one.words.values()) + sum(other.words.values())
    alike = 2 * shared / total if total else 0.0
    if one.kind == other.kind and one.kind != _COMMENT:
        alike += 0.3
    return alike if alike > _FAR else 0.0


def align(codes: Sequence[str]) -> list[Row]:
    """The rows of some texts.

    Raises:
        InputError: a key stands before another in one text, and after it in another.
    """
    columns = [units(code) for code in codes]
    rows: list[tuple[Unit | None, ...]] = [(unit,) for unit in columns[0]]
    for column in columns[1:]:
        rows = _joined(rows, column)
    aligned = _gathered(rows, len(codes))
    keys = [key for row in aligned for key in row.keys]
    for key, count in collections.Counter(keys).items():
        if count > 1 and max(sum(u.key == key for u in column) for column in columns) < count:
            raise InputError(f"differs({key}) stands in another order in one of the three")
    return aligned


def _joined(
    rows: Sequence[tuple[Unit | None, ...]], column: Sequence[Unit]
) -> list[tuple[Unit | None, ...]]:
    """Rows with one more column, where the sum of all likenesses is the greatest."""

    @functools.cache
    def like(row: int, place: int) -> float:
        return max(likeness(unit, column[place]) for unit in rows[row] if unit)

    best = [[0.0] * (len(column) + 1) for _ in range(len(rows) + 1)]
    for i in reversed(range(len(rows))):
        for j in reversed(range(len(column))):
            pair = like(i, j)
            both = pair + best[i + 1][j + 1] if pair else 0.0
            best[i][j] = max(both, best[i + 1][j], best[i][j + 1])
    empty = (None,) * len(rows[0]) if rows else (None,)
    joined: list[tuple[Unit | None, ...]] = []
    i = j = 0
    while i < len(rows) or j < len(column):
        if j == len(column) or (i < len(rows) and best[i][j] == best[i + 1][j]):
            joined.append((*rows[i], None))
            i += 1
        elif i == len(rows) or best[i][j] == best[i][j + 1]:
            joined.append((*empty, column[j]))
            j += 1
        else:
            joined.append((*rows[i], column[j]))
            i, j = i + 1, j + 1
    return joined


def _gathered(rows: Sequence[tuple[Unit | None, ...]], width: int) -> list[Row]:
    """Neighbours that stand alone, and have no key, in one row."""
    gathered: list[Row] = []
    open_row = False
    for row in rows:
        alone = sum(unit is not None for unit in row) == 1 and not any(u and u.key for u in row)
        cells = tuple((unit,) if unit else () for unit in row)
        if alone and open_row:
            last = gathered[-1].cells
            gathered[-1] = Row(tuple(last[k] + cells[k] for k in range(width)))
        else:
            gathered.append(Row(cells))
        open_row = alone
    return gathered
