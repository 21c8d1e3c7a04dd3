"""Runs mutations: each backend in a process of its own, held against another framework."""

import ast
import concurrent.futures
import contextlib
import dataclasses
import fnmatch
import functools
import gc
import hashlib
import inspect
import itertools
import math
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends import load_backend
from common.config import Dtype, Head
from common.network.initial import initial_weights
from common.network.tensors import layer_names
from common.parity import settings
from common.parity.compare import compare, judge_again
from common.parity.order import execution_order, group_of
from common.parity.report import Difference, Report
from common.parity.settings import CONFIG, SETTINGS, names_until
from common.parity.tolerances import EPS, STAGES, TOLERANCES, Tolerance, fixed_tolerance
from common.parity.traces import FORMAT, Batches, Trace, make_trace
from common.protocol import Array, Arrays, Backend
from parity_tests.mutations.apply import Mutation, patched, patched_trees

NETWORKS = ("generic", "fcn8s", "head_rate", "frozen_norms", "frozen_backbone")
"""The settings on which a mutation is looked at in float32 too, and by a plain test."""

_STARTS = ("initial", "generic")
_LATE = ("loss[1", "loss[2", "momentum", "final", "after")
ORDER = execution_order(
    CONFIG.architecture, CONFIG.num_classes, max(s.steps for s in SETTINGS.values()), Head.fcn8s
)
"""The other head's values are among them."""


@functools.cache
def _made(setting: str) -> tuple[Arrays, Batches]:
    return SETTINGS[setting].make()


@functools.cache
def _weights(setting: str, start: str) -> Arrays:
    if start == "generic":
        return _made(setting)[0]
    config = SETTINGS[setting].config
    network = config.architecture, config.num_classes
    return dict(initial_weights(*network, seed=0, width=config.width, head=config.head))


def trace(backend: Backend, setting: str, dtype: Dtype, steps: int) -> Arrays:
    """`make_trace` of so many steps; of none: its evaluation alone."""
    own, (weights, batches) = SETTINGS[setting], _made(setting)
    config = own.config.replace(dtype=dtype)
    trainer = backend.Trainer(config, weights)
    probe = backend.Probe(trainer)
    if steps:
        last = steps == own.steps
        return make_trace(probe, batches, config, own.rates[:steps], after=last)
    activations = probe.activations(batches.image[0])
    arrays = {
        f"eval/{name}": activations[name] for name in layer_names(config.architecture, config.head)
    }
    return arrays | {"eval/mask": trainer.predict(batches.image[0]), "loss": np.empty(0)}


def groups_of(setting: str, steps: int) -> set[str]:
    """What a trace of so many steps holds, and the setting looks at."""
    own = SETTINGS[setting]
    groups = {"eval"}
    if steps:
        groups |= {"train", "loss", "grad", "update", "buffer"}
    if steps == own.steps:
        groups |= {"momentum", "final", "after"}
    return set(filter(own.holds, groups))


def part(arrays: Arrays, setting: str, steps: int) -> Arrays:
    """What is looked at of a trace of so many steps."""
    groups = groups_of(setting, steps)
    found = {name: array for name, array in arrays.items() if group_of(name) in groups}
    return found | {"loss": arrays["loss"][:steps]} if "loss" in groups else found


def _plain_logits(backend: Backend, setting: str, start: str) -> Array:
    """What people compare: float32 logits in eval mode, from the usual initial weights.

    Or from generic ones, where `start` says so.
    """
    config = SETTINGS[setting].config.replace(dtype=Dtype.float32)
    trainer = backend.Trainer(config, _weights(setting, start))
    return backend.Probe(trainer).activations(_made("generic")[1].image[0])["logits"]


# --- judgement


