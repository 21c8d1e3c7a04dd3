"""Runs faults: each backend in a process of its own, each fault against another framework."""

import concurrent.futures
import fnmatch
import functools
import gc
import hashlib
import multiprocessing
import os
import queue
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends import load_backend
from common.config import Config, Dtype, float32
from common.network.initial import generic_weights, initial_weights
from common.network.tensors import layer_names
from common.parity.compare import compare, regate
from common.parity.order import execution_order
from common.parity.report import Difference, Report
from common.parity.tolerances import EPS, GATES, STAGES, Gate, fixed_gate
from common.parity.traces import FORMAT, Batches, Trace, generic_batches, make_trace
from common.protocol import Array, Arrays, Backend
from parity_tests.mutations.apply import Fault, patched, patched_sources
from parity_tests.mutations.catalogue import FAULTS

CLASSES, BATCH, HEIGHT, WIDTH = 21, 2, 24, 72
"""Two images whose sides 32 does not divide and that are not square, void spread unevenly."""

RATES = tuple(float32(rate) for rate in (1e-2, 1e-2, 1e-3, 1e-3))
CONFIG = Config(num_classes=CLASSES, learning_rate=RATES[0], momentum=0.9, weight_decay=1e-2)

_FAINT, _BRIGHT = 1 / 64, 2e3
SETTINGS = ("generic", "low_contrast", "large_mean")
"""Weights and batches. `generic`: what nearly every fault shows on. `low_contrast`: images 64
times fainter, and the stem's buffers to match, so that BatchNorm's eps matters. `large_mean`: one
channel of `layer1.1` shines at 2000, so that the 1x1 convolution after it, which no padding
disturbs, has a mean far above its deviation: float64 alone has the digits for that."""

_STARTS = ("initial", "generic")
_LATE = ("loss[1", "loss[2", "loss[3", "momentum", "final")


@functools.cache
def _weights(setting: str) -> Arrays:
    weights = generic_weights("resnet18", CLASSES, seed=3)
    if setting == "large_mean":
        weights["backbone.layer1.1.bn2.bias"][0] = _BRIGHT
    if setting == "low_contrast":
        weights["backbone.bn1.running_mean"] *= _FAINT
        weights["backbone.bn1.running_var"] *= _FAINT**2
    return weights


@functools.cache
def _batches(setting: str) -> Batches:
    batches = generic_batches(len(RATES), BATCH, HEIGHT, WIDTH, CLASSES, seed=4)
    scale = _FAINT if setting == "low_contrast" else 1
    return Batches(batches.image * scale, batches.label)


def _trace(backend: Backend, setting: str, dtype: Dtype, steps: int) -> Arrays:
    """`make_trace` of so many steps; of none: its evaluation alone."""
    config = CONFIG.replace(dtype=dtype)
    trainer, batches = backend.Trainer(config, _weights(setting)), _batches(setting)
    if steps:
        return make_trace(trainer, batches, config, RATES[:steps])
    activations = trainer.activations(batches.image[0])
    trace = {f"eval/{name}": activations[name] for name in layer_names("resnet18")}
    return trace | {"eval/mask": trainer.predict(batches.image[0]), "loss": np.empty(0)}


def _plain_logits(backend: Backend, start: str) -> Array:
    """What people compare: float32 logits in eval mode, from the usual initial weights.

    Or from generic ones, where `start` says so.
    """
    config = CONFIG.replace(dtype=Dtype.float32)
    initial = initial_weights("resnet18", CLASSES, seed=0)
    trainer = backend.Trainer(config, initial if start == "initial" else _weights("generic"))
    return trainer.activations(_batches("generic").image[0])["logits"]


# --- judgement


def as_trace(label: str, arrays: Arrays, dtype: Dtype, steps: int) -> Trace:
    """What `_trace` has made, as the trace that `compare` takes; of less than all steps, a part."""
    metadata = FORMAT | {"dtype": str(dtype), "num_classes": str(CLASSES)}
    metadata["learning_rate"] = str(CONFIG.learning_rate)
    if steps < len(RATES):
        metadata["groups"] = "eval" if steps == 0 else "eval,train,loss,grad,update,buffer"
        arrays = {k: a for k, a in arrays.items() if not k.startswith(("momentum/", "final/"))}
    return Trace(label, arrays, metadata)


