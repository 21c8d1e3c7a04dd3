"""Recording a run of any network: the part that needs no framework.

A framework's `record.py` makes a `Subject` of a user's model: a function from weights and inputs to
every value on the way. Here it is decided what is run, how often and under which names it is kept;
`docs/recording.md` describes the file.
"""

import dataclasses
import fnmatch
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import einops
import numpy as np

from common.errors import InputError
from common.parity.compare import relative_l2
from common.parity.mapping import Map, map_to_data, read_map
from common.parity.matching import match
from common.parity.records import (
    FORMAT,
    Layer,
    Record,
    Tensor,
    alike,
    feed_of,
    paired_outputs,
    read_record,
    write_record,
)
from common.protocol import Array, Arrays

Mode = Literal["eval", "train"]


@dataclass
class Pass:
    """One pass through a network.

    `values` are in the order in which they were made: `conv1:in`, `conv1:out`, ... The same array
    may stand under several names. `output` are the leaves of what the network returned. In train
    mode: `buffers` afterwards and, with a loss, `loss` and `gradients`, None of a weight that has
    none.
    """

    values: Arrays
    output: Arrays
    loss: Array | None = None
    gradients: dict[str, Array | None] = field(default_factory=dict)
    buffers: Arrays = field(default_factory=dict)


Call = tuple[Sequence[Any], Mapping[str, Any]]
"""Arguments of a call, by position and by name; arrays in them are NumPy's."""

Feed = Mapping[str, Any]
"""For the local run: what goes into layers, `conv1:in`, and what they answer, `conv1:out`."""


class Subject(Protocol):
    """A user's model as a function: it keeps nothing from one call to the next."""

    framework: str
    weights: Arrays
    notes: list[str]
    pattern: str
    """Which layers are looked at."""

    @property
    def tensors(self) -> Mapping[str, Tensor]: ...

    @property
    def layers(self) -> Mapping[str, Layer]: ...

    def versions(self) -> dict[str, str]: ...

    def run(
        self, weights: Arrays, call: Call, mode: Mode, seed: int, feed: Feed | None = None
    ) -> Pass:
        """A pass in `mode`; in train mode with the loss's gradients, where there is a loss."""

    def train(self, weights: Arrays, calls: Sequence[Call], seed: int) -> tuple[Array, Arrays]:
        """The user's optimizer over `calls`: the loss before each step, all tensors at the end."""


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
        return type(value)(*found) if hasattr(value, "_fields") else type(value)(found)
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
    """

    def __init__(
        self,
        is_array: Callable[[Any], bool],
        keep: Callable[[Any], Any],
        feed: Feed | None = None,
        pattern: str = "*",
    ) -> None:
        self.is_array, self.keep, self.feed = is_array, keep, feed or {}
        self.pattern = pattern
        self.values: dict[str, Any] = {}
        self.calls: dict[str, int] = {}

    def keeps(self, path: str) -> bool:
        """Whether a layer is looked at: all but the whole network, and what the pattern leaves."""
        return bool(path) and fnmatch.fnmatchcase(path, self.pattern)

    def call(self, path: str, run: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Calls a layer, `run(*args, **kwargs)`, and looks on."""
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


def generic_values(subject: Subject, seed: int) -> Arrays:
    """Random values away from the defaults, which hide mistakes: for each tensor its own.

    What is 1 everywhere, as a scale or a variance is, becomes 0.5 to 1.5, and where it is trained
    one in four is negative; what is 0, as a bias or a mean is, becomes normal with deviation 0.2.
    Any other weight becomes normal, with variance 1 / fan-in; any other buffer is moved by up to a
    half. So they depend on the seed, and not on what a fresh network has drawn.
    """
    values = {}
    for number, (name, array) in enumerate(subject.weights.items()):
        random = np.random.default_rng([seed, number])
        tensor, factor = subject.tensors[name], random.uniform(0.5, 1.5, array.shape)
        if array.size and (array == 1).all():
            sign = np.where(random.random(array.shape) < 0.25, -1, 1) if tensor.trained else 1
            values[name] = factor * sign
        elif (array == 0).all() or (tensor.trained and array.ndim < 2):
            values[name] = random.normal(0, 0.2, array.shape)
        elif tensor.trained:
            values[name] = random.normal(0, 1, array.shape) / math.sqrt(_fan_in(tensor))
        else:
            values[name] = array * factor
    return values


def _fan_in(tensor: Tensor) -> int:
    """How many values each value made is a sum over; 1 of a table, from which one is picked."""
    axes = tensor.axes.split() or ["o", *"i" * (len(tensor.shape) - 1)]
    sizes = [n for axis, n in zip(axes, tensor.shape, strict=True) if axis[0] not in "ov"]
    return math.prod(sizes)


def symmetric_tensors(weights: Mapping[str, Array]) -> list[str]:
    """Tensors whose values are too much alike to show a mistake."""

    def alike(array: Array) -> bool:
        if array.size < 2:
            return False
        constant = bool((array == array.flat[0]).all())
        square = array.ndim > 1 and array.shape[0] == array.shape[1] > 1
        return constant or (square and np.array_equal(array, array.swapaxes(0, 1)))

    return [name for name, array in weights.items() if alike(array)]


