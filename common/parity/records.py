"""Records of any network: schema 2 of a trace, as `docs/recording.md` describes it."""

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import parse_json
from common.parity.mapping import Map, parse_map
from common.parity.tolerances import EPS
from common.parity.traces import Trace, trace_of
from common.protocol import Array, Arrays
from common.weights.checkpoint import read_tensors, write_tensors

FORMAT = {"format": "rosetta-trace", "schema": "2"}
"""Metadata that says what the file is."""

Reader = Callable[[Path], tuple[Arrays, dict[str, str]]]
"""As `read_tensors`."""


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


SOURCE_SIZE = 8000
"""How many characters of code are kept of a module at most."""


@dataclass(frozen=True)
class Source:
    """The code of a module's forward pass: the name of its file, its first line, its text.

    Raises:
        ValueError: it is none, or longer than `SOURCE_SIZE`.
    """

    file: str
    line: int
    text: str

    def __post_init__(self) -> None:
        if not all(isinstance(value, str) for value in (self.file, self.text)):
            raise ValueError("a source is no text")
        if not isinstance(self.line, int) or len(self.text) > SOURCE_SIZE:
            raise ValueError(f"source {self.file[:80]}: no line, or over {SOURCE_SIZE} characters")


@dataclass(frozen=True)
class Layer:
    """A module of a network.

    `kind` is its class; `tensors` are its own weights and buffers: the name of each in the layer,
    and in the network. `channels` is the axis of the channels in what goes in and comes out; None
    where the layer has no such thing. `settings` are its attributes that are plain values.
    `source` is its code; None of the framework's own, and where it is not known.
    """

    kind: str
    tensors: Mapping[str, str]
    channels: int | None = None
    settings: str = ""
    source: Source | None = None


def layers_to_data(layers: Mapping[str, Layer]) -> dict[str, Any]:
    """`layers` and `sources` of a record's metadata: a layer has the number of its source."""
    sources = list(dict.fromkeys(x.source for x in layers.values() if x.source))
    numbers = {source: number for number, source in enumerate(sources)}
    rows = {
        path: {**vars(x), "source": numbers[x.source] if x.source else None}
        for path, x in layers.items()
    }
    return {"layers": rows, "sources": [vars(source) for source in sources]}


def layers_from_data(data: Mapping[str, Any]) -> dict[str, Layer]:
    """The layers that `layers_to_data` has told."""
    sources = [Source(**row) for row in data["sources"]]
    layers = {}
    for path, row in data["layers"].items():
        number = row.get("source")
        layers[path] = Layer(**{**row, "source": None if number is None else sources[number]})
    return layers


TENSOR_GROUPS = ("weight", "grad", "buffer", "final")
"""Groups of values that are named after a tensor."""


_REMARKS = {
    "random": "random, not the same when made again",
    "symmetric": "too much alike to show a mistake",
    "missing": "has no gradient",
}
"""What the recorder notices of values and tensors, and how it is said."""


_UNTOLD: dict[str, Any] = {
    **{key: {} for key in ("noise", "same")},
    **{key: [] for key in ("notes", "sources", *_REMARKS)},
}
"""What a record need not tell."""


class Record(Trace):
    """A trace of any network: what goes into its layers and comes out, and its tensors."""

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What the recorder tells, see `docs/recording.md`."""
        return {**_UNTOLD, **parse_json(self.metadata["record"])}

    @functools.cached_property
    def layers(self) -> dict[str, Layer]:
        return layers_from_data(self.facts)

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        rows = self.facts["tensors"].items()
        return {name: Tensor(**{**row, "shape": tuple(row["shape"])}) for name, row in rows}

    @functools.cached_property
    def sharers(self) -> dict[str, list[str]]:
        """The layers that own each tensor: several, where they share it."""
        found: dict[str, list[str]] = {}
        for path, layer in self.layers.items():
            for tensor in layer.tensors.values():
                found.setdefault(tensor, []).append(path)
        return found

    @property
    def owners(self) -> dict[str, str]:
        """The layer that owns each tensor, the first that does."""
        return {tensor: paths[0] for tensor, paths in self.sharers.items()}

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
            made: dict[tuple[str, tuple[int, int]], list[str]] = {}
            for e in found.entries:
                made.setdefault((e.a, e.part), []).append(e.b)
            told += [
                f"reference's {a} is several here, which part in training: {', '.join(names)}"
                for (a, _), names in made.items()
                if len(names) > 1
            ]
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


def read_any(path: Path, read: Reader = read_tensors) -> Trace:
    """A trace's file: a `Record`, where it is one.

    `read` may be `map_tensors`, where many are looked at together.

    Raises:
        InputError: it cannot be read, is no trace, or is one of another schema.
    """
    arrays, metadata = read(path)
    if any(metadata.get(key) != value for key, value in FORMAT.items()):
        return trace_of(path, arrays, metadata)
    record = Record(path.stem, arrays, metadata)
    try:
        same = record.facts["same"]
        _ = record.layers, record.tensors
        _check_facts(record)
        whole = {**arrays, **{name: arrays[other] for name, other in same.items()}}
        return Record(path.stem, whole, metadata)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: its metadata do not describe a record: {error}") from None


def _check_facts(record: Record) -> None:
    """That what a record tells in words and numbers is that.

    Raises:
        ValueError: it is of another type.
    """
    if record.dtype not in EPS:
        raise ValueError(f"dtype {record.dtype!r}")
    for key in ("order", "notes", *_REMARKS):
        told = record.facts[key]
        if not isinstance(told, list) or not all(isinstance(name, str) for name in told):
            raise ValueError(f"{key} is no list of texts")
    if not all(isinstance(value, int | float) for value in record.facts["noise"].values()):
        raise ValueError("noise is not all numbers")


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
