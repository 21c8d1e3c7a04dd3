"""Source: snippets by name, as docs and lessons quote them, and digests of what it does."""

import ast
import hashlib
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from common.errors import InputError


def _parse(path: Path) -> tuple[str, Any]:
    """A file's text and its tree.

    Raises:
        InputError: there is no such file, or it is no Python.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
        return text, ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}: is no Python: {error}") from error


def _find(path: Path, name: str) -> tuple[str, Any]:
    """A file's text, and the node of the function, method or class `name` (`Class.method`) in it.

    Raises:
        InputError: there is no such file, it is no Python, or has none or several of that name.
    """
    text, node = _parse(path)
    for part in name.split("."):
        found = [n for n in node.body if getattr(n, "name", None) == part]
        if len(found) != 1:
            raise InputError(f"{path}: has {len(found)} of {name}")
        node = found[0]
    return text, node


def docstring(path: Path, name: str) -> str:
    """What a function, method or class of a file says of itself; nothing, where it is silent.

    Raises:
        InputError: as `snippet`.
    """
    return ast.get_docstring(_find(path, name)[1]) or ""


def snippet(path: Path, name: str) -> str:
    """The function, method or class `name` (`Class.method`) of a file, docstrings taken out.

    Raises:
        InputError: there is no such file, it is no Python, or has none or several of that name.
    """
    text, node = _find(path, name)
    lines = text.splitlines()
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner):
            doc = inner.body[0]
            assert doc.end_lineno
            lines[doc.lineno - 1 : doc.end_lineno] = [""] * (doc.end_lineno - doc.lineno + 1)
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    last = node.end_lineno  # what ends a body may be a comment, which no tree has
    while last < len(lines) and re.match(rf" {{{node.col_offset + 1},}}#", lines[last]):
        last += 1
    kept = [line for line in lines[first - 1 : last] if line]
    return textwrap.dedent("\n".join(kept)) + "\n"


def code_digest(path: Path) -> str:
    """The SHA-256, in hexadecimal, of what a file does.

    That is Python without comments and layout, a notebook's cells without what they have shown, and
    of any other file all of it.

    Raises:
        InputError: it is called Python, and is none.
    """
    if path.suffix == ".py":
        content = ast.dump(_parse(path)[1]).encode()
    elif path.suffix == ".ipynb":
        cells = json.loads(path.read_bytes())["cells"]
        content = json.dumps([cell["source"] for cell in cells]).encode()
    else:
        content = path.read_bytes()
    return hashlib.sha256(content).hexdigest()
