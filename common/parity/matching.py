"""Proposing which tensor of one network is which of another: by kind of layer and order of calls.

Names are the least of it: they break ties between layers that are alike and read the same values,
as query, key and value are.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.parity import recurrent
from common.parity.mapping import Entry, Map
from common.parity.records import Record, split_value

_KINDS = {
    "conv": "Conv1d Conv2d Conv3d Conv1D Conv2D Conv3D Conv",
    "transposed": "ConvTranspose1d ConvTranspose2d ConvTranspose3d ConvTranspose"
    " Conv1DTranspose Conv2DTranspose Conv3DTranspose",
    "dense": "Linear Dense LinearGeneral DenseGeneral NonDynamicallyQuantizableLinear",
    "batch norm": "BatchNorm1d BatchNorm2d BatchNorm3d BatchNorm SyncBatchNorm",
    "layer norm": "LayerNorm",
    "group norm": "GroupNorm",
    "instance norm": "InstanceNorm1d InstanceNorm2d InstanceNorm3d InstanceNorm",
    "rms norm": "RMSNorm",
    "embedding": "Embedding Embed",
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}

_ROLES = {"kernel": "weight", "gamma": "weight", "scale": "weight", "embedding": "weight"}
_ROLES |= {"beta": "bias", "running_mean": "mean", "running_var": "var"}
"""What the frameworks call a tensor of a layer, by PyTorch's word."""

_TIED: dict[tuple[str, tuple[str, ...]], tuple[str, ...]]
_TIED = {("dense", ("v", "o")): ("o", "i"), ("embedding", ("o", "i")): ("v", "o")}
"""The axes of a weight that a table and a dense layer share: of the one by those of the other."""

_PACKED = "in_proj_"
"""What PyTorch's attention calls the weight and bias that query, key and value have in one."""


def _role(own: str) -> str:
    gates = re.fullmatch(r"(?:([lr])(\d+)_)?([ih])2h_(weight|bias)", own)  # Gluon's
    if gates:
        direction, layer, source, kind = gates.groups()
        place = f"_l{layer}" if layer else ""
        return f"{kind}_{source}h{place}" + ("_reverse" if direction == "r" else "")
    return _ROLES.get(own, own)


Judge = Callable[[Map], float]

MOST_ORDERS = 120
"""Of so many orders of layers that are alike, the best is sought."""

_WORDS = {"q": "query", "k": "key", "v": "value"}


@dataclass(frozen=True)
class _Part:
    """A tensor, or a part of one: its name, the names and sizes of its axes."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    flipped: frozenset[str]
    part: tuple[int, int] = (0, 1)
    along: int = 0

    def share(self, number: int, count: int) -> "_Part":
        """One of so many equal parts of what it makes."""
        along = self.axes.index("o")
        shape = [*self.shape]
        shape[along] //= count
        return replace(self, shape=tuple(shape), part=(number, count), along=along)

    @property
    def sizes(self) -> dict[str, int]:
        """By the axis's letter; `o1 o2` are the parts of one axis, `o`. What is 1 wide in space is
        none: a dense layer is a convolution of 1x1.
        """
        found: dict[str, int] = {}
        for axis, size in zip(self.axes, self.shape, strict=True):
            if axis[0] not in "dhw" or size > 1:
                found[axis[0]] = found.get(axis[0], 1) * size
        return found

    @property
    def holds(self) -> object:
        """Its sizes, by axis where these are known; else in order, without those of 1."""
        return self.sizes if self.axes else tuple(size for size in self.shape if size > 1)


@dataclass(frozen=True)
class _Unit:
    """A layer as the matcher sees it."""

    path: str
    kind: str
    parts: dict[str, _Part]
    reads: int
    gates: recurrent.Gates | None = None

    @property
    def main(self) -> _Part:
        return self.parts.get("weight") or next(iter(self.parts.values()))

    @property
    def signature(self) -> tuple[object, ...]:
        if self.gates is not None:
            return self.kind, "reverse" in self.path or "backward" in self.path
        main = self.main
        return self.kind, tuple(sorted(main.sizes.items())) if main.axes else main.holds

    @property
    def holds(self) -> object:
        """Its tensors, whatever it is."""
        return {role: part.holds for role, part in self.parts.items()}

    @property
    def wide(self) -> object:
        """Their sizes, whatever they are called, but for those of 1."""
        return sorted(sorted(n for n in part.shape if n > 1) for part in self.parts.values())

    @property
    def is_own(self) -> bool:
        """Whether it is of a class that no framework has in common, as a user's own."""
        return self.kind not in _KINDS and self.gates is None


