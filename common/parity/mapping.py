"""Which tensor of one network is which of another, and how its axes are turned: a map.

A map is a small TOML file that a person can read and edit:

    tensor = [
      {a = "encoder.conv.weight", b = "encoder.conv.kernel", axes = "o i h w -> h w i o"},
    ]

`axes` is a pattern of einops, from `a` to `b`; without one, the two are laid out alike. `sizes` are
those of the parts of an axis (`"(n d) i -> i n d"`, `sizes = {n = 4}`); `flip` names axes that run
the other way in `b`; with `part = [1, 3]`, `b` is the second third of `a` along its first axis, or
that which `along` tells; with `into = [1, 3]` it is `a` that is such a part of `b`.

Where two tensors stand for one, of which their sum alone counts, as the two biases of a recurrent
layer do, one is an addend: with `addend = "a"`, `a` is added to what makes `b` besides, and back
from `b` the two cannot be told apart; with `addend = "b"`, `b` is zero, and back it is added.
`[unmatched.a]` and `[unmatched.b]` tell why a tensor has no counterpart.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import einops
import numpy as np

from common.errors import InputError
from common.files import TEXT_LIMIT, parse_toml, read_bytes, write_whole
from common.protocol import Array, Arrays


@dataclass(frozen=True)
class Entry:
    """A tensor of `a` and one of `b`; see the module."""

    a: str
    b: str
    axes: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    flip: str = ""
    part: tuple[int, int] = (0, 1)
    into: tuple[int, int] = (0, 1)
    along: int = 0
    addend: str = ""

    def to_b(self, array: Array) -> Array:
        """What `b`, or its part, is, of `a`."""
        number, parts = self.part
        array = np.split(array, parts, self.along)[number] if parts > 1 else array
        if not self.axes:
            return array
        turned = einops.rearrange(self._flipped(array), self.axes, **self.sizes)
        return np.array(turned, order="C")

    def to_a(self, array: Array) -> Array:
        """What `a`, or its part, is, of `b`."""
        number, parts = self.into
        array = np.split(array, parts, self.along)[number] if parts > 1 else array
        if not self.axes:
            return array
        left, right = self.axes.split("->")
        turned = einops.rearrange(array, f"{right} -> {left}", **self.sizes)
        return np.array(self._flipped(turned), order="C")

    def _flipped(self, array: Array) -> Array:
        names = self.axes.split("->")[0].split()
        axes = [k for k, name in enumerate(names) if name in self.flip.split()]
        return np.flip(array, axes) if axes else array


def _whole(found: Iterable[tuple[str, tuple[int, int], int, bool, Array]]) -> Arrays:
    """Tensors put together of their parts: each with its name, place, axis, and if it is added.

    Of several that are the same part the first counts.
    """
    parts: dict[str, dict[int, Array]] = {}
    places = {}
    for name, (number, count), along, added, array in sorted(found, key=lambda part: part[3]):
        own = parts.setdefault(name, {})
        own[number] = own[number] + array if added and number in own else own.get(number, array)
        places[name] = count, along
    return {
        name: np.concatenate([own[k] for k in sorted(own)], along) if count > 1 else own[0]
        for name, own in parts.items()
        for count, along in [places[name]]
        if len(own) == count
    }


@dataclass(frozen=True)
class Map:
    """The entries of a map, and of each side, `a` and `b`, why a tensor has none."""

    entries: tuple[Entry, ...]
    unmatched: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def to_b(self, arrays: Mapping[str, Array]) -> Arrays:
        """Tensors of `a` as those of `b`; one is left out when a part of it is missing."""
        made = ((e, e.to_b(arrays[e.a])) for e in self.entries if e.a in arrays)
        return _whole(
            (e.b, e.into, e.along, e.addend == "a", np.zeros_like(x) if e.addend == "b" else x)
            for e, x in made
        )

    def to_a(self, arrays: Mapping[str, Array], gradients: bool = False) -> Arrays:
        """Tensors of `b` as those of `a`; one is left out when a part of it is missing, or when it
        is one of two of which `b` has the sum. The gradient of a sum is that of each; that of a
        tensor of which `b` has two is their sum.
        """
        lost = {(e.b, e.into) for e in self.entries if e.addend == "a" and not gradients}
        left = {e.a for e in self.entries if (e.b, e.into) in lost}
        return _whole(
            (e.a, e.part, e.along, gradients or e.addend == "b", e.to_a(arrays[e.b]))
            for e in self.entries
            if e.b in arrays and e.a not in left and not (gradients and e.addend == "b")
        )

    def write(self, path: Path, about: str = "") -> None:
        """Writes the file; `about` becomes a comment at its top.

        Raises:
            InputError: the file cannot be written.
        """
        lines = [f"# {_printable(line)}" for line in about.splitlines()] + ["tensor = ["]
        for e in self.entries:
            sizes = ", ".join(f"{name} = {size}" for name, size in e.sizes.items())
            told = [f"a = {_quoted(e.a)}", f"b = {_quoted(e.b)}"]
            told += [f"axes = {_quoted(e.axes)}"] if e.axes else []
            told += [f"sizes = {{{sizes}}}"] if sizes else []
            told += [f"flip = {_quoted(e.flip)}"] if e.flip else []
            told += [f"part = {list(e.part)}"] if e.part != (0, 1) else []
            told += [f"into = {list(e.into)}"] if e.into != (0, 1) else []
            told += [f"along = {e.along}"] if e.along else []
            told += [f"addend = {_quoted(e.addend)}"] if e.addend else []
            lines.append(f"  {{{', '.join(told)}}},")
        lines.append("]")
        for side, reasons in self.unmatched.items():
            lines += ["", f"[unmatched.{side}]"] if reasons else []
            lines += [f"{_quoted(n)} = {_quoted(why)}" for n, why in reasons.items()]
        text = "\n".join(lines) + "\n"
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _printable(text: str) -> str:
    """A comment; TOML wants it without control characters, UTF-8 without half ones."""
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


def _quoted(text: str) -> str:
    """A string of TOML, which unlike JSON escapes DEL, and no character in two halves."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_map(path: Path) -> Map:
    """A map's file.

    Raises:
        InputError: it cannot be read, or is no map.
    """
    try:
        told = parse_toml(read_bytes(path, TEXT_LIMIT))
    except ValueError as error:
        raise InputError(f"{path}: no map: {error}") from None
    return parse_map(told, str(path))


