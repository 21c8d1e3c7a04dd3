"""Records of any network, read: schema 2 of a trace, and one record in the names of another."""

import functools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import einops
import numpy as np

from common.errors import InputError
from common.parity.mapping import Entry, Map, parse_map
from common.parity.order import group_of
from common.parity.traces import Trace, trace_of
from common.protocol import Array, Arrays
from common.weights.checkpoint import read_tensors, write_tensors

FORMAT = {"format": "rosetta-trace", "schema": "2"}
"""Metadata that says what the file is."""


@dataclass(frozen=True)
class Tensor:
    """A weight or buffer, as its framework has it.

    `axes` names its axes, as einops does: `o i h w`; empty where they are not known. `flipped` are
    those that run backwards. A tensor that is not `trained` has no gradient.
    """

    shape: tuple[int, ...]
    axes: str
    trained: bool
    flipped: str = ""


@dataclass(frozen=True)
class Layer:
    """A module of a network.

    `kind` is its class; `tensors` are its own weights and buffers: the name of each in the layer,
    and in the network. `channels` is the axis of the channels in what goes in and comes out; None
    where the layer has no such thing. `settings` are its attributes that are plain values.
    """

    kind: str
    tensors: Mapping[str, str]
    channels: int | None = None
    settings: str = ""


TENSOR_GROUPS = ("weight", "grad", "buffer", "final")
"""Groups of values that are named after a tensor."""


_REMARKS = {
    "random": "random, not the same when made again",
    "symmetric": "too much alike to show a mistake",
    "missing": "has no gradient",
}
"""What the recorder notices of values and tensors, and how it is said."""


class Record(Trace):
    """A trace of any network: what goes into its layers and comes out, and its tensors."""

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What the recorder tells, see `docs/recording.md`."""
        told: dict[str, Any] = json.loads(self.metadata["record"])
        return told

    @functools.cached_property
    def layers(self) -> dict[str, Layer]:
        return {path: Layer(**row) for path, row in self.facts["layers"].items()}

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        rows = self.facts["tensors"].items()
        return {name: Tensor(**{**row, "shape": tuple(row["shape"])}) for name, row in rows}

    @functools.cached_property
    def owners(self) -> dict[str, str]:
        """The layer that owns each tensor."""
        return {t: path for path, layer in self.layers.items() for t in layer.tensors.values()}

    def remarks(self) -> list[str]:
        """What the recorder noticed, in words."""
        told = list(self.facts["notes"])
        for key, words in _REMARKS.items():
            if names := self.facts[key]:
                more = f" (and {len(names) - 3} more)" if len(names) > 3 else ""
                told.append(f"{words}: {', '.join(names[:3])}{more}")
        if not any(name.startswith("weight/") for name in self.arrays):
            told.append("holds no weights: that they are the reference's is believed")
        if found := self.map:
            told += [
                f"{n} has no counterpart: {why}" for n, why in found.unmatched.get("b", {}).items()
            ]
            told += [
                f"reference's {n} has none here: {why}"
                for n, why in found.unmatched.get("a", {}).items()
            ]
        return told

    def describe(self) -> dict[str, Any]:
        """Label, versions, and what the recorder noticed, for a report."""
        noticed = {key: self.facts[key] for key in ("notes", "random", "symmetric", "missing")}
        unmatched = self.facts.get("map", {}).get("unmatched", {})
        told = super().describe() | {key: found for key, found in noticed.items() if found}
        told |= {"network": "any"} | ({"unmatched": unmatched} if unmatched else {})
        return {key: value for key, value in told.items() if key != "record"}

    @property
    def order(self) -> list[str]:
        """Every value of the passes in the order in which it was made."""
        return list(self.facts["order"])

    @property
    def noise(self) -> dict[str, float]:
        """How far a value moves when weights and inputs move by a rounding."""
        return dict(self.facts["noise"])

    @property
    def map(self) -> Map | None:
        """How its tensors were made from another record's, if they were."""
        return parse_map(self.facts["map"], self.label) if "map" in self.facts else None

    @functools.cached_property
    def calls(self) -> list[str]:
        """The layers that were called, in order of their first call."""
        found = (split_value(name)[1] for name in self.order)
        return list(dict.fromkeys(filter(None, found)))

    def tensor(self, name: str) -> Array:
        """The value that a tensor had at the start.

        Raises:
            InputError: the record was made without weights.
        """
        try:
            return self.arrays[f"weight/{name}"]
        except KeyError:
            raise InputError(f"{self.label}: holds no weights: made with weights=False") from None


LOCAL = "local/"
"""What the names of the local run's values begin with."""

_VALUE = re.compile(r"(eval|train|local/eval|local/train)/(.*?)(?:@(\d+))?:(in|out)(.*)", re.DOTALL)


