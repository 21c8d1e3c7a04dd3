"""The tensors of recurrent layers, gate by gate: PyTorch's and Gluon's against the cells of Flax.

A layer of the former has the weights of all its gates in one tensor, and two biases whose sum alone
counts, but for the last gate of a GRU. A cell of Flax has a dense layer for each gate, or for all
that read the input and all that read the state, and one bias.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from common.parity.mapping import Entry

GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": "-"}
"""The gates of a kind of layer in the order in which a tensor has them."""

CELLS = {"LSTMCell": "lstm", "OptimizedLSTMCell": "lstm", "GRUCell": "gru", "SimpleCell": "rnn"}
"""Flax's cells."""


@dataclass(frozen=True)
class Share:
    """A tensor of one gate, or of all: `axes` are `o i` or `i o`, or `o` of a bias."""

    name: str
    axes: str
    part: tuple[int, int] = (0, 1)

    def of_gate(self, number: int, count: int) -> "Share":
        """The share of one of its gates."""
        return replace(self, part=(number, count))


Shares = dict[str, Share]
"""By gate, or the one that all have under an empty name; or by what they read."""


@dataclass
class Gates:
    """The tensors of one layer and direction: by what they read, `i`nput or `h`idden state."""

    kind: str
    weights: dict[str, Shares] = field(default_factory=dict)
    biases: dict[str, Shares] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """What its tensors are called in the network."""
        shares = [*self.weights.values(), *self.biases.values()]
        return {share.name for own in shares for share in own.values()}

    def of(self, shares: Shares) -> Shares:
        """Gate by gate, also where one tensor has them all."""
        if "" not in shares:
            return shares
        names = GATES[self.kind]
        return {name: shares[""].of_gate(k, len(names)) for k, name in enumerate(names)}


def packed(kind: str, roles: Mapping[str, str]) -> dict[str, Gates]:
    """The layers inside one of PyTorch or Gluon, by name, from its tensors by PyTorch's words."""
    found: dict[str, Gates] = {}
    plain = kind.lower().removesuffix("cell")
    for role, name in roles.items():
        told = re.fullmatch(r"(weight|bias)_([ih])h(_l\d+)?(_reverse)?", role)
        if told and plain in GATES:
            what, source, layer, back = told.groups(default="")
            gates = found.setdefault((layer + back).replace("_", "."), Gates(plain))
            into = gates.weights if what == "weight" else gates.biases
            into[source] = {"": Share(name, "o i" if what == "weight" else "o")}
    return found


def cell(kind: str, tensors: Mapping[str, str]) -> Gates:
    """A cell of Flax; `tensors` are those of the layers inside, `ii.kernel`, by name in it."""
    gates = Gates(CELLS[kind])
    for own, name in tensors.items():
        layer, _, what = own.removeprefix("dense_").partition(".")
        into = gates.weights if what == "kernel" else gates.biases
        axes = "i o" if what == "kernel" else "o"
        into.setdefault(layer[0], {})[layer[1:].removesuffix("_")] = Share(name, axes)
    return gates


def entries(a: Gates, b: Gates) -> Iterator[Entry]:
    """What makes the tensors of `b` of those of `a`."""
    for source in a.weights.keys() & b.weights.keys():
        yield from _paired(a, b, a.weights[source], b.weights[source])
    if a.biases.keys() == b.biases.keys() and _alike([*a.biases.values(), *b.biases.values()]):
        for source in a.biases:
            yield from _paired(a, b, a.biases[source], b.biases[source])
        return
    for gate in GATES[a.kind]:
        mine, theirs = (
            {s: own[gate] for s, shares in x.biases.items() if gate in (own := x.of(shares))}
            for x in (a, b)
        )
        if gate == "n":  # of a GRU: that of the state is multiplied before it is added
            for source in mine.keys() & theirs.keys():
                yield _entry(mine[source], theirs[source])
        elif mine and theirs:
            yield from _summed(mine, theirs)


def homeless(a: Gates, b: Gates) -> str | None:
    """The bias of `a` of which a gate has no place in `b`: of a GRU's state, where it has none."""
    if a.kind == "gru" and "h" in a.biases and "h" not in b.biases:
        return next(iter(a.biases["h"].values())).name
    return None


def _alike(shares: Sequence[Shares]) -> bool:
    return len({"" in own for own in shares}) == 1


def _paired(a: Gates, b: Gates, mine: Shares, theirs: Shares) -> Iterator[Entry]:
    """Entries of shares that read the same: whole where both have all gates in one."""
    if not _alike([mine, theirs]):
        mine, theirs = a.of(mine), b.of(theirs)
    for gate in mine.keys() & theirs.keys():
        yield _entry(mine[gate], theirs[gate])


def _entry(a: Share, b: Share, addend: str = "") -> Entry:
    axes = f"{a.axes} -> {b.axes}" if a.axes != b.axes else ""
    along = (a if a.part != (0, 1) else b).axes.split().index("o")
    return Entry(a.name, b.name, axes, part=a.part, into=b.part, along=along, addend=addend)


def _summed(mine: Shares, theirs: Shares) -> Iterator[Entry]:
    """Entries of biases, by source, whose sum counts: what one side has too often is an addend."""
    if len(mine) == len(theirs) == 2:
        for source in mine:
            yield _entry(mine[source], theirs[source])
        return
    few, many = sorted((mine, theirs), key=len)
    ((source, only),) = few.items()
    for other, share in many.items():
        a, b, side = (only, share, "b") if few is mine else (share, only, "a")
        yield _entry(a, b, "" if other == source or len(many) == 1 else side)
