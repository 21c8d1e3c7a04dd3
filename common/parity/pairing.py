"""One record in the names and layouts of another: which of its values are which of the other's."""

import json
import re
from collections.abc import Iterator, Mapping

import einops
import numpy as np

from common.errors import InputError
from common.parity.mapping import Entry, Map
from common.parity.records import LOCAL, TENSOR_GROUPS, Layer, Record, split_value
from common.protocol import Array, Arrays


def _turn(array: Array, mine: int | None, theirs: int | None) -> Array:
    """An activation with its channels where the other side has them."""
    if mine is None or theirs is None or array.ndim < 3 or mine == theirs:
        return array
    return np.moveaxis(array, theirs, mine)


def alike(array: Array, shape: tuple[int, ...]) -> Array:
    """An activation whose layout is not told, in the shape of the other side's if it can be."""
    axes = ((-1, 1), (1, -1), (0, 1)) if array.ndim > 2 else ()
    for turned in (array, *(np.moveaxis(array, *pair) for pair in axes)):
        if turned.shape == shape:
            return turned
    # a dense layer of Gluon flattens what it is given
    flat = 2 in (array.ndim, len(shape)) and array.size == np.prod(shape)
    return array.reshape(shape) if flat and len(array) == shape[0] else array


def _as_in(
    target: Record,
    name: str,
    source: Record,
    other: str,
    shape: tuple[int, ...],
    found: Map,
    back: bool = True,
) -> Array:
    """The value `other` of `source` in the layout of `target`, where it is `name`.

    `back`: the target is the map's `a`.
    """
    array = source.arrays[other]
    (_, mine, _, side), (_, theirs, _, _) = split_value(name), split_value(other)
    if mine and theirs:
        array = _turn(array, target.layers[mine].channels, source.layers[theirs].channels)
    if side.startswith("in"):
        layer = (source if back else target).layers[theirs if back else mine]
        array = _reordered(array, found, layer, back)
    return alike(array, shape)


def _reordered(array: Array, found: Map, layer: Layer, back: bool) -> Array:
    """What goes into a dense layer, in the other side's order, where it was flattened in another.

    From the order of the map's `a` to that of `b`, or `back`; `layer` is one of `b`.
    """
    own = set(layer.tensors.values()) if array.ndim == 2 else ()
    for e in (e for e in found.entries if e.b in own):
        left, _, right = e.axes.partition(" -> ")
        groups = [re.findall(r"\([^)]*\)", side) for side in (left, right)]
        if all(groups):
            mine, theirs = (side[0] for side in (groups[::-1] if back else groups))
            return einops.rearrange(array, f"n {mine} -> n {theirs}", **e.sizes)
    return array


def translate(record: Record, reference: Record, found: Map) -> Record:
    """`record` in the names and layouts of `reference`, as far as the map pairs them.

    Layers are paired through the tensors that they own; what is not paired is left out.
    """
    arrays: Arrays = {}
    for group in TENSOR_GROUPS:
        mine = f"{group}/"
        own = {n.removeprefix(mine): a for n, a in record.arrays.items() if n.startswith(mine)}
        turned = found.to_a(own, gradients=group == "grad")
        arrays |= {f"{group}/{name}": array for name, array in turned.items()}
    pairs = paired_values(record, reference, found)
    pairs |= {f"{LOCAL}{mine}": f"{LOCAL}{theirs}" for mine, theirs in pairs.items()}
    pairs |= paired_outputs(record, reference) | {"loss": "loss"}
    noise = {name: value for name, value in record.noise.items() if name.startswith("loss[")}
    for name, other in pairs.items():
        like = reference.arrays.get(other.removeprefix(LOCAL))
        if name in record.arrays and like is not None:
            arrays[other] = _as_in(reference, other, record, name, like.shape, found)
            noise |= {other: record.noise[name]} if name in record.noise else {}
    for e in found.entries:
        for group in TENSOR_GROUPS:
            key, value = f"{group}/{e.a}", record.noise.get(f"{group}/{e.b}", 0.0)
            noise[key] = max(noise.get(key, 0.0), value)
    facts = {**record.facts, "noise": noise, "paired": [e.a for e in found.entries]}
    facts |= {key: reference.facts[key] for key in ("layers", "sources", "tensors", "order")}
    return Record(record.label, arrays, {**record.metadata, "record": json.dumps(facts)})


def same_names(record: Record, reference: Record) -> Map:
    """The map where a record's tensors have the reference's names and shapes.

    Raises:
        InputError: they have not.
    """
    for name in reference.tensors:
        shapes = (r.tensors[name].shape for r in (record, reference) if name in r.tensors)
        if len({*shapes}) != 1 or name not in record.tensors:
            raise InputError(
                f"{record.label}: has no {name} as {reference.label} has, and no map:"
                f" python -m scripts.match proposes one"
            )
    return Map(tuple(Entry(name, name) for name in reference.tensors))


def check_names(found: Map, record: Record, reference: Record) -> None:
    """That a map's entries name tensors of two records.

    Raises:
        InputError: one does not.
    """
    for e in found.entries:
        for name, of in ((e.a, reference), (e.b, record)):
            if name not in of.tensors:
                raise InputError(f"map: {name} is no tensor of {of.label}")


def check_start(record: Record, reference: Record) -> None:
    """That a translated record starts from the reference's weights and inputs.

    Raises:
        InputError: it starts from others.
    """
    for group, what in (("weight/", "weights"), ("input", "inputs")):
        for name, array in reference.arrays.items():
            other = record.arrays.get(name) if name.startswith(group) else None
            if other is not None and not np.array_equal(array, other):
                told = f"{record.label}: made from other {what} than {reference.label} ({name})"
                if np.array_equal(np.float32(array), np.float32(other)):
                    raise InputError(f"{told}: rounded to float32; give both arrays of NumPy")
                raise InputError(f"{told}: nothing to compare; record it with against=")


