"""What is told without measuring: of the installed packages, from a dated table, of our source."""

import ast
import importlib.metadata
import io
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from backends import missing_packages
from common.errors import WorkerError
from scripts.choose.probe import Job
from scripts.shared.workers import ROOT, Worker

ONNX_RUNTIME = "onnxruntime"
"""A column of its own, though no backend: it serves what PyTorch has exported."""

Facts = dict[str, Any]


def dated() -> Facts:
    """The dated table: `checked`, and by backend what packages do not tell of themselves."""
    return tomllib.loads(Path(__file__).with_name("dated.toml").read_text())


def _project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def packages(backend: str) -> list[str]:
    """What `pip install '.[<backend>]'` asks for, but for NumPy, which all share."""
    if backend == ONNX_RUNTIME:
        return [ONNX_RUNTIME]
    asked = map(Requirement, _project()["optional-dependencies"][backend])
    return [canonicalize_name(one.name) for one in asked if one.name != "numpy"]


def _needs(name: str, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """What a package's metadata ask for here, with these extras."""
    for requirement in map(Requirement, importlib.metadata.requires(name) or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def closure(names: Iterable[str]) -> set[str]:
    """These packages and all that they need, as far as it is installed."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [(name, frozenset[str]()) for name in names]
    while waiting:
        one = waiting.pop()
        if one not in found and _is_installed(one[0]):
            found.add(one)
            needed = _needs(*one)
            waiting += [(canonicalize_name(r.name), frozenset(r.extras)) for r in needed]
    return {name for name, _ in found}


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def size_mb(name: str) -> float:
    """What a package's files take on disk, as its record of them says; without caches."""
    files = importlib.metadata.files(name) or []
    return sum(file.size or 0 for file in files) / 1e6


def licence(name: str) -> str:
    """As the metadata say it: an expression, else the classifier's, else the first line of text."""
    told = importlib.metadata.metadata(name)
    classifiers = [c for c in told.get_all("Classifier") or [] if c.startswith("License ::")]
    words = (
        *(told.get_all("License-Expression") or []),
        *(c.rpartition(" :: ")[2] for c in classifiers),
        *(text.partition("\n")[0].strip() for text in told.get_all("License") or []),
    )
    return next((word for word in words if word), "not told")


def newest_classifier(names: Iterable[str]) -> str:
    """The newest Python that all of these packages' classifiers name; empty where none does."""
    newest = []
    for name in names:
        told = importlib.metadata.metadata(name).get_all("Classifier") or []
        places = [c.rpartition(" :: ")[2].split(".") for c in told if ":: Python :: 3." in c]
        if places:
            newest.append(max((int(major), int(minor)) for major, minor in places))
    return ".".join(map(str, min(newest))) if newest else ""


def held_numpy(name: str) -> str:
    """The versions of NumPy that a package allows; empty where it asks for none."""
    return ", ".join(str(one.specifier) for one in _needs(name) if one.name == "numpy")


def installed(backend: str) -> Facts:
    """What the installed packages of a backend say: see the columns of the page."""
    own = packages(backend)
    alone = closure(own) - closure(_project_needs())
    table = dated()[backend]
    version = importlib.metadata.version(table["package"])
    release = next(
        (r for r in table["releases"] if r["version"] == version.partition("+")[0]), None
    )
    numpy = {name: held_numpy(name) for name in own}
    return {
        "versions": {name: importlib.metadata.version(name) for name in own},
        "licences": {name: licence(name) for name in own},
        "own_mb": sum(map(size_mb, own)),
        "alone_mb": sum(map(size_mb, alone)),
        "alone_packages": sorted(alone),
        "numpy": {name: told for name, told in numpy.items() if told},
        "classifier_python": newest_classifier(own),
        "released": release and release["date"].isoformat(),
        "newest_python": release and release["newest_python"],
    }


def _project_needs() -> list[str]:
    """What this program needs whichever backend computes."""
    return [canonicalize_name(Requirement(text).name) for text in _project()["dependencies"]]


def code_lines(text: str) -> int:
    """Lines of code: neither blank, nor comment, nor docstring."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    silent |= {tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            constant = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            if constant and isinstance(first.value.value, str):  # type: ignore[attr-defined]
                lines.difference_update(range(first.lineno, (first.end_lineno or 0) + 1))
    return len(lines)


def source(backend: str) -> Facts:
    """Of our own code: lines, and places that say how this framework differs."""
    texts = [path.read_text() for path in sorted((ROOT / "backends" / backend).glob("*.py"))]
    return {
        "files": len(texts),
        "lines": sum(map(code_lines, texts)),
        "differs": sum(text.count("# differs") for text in texts),
    }


def column(name: str, chosen: Iterable[str]) -> Facts | None:
    """All that is told of a backend, or of ONNX Runtime; None where it is there and not asked for.

    Where it is not installed: how it is; of ONNX Runtime also where it cannot be imported.

    Raises:
        InputError, WorkerError: a backend is installed and cannot be imported.
    """
    table = dated()[name]
    facts: Facts = {key: table[key] for key in ("name", "maintained", "why", "source")}
    if name == ONNX_RUNTIME:
        missing = [one for one in ("onnx", ONNX_RUNTIME) if not _is_installed(one)]
        install = f"pip install {' '.join(missing)}"
    else:
        missing, install = missing_packages(name), f"pip install '.[{name}]'"
    if missing:
        return facts | {"install": install}
    if name not in (*chosen, ONNX_RUNTIME):
        return None
    try:
        with Worker(name, "scripts.choose.probe", Job(name, table["formats"]), threads=1) as worker:
            [told] = worker.answers()
    except WorkerError:
        if name != ONNX_RUNTIME:
            raise
        return facts | {"install": f"pip install --force-reinstall {ONNX_RUNTIME}"}
    own = {} if name == ONNX_RUNTIME else {"source_code": source(name)}
    whole: Facts = facts | installed(name) | told | own
    return whole
