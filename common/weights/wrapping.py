"""One network's tensors out of all that a training program has saved with them.

The tensors of a file come by flat names: what is nested is joined by dots. Where those of a network
all begin alike (`state_dict.model.`, `module.`, `encoder.`), they are taken without that beginning.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from common.errors import InputError, listed
from common.text import shorten
from common.weights.namings import backbone_of

Array = NDArray[Any]

_INNER = re.compile(r"(?<![^.])(_orig_mod|_modules|_parameters|_buffers)\.")
"""What stands inside a name and says nothing: a compiled module's, and those of a pickled one."""

_PARAMS, _STATISTICS = (re.compile(rf"(?<![^.]){name}\.") for name in ("params", "batch_stats"))
"""Flax's two collections: one network's layers are in both."""

_AVERAGED = re.compile(r"(^|[._])(ema|swa|avg)([._]|$)|average", re.IGNORECASE)
"""What the weights are called that are a mean over many steps."""

_FEWEST, _MOST, _SHARE = 40, 5000, 0.5
"""Tensors under a beginning, and their share in a backbone, for it to be a network's of ours."""

_DEPTH, _BEGINNINGS = 32, 500
"""Levels and beginnings that are looked at."""

_LENGTH = 60
"""Letters of a beginning in a note."""


def _plain(names: Iterable[str]) -> dict[str, str]:
    """Each name without what says nothing, and both of Flax's collections under one beginning."""
    plain = {name: _INNER.sub("", name) for name in names}
    if any(map(_PARAMS.search, plain.values())):
        return {name: _STATISTICS.sub("params.", other) for name, other in plain.items()}
    return plain


def _beginnings(names: Iterable[str]) -> list[str]:
    """Those of enough names, the shortest first; "" is one."""
    counts: Counter[str] = Counter()
    for name in names:
        counts[""] += 1
        dots = islice(re.finditer(r"\.", name), _DEPTH)
        counts.update(name[: dot.end()] for dot in dots)
    enough = [b for b, count in counts.items() if _FEWEST <= count <= _MOST]
    return sorted(enough, key=len)[:_BEGINNINGS]


def _networks(names: Iterable[str]) -> list[str]:
    """The beginnings under which the most of a backbone is, each of other tensors."""
    names = list(names)
    found: dict[str, frozenset[str]] = {}
    shares: dict[str, float] = {}
    for beginning in _beginnings(names):
        inside = [name.removeprefix(beginning) for name in names if name.startswith(beginning)]
        share, backbone = backbone_of(inside)
        whole = frozenset(beginning + name for name in backbone)
        if share >= _SHARE and whole not in found.values():
            found[beginning], shares[beginning] = whole, share
    most = max(shares.values(), default=0)
    return [beginning for beginning, share in shares.items() if share == most]


def _chosen(path: Path, networks: list[str]) -> str:
    """The one network, or that which is the mean of another."""
    if len(networks) == 1:
        return networks[0]
    averaged = [beginning for beginning in networks if _AVERAGED.search(beginning)]
    if len(averaged) != 1:
        these = listed([shorten(beginning[:-1], _LENGTH) or "one bare" for beginning in networks])
        raise InputError(f"{path}: holds {len(networks)} networks, {these}: save one of them alone")
    return averaged[0]


def _group(name: str, beginning: str) -> str:
    """What a tensor beside a network is part of: `optimizer`, `state_dict.criterion`."""
    parts = name.split(".")
    groups = (".".join(parts[:count]) for count in range(1, len(parts)))
    return next((group for group in groups if not beginning.startswith(f"{group}.")), name)


def unwrapped(path: Path, arrays: Mapping[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """The tensors of the one network in a file, by its names, and a line for each thing done.

    Of two networks, the one that is averaged is taken. Where no beginning makes the names those
    of a network that is known, all are returned as they are.

    Raises:
        InputError: there are several networks, or two tensors of one name.
    """
    plain = _plain(arrays)
    twice = [name for name, count in Counter(plain.values()).items() if count > 1]
    if twice:
        raise InputError(f"{path}: two tensors are called {shorten(twice[0], _LENGTH)}")
    networks = _networks(plain.values())
    if not networks:
        return dict(arrays), []
    beginning = _chosen(path, networks)
    inside = [name for name, other in plain.items() if other.startswith(beginning)]
    notes = []
    if beginning:
        joined = " and batch_stats" if any(map(_STATISTICS.search, inside)) else ""
        averaged = ", which is averaged" if len(networks) > 1 else ""
        notes.append(f"unwrapped: {shorten(beginning[:-1], _LENGTH)}{joined}{averaged}")
    if dropped := {match[1] for name in inside for match in _INNER.finditer(name)}:
        notes.append(f"unwrapped: names without {', '.join(sorted(dropped))}")
    beside = Counter(
        _group(other, beginning) for other in plain.values() if not other.startswith(beginning)
    )
    if beside:
        shown = {shorten(group, _LENGTH): count for group, count in beside.items()}
        groups = [f"{group} ({n} tensors)" if n > 1 else group for group, n in shown.items()]
        notes.append(f"left out: {listed(groups)}")
    return {plain[name].removeprefix(beginning): arrays[name] for name in inside}, notes
