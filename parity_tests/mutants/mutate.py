"""What a mutant is: the code of a file with one expression or statement changed."""

import ast
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
PAIRS = (
    *(("min", "max"), ("any", "all"), ("floor", "ceil"), ("minimum", "maximum")),
    *(("argmin", "argmax"), ("zeros", "ones"), ("startswith", "endswith")),
    *(("removeprefix", "removesuffix"), ("partition", "rpartition"), ("height", "width")),
    *(("rows", "columns"), ("top", "left"), ("mean", "std"), ("BILINEAR", "NEAREST")),
    *(("FLIP_LEFT_RIGHT", "FLIP_TOP_BOTTOM"), ("lstrip", "rstrip")),
)
"""Names that are taken for each other."""
COMMUTATIVE = ("min", "max", "minimum", "maximum")
OTHER_NAME = dict(PAIRS) | {b: a for a, b in PAIRS}

_UNTOLD = ("annotation", "returns", "bases", "decorator_list")
"""Fields of the syntax tree that compute nothing."""


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    """The node with other fields, at the same place."""
    new = type(node)(**dict(ast.iter_fields(node)) | fields)
    return ast.copy_location(new, node)


def _name(node: ast.AST) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))


def _other_constants(value: Any) -> Iterator[Any]:
    match value:
        case bool():
            yield not value
        case int():
            yield value + 1
        case float():
            yield 2 * value if value else 1.0
        case str() if value and " " not in value:  # a name or a key; prose is nobody's input
            yield f"{value}_"


def _swapped(values: list[Any]) -> list[list[Any]]:
    """The list with its first two values in the other order, if that is another one."""
    if len(values) < 2 or ast.dump(values[0]) == ast.dump(values[1]):
        return []
    return [[values[1], values[0], *values[2:]]]


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What is put in a node's place."""
    match node:
        case ast.Compare(ops=ops):
            for k, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    yield _with(node, ops=[*ops[:k], other(), *ops[k + 1 :]])
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            yield _with(node, op=ARITHMETIC[type(op)]())
        case ast.BoolOp(op=op):
            yield _with(node, op=ast.And() if isinstance(op, ast.Or) else ast.Or())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield operand
        case ast.Constant(value=value):
            yield from (_with(node, value=other) for other in _other_constants(value))
        case ast.If(test=test) | ast.While(test=test):
            yield _with(node, test=ast.copy_location(ast.UnaryOp(ast.Not(), test), test))
        case ast.IfExp(body=body, orelse=orelse):
            yield _with(node, body=orelse, orelse=body)
        case ast.Call(args=args, keywords=keywords):
            if _name(node.func) not in COMMUTATIVE:
                yield from (_with(node, args=other) for other in _swapped(args))
            for k, keyword in enumerate(keywords):
                if keyword.arg != "strict":  # of `zip`: it guards against a mistake elsewhere
                    yield _with(node, keywords=keywords[:k] + keywords[k + 1 :])
            if _name(node.func) == "sorted":
                yield _with(node, func=ast.Name("list", ast.Load()), keywords=[])
        case ast.Name(id=name) if name in OTHER_NAME:
            yield _with(node, id=OTHER_NAME[name])
        case ast.Attribute(attr=name) if name in OTHER_NAME:
            yield _with(node, attr=OTHER_NAME[name])
        case ast.Slice():
            for bound in ("lower", "upper", "step"):
                if getattr(node, bound) is not None:
                    yield _with(node, **{bound: None})
        case ast.Tuple(elts=elements):
            yield from (_with(node, elts=other) for other in _swapped(elements))
        case ast.comprehension(ifs=[_, *_]):
            yield _with(node, ifs=[])
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield _with(node, value=ast.copy_location(ast.Constant(None), node))
        case ast.Continue() | ast.Break():
            jump = ast.Break() if isinstance(node, ast.Continue) else ast.Continue()
            yield ast.copy_location(jump, node)
    if _can_go(node):
        yield ast.copy_location(ast.Pass(), node)


def _can_go(node: ast.AST) -> bool:
    """Whether a statement's absence is not seen at once, as that of a name's first value is."""
    match node:
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
    return False


class _Place(NamedTuple):
    """A node, where it hangs, and the statement and the function that it is part of."""

    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST
    statement: ast.stmt
    function: str

    def put(self, node: ast.AST) -> None:
        """Has the parent hold another node in this one's place."""
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def _is_type(statement: ast.AST) -> bool:
    """Whether a statement outside functions only names a type: `Array = NDArray[Any]`."""
    match statement:
        case ast.Assign(value=ast.Subscript() | ast.Call(func=ast.Name(id="TypeVar"))):
            return True
    return False


def _is_skipped(node: ast.AST, parent: ast.AST, function: str) -> bool:
    is_text = isinstance(parent, ast.Expr) and isinstance(node, ast.Constant)
    is_message = isinstance(parent, ast.Raise) or isinstance(node, ast.Assert)
    return is_text or is_message or (not function and _is_type(node))


def _places(
    parent: ast.AST, statement: ast.stmt, scope: str = "", function: str = ""
) -> Iterator[_Place]:
    """The nodes below a node, in order; `function` is the outermost they are in, or ""."""
    for field, value in ast.iter_fields(parent):
        inside = function
        if isinstance(parent, ast.ClassDef | ast.FunctionDef) and field in _UNTOLD:
            continue
        if isinstance(parent, ast.FunctionDef) and field == "body":
            inside = function or scope
        for k, node in enumerate(value if isinstance(value, list) else [value]):
            if (
                not isinstance(node, ast.AST)
                or (field == "annotation")
                or _is_skipped(node, parent, inside)
            ):
                continue
            its = node if isinstance(node, ast.stmt) else statement
            yield _Place(parent, field, k if isinstance(value, list) else None, node, its, inside)
            below = scope
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                below = f"{scope}.{node.name}".removeprefix(".")
            yield from _places(node, its, below, inside)


def _lines(statement: ast.stmt) -> range:
    """Of a statement; of a compound one, its head's."""
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return range(statement.lineno, max(last, statement.lineno) + 1)


def _head(node: ast.AST) -> str:
    return ast.unparse(node).splitlines()[0]


@dataclass(frozen=True)
class Mutant:
    """One change. `function` is that of the file in which it is, "" where it runs at import."""

    path: Path
    number: int
    line: int
    lines: range
    function: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.before} -> {self.after}"

    def code(self) -> types.CodeType:
        """The file's code with the change."""
        tree = ast.parse(self.path.read_text())
        for number, (place, new) in enumerate(_mutations(tree)):
            if number == self.number:
                place.put(new)
                return compile(ast.fix_missing_locations(tree), str(self.path.resolve()), "exec")
        raise ValueError(f"{self.path}: has no mutant {self.number}")


def _mutations(tree: ast.Module) -> Iterator[tuple[_Place, ast.AST]]:
    if not tree.body:
        return
    for place in _places(tree, tree.body[0]):
        for new in _changes(place.node):
            yield place, new


def mutants(path: Path) -> list[Mutant]:
    """Every mutant of a file, in order."""
    found = []
    for number, (place, new) in enumerate(_mutations(ast.parse(path.read_text()))):
        node = place.node if hasattr(place.node, "lineno") else place.statement
        before, after = _head(place.node), _head(new)
        if isinstance(new, ast.Call) and isinstance(node, ast.Call):
            before, after = ast.unparse(place.node), ast.unparse(new)
        lines = _lines(place.statement)
        found.append(Mutant(path, number, node.lineno, lines, place.function, before, after))
    return found