def _against(arrays: Arrays, truth: Arrays, dtype: Dtype, steps: int) -> Report:
    with warnings.catch_warnings(action="ignore"):  # NaN and infinity are what a fault may make
        return compare([as_trace("patched", arrays, dtype, steps)], _true(truth))


def _true(truth: Arrays) -> Trace:
    return as_trace("truth", truth, Dtype.float64, len(RATES))


def float32_gates(arrays: Arrays, truth: Arrays) -> dict[str, float]:
    """Gates of a backend's float32 trace, by stage: the project's, or twice its own floor.

    The project's were measured on images that need no padding. On these small ones, much of which
    is constant, PyTorch's sums of float32 are four times as far off.
    """
    gates = {s: g.limit for s in STAGES if (g := fixed_gate("float32", s))}
    for d in _against(arrays, truth, Dtype.float32, 1).differences:
        if d.stage in gates and d.stage != "update" and d.name != "eval/mask":
            gates[d.stage] = max(gates[d.stage], 2 * d.error)
    return gates | {"update": gates["gradient"]}


@dataclass(frozen=True)
class Verdict:
    """Whether a trace parts from the truth, by which gate, and where first."""

    caught: bool
    gate: str | None = None
    where: str | None = None


def judge(
    arrays: Arrays,
    truth: Arrays,
    dtype: Dtype,
    steps: int,
    gates: Mapping[str, float] = GATES,
) -> Verdict:
    """What `compare` says of a patched backend's trace: the first divergence, or finding."""
    report = _against(arrays, truth, dtype, steps)

    def gate_for(d: Difference) -> Gate | None:
        limit = gates.get(d.stage)
        if limit is None:
            return None
        if dtype == Dtype.float32 and d.stage == "update" and d.norm:  # weights are stored to eps
            after = truth[d.name.replace("update/", "final/", 1)]
            limit += EPS[dtype] * float(np.linalg.norm(after)) / d.norm
        return Gate(limit, 0.0, "")

    if dtype == Dtype.float32:
        regate(report, gate_for)
    found = {f.name: "finding" for f in report.findings}
    first = report.first("patched")
    if first is not None:
        found.setdefault(first.name, first.stage)
    if not found:
        return Verdict(False)
    order = execution_order("resnet18", CLASSES, len(RATES))
    where = min(found, key=lambda name: order.index(name) if name in order else -1)
    return Verdict(True, found[where], where)


def matches(where: str | None, expected: Sequence[str]) -> bool:
    """Whether a place is one of those expected; the brackets of `loss[0]` mean themselves."""
    patterns = (pattern.replace("[", "[[]") for pattern in expected)
    return where is not None and any(fnmatch.fnmatchcase(where, p) for p in patterns)


# --- in the backend's process

_TRUTH: dict[str, Arrays] = {}
_FLOAT32_GATES: dict[str, float] = {}


@functools.cache
def _prepare(name: str) -> None:
    # Compiled, a patched network costs JAX half a minute in each type. Run operator by operator,
    # what one fault has compiled serves the next; the values are the same but for rounding.
    if name == "jax":
        load_backend(name)
        import jax

        jax.config.update("jax_disable_jit", True)


def healthy(name: str, settings: Sequence[str]) -> tuple[dict[str, Arrays], dict[str, str]]:
    """The float64 trace of a backend on each setting, with `plain`, and its versions.

    On any setting but `generic` of one step alone.
    """
    _prepare(name)
    with patched(name, None) as backend:
        truth = {
            setting: _trace(
                backend, setting, Dtype.float64, len(RATES) if setting == "generic" else 1
            )
            for setting in settings
        }
        truth["plain"] = {start: _plain_logits(backend, start) for start in _STARTS}
        return truth, backend.versions()