def split_value(name: str) -> tuple[str, str, int, str]:
    """`train/conv1@2:in.0` -> `train`, `conv1`, 2, `in.0`; the network's output has no layer."""
    found = _VALUE.fullmatch(name)
    if found is None:
        return name.partition("/")[0], "", 1, ""
    mode, layer, number, side, leaf = found.groups()
    return mode, layer, int(number or 1), side + leaf


def read_record(path: Path) -> Record:
    """A record's file.

    Raises:
        InputError: it cannot be read, or is no trace of schema 2.
    """
    record = read_any(path)
    if not isinstance(record, Record):
        raise InputError(f"{path}: a trace of schema 1, not a record of any network")
    return record


def read_any(path: Path) -> Trace:
    """A trace's file: a `Record`, where it is one.

    Raises:
        InputError: it cannot be read, is no trace, or is one of another schema.
    """
    arrays, metadata = read_tensors(path)
    if any(metadata.get(key) != value for key, value in FORMAT.items()):
        return trace_of(path, arrays, metadata)
    record = Record(path.stem, arrays, metadata)
    try:
        same = record.facts["same"]
        told = ("order", "noise", "notes", *_REMARKS)
        if missing := [key for key in told if key not in record.facts]:
            raise KeyError(missing[0])
        _ = record.layers, record.tensors
        whole = {**arrays, **{name: arrays[other] for name, other in same.items()}}
        return Record(path.stem, whole, metadata)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: its metadata do not describe a record: {error}") from None


def write_record(path: Path, record: Record) -> None:
    """Writes a record's file. An array that stands under several names is written once.

    Raises:
        InputError: the file cannot be written.
    """
    first: dict[int, str] = {}
    same = {n: own for n, a in record.arrays.items() if (own := first.setdefault(id(a), n)) != n}
    arrays = {name: a for name, a in record.arrays.items() if name not in same}
    told = json.dumps({**record.facts, "same": same})
    write_tensors(path, arrays, {**record.metadata, "record": told})


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
    own = set(layer.tensors.values()) if array.ndim == 2 else set()
    for e in (entry for entry in found.entries if entry.b in own):
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
        arrays |= {f"{group}/{name}": array for name, array in found.to_a(own).items()}
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
    facts |= {key: reference.facts[key] for key in ("layers", "tensors", "order")}
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


def check_start(record: Record, reference: Record) -> None:
    """That a translated record starts from the reference's weights and inputs.

    Raises:
        InputError: it starts from others.
    """
    for group, what in (("weight/", "weights"), ("input", "inputs")):
        for name, array in reference.arrays.items():
            other = record.arrays.get(name) if name.startswith(group) else None
            if other is not None and not np.array_equal(array, other):
                raise InputError(
                    f"{record.label}: made from other {what} than {reference.label} ({name}):"
                    " nothing to compare; record it with against="
                )


def paired_outputs(record: Record, reference: Record) -> dict[str, str]:
    """What the network is given and returns: by name where all names agree, else by their order."""
    pairs: dict[str, str] = {}
    for beginning in ("eval/output", "train/output", "input"):
        mine, theirs = (
            [n for n in r.arrays if n.startswith(beginning) and not split_value(n)[1]]
            for r in (record, reference)
        )
        agree = {*mine} == {*theirs}
        pairs |= dict(zip(mine, mine if agree else theirs, strict=False))
    return pairs


def paired_layers(record: Record, reference: Record, found: Map) -> dict[str, str]:
    """Which layer of `reference` is the counterpart of which of `record`.

    Layers are paired by the tensors that they own. Where one stands for several, as PyTorch's
    attention does for Flax's, it is paired with the module that holds them.
    """
    together: list[tuple[set[str], set[str]]] = []
    for e in found.entries:
        mine, theirs = record.owners.get(e.b), reference.owners.get(e.a)
        if mine is None or theirs is None:
            continue
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


_MADE_FROM = {
    "loss": {"train"},
    "grad": {"train", "loss", "grad"},
    "buffer": {"train"},
    "final": {"train", "loss", "grad", "buffer", "final"},
}
"""From which groups a difference comes down to one; none comes down to the local run."""


def feed_of(record: Record, reference: Record, found: Map) -> Arrays:
    """What goes into the layers of `reference` and comes out, in the names of `record`."""
    feed = {}
    for own, name in paired_values(record, reference, found).items():
        shape = record.arrays[own].shape
        turned = _as_in(record, own, reference, name, shape, found, back=False)
        if turned.shape == shape:  # else it is another value, and is told as such
            feed[own] = np.ascontiguousarray(turned)
    return feed


