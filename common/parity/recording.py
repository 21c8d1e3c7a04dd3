"""Recording a run of any network: the part that needs no framework.

A framework's `record.py` makes a `Subject` of a user's model: a function from weights and inputs to
every value on the way. Here it is decided what is run, how often and under which names it is kept;
`docs/recording.md` describes the file.
"""

import contextlib
import dataclasses
import fnmatch
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import einops
import numpy as np

from common.errors import InputError
from common.parity.compare import relative_l2
from common.parity.generic import generic_values, symmetric_tensors
from common.parity.mapping import Map, map_to_data, read_map
from common.parity.matching import match
from common.parity.pairing import alike, feed_of, paired_outputs
from common.parity.records import (
    FORMAT,
    Record,
    layers_to_data,
    read_record,
    write_record,
)
from common.parity.subject import Call, Mode, Pass, Subject, check_real, in_a_line
from common.parity.tolerances import EPS, noise_tolerance
from common.parity.watching import is_numpy, joined, leaves, map_leaves
from common.protocol import Array, Arrays

_T = TypeVar("_T")


def _moved(value: Any, draw: np.random.Generator, dtype: str) -> Any:
    """Floats moved by one rounding of `dtype` or none."""

    def move(_: str, array: Array) -> Array:
        ulps = draw.integers(-1, 2, array.shape) * EPS[dtype]
        moved: Array = array * (1 + ulps)
        return moved

    return map_leaves(value, _is_float, move)


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _named(run: Pass, mode: Mode) -> dict[str, Array]:
    """The values of a pass under the names of a trace."""
    values = {f"{mode}/{name}": array for name, array in run.values.items()}
    values |= {joined(f"{mode}/output", leaf): array for leaf, array in run.output.items()}
    for name, array in values.items():
        check_real(name, array.dtype.kind == "c")
    if run.loss is not None:
        values["loss"] = np.atleast_1d(run.loss)
    values |= {f"grad/{name}": a for name, a in run.gradients.items() if a is not None}
    return values | {f"buffer/{name}": array for name, array in run.buffers.items()}


@contextlib.contextmanager
def _told_as_input() -> Iterator[None]:
    """What goes wrong in the user's model, or loss, is told in one line.

    Raises:
        InputError: something did.
    """
    try:
        yield
    except InputError as error:
        raise InputError(str(error).splitlines()[0]) from error  # JAX adds lines to it
    except Exception as error:
        told = f"the model cannot be run on these inputs: {in_a_line(error)}"
        if any(word in told for word in ("dtype", "Double", "data type")):
            told += "; it may be of float32 alone: dtype='float32' records that"
        raise InputError(told) from error


def _run(subject: Subject, weights: Arrays, call: Call, mode: Mode, seed: int) -> Arrays:
    """A pass's values under the names of a trace."""
    with _told_as_input():
        return _named(subject.run(weights, call, mode, seed), mode)


def _measured(
    subject: Subject,
    weights: Arrays,
    call: Call,
    seed: int,
    values: Arrays,
    measure: Callable[[Array, Array], _T],
) -> dict[str, _T]:
    """`measure` of each value made again and as it was: no second copy of them all is held."""
    found: dict[str, _T] = {}
    for mode in subject.modes:
        again = _run(subject, weights, call, mode, seed)
        found |= {name: measure(again.pop(name), values[name]) for name in [*again]}
    return found


def _compiled(
    subject: Subject, weights: Arrays, call: Call, values: Arrays, noise: Mapping[str, float]
) -> dict[str, str]:
    """What a compiled network returns that is not what was recorded, in words.

    How far it is off is noted in any case.
    """
    try:
        output = subject.run_compiled(weights, call)
    except Exception as error:  # of a compiler
        subject.notes.append(f"recorded eagerly; compiled, it does not run: {in_a_line(error)}")
        return {}
    if output is None:
        return {}
    errors, findings = [0.0], {}
    for leaf, array in output.items():
        name = joined("eval/output", leaf)
        errors.append(relative_l2(array, values[name]))
        limit = noise_tolerance("forward", noise[name], noise[name], subject.dtype).limit
        if errors[-1] > limit:
            told = f"off by {errors[-1]:.1e}, tolerance {limit:.1e}"
            findings[name] = f"compiled, the network returns another {name}: {told}"
    subject.notes.append(f"recorded eagerly; what it returns compiled is {max(errors):.1e} off")
    return findings