def hold(name: str, truth: Mapping[str, Arrays]) -> tuple[dict[str, float], dict[str, str]]:
    """Keeps the truth in the process of a backend's faults; its float32 gates, its versions."""
    _prepare(name)
    _TRUTH.update(truth)
    with patched(name, None) as backend:
        arrays = _trace(backend, "generic", Dtype.float32, 1)
        _FLOAT32_GATES.update(float32_gates(arrays, truth["generic"]))
        return _FLOAT32_GATES, backend.versions()


def _attempt(judge: Callable[[], Verdict]) -> Verdict:
    try:
        with np.errstate(all="ignore"):
            return judge()
    except Exception as error:  # whatever a patched backend raises is a way to be caught
        message = " ".join(str(error).split())[:200]
        return Verdict(True, "exception", f"{type(error).__name__}: {message}")


def _verdict(
    backend: Backend, change: Fault, setting: str, dtype: Dtype, gates: Mapping[str, float]
) -> Verdict:
    """The first divergence, by the shortest trace that shows it: each begins with those before."""
    shown_by_eval = any(place.startswith("eval/") for place in change.expected)
    lengths = [0, 1, len(RATES)] if shown_by_eval else [1, len(RATES)]
    if any(place.startswith(_LATE) for place in change.expected):
        lengths = lengths[-1:]
    if dtype == Dtype.float32 or setting != "generic":
        lengths = [0, 1] if shown_by_eval else [1]
    verdict = Verdict(False)
    for steps in lengths:
        arrays = _trace(backend, setting, dtype, steps)
        verdict = judge(arrays, _TRUTH[setting], dtype, steps, gates)
        if verdict.caught:
            break
    return verdict


def _plain(backend: Backend, start: str) -> dict[str, Any]:
    try:
        logits, truth = _plain_logits(backend, start), _TRUTH["plain"][start]
        if logits.shape != truth.shape:
            return {"caught": True, "error": f"shapes {logits.shape} and {truth.shape}"}
        error = float(np.abs(logits - truth).max())
        return {"caught": not np.allclose(logits, truth, atol=1e-3), "error": error}
    except Exception as error:
        return {"caught": True, "error": type(error).__name__}


def judge_fault(name: str, change: Fault) -> dict[str, Any]:
    """What the checks say of a backend with a fault: an entry of the result's `faults`."""
    _prepare(name)

    def verdict_on(backend: Backend, setting: str, dtype: Dtype) -> Verdict:
        gates = GATES if dtype == Dtype.float64 else _FLOAT32_GATES
        return _attempt(lambda: _verdict(backend, change, setting, dtype, gates))

    with warnings.catch_warnings(action="ignore"), patched(name, change) as backend:
        setting = "generic"
        verdict = verdict_on(backend, setting, Dtype.float64)
        if not matches(verdict.where, change.expected) and change.setting != setting:
            setting = change.setting
            verdict = verdict_on(backend, setting, Dtype.float64)
        single = verdict_on(backend, "generic", Dtype.float32)
        plain = {**_plain(backend, "initial"), "generic": _plain(backend, "generic")["caught"]}
    gc.collect()
    return {
        "name": change.name,
        "backend": name,
        "why": change.why,
        "caught": verdict.caught,
        "gate": verdict.gate,
        "where": verdict.where,
        "expected": list(change.expected),
        "located": matches(verdict.where, change.expected),
        "setting": setting,
        "float32": {
            "caught": single.caught,
            "gate": single.gate,
            "where": single.where,
            "located": matches(single.where, change.expected),
        },
        "plain": plain,
        "digest": digest(name, change),
    }


# --- in the command's process


def digest(name: str, change: Fault) -> str:
    """What a result depends on: the entry, the patched sources, the numbers of the run."""
    entry = (change.name, change.why, change.expected, change.setting)
    text = repr((entry, patched_sources(name, change), CONFIG, RATES, BATCH, HEIGHT, WIDTH))
    text += {"low_contrast": str(_FAINT), "large_mean": str(_BRIGHT)}.get(change.setting, "")
    return hashlib.sha256(text.encode()).hexdigest()


