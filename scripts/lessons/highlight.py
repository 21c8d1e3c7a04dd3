"""Python in colour, and the names that are one thing in several frameworks."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String, _TokenType

from scripts.lessons.dictionary import Things

_STYLES = {
    Comment: "c",
    Keyword: "k",
    Operator.Word: "k",
    Operator: "o",
    String: "s",
    Number: "m",
    Name.Function: "f",
    Name.Class: "f",
    Name.Decorator: "d",
    Name.Builtin: "b",
}
"""The classes of `style.css`, by Pygments' kinds."""


@dataclass(frozen=True)
class Token:
    """A piece of a line: its class in the style sheet, and what it is a name of, if anything."""

    text: str
    style: str
    things: frozenset[str] = frozenset()
    breaks: bool = False
    """Whether a line may be broken before it where there is no space."""


@dataclass(frozen=True)
class Line:
    """A line of code, and how far it is indented."""

    tokens: tuple[Token, ...]

    @property
    def indent(self) -> int:
        text = "".join(token.text for token in self.tokens)
        return len(text) - len(text.lstrip())


def _style(kind: _TokenType) -> str:
    return next((style for whole, style in _STYLES.items() if kind in whole), "")


def imports(path: Path) -> dict[str, str]:
    """What the names that a file imports stand for."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.asname or a.name: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    # Gluon hands its operators to `hybrid_forward` under this name.
    return found | {"F": "mxnet.nd"}


def highlight(
    code: str,
    backend: str = "",
    known: Mapping[str, str] | None = None,
    things: Things | None = None,
) -> list[Line]:
    """The lines of a text; names tell what they are names of where `things` are given.

    `known` is what the names that its file imports stand for.
    """
    lines: list[list[Token]] = [[]]
    before = whole = ""
    for kind, text in PythonLexer(stripnl=False).get_tokens(code):
        found: set[str] = set()
        if kind in Name and text != "self" and things is not None:
            whole = f"{whole}.{text}" if before == "." else (known or {}).get(text, text)
            found = {text} | things.of(whole)
            if before == "." and len(found) == 1:
                found |= things.of_method(backend, text)
        elif text != ".":
            whole = ""
        breaks = _may_break(before, text)
        before = text
        for k, piece in enumerate(text.split("\n")):
            if k:
                lines.append([])
            if piece:
                lines[-1].append(Token(piece, _style(kind), frozenset(found), breaks))
    return [Line(tuple(line)) for line in lines[:-1]]


_LONG = 16


def _may_break(before: str, text: str) -> bool:
    """Before the dot of an attribute, after an opening bracket, and before a long value."""
    if text == ".":
        return before[-1:].isalnum() or before in (")", "]")
    if before == "=":
        return len(text) > _LONG
    return before in ("(", "[") and text not in (")", "]")


def with_twins(columns: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """The same, where a name keeps only the things that another column names too."""
    named: list[set[str]] = [
        {x for line in lines for t in line.tokens for x in t.things} for lines in columns
    ]
    twins: list[list[Line]] = []
    for k, lines in enumerate(columns):
        elsewhere = {x for other in (*named[:k], *named[k + 1 :]) for x in other}
        twins.append(
            [Line(tuple(replace(t, things=t.things & elsewhere) for t in x.tokens)) for x in lines]
        )
    return twins