@dataclass(frozen=True)
class Held:
    """What a backend's mutations are held against.

    Float64 traces by setting, `reference` of another framework's healthy backend and `own` of this
    one; by setting and stage the tolerances of its float32 traces; by setting and start the
    other's plain logits.
    """

    reference: Mapping[str, Arrays]
    plain: Mapping[tuple[str, str], Array] = field(default_factory=dict)
    own: Mapping[str, Arrays] = field(default_factory=dict)
    float32: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether a trace leaves the reference, by the tolerance of which stage, and where first.

    `error` is how far the value there is off, relative, where it can be told. `dead`: it is this
    backend's healthy trace, to the bit.
    """

    caught: bool
    stage: str | None = None
    where: str | None = None
    dead: bool = False
    error: float | None = None


def _as_trace(label: str, arrays: Arrays, dtype: Dtype, setting: str, steps: int) -> Trace:
    config = SETTINGS[setting].config
    told = ("num_classes", "learning_rate", "head", "head_rate", "freeze")
    metadata = FORMAT | {"dtype": str(dtype)} | {key: str(getattr(config, key)) for key in told}
    return Trace(label, arrays, metadata | {"groups": ",".join(groups_of(setting, steps))})


def _against(arrays: Arrays, reference: Arrays, setting: str, dtype: Dtype, steps: int) -> Report:
    mutated = _as_trace("mutated", part(arrays, setting, steps), dtype, setting, steps)
    truth = _as_trace("reference", reference, Dtype.float64, setting, SETTINGS[setting].steps)
    with warnings.catch_warnings(action="ignore"):  # NaN and infinity are what a mutation may make
        return compare([mutated], truth)


def float32_tolerances(arrays: Arrays, reference: Arrays, setting: str) -> dict[str, float]:
    """By stage those of a backend's float32 trace: the project's, or twice its own floor.

    The project's were measured on images that need no padding. On these small ones, much of which
    is constant, PyTorch's sums of float32 are four times as far off.
    """
    limits = {s: g.limit for s in STAGES if (g := fixed_tolerance("float32", s))}
    for d in _against(arrays, reference, setting, Dtype.float32, 1).differences:
        if d.stage in limits and d.stage != "update" and d.name != "eval/mask":
            limits[d.stage] = max(limits[d.stage], 2 * d.error)
    return limits | {"update": limits["gradient"]}


def _equal(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def judge(arrays: Arrays, held: Held, setting: str, dtype: Dtype, steps: int) -> Verdict:
    """What `compare` says of a mutated backend's trace: the first divergence, or finding."""
    reference = held.reference[setting]
    report = _against(arrays, reference, setting, dtype, steps)
    limits = TOLERANCES if dtype == Dtype.float64 else held.float32[setting]

    def tolerance_for(d: Difference) -> Tolerance | None:
        limit = limits.get(d.stage)
        if limit is None:
            return None
        if d.stage == "update" and d.norm:  # weights are stored to eps
            after = reference[d.name.replace("update/", "final/", 1)]
            limit += EPS[dtype] * float(np.linalg.norm(after)) / d.norm
        return Tolerance(limit, 0.0, "")

    if dtype == Dtype.float32:
        judge_again(report, tolerance_for)
    found = {f.name: "finding" for f in report.findings}
    first = report.first("mutated")
    if first is not None:
        found.setdefault(first.name, first.stage)
    same = dtype == Dtype.float64 and setting in held.own
    dead = same and _equal(part(arrays, setting, steps), part(held.own[setting], setting, steps))
    if not found:
        return Verdict(False, dead=dead)
    where = min(found, key=lambda name: ORDER.index(name) if name in ORDER else -1)
    at_first = first is not None and first.name == where and math.isfinite(first.error)
    return Verdict(True, found[where], where, dead, first.error if first and at_first else None)


def matches(where: str | None, expected: Sequence[str]) -> bool:
    """Whether a place is one of those expected; the brackets of `loss[0]` mean themselves."""
    patterns = (pattern.replace("[", "[[]") for pattern in expected)
    return where is not None and any(fnmatch.fnmatchcase(where, p) for p in patterns)


def verdict(backend: Backend, change: Mutation, held: Held, setting: str, dtype: Dtype) -> Verdict:
    """The first divergence, by the shortest trace that shows it: each begins with those before.

    Whatever a mutated backend raises is a way to be caught.
    """
    all_steps = SETTINGS[setting].steps
    shown_by_eval = any(place.startswith("eval/") for place in change.expected)
    lengths = [0, 1, all_steps] if shown_by_eval else [1, all_steps]
    if any(place.startswith(_LATE) for place in change.expected):
        lengths = lengths[-1:]
    if dtype == Dtype.float32 or not SETTINGS[setting].holds("loss"):
        lengths = [0, 1] if shown_by_eval else [1]
    found = Verdict(False)
    try:
        with np.errstate(all="ignore"):
            for steps in dict.fromkeys(lengths):
                found = judge(trace(backend, setting, dtype, steps), held, setting, dtype, steps)
                if found.caught:
                    break
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        return Verdict(True, "exception", f"{type(error).__name__}: {message}")
    return found


def _plain(backend: Backend, reference: Array, setting: str, start: str) -> dict[str, Any]:
    try:
        logits = _plain_logits(backend, setting, start)
        if logits.shape != reference.shape:
            return {"caught": True, "error": f"shapes {logits.shape} and {reference.shape}"}
        error = float(np.abs(logits - reference).max())
        return {"caught": not np.allclose(logits, reference, atol=1e-3), "error": error}
    except Exception as error:
        return {"caught": True, "error": type(error).__name__}


def _told(change: Mutation, found: Verdict) -> dict[str, Any]:
    located = matches(found.where, change.expected)
    told = {"caught": found.caught, "gate": found.stage, "where": found.where}
    return {**told, "error": found.error, "located": located}


def entry(
    name: str,
    change: Mutation,
    double: Verdict,
    single: Verdict,
    plain: Mapping[str, Any],
    setting: str = "generic",
) -> dict[str, Any]:
    """The result of a mutation: float64's verdict, float32's, and what a plain test sees."""
    return {
        "name": change.name,
        "backend": name,
        "why": change.why,
        "dead": double.dead,
        **_told(change, double),
        "expected": list(change.expected),
        "setting": setting,
        "declared": change.setting,
        "float32": _told(change, single),
        "plain": plain,
        "digest": digest(name, change),
    }


# --- in the backend's process