def _units(record: Record) -> list[_Unit]:
    """Every layer that owns tensors, in order of calls; one never called, behind its parent."""
    place = {path: float(k) for k, path in enumerate(record.calls)}
    for number, path in enumerate(record.layers):
        parent = path
        while parent not in place and parent:
            parent = parent.rpartition(".")[0]
        place.setdefault(path, place.get(parent, math.inf) + (number + 1) * 1e-6)
    inputs: dict[str, int] = {}
    for name in record.order:
        if ":in" in name and name.startswith("eval/"):
            inputs.setdefault(name[5:].partition(":")[0], id(record.arrays[name]))
    units, cells = [], _cells(record)
    for path in sorted(record.layers, key=place.__getitem__):
        layer, reads = record.layers[path], inputs.get(path, 0)
        if path in cells:
            units.append(_Unit(path, cells[path].kind, {}, reads, cells[path]))
        if path.rpartition(".")[0] in cells:
            continue
        parts = {}
        for own, name in layer.tensors.items():
            tensor = record.tensors[name]
            axes, flipped = tuple(tensor.axes.split()), frozenset(tensor.flipped.split())
            axes = _TIED.get((_KIND_OF.get(layer.kind, ""), axes), axes)
            parts[_role(own)] = _Part(name, axes, tensor.shape, flipped)
        names = {role: part.name for role, part in parts.items()}
        for inner, gates in recurrent.packed(layer.kind, names).items():
            units.append(_Unit(path + inner, gates.kind, {}, reads, gates))
            parts = {role: part for role, part in parts.items() if part.name not in gates.names}
        packed = {role: part for role, part in parts.items() if role.startswith(_PACKED)}
        for k, word in enumerate(("query", "key", "value") if packed else ()):
            thirds = {r.removeprefix(_PACKED): p.share(k, 3) for r, p in packed.items()}
            units.append(_Unit(f"{path}.{word}", "dense", thirds, reads))
        if rest := {role: part for role, part in parts.items() if role not in packed}:
            units.append(_Unit(path, _kind(layer.kind, rest), rest, reads))
    return units


def _cells(record: Record) -> dict[str, recurrent.Gates]:
    """The recurrent cells of Flax by path, whose dense layers are layers of their own."""
    found = {}
    for path, layer in record.layers.items():
        if layer.kind in recurrent.CELLS and not layer.tensors:
            inside = {p: own for p, own in record.layers.items() if p.startswith(f"{path}.")}
            tensors = [name for own in inside.values() for name in own.tensors.values()]
            by_own = {name.removeprefix(f"{path}."): name for name in tensors}
            found[path] = recurrent.cell(layer.kind, by_own)
    return found


def _kind(name: str, parts: Mapping[str, _Part]) -> str:
    """A kind of layer; a convolution of 1x1 is a dense layer."""
    main, kind = parts.get("weight"), _KIND_OF.get(name, name)
    if kind == "conv" and main is not None and main.sizes.keys() <= {"o", "i"}:
        return "dense"
    return kind


def _opened(units: Sequence[_Unit], others: Sequence[_Unit]) -> list[_Unit]:
    """Dense layers that stand for several of the other side, as one for query, key and value, in
    equal parts; the several are alike and read the same values.
    """
    here, there = (Counter(unit.signature for unit in side) for side in (units, others))
    groups: dict[object, list[_Unit]] = {}
    for unit in others:
        if unit.kind == "dense" and unit.reads and there[unit.signature] > here[unit.signature]:
            groups.setdefault((unit.signature, unit.reads), []).append(unit)
    found = []
    for unit in units:
        several = None
        if here[unit.signature] > there[unit.signature]:
            several = next((key for key, group in groups.items() if _is_all_of(unit, group)), None)
        if several is None:
            found.append(unit)
            continue
        here[unit.signature] -= 1
        count = len(groups.pop(several))
        for k in range(count):
            parts = {role: part.share(k, count) for role, part in unit.parts.items()}
            found.append(replace(unit, path=f"{unit.path}.{k}", parts=parts))
    return found