def _record_of(subject: Subject, weights: Arrays, values: Arrays, facts: dict[str, Any]) -> Record:
    """A record of `values`; `facts` are added to what the subject tells."""
    told = layers_to_data(subject.layers) | {
        "tensors": {name: dataclasses.asdict(t) for name, t in subject.tensors.items()},
        "order": [name for name in values if name.startswith(("eval/", "train/"))],
        "notes": subject.notes,
    }
    about = {"backend": subject.framework, "versions": json.dumps(subject.versions())}
    arrays = values | {f"weight/{name}": array for name, array in weights.items()}
    metadata = FORMAT | about | {"dtype": subject.dtype, "record": json.dumps(told | facts)}
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
    dropout: int | None
    dtype: str


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """That of NumPy and of Python, from which a model may draw, is what it was when it is left."""
    states = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])


@_random_state_kept()
def record_subject(subject: Subject, called: Any, options: Options) -> Record:
    """What each framework's `record` does, but for the model. Its arguments there:

    - `model`, `*inputs`, `keywords`: the user's own call, `model(*inputs, **keywords)`; `train` and
      `eval` are further keyword arguments of the one mode and the other. With `train=False` it is
      run in eval mode alone.
    - `loss`: makes a scalar of what the model returns. Without it the record is forward only.
    - `optimizer`: the user's; then `steps` are made, each with the same inputs, or with those of a
      sequence of further `inputs`.
    - `generic`: a seed; every tensor gets random values first, `generic_values`.
    - `against`: a record, the reference. The weights are taken from it, through the `map`, a file;
      where there is none of that name, one is proposed and written. And the *local run* is added:
      each layer fed with what went into it in the reference, and answering with what came out.
    - `dropout`: a seed; in train mode, layers of dropout take their masks from it, the same in
      every framework and in every step. Without it dropout is off.
    - `dtype`: `float32` or `bfloat16`, where there is no code for float64.
    - `out`: the file that is written; with `weights=False` without the weights, and of the layers
      those alone whose path fits `keep`, a pattern such as `encoder.*`: for large networks.

    Raises:
        InputError: a file cannot be read or written, or the map does not fit.
    """
    inputs, keywords, steps = called
    _check_options(subject, steps, options)
    subject.pattern, subject.dropout = options.keep, options.dropout
    given = [inputs] * steps if isinstance(steps, int) else [inputs, *steps]
    if not given:
        raise InputError(f"steps: {steps}; the first is always made")
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
    values = _values(subject, weights, calls[0])
    _check(subject, values, options)
    facts |= _noticed(subject, weights, calls[0], values)
    if options.optimizer:
        values |= _steps(subject, weights, calls, facts["noise"])
    if options.against is not None:
        values |= _run_locally(subject, weights, calls[0], reference, found, values)
    given_arrays = leaves([*inputs, dict(keywords)], is_numpy)
    values |= {joined("input", path): array for path, array in given_arrays.items()}
    record = _record_of(subject, weights if options.weights else {}, values, facts)
    write_record(Path(options.out), record)
    return record


def _check_options(subject: Subject, steps: Any, options: Options) -> None:
    """That the arguments are what they must be, and layers have names that a record can hold.

    Raises:
        InputError: they are not.
    """
    if not isinstance(steps, int | Sequence):
        raise InputError(f"steps: {steps!r} is neither a number nor a sequence of further inputs")
    for name in ("generic", "dropout"):
        seed = getattr(options, name)
        if seed is not None and not (isinstance(seed, int) and seed >= 0):
            raise InputError(f"{name}: {seed!r} is no seed, a whole number from 0")
    if not isinstance(options.out, Path | str):
        raise InputError(f"out: {options.out!r} is no path")
    if not isinstance(options.keep, str):
        raise InputError(f"keep: {options.keep!r} is no pattern")
    for path in subject.layers:
        if ":" in path or "@" in path:
            raise InputError(f"{path}: a record keeps ':' and '@' in names for itself; rename it")


def _values(subject: Subject, weights: Arrays, call: Call) -> Arrays:
    """The passes' values."""
    values: Arrays = {}
    for mode in subject.modes:
        values |= _run(subject, weights, call, mode, seed=0)
    return values


def _check(subject: Subject, values: Arrays, options: Options) -> None:
    """That there is something to record.

    Raises:
        InputError: there is not.
    """
    if not any(fnmatch.fnmatchcase(path, options.keep) for path in subject.layers):
        raise InputError(f"keep: no layer's path fits {options.keep!r}")
    if "loss" not in values:
        if options.optimizer:
            raise InputError("optimizer: there is no loss to make steps with")
    elif not any(array.any() for name, array in values.items() if name.startswith("grad/")):
        raise InputError("loss: no weight has a gradient: it does not depend on them")