def _moved(value: Any, random: np.random.Generator) -> Any:
    """Floats moved by one rounding or none."""

    def move(_: str, array: Array) -> Array:
        ulps = random.integers(-1, 2, array.shape) * np.finfo(array.dtype).eps
        moved: Array = array * (1 + ulps)
        return moved

    return map_leaves(value, _is_float, move)


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _named(run: Pass, mode: Mode) -> dict[str, Array]:
    """The values of a pass under the names of a trace."""
    values = {f"{mode}/{name}": array for name, array in run.values.items()}
    values |= {joined(f"{mode}/output", leaf): array for leaf, array in run.output.items()}
    if run.loss is not None:
        values["loss"] = np.atleast_1d(run.loss)
    values |= {f"grad/{name}": a for name, a in run.gradients.items() if a is not None}
    return values | {f"buffer/{name}": array for name, array in run.buffers.items()}


def _runs(subject: Subject, weights: Arrays, call: Call, seed: int) -> dict[str, Array]:
    """Both passes' values.

    Raises:
        InputError: the model, or the loss, cannot be called so.
    """
    try:
        return _passes(subject, weights, call, seed)
    except InputError:
        raise
    except Exception as error:
        told = (str(error).strip() or "no word why").splitlines()[0]
        raise InputError(
            f"the model cannot be run on these inputs: {type(error).__name__}: {told}"
        ) from error


def _passes(subject: Subject, weights: Arrays, call: Call, seed: int) -> dict[str, Array]:
    modes: tuple[Mode, ...] = ("eval", "train")
    found: dict[str, Array] = {}
    for mode in modes:
        found |= _named(subject.run(weights, call, mode, seed), mode)
    return found


def _record_of(subject: Subject, weights: Arrays, values: Arrays, facts: dict[str, Any]) -> Record:
    """A record of `values`; `facts` are added to what the subject tells."""
    told = {
        "layers": {path: dataclasses.asdict(layer) for path, layer in subject.layers.items()},
        "tensors": {name: dataclasses.asdict(t) for name, t in subject.tensors.items()},
        "order": [name for name in values if name.startswith(("eval/", "train/"))],
        "notes": subject.notes,
    }
    about = {"backend": subject.framework, "versions": json.dumps(subject.versions())}
    arrays = values | {f"weight/{name}": array for name, array in weights.items()}
    metadata = FORMAT | about | {"dtype": "float64", "record": json.dumps(told | facts)}
    return Record(subject.framework, arrays, metadata)


@dataclass(frozen=True)
class Options:
    """What `record` is asked for besides the call itself: see there."""

    out: Path | str
    optimizer: bool
    generic: int | None
    against: Path | str | None
    map: Path | str | None
    keep: str
    weights: bool


def record_subject(subject: Subject, called: Any, options: Options) -> Record:
    """What each framework's `record` does, but for the model. Its arguments there:

    - `model`, `*inputs`, `keywords`: the user's own call, `model(*inputs, **keywords)`; `train` and
      `eval` are further keyword arguments of the one mode and the other.
    - `loss`: makes a scalar of what the model returns. Without it the record is forward only.
    - `optimizer`: the user's; then `steps` are made, each with the same inputs, or with those of a
      sequence of further `inputs`.
    - `generic`: a seed; every tensor gets random values first, `generic_values`.
    - `against`: a record, the reference. The weights are taken from it, through the `map`, a file;
      where there is none of that name, one is proposed and written. And the *local run* is added:
      each layer fed with what went into it in the reference, and answering with what came out.
    - `out`: the file that is written; with `weights=False` without the weights, and of the layers
      those alone whose path fits `keep`, a pattern such as `encoder.*`: for large networks.

    Raises:
        InputError: a file cannot be read or written, or the map does not fit.
    """
    inputs, keywords, steps = called
    subject.pattern = options.keep
    given = [inputs] * steps if isinstance(steps, int) else [inputs, *steps]
    calls: list[Call] = [(args, keywords) for args in given]
    weights = subject.weights
    if options.generic is not None:
        weights = generic_values(subject, options.generic)
    facts: dict[str, Any] = {}
    if options.against is not None:
        reference = read_record(Path(options.against))
        found = _map_from(reference, subject, calls[0], options.map)
        weights = weights | checked(found, reference, subject)
        facts["map"] = map_to_data(found)
    values = _runs(subject, weights, calls[0], seed=0)
    again = _runs(subject, weights, calls[0], seed=1)
    noise: dict[str, float] = {}
    for repetition in range(2):
        random = np.random.default_rng(repetition)
        moved = _runs(subject, _moved(weights, random), _moved(calls[0], random), seed=0)
        for name, array in values.items():
            if array.dtype.kind == "f":
                key = "loss[0]" if name == "loss" else name
                noise[key] = max(noise.get(key, 0.0), relative_l2(moved[name], array))
    facts |= {
        "noise": noise,
        "random": [n for n, a in values.items() if not _equal(a, again[n])],
        "missing": [
            name
            for name, tensor in subject.tensors.items()
            if tensor.trained and "loss" in values and f"grad/{name}" not in values
        ],
        "symmetric": symmetric_tensors(weights),
    }
    if options.optimizer:
        values |= _trained(subject, weights, calls)
        random = np.random.default_rng(0)
        moved = _trained(subject, _moved(weights, random), _moved(calls, random))
        for name, array in moved.items():
            if name != "loss":
                noise[name] = relative_l2(array, values[name])
        for step, (a, b) in enumerate(zip(moved["loss"], values["loss"], strict=True)):
            noise[f"loss[{step}]"] = max(noise.get(f"loss[{step}]", 0.0), relative_l2(a, b))
    if options.against is not None:
        values |= _run_locally(subject, weights, calls[0], reference, found, values)
    given_arrays = leaves([*inputs, dict(keywords)], is_numpy)
    values |= {joined("input", path): array for path, array in given_arrays.items()}
    record = _record_of(subject, weights if options.weights else {}, values, facts)
    write_record(Path(options.out), record)
    return record


