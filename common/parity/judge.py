"""The judgement of `scripts.parity`: from the files that its runs left to one result.

In float64 the backends are held against one another at the fixed tolerances of
`common.parity.tolerances`. In float32 they are held against the float64 reference by ratio: none
may be further from it than twice the furthest of the others, or than its own noise, and a few eps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.network.tensors import layer_names
from common.parity.compare import compare, relative_l2
from common.parity.order import stage_of
from common.parity.ratio import Probe, Sample, apart, make_probe, ratio_tolerances
from common.parity.report import Difference, Report, finite, worst_by_stage
from common.parity.tolerances import TOLERANCES
from common.parity.traces import Trace, read_trace
from common.protocol import Arrays
from common.weights.checkpoint import read_tensors


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
    head: str
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
    traces: Sequence[Trace] = ()
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
        worst: dict[str, dict[str, float]] = {}
        for probe in self.probes:
            own = worst.setdefault(probe.backend, {})
            for name, value in probe.noise.items():
                own[stage_of(name)] = max(own.get(stage_of(name), 0.0), value)
        return worst

    def unjudged(self) -> list[tuple[str, str]]:
        """Per backend, the first gradient without a tolerance: on every batch changes touch it."""
        every = [d for probe in self.probes for d in probe.report.differences]
        judged = {(d.trace, d.name) for d in every if d.tolerance}
        first: dict[str, str] = {}
        for d in every:
            if d.stage == "gradient" and (d.trace, d.name) not in judged:
                first.setdefault(d.trace, d.name)
        return list(first.items())

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
                nearest[d.name] = min(nearest.get(d.name, d), d, key=lambda d: d.error)
            own = worst_by_stage([*nearest.values()], lambda d: d.error)
            found = {report.reference: own, **found}

        def told(d: Difference) -> dict[str, Any]:
            limit = d.tolerance and d.tolerance.limit
            return {"error": d.error, "tensor": d.name, "gate": limit, "margin": d.margin}

        return {
            trace: {stage: told(d) for stage, d in stages.items()}
            for trace, stages in found.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        result = {
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
        return {key: finite(value) for key, value in result.items()}


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
    first, *others = files.backends
    exact = [files.trace(name, "float64") for name in others]
    if files.dtype == "float64":
        truth, two = (files.trace(first, "float64", threads) for threads in (1, 2))
        growth = {"float64": _growth(exact, truth, [(truth, two)])}
        comparison = compare([truth, *exact])
        result = Result(files.dtype, files.steps, seed, comparison, _layers(files), growth)
        result.traces = [truth, *exact]
        return result
    truth = files.trace(first, "float64", label=f"{first} float64")
    proof = None
    if exact:
        steps = min(trace.steps for trace in exact)
        proof = compare([_beginning(t, steps) for t in (truth, *exact)])
    traces = [files.trace(name, "float32") for name in files.backends]
    twice = [files.trace(name, "float32", threads=2) for name in files.backends]
    comparison = compare([*traces, *witnesses], truth)
    probes = _probes(files)
    samples: list[Sample]
    samples = [(comparison, {p.backend: p.changes for p in probes if p.batch == 0})]
    samples += [(p.report, {p.backend: p.changes}) for p in probes]
    both = list(zip(traces, twice, strict=True))
    ratio_tolerances(samples, _noise(probes, both, truth))
    growth = {"float64": _growth(exact, truth), "float32": _growth(traces, truth, both)}
    result = Result(files.dtype, files.steps, seed, comparison, _layers(files), growth)
    result.proof, result.probes, result.traces = proof, probes, [truth, *traces, *witnesses]
    return result


def _probes(files: Files) -> list[Probe]:
    """The first step of each backend on each batch, in the usual order and in reverse."""
    first = files.backends[0]
    reference = layer_run(first, "float64")
    probes = []
    for k in range(len([*(files.folder / reference).glob("probe*.safetensors")])):
        truth = files.probe(reference, f"{first} float64", k)
        for name in files.backends:
            usual = files.probe(layer_run(name, "float32"), name, k)
            backward = files.probe(noise_run(name, "float32"), name, k)
            probes.append(make_probe(name, k, usual, backward, truth))
    return probes


def _noise(
    probes: Sequence[Probe], both: Sequence[tuple[Trace, Trace]], truth: Trace
) -> dict[str, dict[str, float]]:
    """How far each backend is from itself, relative to the reference, by value.

    Between a batch and the same in reverse order, which also has another number of threads, where
    no decision changes; and, in eval mode and of the buffers, between one and two threads.
    """
    noise: dict[str, dict[str, float]] = {}
    for a, b in both:  # these values are in no probe
        names = [n for n in truth.arrays if n.startswith(("eval/", "buffer/")) and "mask" not in n]
        noise[a.label] = {n: apart(a.arrays[n], b.arrays[n], truth.arrays[n]) for n in names}
    for probe in probes:
        own = noise[probe.backend]
        for name, value in probe.noise.items():
            own[name] = max(own.get(name, 0.0), value)
    return noise


_DIRECTIONS = (("forward", "output", "forward"), ("backward", "by ", "gradient"))
"""What is measured of a layer alone, how its values' names begin, and whose tolerance they have."""


def _layers(files: Files) -> list[dict[str, Any]]:
    """Each layer alone, fed with the reference's input: its own error, forward and backward."""
    first, *others = files.backends
    truth = files.layers(first, "float64")
    rows = []
    for name in others if files.dtype == "float64" else files.backends:
        mine = files.layers(name, files.dtype)
        for layer in layer_names(files.architecture, files.head):
            for direction, own, stage in _DIRECTIONS:
                keys = [key for key in truth if key.startswith(f"{layer}/{own}")]
                errors = {key: relative_l2(mine[key], truth[key]) for key in keys}
                worst = max(errors, key=errors.__getitem__)
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


def _apart(trace: Trace, other: Trace) -> list[float]:
    """The relative difference of the losses at each step that both have."""
    n = min(trace.steps, other.steps)
    a, b = (t.arrays["loss"][:n].astype(np.float64) for t in (trace, other))
    found: list[float] = (np.abs(a - b) / np.abs(b)).tolist()
    return found


def _growth(
    traces: Sequence[Trace], truth: Trace, both: Sequence[tuple[Trace, Trace]] = ()
) -> dict[str, list[float]]:
    """The loss's error at each step, against the reference; and of one thread against two."""
    found = {trace.label: _apart(trace, truth) for trace in traces}
    return found | {f"{one.label}, two threads": _apart(two, one) for one, two in both}
