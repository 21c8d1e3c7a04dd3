"""Looking at a network from outside: what modules are called with and return, what they are."""

import dataclasses
import fnmatch
import inspect
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.parity.masks import Masks
from common.parity.records import SOURCE_SIZE, Source

Feed = Mapping[str, Any]
"""For the local run: what goes into layers, `conv1:in`, and what they answer, `conv1:out`."""


def map_leaves(
    value: Any, is_leaf: Callable[[Any], bool], function: Callable[[str, Any], Any], path: str = ""
) -> Any:
    """`value` with each leaf in it replaced by `function(path, leaf)`.

    It looks into tuples, lists, mappings and dataclasses; all else is left as it is.
    """
    if is_leaf(value):
        return function(path, value)

    def inside(key: object, part: Any) -> Any:
        return map_leaves(part, is_leaf, function, f"{path}.{key}" if path else str(key))

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.init]
        return dataclasses.replace(value, **{k: inside(k, getattr(value, k)) for k in names})
    if isinstance(value, Mapping):
        parts = {key: inside(key, part) for key, part in value.items()}
        return parts if type(value) is dict else type(value)(parts)  # type: ignore[call-arg]
    if isinstance(value, tuple | list):
        found = [inside(k, part) for k, part in enumerate(value)]
        # a named tuple's own way makes it of any parts, and PyTorch's PackedSequence is one
        return type(value)._make(found) if hasattr(value, "_make") else type(value)(found)
    return value


def flat(value: Any, is_leaf: Callable[[Any], bool]) -> dict[str, Any]:
    """The leaves of `value` by path."""
    found: dict[str, Any] = {}
    map_leaves(value, is_leaf, lambda path, leaf: found.setdefault(path, leaf))
    return found


def leaves(value: Any, is_leaf: Callable[[Any], bool]) -> dict[str, Any]:
    """The same; one that is alone has the empty path."""
    found = flat(value, is_leaf)
    return {"": next(iter(found.values()))} if len(found) == 1 else found


def is_numpy(value: Any) -> bool:
    """Whether it is an array of NumPy."""
    return isinstance(value, np.ndarray)


def joined(name: str, leaf: str) -> str:
    """`conv1:out` and `0` -> `conv1:out.0`."""
    return f"{name}.{leaf}" if leaf else name


class Watcher:
    """Gathers what layers are called with and return, in order; or feeds them, in a local run.

    `keep` makes of a framework's array what is kept, of the layers whose paths fit a `pattern`.
    Where there are `masks`, layers of dropout are called as these say.
    """

    def __init__(
        self,
        is_array: Callable[[Any], bool],
        keep: Callable[[Any], Any],
        feed: Feed | None = None,
        pattern: str = "*",
        masks: Masks | None = None,
    ) -> None:
        self.is_array, self.keep, self.feed = is_array, keep, feed or {}
        self.pattern, self.masks = pattern, masks
        self.values: dict[str, Any] = {}
        self.calls: dict[str, int] = {}
        self.hidden: set[str] = set()
        """Layers inside of which others are called that cannot be looked at."""

    def keeps(self, path: str) -> bool:
        """Whether a layer is looked at: all but the whole network, and what the pattern leaves."""
        return bool(path) and fnmatch.fnmatchcase(path, self.pattern)

    def call(self, path: str, run: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Calls a layer, `run(*args, **kwargs)`, and looks on, if it is looked at."""
        if not self.keeps(path):
            return run(*args, **kwargs)
        number = self.calls[path] = self.calls.get(path, 0) + 1
        name = f"{path}@{number}" if number > 1 else path
        *args, kwargs = self._look(f"{name}:in", [*args, kwargs])
        return self._look(f"{name}:out", run(*args, **kwargs))

    def _look(self, name: str, value: Any) -> Any:
        found = leaves(value, self.is_array)

        def look(path: str, array: Any) -> Any:
            full = name if len(found) == 1 else joined(name, path)
            self.values[full] = self.keep(array)
            return self.feed.get(full, array)

        return map_leaves(value, self.is_array, look)


def kind_of(module: Any, library: str, bases: set[type]) -> str:
    """A module's class, or the class of the library that it is derived from, which says more."""
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.startswith(library)]
    return next((kind for kind in kinds if kind not in bases), type(module)).__name__


def source_of(forward: Any, library: str | tuple[str, ...]) -> Source | None:
    """The code of a module's forward pass, cut where it is too long.

    None of the library's own, whose settings say more, and where Python has no text of it.
    """
    function = inspect.unwrap(forward)
    try:
        file = inspect.getsourcefile(function)
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError):  # written in C or typed in; no function
        return None
    if file is None or function.__module__.startswith(library):
        return None
    text = textwrap.dedent("".join(lines)).rstrip()
    if len(text) > SOURCE_SIZE:
        text = text[: SOURCE_SIZE - 4].rpartition("\n")[0] + "\n..."
    return Source(Path(file).name, first, text)


def settings_of(module: Any) -> str:
    """The attributes of a layer that are plain values, in words: `eps=1e-05, momentum=0.1`."""
    told = {key: value for key, value in vars(module).items() if not key.startswith("_")}
    told |= getattr(module, "_kwargs", {})  # where Gluon's layers keep theirs
    plain = {k: v for k, v in told.items() if _is_plain(v) and k not in ("training", "name")}
    return ", ".join(f"{key}={value}" for key, value in plain.items())


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)
