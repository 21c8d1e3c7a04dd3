"""The judgement of `scripts.parity`: from the files that its runs left to one result.

In float64 the backends are held against one another at the fixed tolerances of
`common.parity.tolerances`. In float32 they are held against the float64 reference by ratio: none
may be further from it than twice the furthest of the others, or than its own noise, and a few eps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.network.tensors import layer_names
from common.parity.compare import compare, relative_l2
from common.parity.ratio import Probe, Sample, apart, make_probe, ratio_tolerances, worst_noise
from common.parity.report import Difference, Report, finite
from common.parity.tolerances import STAGES, TOLERANCES
from common.parity.traces import Trace, read_trace
from common.weights.checkpoint import read_tensors

Array = NDArray[Any]
Arrays = Mapping[str, Array]


def whole_run(backend: str, dtype: str, threads: int = 1) -> str:
    """The name of a whole training run, and of its folder."""
    return f"{backend} {dtype}" + (f", {threads} threads" if threads > 1 else "")


def layer_run(backend: str, dtype: str) -> str:
    """The name of a run of single layers and single steps."""
    return f"{backend} {dtype}, layers"


def noise_run(backend: str, dtype: str) -> str:
    """The name of a run of single steps that sums in another order."""
    return f"{backend} {dtype}, noise"


@dataclass(frozen=True)
class Files:
    """Where the runs have left their files: `<folder>/<run>/trace.safetensors` and so on."""

    folder: Path
    backends: Sequence[str]
    architecture: str
    dtype: str
    steps: int

    def trace(self, backend: str, dtype: str, threads: int = 1, label: str = "") -> Trace:
        """A whole training run."""
        read = read_trace(self.folder / whole_run(backend, dtype, threads) / "trace.safetensors")
        return Trace(label or backend, read.arrays, read.metadata)

    def probe(self, run: str, backend: str, k: int) -> Trace:
        """The first step on batch k."""
        read = read_trace(self.folder / run / f"probe{k}.safetensors")
        return Trace(backend, read.arrays, read.metadata)

    def layers(self, backend: str, dtype: str) -> Arrays:
        """What each layer alone has made."""
        path = self.folder / layer_run(backend, dtype) / "layers.safetensors"
        return read_tensors(path)[0]


@dataclass
class Result:
    """What parity found; `to_dict` is its JSON."""

    dtype: str
    steps: int
    seed: int
    comparison: Report
    layers: list[dict[str, Any]]
    growth: dict[str, dict[str, list[float]]]
    proof: Report | None = None
    probes: list[Probe] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """What does not hold, one sentence each."""
        found = [] if self.comparison.passed else [self.comparison.verdict()]
        if self.proof is not None and not self.proof.passed:
            found.append(f"The float64 reference is not proven: {self.proof.verdict()}")
        found += [
            f"Batch {p.batch}: {p.report.verdict()}" for p in self.probes if not p.report.passed
        ]
        found += [
            f"{name}: on every batch a decision changes that {tensor} is made from, so it had"
            " no tolerance: take another seed."
            for name, tensor in self.unjudged()
        ]
        found += [
            f"{row['layer']} alone in {row['backend']}, {row['direction']}: {row['error']:.1e},"
            f" tolerance {row['gate']:.1e}."
            for row in self.layers
            if not row["held"]
        ]
        return found

    @property
    def passed(self) -> bool:
        """Whether every tolerance holds."""
        return not self.failures

    @property
    def noise(self) -> dict[str, dict[str, float]]:
        """How far each backend is from itself, by stage, in float32."""
        names = dict.fromkeys(p.backend for p in self.probes)
        return {n: worst_noise([p for p in self.probes if p.backend == n]) for n in names}

    def unjudged(self) -> list[tuple[str, str]]:
        """Per backend, the first gradient that had no tolerance on any batch, since changes
        touch it.
        """
        judged: dict[tuple[str, str], bool] = {}
        for d in (d for probe in self.probes for d in probe.report.differences):
            if d.stage == "gradient":
                key = d.trace, d.name
                judged[key] = judged.get(key, False) or d.tolerance is not None
        missed = [key for key, held in judged.items() if not held]
        return list({backend: (backend, name) for backend, name in reversed(missed)}.values())

    def verdict(self) -> str:
        """The result in a few sentences."""
        if not self.passed:
            return " ".join(self.failures)
        if self.dtype == "float64":
            return self.comparison.verdict()
        return (
            f"{', '.join(self.comparison.compared)} are as near to the float64 reference as float32"
            f" lets them be. {self.comparison.verdict()}"
        )

    def stages(self) -> dict[str, dict[str, Any]]:
        """Per backend and stage, the worst value; the reference's by its nearest companion."""
        report = self.comparison
        found = {t: dict(report.worst(t)) for t in report.compared}
        if self.dtype == "float64":
            nearest: dict[str, Difference] = {}
            for d in report.differences:
                if d.name not in nearest or d.error < nearest[d.name].error:
                    nearest[d.name] = d
            worst: dict[str, Difference] = {}
            for d in nearest.values():
                if d.stage not in worst or d.error > worst[d.stage].error:
                    worst[d.stage] = d
            found = {report.reference: {s: worst[s] for s in STAGES if s in worst}, **found}
        return {
            trace: {
                stage: {
                    "error": d.error,
                    "tensor": d.name,
                    "gate": d.tolerance and d.tolerance.limit,
                    "margin": d.margin,
                }
                for stage, d in stages.items()
            }
            for trace, stages in found.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        result: dict[str, Any] = {
            "passed": self.passed,
            "verdict": self.verdict(),
            "versions": {t["label"]: t["versions"] for t in self.comparison.traces},
            "dtype": self.dtype,
            "steps": self.steps,
            "seed": self.seed,
            "backends": self.stages(),
            "layers": self.layers,
            "growth": self.growth,
            "flips": [
                {"backend": p.backend, "batch": p.batch, "name": name, "count": count}
                for p in self.probes
                for name, count in p.changes.items()
            ],
            "gradients": [p.gradients() for p in self.probes],
            "noise": self.noise,
            "comparison": self.comparison.to_dict(),
            "comparison_float64": self.proof and self.proof.to_dict(),
            **self.facts,
        }
        strict: dict[str, Any] = finite(result)
        return strict


def _beginning(trace: Trace, steps: int) -> Trace:
    """The first steps of a run, without what comes after the last."""
    if trace.steps <= steps:
        return trace
    gone = ("final/", "momentum/")
    arrays = {name: a for name, a in trace.arrays.items() if not name.startswith(gone)}
    arrays["loss"] = arrays["loss"][:steps]
    told = {"groups": "eval,train,loss,grad,update,buffer", "steps": str(steps)}
    return Trace(trace.label, arrays, {**trace.metadata, **told})


def judge(files: Files, seed: int, witnesses: Sequence[Trace] = ()) -> Result:
    """The result of all runs. `witnesses` join the float32 comparison."""
    if files.dtype == "float64":
        comparison = compare([files.trace(name, "float64") for name in files.backends])
        growth = {"float64": _growth64(files)}
        return Result(files.dtype, files.steps, seed, comparison, _layers(files), growth)
    return _judge_float32(files, seed, witnesses)


def _judge_float32(files: Files, seed: int, witnesses: Sequence[Trace]) -> Result:
    first = files.backends[0]
    truth = files.trace(first, "float64", label=f"{first} float64")
    others = [files.trace(name, "float64") for name in files.backends[1:]]
    proof = None
    if others:
        steps = min(trace.steps for trace in others)
        proof = compare([_beginning(t, steps) for t in (truth, *others)])
    traces = [files.trace(name, "float32") for name in files.backends]
    twice = [files.trace(name, "float32", threads=2) for name in files.backends]
    comparison = compare([*traces, *witnesses], truth)
    probes = _probes(files)
    samples = [Sample(comparison, {p.backend: p.changes for p in probes if p.batch == 0})]
    samples += [Sample(p.report, {p.backend: p.changes}) for p in probes]
    ratio_tolerances(samples, _noise(probes, traces, twice, truth))
    growth = {
        "float64": _growth64(files),
        "float32": _growth32(traces, twice, truth),
    }
    return Result(files.dtype, files.steps, seed, comparison, _layers(files), growth, proof, probes)


def _probes(files: Files) -> list[Probe]:
    """The first step of each backend on each batch, in the usual order and in reverse."""
    first = files.backends[0]
    probes = []
    k = 0
    while (files.folder / layer_run(first, "float64") / f"probe{k}.safetensors").exists():
        truth = files.probe(layer_run(first, "float64"), f"{first} float64", k)
        for name in files.backends:
            usual = files.probe(layer_run(name, "float32"), name, k)
            backward = files.probe(noise_run(name, "float32"), name, k)
            probes.append(make_probe(name, k, usual, backward, truth))
        k += 1
    return probes


def _noise(
    probes: Sequence[Probe], traces: Sequence[Trace], twice: Sequence[Trace], truth: Trace
) -> dict[str, dict[str, float]]:
    """How far each backend is from itself, relative to the reference, by value.

    Between a batch and the same in reverse order, which also has another number of threads, where
    no decision changes; and, in eval mode and of the buffers, between one and two threads.
    """
    noise: dict[str, dict[str, float]] = {trace.label: {} for trace in traces}
    found = [(probe.backend, probe.noise) for probe in probes]
    for a, b in zip(traces, twice, strict=True):
        names = [n for n in truth.arrays if n.startswith(("eval/", "buffer/")) and "mask" not in n]
        found.append(
            (a.label, {n: apart(a.arrays[n], b.arrays[n], truth.arrays[n]) for n in names})
        )
    for backend, values in found:
        for name, value in values.items():
            noise[backend][name] = max(noise[backend].get(name, 0.0), value)
    return noise


def _layers(files: Files) -> list[dict[str, Any]]:
    """Each layer alone, fed with the reference's input: its own error, forward and backward."""
    first, *others = files.backends
    truth = files.layers(first, "float64")
    rows = []
    for name in others if files.dtype == "float64" else files.backends:
        mine = files.layers(name, files.dtype)
        for layer in layer_names(files.architecture):
            for direction, own in (("forward", "output"), ("backward", "by ")):
                keys = [key for key in truth if key.startswith(f"{layer}/{own}")]
                errors = {key: relative_l2(mine[key], truth[key]) for key in keys}
                worst = max(errors, key=errors.__getitem__)
                stage = "forward" if direction == "forward" else "gradient"
                tolerance = TOLERANCES[stage] if files.dtype == "float64" else None
                rows.append(
                    {
                        "backend": name,
                        "dtype": files.dtype,
                        "layer": layer,
                        "direction": direction,
                        "error": errors[worst],
                        "tensor": worst.partition("/")[2],
                        "gate": tolerance,
                        "held": tolerance is None or errors[worst] <= tolerance,
                    }
                )
    return rows


def _apart(losses: Array, others: Array) -> list[float]:
    """The relative difference of two losses at each step that both have."""
    n = min(len(losses), len(others))
    a, b = losses[:n].astype(np.float64), others[:n].astype(np.float64)
    return [float(x) for x in np.abs(a - b) / np.abs(b)]


def _growth64(files: Files) -> dict[str, list[float]]:
    """The loss's error at each step in float64, against the first backend's."""
    first, *others = files.backends
    loss = files.trace(first, "float64").arrays["loss"]
    found = {name: _apart(files.trace(name, "float64").arrays["loss"], loss) for name in others}
    if files.dtype == "float64":
        twice = files.trace(first, "float64", threads=2).arrays["loss"]
        found[f"{first}, two threads"] = _apart(twice, loss)
    return found


def _growth32(
    traces: Sequence[Trace], twice: Sequence[Trace], truth: Trace
) -> dict[str, list[float]]:
    """The loss's error at each step in float32, against the reference; and against more threads."""
    found = {t.label: _apart(t.arrays["loss"], truth.arrays["loss"]) for t in traces}
    for one, two in zip(traces, twice, strict=True):
        found[f"{one.label}, two threads"] = _apart(two.arrays["loss"], one.arrays["loss"])
    return found