_HELD: list[Held] = []


@functools.cache
def _prepare(name: str) -> None:
    # Compiled, a mutated network costs JAX half a minute in each type. Run operator by operator,
    # what one mutation has compiled serves the next; the values are the same but for rounding.
    if name == "jax":
        load_backend(name)
        import jax

        jax.config.update("jax_disable_jit", True)


def healthy(name: str, settings: Sequence[str]) -> Held:
    """A backend as a reference: its float64 trace on each setting, its plain logits."""
    _prepare(name)
    with patched(name, None) as backend:
        traces = {s: trace(backend, s, Dtype.float64, SETTINGS[s].steps) for s in settings}
        pairs = itertools.product([s for s in settings if s in NETWORKS], _STARTS)
        return Held(traces, {pair: _plain_logits(backend, *pair) for pair in pairs})


def hold(name: str, held: Held) -> tuple[dict[str, float], dict[str, str]]:
    """Keeps what a backend's mutations are held against; its float32 tolerances and versions.

    Raises:
        RuntimeError: the healthy backend itself leaves the reference, so it would be caught.
    """
    own = healthy(name, list(held.reference)).reference
    for setting, arrays in own.items():
        found = judge(arrays, held, setting, Dtype.float64, SETTINGS[setting].steps)
        if found.caught:
            raise RuntimeError(f"{name} without a mutation is caught: {setting}, {found.where}")
    with patched(name, None) as backend:
        limits = {
            s: float32_tolerances(trace(backend, s, Dtype.float32, 1), held.reference[s], s)
            for s in own
            if s in (*NETWORKS, "single")
        }
        _HELD[:] = [dataclasses.replace(held, own=own, float32=limits)]
        return limits["generic"], backend.versions()


def _until(declared: str) -> list[str]:
    """Where a mutation is looked for: up to the setting that it was written for.

    In that alone where it is of another network: elsewhere its code is another mistake, or none.
    """
    other_network = declared in NETWORKS and declared != "generic"
    return [declared] if other_network else names_until([declared])


def judge_mutation(name: str, change: Mutation) -> dict[str, Any]:
    """What the checks say of a backend with a mutation: an entry of the result."""
    (held,) = _HELD
    with warnings.catch_warnings(action="ignore"), patched(name, change) as backend:
        network = change.setting if change.setting in NETWORKS else "generic"
        for setting in _until(change.setting):
            dtype = SETTINGS[setting].config.dtype
            double = verdict(backend, change, held, setting, dtype)
            if double.caught:
                break
        single = verdict(backend, change, held, network, Dtype.float32)
        plain = {
            start: _plain(backend, held.plain[network, start], network, start) for start in _STARTS
        }
    gc.collect()
    both = {**plain["initial"], "generic": plain["generic"]["caught"]}
    return entry(name, change, double, single, both, setting)


# --- in the command's process


@functools.cache
def _source(name: str) -> str:
    return "".join(map(ast.dump, patched_trees(name, None).values()))


def digest(name: str, change: Mutation) -> str:
    """What a result depends on: the mutation, the backend's source, the numbers of the run."""
    entry = (change.name, change.why, change.expected, change.setting, change.patches[name])
    numbers = inspect.getsource(settings)
    return hashlib.sha256(repr((entry, numbers, _source(name))).encode()).hexdigest()


def reference_of(name: str) -> str:
    """The backend whose healthy trace a backend's mutations are held against."""
    return "mxnet" if name == "torch" else "torch"


def run(
    wanted: Sequence[tuple[str, Mutation]], about: dict[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Judges each (backend, mutation), each backend in a process of its own, with one thread.

    `about` is told each backend's `versions` and `float32_gates`.
    """
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    names = list(dict.fromkeys(name for name, _ in wanted))
    needed = names_until([change.setting for _, change in wanted])
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        pools = {}
        for name in {*names, *map(reference_of, names)}:
            pools[name] = concurrent.futures.ProcessPoolExecutor(1, context)
            stack.callback(pools[name].shutdown, cancel_futures=True)
        references = {n: pools[n].submit(healthy, n, needed) for n in map(reference_of, names)}
        ready: dict[concurrent.futures.Future[Any], str] = {}
        for name in names:
            held = references[reference_of(name)].result()
            ready[pools[name].submit(hold, name, held)] = name
        running = [pools[name].submit(judge_mutation, name, change) for name, change in wanted]
        for future in concurrent.futures.as_completed([*ready, *running]):
            if future in ready:
                about["float32_gates"][ready[future]], versions = future.result()
                about["versions"] |= versions
            else:
                yield future.result()


def failed(entry: Mapping[str, Any]) -> str | None:
    """What is wrong with a mutation's result in float64: `dead`, `missed`, or its wrong place."""
    if entry["dead"]:
        return "dead: it changes no value"
    if not entry["caught"]:
        return "missed"
    if entry["setting"] != entry["declared"]:
        return f"first seen in {entry['setting']}, expected in {entry['declared']}"
    if not entry["located"]:
        return f"first at {entry['where']}, expected {' or '.join(entry['expected'])}"
    return None