def outputs(record: Record, mode: str) -> list[str]:
    """What the network returns in a mode, in its order."""
    beginning = f"{mode}/output"
    held = (name for name in record.order if name in record.arrays)
    return [name for name in held if name.startswith(beginning) and not split_value(name)[1]]


def paired_outputs(record: Record, reference: Record) -> dict[str, str]:
    """What the network is given and returns: by name where all names agree, else by their order."""
    pairs: dict[str, str] = {}
    given = [_inputs(r) for r in (record, reference)]
    returned = [[outputs(r, mode) for r in (record, reference)] for mode in ("eval", "train")]
    for mine, theirs in (given, *returned):
        agree = {*mine} == {*theirs}
        pairs |= dict(zip(mine, mine if agree else theirs, strict=False))
    return pairs


def _inputs(record: Record) -> list[str]:
    """What the network is given, in its order."""
    given = [name for name in record.arrays if name.startswith("input")]
    return sorted(given, key=lambda name: [part.zfill(9) for part in name.split(".")])


def paired_layers(record: Record, reference: Record, found: Map) -> dict[str, str]:
    """Which layer of `reference` is the counterpart of which of `record`.

    Layers are paired by the tensors that they own. Where one stands for several, as PyTorch's
    attention does for Flax's, it is paired with the module that holds them.
    """
    together: list[tuple[set[str], set[str]]] = []
    for mine, theirs in _owners_together(record, reference, found):
        joined = [g for g in together if mine in g[0] or theirs in g[1]]
        together = [g for g in together if g not in joined]
        ours = {mine}.union(*(g[0] for g in joined))
        together.append((ours, {theirs}.union(*(g[1] for g in joined))))
    holders = [(_holder(record, ours), _holder(reference, others)) for ours, others in together]
    return {
        _of_shape(record, mine, reference, theirs): theirs
        for mine, theirs in holders
        if mine and theirs
    }


def _owners_together(record: Record, reference: Record, found: Map) -> Iterator[tuple[str, str]]:
    """Of each entry the owners of both tensors.

    Of a tensor that layers share on both sides the first owners, the second, ...; where one side
    has a tensor for each of them, these come one after the other.
    """
    uses: dict[tuple[str, tuple[int, int]], list[str]] = {}
    for e in found.entries:
        mine, theirs = record.sharers.get(e.b, []), reference.sharers.get(e.a, [])
        before = uses.setdefault((e.a, e.part), [])
        left = [path for path in theirs if path not in before] or theirs[:1]
        pairs = [*zip(mine, left, strict=False)]
        before += [path for _, path in pairs]
        yield from pairs


def _of_shape(record: Record, mine: str, reference: Record, theirs: str) -> str:
    """A layer, or the module around it alone that returns what the reference's layer does."""

    def returned(of: Record, layer: str) -> list[int]:
        array = of.arrays.get(f"eval/{layer}:out")
        return [] if array is None else sorted(array.shape)

    held = {name for name in record.tensors if name.startswith(f"{mine}.")}
    around = mine
    while returned(record, around) != returned(reference, theirs):
        around = around.rpartition(".")[0]
        inside = {name for name in record.tensors if name.startswith(f"{around}.")}
        if not around or inside != held:
            return mine
    return around


def _holder(record: Record, layers: set[str]) -> str:
    """The innermost module that holds all of some layers and was called; itself, if it is one."""
    paths = [path.split(".") for path in layers]
    shared = [parts[0] for parts in zip(*paths, strict=False) if len({*parts}) == 1]
    called = {*record.calls}
    while shared and ".".join(shared) not in called:
        if len(layers) == 1:
            return ""  # never called, and whoever holds it holds more
        shared.pop()
    return ".".join(shared)


def paired_values(record: Record, reference: Record, found: Map) -> dict[str, str]:
    """Which value of the passes of `reference` is the counterpart of which of `record`.

    What goes into a layer, and comes out, is paired by name, or else in order.
    """
    pairs = paired_layers(record, reference, found)
    back = {theirs: mine for mine, theirs in pairs.items()}

    def values(of: Record, known: Mapping[str, str]) -> dict[tuple[str, str, int, str], list[str]]:
        named: dict[tuple[str, str, int, str], list[str]] = {}
        for name in of.order:
            mode, layer, number, side = split_value(name)
            if layer in known:
                named.setdefault((mode, layer, number, side.split(".")[0]), []).append(name)
        return named

    theirs = values(reference, back)
    result: dict[str, str] = {}
    for (mode, layer, number, side), names in values(record, pairs).items():
        others = theirs.get((mode, pairs[layer], number, side), [])
        leaves = [name.partition(f":{side}")[2] for name in names]
        agree = {*leaves} == {name.partition(f":{side}")[2] for name in others}
        others = sorted(others) if agree else others
        result |= dict(zip(sorted(names) if agree else names, others, strict=False))
    return result


def feed_of(record: Record, reference: Record, found: Map) -> Arrays:
    """What goes into the layers of `reference` and comes out, in the names of `record`."""
    feed = {}
    for own, name in paired_values(record, reference, found).items():
        shape = record.arrays[own].shape
        turned = _as_in(record, own, reference, name, shape, found, back=False)
        if turned.shape == shape:  # else it is another value, and is told as such
            feed[own] = np.array(turned, order="C")
    return feed
