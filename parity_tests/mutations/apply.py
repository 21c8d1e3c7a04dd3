"""A mutation: its description, its patches at seams, and a backend imported with them applied."""

import ast
import contextlib
import copy
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import cast

import backends
from backends import BACKENDS
from common.protocol import Backend

_FOLDER = Path(backends.__file__).parent
_FORWARD = ("forward", "hybrid_forward", "__call__")


@dataclass(frozen=True)
class Patch:
    """A change at a seam of a backend's source: `<file>.<function, class or Class.method>`.

    `place`: `new` stands instead of what matches `old`, before or after the innermost statement
    that has it, at the start of the seam's body, or above its definition. What matches is found in
    the syntax tree, in so many places: blanks, line breaks, quotes and comments do not matter.
    In `old`, `__` is any expression, `__name` one that `new` may use, and `...` at the end of a
    call's positional arguments the arguments that are not told, which `new` may pass on as `...`.
    `forward` as a method is `hybrid_forward` in MXNet and `__call__` in JAX.
    """

    seam: str
    place: str
    old: str
    new: str
    count: int = 1

    @property
    def file(self) -> str:
        """The file's name, without `.py`."""
        return self.seam.split(".")[0]


def swap(seam: str, old: str, new: str, count: int = 1) -> Patch:
    """`new` instead of each expression or statement that matches `old`; `pass` takes it out."""
    return Patch(seam, "instead", old, new, count)


def before(seam: str, old: str, new: str) -> Patch:
    """`new` before the statement that has `old`."""
    return Patch(seam, "before", old, new)


def after(seam: str, old: str, new: str) -> Patch:
    """`new` after the statement that has `old`."""
    return Patch(seam, "after", old, new)


def start(seam: str, new: str) -> Patch:
    """`new` at the start of the seam's body."""
    return Patch(seam, "start", "", new)


def above(seam: str, new: str) -> Patch:
    """`new` above the seam's definition."""
    return Patch(seam, "above", "", new)


@dataclass(frozen=True)
class Mutation:
    """A porting mistake: what it is, where it must first be seen, and its patches by backend.

    `expected`: patterns (as in `fnmatch`) over the names of a trace, `loss[k]` for a step's loss.
    `without`: why it cannot be made in a backend that `patches` lacks. `setting`: the data that
    show it, one of `run.SETTINGS`.
    """

    name: str
    why: str
    expected: tuple[str, ...]
    patches: Mapping[str, tuple[Patch, ...]]
    without: Mapping[str, str] = field(default_factory=dict)
    setting: str = "generic"


Patches = Patch | Sequence[Patch]


def mutation(
    name: str,
    why: str,
    expected: str | Sequence[str],
    *patches: Patches | Mapping[str, Patches],
    torch: Patches | str = (),
    mxnet: Patches | str = (),
    jax: Patches | str = (),
    setting: str = "generic",
) -> Mutation:
    """A mutation of patches that all backends share, of some by backend, and of each one's own.

    A string for a backend says why it cannot have the mutation.
    """
    own = {"torch": torch, "mxnet": mxnet, "jax": jax}
    without = {backend: given for backend, given in own.items() if isinstance(given, str)}
    found: dict[str, tuple[Patch, ...]] = {}
    for backend, last in own.items():
        if not isinstance(last, str):
            given = [p.get(backend, ()) if isinstance(p, Mapping) else p for p in (*patches, last)]
            lists = ([p] if isinstance(p, Patch) else p for p in given)
            found[backend] = tuple(itertools.chain.from_iterable(lists))
    places = (expected,) if isinstance(expected, str) else tuple(expected)
    return Mutation(name, why, places, found, without, setting)


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


def _parse(text: str) -> list[ast.stmt]:
    return ast.parse(textwrap.dedent(text)).body


def _filled(statements: Sequence[ast.stmt], bound: _Bound) -> list[ast.stmt]:
    return [_Filler(bound).visit(copy.deepcopy(statement)) for statement in statements]


class _Rewriter(ast.NodeTransformer):
    """Applies a patch to all that matches below a node, and counts."""

    def __init__(self, patch: Patch) -> None:
        self.count, self.place = 0, patch.place
        (self.old,), self.new = _parse(patch.old), _parse(patch.new)
        replaced = [self.old, *self.new] if patch.place == "instead" else [self.old]
        self.expressions = len(replaced) <= 2 and all(isinstance(s, ast.Expr) for s in replaced)

    def _pattern(self) -> ast.AST:
        return self.old.value if self.expressions and isinstance(self.old, ast.Expr) else self.old

    def visit(self, node: ast.AST) -> ast.AST | list[ast.stmt]:
        bound: _Bound = {}
        if self.place == "instead":
            if not _matches(self._pattern(), node, bound):
                return self.generic_visit(node)
            self.count += 1
            new = _filled(self.new, bound)
            return cast(ast.Expr, new[0]).value if self.expressions else new
        if not isinstance(node, ast.stmt) or not self._stands_in(node, bound):
            return self.generic_visit(node)
        self.count += 1
        new = _filled(self.new, bound)
        return [*new, node] if self.place == "before" else [node, *new]

    def _stands_in(self, node: ast.AST, bound: _Bound) -> bool:
        """Whether the pattern matches a statement or a part of it that is no other statement."""
        if _matches(self._pattern(), node, bound):
            return True
        parts = [part for part in ast.iter_child_nodes(node) if not isinstance(part, ast.stmt)]
        return any(self._stands_in(part, bound) for part in parts)


# --- applying

_Definition = ast.FunctionDef | ast.ClassDef


def _find(tree: ast.Module, names: Sequence[str]) -> tuple[list[ast.stmt], _Definition]:
    """The definition of a dotted name, and the body that it stands in."""
    body = tree.body
    for depth, name in enumerate(names):
        wanted = _FORWARD if depth and name == "forward" else (name,)
        found = [s for s in body if isinstance(s, _Definition) and s.name in wanted]
        if len(found) != 1:
            raise ValueError(f"has {len(found)} definitions of it, not 1")
        if depth == len(names) - 1:
            return body, found[0]
        body = found[0].body
    raise ValueError("names no definition")


def _apply(patch: Patch, tree: ast.Module) -> None:
    body, definition = _find(tree, patch.seam.split(".")[1:])
    if patch.place == "above":
        body[body.index(definition) : body.index(definition)] = _parse(patch.new)
    elif patch.place == "start":
        at = 1 if ast.get_docstring(definition) is not None else 0
        definition.body[at:at] = _parse(patch.new)
    else:
        rewriter = _Rewriter(patch)
        rewriter.generic_visit(definition)
        if rewriter.count != patch.count:
            raise ValueError(f"has {patch.old!r} {rewriter.count} times, not {patch.count}")


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