def truth_of(name: str) -> str:
    """The backend whose healthy trace a backend's faults are held against."""
    return "jax" if name == "torch" else "torch"


def _pool() -> concurrent.futures.ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(max_workers=1, mp_context=context)


def _run_backend(
    name: str, faults: Sequence[Fault], about: dict[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Judges each fault of a backend, in a process that lives as long as nothing crashes in it."""
    settings = list(dict.fromkeys(["generic", *(change.setting for change in faults)]))
    with _pool() as pool:
        truth, versions = pool.submit(healthy, truth_of(name), settings).result()
    about["versions"] |= versions
    pool = _pool()
    try:
        about["float32_gates"][name], versions = pool.submit(hold, name, truth).result()
        about["versions"] |= versions
        for change in faults:
            try:
                yield pool.submit(judge_fault, name, change).result()
            except BrokenProcessPool:  # a crash in a framework's own code
                pool.shutdown()
                pool = _pool()
                pool.submit(hold, name, truth).result()
                yield _crashed(name, change)
    finally:
        pool.shutdown(cancel_futures=True)


def run(
    wanted: Sequence[tuple[str, Fault]], about: dict[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Judges each (backend, fault): JAX's, which take longest, beside those of the others.

    Each backend computes in a process of its own, with one thread. `about` is told each backend's
    `versions` and `float32_gates`.
    """
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    by_name: dict[str, list[Fault]] = {}
    for name, change in wanted:
        by_name.setdefault(name, []).append(change)
    results: queue.Queue[dict[str, Any] | Exception | None] = queue.Queue()

    def work(names: Sequence[str]) -> None:
        try:
            for name in names:
                for entry in _run_backend(name, by_name[name], about):
                    results.put(entry)
            results.put(None)
        except Exception as error:
            results.put(error)

    rows = [[name for name in by_name if (name == "jax") == jax] for jax in (True, False)]
    threads = [threading.Thread(target=work, args=(row,), daemon=True) for row in rows if row]
    for thread in threads:
        thread.start()
    running = len(threads)
    while running:
        entry = results.get()
        if isinstance(entry, Exception):
            raise entry
        if entry is None:
            running -= 1
        else:
            yield entry


def _crashed(name: str, change: Fault) -> dict[str, Any]:
    verdict = {"caught": True, "gate": "exception", "where": "the process died", "located": False}
    return {
        "name": change.name,
        "backend": name,
        "why": change.why,
        **verdict,
        "expected": list(change.expected),
        "setting": "generic",
        "float32": verdict,
        "plain": {"caught": True, "error": "the process died", "generic": True},
        "digest": digest(name, change),
    }


def summary(
    results: Sequence[Mapping[str, Any]], about: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The results with their shares, each over all faults in all backends."""

    def share(holds: Callable[[Mapping[str, Any]], bool]) -> float:
        return sum(map(holds, results)) / len(results) if results else 0.0

    def alone(entry: Mapping[str, Any]) -> bool:
        return entry["caught"] and not (entry["float32"]["caught"] or entry["plain"]["caught"])

    by_name: dict[str, list[bool]] = {}
    for entry in results:
        by_name.setdefault(entry["name"], []).append(alone(entry))
    return {
        "faults": list(results),
        "caught_share": share(lambda e: e["caught"]),
        "located_share": share(lambda e: e["located"]),
        "float32_caught_share": share(lambda e: e["float32"]["caught"]),
        "float32_located_share": share(lambda e: e["float32"]["located"]),
        "plain_caught_share": share(lambda e: e["plain"]["caught"]),
        "plain_generic_caught_share": share(lambda e: e["plain"]["generic"]),
        "plain_located_share": 0.0,
        "only_float64": sorted(name for name, found in by_name.items() if all(found)),
        **about,
    }


def named(names: Sequence[str] | None) -> list[Fault]:
    """The faults of these names; all for none.

    Raises:
        KeyError: there is no such fault.
    """
    known = {change.name: change for change in FAULTS}
    return [known[name] for name in names] if names else list(FAULTS)