def _check_entry(entry: Entry) -> None:
    """That its values are of the right types.

    Raises:
        ValueError: they are not, or `flip` names no axis.
    """
    for key in ("a", "b", "axes", "flip"):
        if not isinstance(getattr(entry, key), str):
            raise ValueError(f"{key} {getattr(entry, key)!r} is no text")
    if not all(isinstance(size, int) and size > 0 for size in entry.sizes.values()):
        raise ValueError(f"sizes {entry.sizes} are not all whole numbers from 1")
    if not isinstance(entry.along, int) or entry.along < 0:
        raise ValueError(f"along {entry.along!r} is no axis")
    if unknown := {*entry.flip.split()} - {*re.findall(r"\w+", entry.axes)}:
        raise ValueError(f"flip {' '.join(sorted(unknown))!r} is no axis of {entry.axes!r}")


def parse_map(told: Any, source: str) -> Map:
    """A map from plain data, `{"tensor": [...], "unmatched": {...}}`.

    Raises:
        InputError: it is not one.
    """
    if not isinstance(told, dict) or not isinstance(told.get("tensor"), list):
        raise InputError(f"{source}: no map: it has no list `tensor`")
    entries: list[Entry] = []
    for number, row in enumerate(told["tensor"], 1):
        try:
            shares = {key: tuple(row.get(key, (0, 1))) for key in ("part", "into")}
            entry = Entry(**{**row, **shares})
            for key, share in shares.items():
                if len(share) != 2 or not 0 <= share[0] < share[1]:
                    raise ValueError(f"{key} {list(share)} is not [k, n] with k < n")
            if entry.addend not in ("", "a", "b"):
                raise ValueError(f"addend {entry.addend!r} is neither a nor b")
            _check_entry(entry)
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{source}: tensor {number}: {error}") from None
        same = [e for e in entries if (e.b, e.into, e.along) == (entry.b, entry.into, entry.along)]
        if any("" == e.addend == entry.addend for e in same):
            raise InputError(f"{source}: tensor {number}: {entry.b} is made above already")
        entries.append(entry)
    return Map(tuple(entries), told.get("unmatched", {}))


def map_to_data(found: Map) -> dict[str, Any]:
    """What `parse_map` reads."""
    rows = [
        {key: value for key, value in vars(e).items() if value not in ("", {}, (0, 1), 0)}
        for e in found.entries
    ]
    return {"tensor": rows, "unmatched": {side: dict(r) for side, r in found.unmatched.items()}}
