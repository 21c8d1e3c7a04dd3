"""A mutation: its description, its patches at seams, and a backend imported with them applied."""

import ast
import contextlib
import copy
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import cast

import backends
from backends import BACKENDS
from common.protocol import Backend

_FOLDER = Path(backends.__file__).parent


@dataclass(frozen=True)
class Patch:
    """`new` instead of what matches `old` at a seam of a backend's source, in so many places.

    The seam is a file, or a function, class or method in it: `model.BasicBlock.forward`. `forward`
    is also MXNet's `hybrid_forward` and JAX's `__call__`, and `step` their `_step_through`.

    `old` is an expression or a statement, found in the syntax tree: blanks, line breaks, quotes
    and comments do not matter. In it `__` is any expression, `__name` one that `new` may use, and
    `...` behind the positional arguments of a call all arguments that are not told, which `new` may
    pass on as `...`. Without `old`, `new` stands at the start of the seam's body.
    """

    seam: str
    old: str
    new: str
    count: int = 1

    @property
    def file(self) -> str:
        """The file's name, without `.py`."""
        return self.seam.split(".")[0]


@dataclass(frozen=True)
class Mutation:
    """A porting mistake: what it is, where it must first be seen, and its patches by backend.

    `expected`: patterns (as in `fnmatch`) over the names of a trace, `loss[k]` for a step's loss.
    `without`: why it cannot be made in a backend that `patches` lacks. `setting`: what
    shows it, one of `common.parity.settings.SETTINGS`.
    """

    name: str
    why: str
    expected: tuple[str, ...]
    patches: Mapping[str, tuple[Patch, ...]]
    without: Mapping[str, str]
    setting: str = "generic"


def parse(text: str) -> list[Mutation]:
    """Mutations as they are written in the catalogue.

        at PLACE or PLACE                    where those below are expected
        NAME: WHY
            SEAM: OLD -> NEW                 in each backend, or with `SEAM x 2` in two places
            torch, mxnet: SEAM: OLD -> NEW   in these
            jax: without: REASON             cannot be made in this one
            setting: NAME                    seen on these data only

    NEW may stand on further lines, indented deeper.

    Raises:
        ValueError: a line is none of these.
    """
    found, places = [], ""
    for block in re.split(r"\n+(?=\S)", text.strip()):
        header, *lines = re.split(r"\n    (?=\S)", block)
        if header.startswith("at "):
            places = header.removeprefix("at ")
            continue
        name, _, why = header.partition(": ")
        told: dict[str, list[str]] = {backend: [] for backend in BACKENDS}
        setting = "generic"
        for line in lines:
            first, _, rest = line.partition(":")
            if first == "setting":
                setting = rest.strip()
                continue
            named = first.split(", ")
            everywhere = not set(named) <= set(BACKENDS)
            for backend in BACKENDS if everywhere else named:
                told[backend].append(line if everywhere else rest.strip())
        reasons = {b: "".join(lines) for b, lines in told.items()}
        without = {
            backend: reason.removeprefix("without: ")
            for backend, reason in reasons.items()
            if reason.startswith("without: ")
        }
        patches = {b: tuple(map(_patch, told[b])) for b in BACKENDS if b not in without}
        found.append(Mutation(name, why, tuple(places.split(" or ")), patches, without, setting))
    return found


def _patch(line: str) -> Patch:
    match = re.fullmatch(r"([\w.]+)(?: x (\d+))?:(.*?)->(.*)", line, re.DOTALL)
    if not match:
        raise ValueError(f"no patch: {line!r}")
    seam, count, old, new = match.groups()
    return Patch(seam, old.strip(), textwrap.dedent(new).strip(), int(count or 1))


# --- matching


class _Rest(list[ast.AST]):
    """The arguments that `...` stands for."""


_Bound = dict[str, ast.AST | _Rest]