def _is_all_of(unit: _Unit, group: Sequence[_Unit]) -> bool:
    """Whether a dense layer makes as much as several together."""
    if len(group) < 2 or unit.kind != "dense":
        return False
    if not all("o" in part.axes for part in (*unit.parts.values(), *group[0].parts.values())):
        return False
    one = group[0].main.sizes
    return unit.main.sizes == {**one, "o": one["o"] * len(group)}


def _common(x: Sequence[object], y: Sequence[object]) -> list[tuple[int, int]]:
    """The longest common subsequence, as pairs of places."""
    length = np.zeros((len(x) + 1, len(y) + 1), int)
    for i in reversed(range(len(x))):
        for j in reversed(range(len(y))):
            together = length[i + 1, j + 1] + 1 if x[i] == y[j] else 0
            length[i, j] = max(together, length[i + 1, j], length[i, j + 1])
    pairs, i, j = [], 0, 0
    while i < len(x) and j < len(y):
        if x[i] == y[j] and length[i, j] == length[i + 1, j + 1] + 1:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif length[i + 1, j] >= length[i, j + 1]:
            i += 1
        else:
            j += 1
    return pairs


Places = list[tuple[int, int]]


def _free(units: Sequence[_Unit], side: int, places: Places) -> list[int]:
    """Those of one side that have no place yet."""
    taken = {place[side] for place in places}
    return [k for k in range(len(units)) if k not in taken]


def _places(a: Sequence[_Unit], b: Sequence[_Unit]) -> Places:
    """Layers that belong together: in order of calls, then what is left, wherever it is called."""
    places: Places = []
    known = {unit.kind for unit in a} & {unit.kind for unit in b}

    def kind_or_tensors(unit: _Unit) -> object:
        # a class that one side alone has, as the user's own, says nothing
        return unit.signature if unit.kind in known else unit.holds

    signatures: tuple[Callable[[_Unit], object], ...]
    signatures = (
        kind_or_tensors,
        lambda unit: unit.holds,
        lambda unit: unit.wide if unit.is_own else id(unit),
    )
    for signature in signatures:
        left, right = _free(a, 0, places), _free(b, 1, places)
        found = _common([signature(a[i]) for i in left], [signature(b[j]) for j in right])
        places += [(left[i], right[j]) for i, j in found]
        for i in _free(a, 0, places):
            alike = [j for j in _free(b, 1, places) if signature(a[i]) == signature(b[j])]
            if alike:
                places.append((i, min(alike, key=lambda j: _strange(a[i].path, b[j].path))))
    return sorted(places)


def _readings(a: Sequence[_Unit], b: Sequence[_Unit], places: Places) -> list[list[Places]]:
    """Of layers that are alike and read the same values, as query, key and value do: the orders
    that words do not rule out. Calls in a row say nothing there.
    """
    groups: dict[tuple[object, ...], Places] = {}
    for i, j in places:
        groups.setdefault((a[i].signature, a[i].reads or -i), []).append((i, j))
    found = []
    for group in groups.values():
        mine, theirs = [i for i, _ in group], [j for _, j in group]
        orders = itertools.islice(itertools.permutations(theirs), MOST_ORDERS)
        costs = {
            order: sum(_strange(a[i].path, b[j].path) for i, j in zip(mine, order, strict=True))
            for order in orders
        }
        least = min(costs.values())
        found.append([[*zip(mine, o, strict=True)] for o, c in costs.items() if c <= least + 1e-9])
    return found


def _strange(a: str, b: str) -> float:
    """How little two paths have in common, from the end: 0 is alike."""
    x, y = (
        [_WORDS.get(w, w) for w in path.lower().replace("_", ".").split(".")] for path in (a, b)
    )
    return 1 - len(set(x) & set(y)) / len(set(x) | set(y))