def _trained(subject: Subject, weights: Arrays, calls: Sequence[Call]) -> Arrays:
    losses, final = subject.train(weights, calls, seed=0)
    return {"loss": losses} | {f"final/{name}": array for name, array in final.items()}


def _equal(a: Array, b: Array) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _map_from(reference: Record, subject: Subject, call: Call, file: Path | str | None) -> Map:
    """The map in a file; where there is none yet, one is proposed, and written to it."""
    path = None if file is None else Path(file)
    if path is not None and path.exists():
        return read_map(path)
    values = _runs(subject, subject.weights, call, seed=0)
    record = _record_of(subject, subject.weights, values, {})

    def wrong(tried: Map) -> float:
        """How far what lies between the layers is from the reference's, in eval mode."""
        feed = {n: a for n, a in feed_of(record, reference, tried).items() if n[:5] == "eval/"}
        own = {name.removeprefix("eval/"): array for name, array in feed.items()}
        run = subject.run(subject.weights, call, "eval", 0, own)
        pairs = [(run.values[name], array) for name, array in own.items() if ":in" in name]
        outputs = paired_outputs(record, reference)
        for name, array in _named(run, "eval").items():
            if name in outputs:
                pairs.append((array, alike(reference.arrays[outputs[name]], array.shape)))
        return sum(min(relative_l2(x, y), 1.0) for x, y in pairs if x.shape == y.shape)

    found, guessed = match(reference, record, wrong)
    if path is not None:
        about = "Which tensor of a, the reference, is which of b."
        found.write(path, about + "".join(f"\nA guess: {layer}" for layer in guessed))
    return found


def mapped(subject: Subject, against: Path | str, file: Path | str) -> Arrays:
    """The weights of a record as those of `subject`, float64, through the map in a file.

    Raises:
        InputError: a file cannot be read, or an entry of the map does not fit.
    """
    reference, found = read_record(Path(against)), read_map(Path(file))
    return checked(found, reference, subject)


def checked(found: Map, reference: Record, subject: Subject) -> Arrays:
    """What a map makes of a record's weights.

    Raises:
        InputError: a tensor of it is not there, or has another shape.
    """
    for e in found.entries:
        if e.a not in reference.tensors or e.b not in subject.tensors:
            unknown, whose = (
                (e.b, "the model") if e.a in reference.tensors else (e.a, reference.label)
            )
            raise InputError(f"map: {unknown} is no tensor of {whose}")
    held = {e.a: reference.tensor(e.a) for e in found.entries}
    for e in found.entries:
        try:
            e.to_b(held[e.a])
        except (ValueError, einops.EinopsError):
            shape = held[e.a].shape
            raise InputError(f"map: {e.a} {shape} to {e.b}: {e.axes!r} does not fit") from None
    arrays = found.to_b(held)
    for e in found.entries:
        if e.b not in arrays:
            raise InputError(f"map: of {e.b} a part is missing")
        if arrays[e.b].shape != subject.weights[e.b].shape:
            shapes = f"{arrays[e.b].shape}, not {subject.weights[e.b].shape}"
            raise InputError(f"map: {e.a} makes {e.b} {shapes}")
    return arrays


def _run_locally(
    subject: Subject, weights: Arrays, call: Call, reference: Record, found: Map, values: Arrays
) -> Arrays:
    """The passes once more, each layer fed with what went into it and came out in the reference."""
    record = _record_of(subject, weights, values, {})
    feed = feed_of(record, reference, found)
    local: Arrays = {}
    modes: tuple[Mode, ...] = ("eval", "train")
    for mode in modes:
        own = {n.removeprefix(f"{mode}/"): a for n, a in feed.items() if n.startswith(f"{mode}/")}
        seen = subject.run(weights, call, mode, 0, own).values
        local |= {f"local/{mode}/{name}": seen[name] for name in own}
    return local