def _is_rest(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def _matches(pattern: object, found: object, bound: _Bound) -> bool:
    """Whether a node has the form of a pattern; `bound` is told what each `__name` stands for."""
    if isinstance(pattern, ast.Name) and pattern.id.startswith("__") and isinstance(found, ast.AST):
        if pattern.id == "__":
            return True
        return _matches(bound.setdefault(pattern.id, found), found, {})
    if isinstance(pattern, list) and isinstance(found, list):
        return len(pattern) == len(found) and all(
            _matches(p, f, bound) for p, f in zip(pattern, found, strict=True)
        )
    if not isinstance(pattern, ast.AST):
        return pattern == found
    if type(pattern) is not type(found):
        return False
    if isinstance(pattern, ast.Call) and isinstance(found, ast.Call):
        return _matches(pattern.func, found.func, bound) and _match_arguments(pattern, found, bound)
    return all(
        _matches(getattr(pattern, name), getattr(found, name), bound)
        for name in pattern._fields
        if name not in ("ctx", "kind", "type_comment")
    )


def _match_arguments(pattern: ast.Call, found: ast.Call, bound: _Bound) -> bool:
    positional, rest = pattern.args, _Rest()
    named = {keyword.arg: keyword for keyword in found.keywords}
    told = {keyword.arg: keyword for keyword in pattern.keywords}
    if positional and _is_rest(positional[-1]):
        positional = positional[:-1]
        rest += found.args[len(positional) :]
        rest += [keyword for name, keyword in named.items() if name not in told]
        bound["..."] = rest
    elif len(positional) != len(found.args) or told.keys() != named.keys():
        return False
    return (
        len(found.args) >= len(positional)
        and all(_matches(p, f, bound) for p, f in zip(positional, found.args, strict=False))
        and all(k in named and _matches(told[k].value, named[k].value, bound) for k in told)
    )


class _Filler(ast.NodeTransformer):
    """Puts what was bound in the place of `__name` and `...`."""

    def __init__(self, bound: _Bound) -> None:
        self.bound = bound

    def visit_Name(self, node: ast.Name) -> ast.AST:
        found = self.bound.get(node.id)
        return node if found is None else copy.deepcopy(cast(ast.AST, found))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if node.args and _is_rest(node.args[-1]):
            rest = copy.deepcopy(cast(_Rest, self.bound["..."]))
            keywords = [item for item in rest if isinstance(item, ast.keyword)]
            more = [item for item in rest if isinstance(item, ast.expr)]
            node.args, node.keywords = [*node.args[:-1], *more], [*node.keywords, *keywords]
        return self.generic_visit(node)


class _Rewriter(ast.NodeTransformer):
    """Applies a patch to all that matches below a node, and counts."""

    def __init__(self, old: ast.stmt, new: list[ast.stmt]) -> None:
        self.count = 0
        self.old: ast.AST = old
        self.new: Sequence[ast.AST] = new
        if isinstance(old, ast.Expr) and len(new) == 1 and isinstance(new[0], ast.Expr):
            self.old, self.new = old.value, [new[0].value]

    def visit(self, node: ast.AST) -> ast.AST | list[ast.AST]:
        bound: _Bound = {}
        if not _matches(self.old, node, bound):
            return self.generic_visit(node)
        self.count += 1
        filled = [_Filler(bound).visit(copy.deepcopy(part)) for part in self.new]
        return filled if isinstance(node, ast.stmt) else cast(ast.AST, filled[0])


# --- applying

_ALIASES = {"forward": ("hybrid_forward", "__call__"), "step": ("_step_through",)}


def _find(tree: ast.Module, names: Sequence[str]) -> ast.Module | ast.FunctionDef | ast.ClassDef:
    """The definition of a dotted name; the module for none."""
    node: ast.Module | ast.FunctionDef | ast.ClassDef = tree
    for name in names:
        inside = {s.name: s for s in node.body if isinstance(s, ast.FunctionDef | ast.ClassDef)}
        aliases = _ALIASES.get(name, ()) if isinstance(node, ast.ClassDef) else ()
        found = next((alias for alias in aliases if alias in inside), name)
        if found not in inside:
            raise ValueError(f"there is no {name}")
        node = inside[found]
    return node


def _apply(patch: Patch, tree: ast.Module) -> None:
    node = _find(tree, patch.seam.split(".")[1:])
    new = ast.parse(patch.new).body
    if not patch.old:
        at = 0 if ast.get_docstring(node) is None else 1
        node.body[at:at] = new
        return
    (old,) = ast.parse(patch.old).body
    rewriter = _Rewriter(old, new)
    rewriter.generic_visit(node)
    if rewriter.count != patch.count:
        raise ValueError(f"{patch.old!r} stands {rewriter.count} times, not {patch.count}")


def source_files(backend: str) -> dict[str, Path]:
    """A backend's files by name, without `.py`."""
    return {path.stem: path for path in sorted((_FOLDER / backend).glob("*.py"))}


_parsed = functools.cache(ast.parse)


def patched_trees(backend: str, change: Mutation | None) -> dict[str, ast.Module]:
    """The syntax tree of each of a backend's files, with a mutation's patches applied.

    Raises:
        ValueError: a patch's seam is not there, or what it looks for is not there as often as it
            says.
    """
    trees = {name: _parsed(path.read_text()) for name, path in source_files(backend).items()}
    patches = change.patches[backend] if change else ()
    for file in {patch.file for patch in patches} & trees.keys():
        trees[file] = copy.deepcopy(trees[file])
    for patch in patches:
        try:
            _apply(patch, trees[patch.file])
        except (ValueError, KeyError) as error:
            where = f"backends/{backend}/{patch.file}.py, {patch.seam}"
            raise ValueError(f"{change and change.name}: {where}: {error}") from error
        ast.fix_missing_locations(trees[patch.file])
    return trees


# --- importing


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from a syntax tree instead of its file; nothing is cached on disk."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        super().__init__(name, str(path))
        self.tree = tree

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.tree, self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of one backend in their patched trees."""

    def __init__(self, backend: str, change: Mutation | None) -> None:
        self.root = f"backends.{backend}"
        self.files = source_files(backend)
        self.trees = patched_trees(backend, change)

    def find_spec(
        self, fullname: str, path: object, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.root and not fullname.startswith(f"{self.root}."):
            return None
        name = fullname.removeprefix(self.root).removeprefix(".") or "__init__"
        loader = _Loader(fullname, self.files[name], self.trees[name])
        return importlib.util.spec_from_file_location(
            fullname,
            self.files[name],
            loader=loader,
            submodule_search_locations=[] if name == "__init__" else None,
        )


def _take_out(root: str) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == root or name.startswith(f"{root}.")]
    return {name: sys.modules.pop(name) for name in names}


@contextlib.contextmanager
def patched(backend: str, change: Mutation | None) -> Iterator[Backend]:
    """The backend, imported anew with a mutation; what was imported comes back afterwards."""
    assert backend in BACKENDS
    root = f"backends.{backend}"
    finder = _Finder(backend, change)
    healthy = _take_out(root)
    sys.meta_path.insert(0, finder)
    try:
        yield cast(Backend, importlib.import_module(root))
    finally:
        sys.meta_path.remove(finder)
        _take_out(root)
        sys.modules.update(healthy)
        if root in healthy:
            setattr(backends, backend, healthy[root])
        elif hasattr(backends, backend):
            delattr(backends, backend)