def _pattern(a: _Part, b: _Part) -> tuple[str, dict[str, int]]:
    """The pattern of einops from one to the other; empty where they are laid out alike."""
    if not a.axes or not b.axes:
        return "", {}

    def written(mine: _Part, other: _Part) -> list[str]:
        names = []
        for axis, size in zip(mine.axes, mine.shape, strict=True):
            parts = [name for name in other.axes if name[0] == axis and name != axis]
            if parts:
                names.append(f"({' '.join(parts)})")
            else:
                names.append("1" if size == 1 and axis not in other.axes else axis)
        return names

    left, right = written(a, b), written(b, a)
    if left == right:
        return "", {}
    shapes = {**dict(zip(a.axes, a.shape, strict=True)), **dict(zip(b.axes, b.shape, strict=True))}
    inner = [name for token in (*left, *right) if "(" in token for name in token[1:-1].split()]
    sizes = {name: shapes[name] for name in inner if not name.endswith("1")}
    return f"{' '.join(left)} -> {' '.join(right)}", sizes


def _entry(a: _Part, b: _Part) -> Entry | None:
    """What makes `b` of `a`; None where it cannot be."""
    axes, sizes = _pattern(a, b)
    if a.axes and b.axes and a.sizes != b.sizes:
        return None
    if not (a.axes and b.axes) and a.shape != b.shape:
        left, right = (_letters(part.shape) for part in (a, b))
        if [n for n in a.shape if n > 1] != [n for n in b.shape if n > 1]:
            return None
        axes = f"{left} -> {right}"
    flip = " ".join(axis for axis in a.axes if axis in a.flipped ^ b.flipped)
    axes = axes or (f"{' '.join(a.axes)} -> {' '.join(b.axes)}" if flip else "")
    along = b.along if a.part == (0, 1) else a.along
    return Entry(a.name, b.name, axes, sizes, flip, a.part, b.part, along)


def _letters(shape: Sequence[int]) -> str:
    """A pattern of einops for axes without names: `1 a b`."""
    names = iter("abcdefgh")
    return " ".join("1" if size == 1 else next(names) for size in shape)


def _roles(a: _Unit, b: _Unit) -> tuple[dict[str, str], bool]:
    """Which tensor of a layer is which of another's, and whether that is a guess.

    By name; in classes of the user's own, what is left is paired where it fits, by what the names
    have in common.
    """
    found = {role: role for role in a.parts if role in b.parts}
    left = [role for role in a.parts if role not in found]
    right = [role for role in b.parts if role not in found]
    fitting = sorted(
        (_strange(mine, other), mine, other)
        for mine, other in itertools.product(left, right)
        if a.is_own and b.is_own and _entry(a.parts[mine], b.parts[other])
    )
    guess = False
    for strange, mine, other in fitting:
        if mine not in found and other not in found.values():
            rivals = [x for x in fitting if (x[1] == mine) != (x[2] == other) and x[0] <= strange]
            guess |= bool(rivals)
            found[mine] = other
    return found, guess


def _flattened(record: Record, layer: str) -> dict[str, int]:
    """The axes, with their sizes, that were flattened into what a dense layer reads; or none.

    Sought is what was made last, of a layer that has channels, with as many values for each
    example: the very same values, if there are such.
    """
    read = record.arrays.get(f"eval/{layer}:in")
    if read is None or read.ndim != 2:
        return {}
    before = record.order[: record.order.index(f"eval/{layer}:in")]
    found: dict[bool, dict[str, int]] = {}
    for name in before:
        array, channels = record.arrays[name], record.layers[split_value(name)[1]].channels
        if channels is None or array.ndim < 3 or len(array) != len(read):
            continue
        if array[0].size == read[0].size:
            axes = list("dhw"[-(array.ndim - 2) :])
            axes.insert(channels - 1 if channels > 0 else len(axes), "c")
            same = np.array_equal(array.reshape(read.shape), read)
            found[same] = dict(zip(axes, array.shape[1:], strict=True))
    return found.get(True) or found.get(False) or {}