class RecordOrder:
    """The order of the values of records: see `common.parity.order.Order`.

    Each part of the local run stands alone; of the passes, what goes into a layer follows from what
    came before, and what comes out follows from what went in.
    """

    def __init__(self, reference: Record, steps: int) -> None:
        passes = reference.order
        trained = [name for name, tensor in reference.tensors.items() if tensor.trained]
        place = {path: k for k, path in enumerate(reference.calls)}
        owners = reference.owners
        # what the network itself owns, as a class token, is read before its layers are called
        backward = sorted(trained, key=lambda name: -place.get(owners[name], -1))
        self.reference = reference
        self.values = [
            *(f"local/{name}" for name in passes if split_value(name)[1]),
            *passes,
            "loss[0]",
            *(f"grad/{name}" for name in backward),
            *(f"buffer/{name}" for name in reference.tensors if name not in trained),
            *(f"loss[{step}]" for step in range(1, steps)),
            *(f"final/{name}" for name in reference.tensors),
        ]

    def stage_of(self, name: str) -> str:
        stages = {"local": "local", "eval": "forward", "train": "forward", "loss[0]": "forward"}
        stages |= {"grad": "gradient", "buffer": "buffer"}
        return stages.get(name) or stages.get(group_of(name), "steps")

    def layer_of(self, name: str) -> str | None:
        group, _, tensor = name.partition("/")
        if group in TENSOR_GROUPS:
            return self.reference.owners.get(tensor)
        return split_value(name)[1] or None

    def inherits(self, name: str, parted: Sequence[str]) -> bool:
        group, groups = group_of(name), {group_of(other) for other in parted}
        if group == "local":  # what a layer does in eval mode it does in training too
            return name.replace("local/train/", "local/eval/", 1) in parted
        if group in ("eval", "train"):
            if f"local/{name}" in parted or f"eval/{name.removeprefix('train/')}" in parted:
                return True
            layer, side, _ = name.partition(":out")
            if side:
                return any(other.startswith(f"{layer}:in") for other in parted)
            return group in groups
        if name != "loss[0]" and group == "loss":
            group = "final"
        return bool(groups & _MADE_FROM.get(group, set()))

    def healed(self, parted: Mapping[str, bool]) -> set[str]:
        """What is done in another place, and is right again before the network's end.

        A value of a pass that returns what the reference returns; and of the local run, which puts
        the reference's values in between, what is healed in the pass, or agrees there.
        """
        found: set[str] = set()
        for mode in ("eval/", "train/"):
            names = [name for name in parted if name.startswith(mode)]
            returned = [name for name in names if not split_value(name)[1]]
            if returned and not any(parted[name] for name in returned):
                found |= {name for name in names if parted[name]}
        alone = {name for name in parted if name.startswith(LOCAL) and parted[name]}
        for name in alone:
            plain = name.removeprefix(LOCAL)
            if plain in found or not parted.get(plain, True):
                found.add(name)
        return found

    def place_of(self, name: str, present: Collection[str]) -> str:
        local, plain = name.startswith(LOCAL), name.removeprefix(LOCAL)
        mode, layer, _, side = split_value(plain)
        if side.startswith("out"):
            return f"made by {self.reference.layers[layer].kind}"
        if plain.startswith("grad/"):
            owner = self.reference.owners[plain.removeprefix("grad/")]
            later = [n for n in self.values if n in present and n.startswith("grad/")]
            others = [self.reference.owners[n[5:]] for n in later[: later.index(plain)]]
            behind = next((other for other in reversed(others) if other != owner), "the loss")
            return f"on the way back from {behind} to {owner or 'the network'}"
        if not side and "output" not in plain:
            return ""
        before = self.reference.order[: self.reference.order.index(plain)]
        outs = [n for n in before if ":out" in n and n.startswith(mode)]
        if origin := self._origin(plain, outs):
            outs = outs[: outs.index(origin) + 1]
        known = [n for n in outs if (f"{LOCAL}{n}" if local else n) in present]
        start = split_value(known[-1])[1] if known else "the input"
        unpaired = outs[outs.index(known[-1]) + 1 :] if known else outs
        leaves = [split_value(n)[1] for n in unpaired]
        inner = ", ".join(dict.fromkeys(leaves[:3])) + (", ..." if len(leaves) > 3 else "")
        return f"between {start} and {layer or 'the output'}" + (f" ({inner})" if inner else "")

    def _origin(self, name: str, outs: Sequence[str]) -> str | None:
        """The output that a value is, though perhaps in another shape."""
        arrays = self.reference.arrays
        value = arrays[name].ravel()
        alike = (n for n in reversed(outs) if arrays[n].size == value.size)
        return next((n for n in alike if np.array_equal(arrays[n].ravel(), value)), None)