def _noticed(subject: Subject, weights: Arrays, call: Call, values: Arrays) -> dict[str, Any]:
    """What a record tells besides its values: noise, chance, what may hide a mistake."""
    if dropping := [path for path, layer in subject.layers.items() if "Dropout" in layer.kind]:
        told = "off" if subject.dropout is None else f"by masks of seed {subject.dropout}"
        subject.notes.append(f"dropout {told}: {', '.join(dropping)}")
    same = _measured(subject, weights, call, 1, values, _equal)
    noise: dict[str, float] = {}
    floats = [name for name, array in values.items() if array.dtype.kind == "f"]
    for repetition in range(2):
        draw = np.random.default_rng(repetition)
        near, moved = (_moved(x, draw, subject.dtype) for x in (weights, call))
        errors = _measured(subject, near, moved, 0, values, relative_l2)
        for name in floats:
            key = "loss[0]" if name == "loss" else name
            noise[key] = max(noise.get(key, 0.0), errors[name])
    if "loss" in values:  # one number may stay by chance where what it is made of moves
        made_of = [noise[name] for name in floats if name.startswith("train/output")]
        noise["loss[0]"] = max(noise["loss[0]"], *made_of)
    return {
        "noise": noise,
        "random": [name for name, equal in same.items() if not equal],
        "missing": [
            name
            for name, tensor in subject.tensors.items()
            if tensor.trained and "loss" in values and f"grad/{name}" not in values
        ],
        "symmetric": symmetric_tensors(weights),
        "findings": _compiled(subject, weights, call, values, noise),
    }


def _steps(
    subject: Subject, weights: Arrays, calls: Sequence[Call], noise: dict[str, float]
) -> Arrays:
    """The user's steps; how far they are off when weights and inputs move is added to `noise`.

    Raises:
        InputError: they move no weight, or cannot be made.
    """
    values = _trained(subject, weights, calls)
    trained = [name for name, tensor in subject.tensors.items() if tensor.trained]
    start = {name: weights[name].astype(values[f"final/{name}"].dtype) for name in trained}
    if all(np.array_equal(values[f"final/{name}"], start[name]) for name in trained):
        raise InputError("optimizer: its steps move no weight: does it hold this model's?")
    draw = np.random.default_rng(0)
    near, inputs = (_moved(x, draw, subject.dtype) for x in (weights, calls))
    moved = _trained(subject, near, inputs)
    for name, array in moved.items():
        if name != "loss":
            noise[name] = relative_l2(array, values[name])
    for step, (a, b) in enumerate(zip(moved["loss"], values["loss"], strict=True)):
        noise[f"loss[{step}]"] = max(noise["loss[0]"], relative_l2(a, b))
    return values


def _trained(subject: Subject, weights: Arrays, calls: Sequence[Call]) -> Arrays:
    with _told_as_input():
        losses, final = subject.train(weights, calls, seed=0)
    return {"loss": losses} | {f"final/{name}": array for name, array in final.items()}


def _equal(a: Array, b: Array) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _map_from(reference: Record, subject: Subject, call: Call, file: Path | str | None) -> Map:
    """The map in a file; where there is none yet, one is proposed, and written to it."""
    path = None if file is None else Path(file)
    if path is not None and path.exists():
        return read_map(path)
    values = _values(subject, subject.weights, call)
    record = _record_of(subject, subject.weights, values, {})

    def wrong(tried: Map) -> float:
        """How far what lies between the layers is from the reference's, in eval mode."""
        feed = {n: a for n, a in feed_of(record, reference, tried).items() if n[:5] == "eval/"}
        own = {name.removeprefix("eval/"): array for name, array in feed.items()}
        given = tried.to_b({n[7:]: a for n, a in reference.arrays.items() if n[:7] == "weight/"})
        run = subject.run(subject.weights | given, call, "eval", 0, own)
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
    tensors = {e.a: reference.tensor(e.a) for e in found.entries}
    for e in found.entries:
        try:
            e.to_b(tensors[e.a])
        except (ValueError, einops.EinopsError):
            shape = tensors[e.a].shape
            raise InputError(f"map: {e.a} {shape} to {e.b}: {e.axes!r} does not fit") from None
    arrays = found.to_b(tensors)
    for e in found.entries:
        if e.b not in arrays:
            raise InputError(f"map: {e.b}: a part of it is missing")
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
    for mode in subject.modes:
        own = {n.removeprefix(f"{mode}/"): a for n, a in feed.items() if n.startswith(f"{mode}/")}
        seen = subject.run(weights, call, mode, 0, own).values
        local |= {f"local/{mode}/{name}": seen[name] for name in own}
    return local