def _unflattened(entry: Entry, a: dict[str, int], b: dict[str, int]) -> Entry:
    """The entry of a dense layer's weight, where the two sides flattened in other orders."""
    wide = [size for size in a.values() if size > 1]
    if sorted(a.items()) != sorted(b.items()) or [*a] == [*b] or len(wide) < 2:
        return entry
    sides = zip((entry.axes or "o i -> o i").split(" -> "), (a, b), strict=True)
    left, right = (side.replace("i", f"({' '.join(axes)})") for side, axes in sides)
    sizes = dict([*a.items()][1:])
    return Entry(entry.a, entry.b, f"{left} -> {right}", sizes)


def _map_of(a: Record, b: Record, pairs: Sequence[tuple[_Unit, _Unit]]) -> Map:
    entries: list[Entry] = []
    unmatched = {"a": dict[str, str](), "b": dict[str, str]()}
    for mine, theirs in pairs:
        if mine.gates and theirs.gates:
            entries += recurrent.entries(mine.gates, theirs.gates)
            why = "the last gate of {} has no bias of the state"
            if name := recurrent.homeless(mine.gates, theirs.gates):
                unmatched["a"][name] = why.format(theirs.path)
            if name := recurrent.homeless(theirs.gates, mine.gates):
                unmatched["b"][name] = why.format(mine.path)
        roles, _ = _roles(mine, theirs)
        for role, part in mine.parts.items():
            other = theirs.parts[roles[role]] if role in roles else None
            entry = _entry(part, other) if other else None
            if entry is not None and mine.kind == "dense" and role == "weight":
                entry = _unflattened(entry, _flattened(a, mine.path), _flattened(b, theirs.path))
            if entry is not None:
                if (entry.b, entry.into) not in {(e.b, e.into) for e in entries}:  # shared
                    entries.append(entry)
            elif other is None:
                unmatched["a"][part.name] = f"{theirs.path} has none"
            else:
                unmatched["a"][part.name] = f"{other.name} is {other.shape}, not of {part.shape}"
        for role in theirs.parts.keys() - {*roles.values()}:
            unmatched["b"][theirs.parts[role].name] = f"{mine.path} has none"
    for side, record, names in (("a", a, {e.a for e in entries}), ("b", b, {e.b for e in entries})):
        for name in record.tensors:
            if name not in names:
                shape = record.tensors[name].shape
                kind = record.layers[record.owners[name]].kind
                unmatched[side].setdefault(name, f"no {kind} of the other side fits {shape}")
    return Map(tuple(entries), unmatched)


def match(a: Record, b: Record, judge: Judge | None = None) -> tuple[Map, list[str]]:
    """Proposes a map from the tensors of `a` to those of `b`.

    Where layers are alike, read the same values and no word tells them apart, `judge` says of a map
    how wrong it is, and the least wrong order is kept; without a judge, that of the calls. Returned
    beside the map are the layers of `a` whose order is a guess.
    """
    mine, theirs = _units(a), _units(b)
    mine, theirs = _opened(mine, theirs), _opened(theirs, mine)
    groups = _readings(mine, theirs, _places(mine, theirs))

    def map_of(chosen: Sequence[Places]) -> Map:
        places = sorted(pair for group in chosen for pair in group)
        return _map_of(a, b, [(mine[i], theirs[j]) for i, j in places])

    chosen = [orders[0] for orders in groups]
    pairs = [(mine[i], theirs[j]) for places in chosen for i, j in places]
    guessed = [unit.path or "the network" for unit, other in pairs if _roles(unit, other)[1]]
    for k, orders in enumerate(groups):
        if len(orders) == 1:
            continue
        if judge is None:
            guessed += [mine[i].path for i, _ in orders[0]]
            continue
        wrong = [judge(map_of([*chosen[:k], order, *chosen[k + 1 :]])) for order in orders]
        chosen[k] = orders[int(np.argmin(wrong))]
        if sorted(wrong)[0] * 1e3 > sorted(wrong)[1]:
            guessed += [mine[i].path for i, _ in orders[0]]
    return map_of(chosen), guessed
