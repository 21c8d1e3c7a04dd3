"""`python -m scripts.parity`: do all backends compute the same thing? Every value of a whole run.

Makes generic weights and batches from a seed, runs each backend on them in processes of their own,
and compares: in float64 with one another, in float32 with the float64 reference.
"""

import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column

from common.config import OUTPUT_STRIDE, Config, Dtype
from common.errors import InputError, WorkerError
from common.files import check_new_folder
from common.machine import peak_memory
from common.parity.judge import Files, Result, judge, layer_run, noise_run, whole_run
from common.parity.traces import Trace, read_trace, write_generic
from scripts.parity.hard import passed, print_settings, run_settings, to_dict
from scripts.parity.worker import Job
from scripts.shared.cli import (
    AccumulateOption,
    ArchitectureOption,
    BackendsOption,
    ForceOption,
    FreezeOption,
    HeadOption,
    HeadRateOption,
    JsonOption,
    choose_backends,
    console,
    last_line,
    main,
    new_app,
    progress,
    setting,
    write_json,
)
from scripts.shared.outputs import HTML, JSON, check_places
from scripts.shared.verdicts import (
    HtmlOption,
    new_table,
    number,
    print_report,
    print_verdict,
    say,
    write_reports,
)
from scripts.shared.workers import ROOT, Worker, one_thread

app = new_app()

SETTINGS = {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-3}
"""Of every run, with a rate that falls as `poly` does: where momentum keeps the rate, it shows."""

NETWORK = (Config.num_classes, Config.width)
"""Classes and width of what every run computes."""

SIZE = (2 * OUTPUT_STRIDE - 4, 3 * OUTPUT_STRIDE - 6)
"""60x90: no multiple of 32, so padding and cropping take part; computed at 64x96."""

STEPS = 100
"""Of each run of the whole network."""

PROBES = 6
"""Batches whose first step is looked at alone in float32: on some of them nothing changes."""

PROOF_STEPS = 10
"""Steps of the float64 runs that prove the reference of a float32 comparison."""


class Laboratory:
    """The runs of one command: files in a folder, two processes at a time."""

    def __init__(self, folder: Path, config: Config, steps: int, bar: Any) -> None:
        self.folder, self.config, self.steps = folder, config, steps
        self.weights, self.batches = folder / "W.safetensors", folder / "B.safetensors"
        self.inputs = folder / "layer_inputs.safetensors"
        self.bar = bar
        self.peaks: list[float] = []
        """The most memory that each run has held, in MiB."""
        self.pool = ThreadPoolExecutor(max_workers=2)
        self._workers: list[Worker] = []
        self._pending: dict[str, Future[None]] = {}
        batches = max(steps, PROBES)
        network = (
            config.architecture,
            batches,
            2 * config.accumulate,
            SIZE,
            config.seed,
            *NETWORK,
            config.head,
        )
        write_generic(self.weights, self.batches, *network)

    def __enter__(self) -> "Laboratory":
        return self

    def __exit__(self, *_: object) -> None:
        for future in self._pending.values():
            future.cancel()
        for worker in self._workers:
            worker.kill()
        self.pool.shutdown()

    def submit(self, label: str, backend: str, dtype: Dtype, threads: int = 1, **job: Any) -> None:
        """Queues a run; its results are in `folder / label`."""
        target = self.folder / label
        target.mkdir()
        files = str(target), str(self.weights), str(self.batches)
        own = {key: getattr(self.config, key) for key in ("head_rate", "freeze", "accumulate")}
        network = self.config.architecture, self.config.head
        work = Job(backend, *network, dtype, *files, SETTINGS | own, **job)
        task = self.bar.add_task("", total=work.turns, status=label)
        self._pending[label] = self.pool.submit(self._execute, label, work, threads, task)

    def wait(self, *labels: str) -> None:
        """Until these runs, or all, are done.

        Raises:
            WorkerError: one has failed.
        """
        for label in labels or list(self._pending):
            self._pending[label].result()

    def _execute(self, label: str, job: Job, threads: int, task: Any) -> None:
        flags = one_thread(job.backend) if threads == 1 else {}
        with Worker(label, "scripts.parity.worker", job, threads, **flags) as worker:
            self._workers.append(worker)
            for said in worker.answers():
                if isinstance(said, float):
                    self.peaks.append(said)
                else:
                    self.bar.update(task, advance=1, status=f"{label}: {said}")
        self.bar.update(task, visible=False)


def run_all(laboratory: Laboratory, backends: Sequence[str], dtype: Dtype) -> None:
    """Every run that the comparison needs, the longest first."""
    exact, first = Dtype.float64, backends[0]
    single = dtype is Dtype.float32
    probes = PROBES if single else 0
    slow_first = sorted(backends, key=lambda name: name != "jax")

    def whole(name: str, dtype: Dtype, threads: int = 1) -> None:
        proof = single and dtype is exact and name != first
        steps = min(PROOF_STEPS, laboratory.steps) if proof else laboratory.steps
        about = {"steps": steps, "of_steps": laboratory.steps}
        laboratory.submit(whole_run(name, dtype, threads), name, dtype, threads, **about)

    def layers(name: str, dtype: Dtype, **more: Any) -> None:
        more |= {"layer_inputs": str(laboratory.inputs)}
        laboratory.submit(layer_run(name, dtype), name, dtype, probes=probes, **more)

    whole(slow_first[0], exact)
    layers(first, exact, makes_inputs=True)
    laboratory.wait(layer_run(first, exact))
    for name in slow_first[1:]:
        whole(name, exact)
    if single:
        for name in slow_first:
            whole(name, dtype)
            layers(name, dtype)
            whole(name, dtype, threads=2)
            label = noise_run(name, dtype)
            laboratory.submit(label, name, dtype, 2, probes=probes, reversed_batch=True)
    else:
        for name in backends[1:]:
            layers(name, exact)
        whole(first, exact, threads=2)
    laboratory.wait()


def _witness(laboratory: Laboratory, backends: Sequence[str]) -> list[Trace]:
    """ONNX Runtime on PyTorch's exported network, where these are installed."""
    packages = ("torch", "onnx", "onnxruntime")
    if "torch" not in backends or any(importlib.util.find_spec(name) is None for name in packages):
        console.print("no witness: ONNX Runtime, onnx or PyTorch is not installed")
        return []
    out = laboratory.folder / "onnxruntime.safetensors"
    files = ("--weights", laboratory.weights, "--batches", laboratory.batches, "--out", out)
    command = [sys.executable, "-m", "scripts.witness.onnx", *map(str, files)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if run.returncode:
        raise WorkerError(f"onnxruntime: {last_line(run.stderr)}")
    return [read_trace(out)]


def print_layers(result: Result) -> None:
    """Each layer alone: forward and backward error of each backend."""
    title = "each layer alone, fed with the reference's input: own error, forward | backward"
    names = list(dict.fromkeys(row["backend"] for row in result.layers))
    table = new_table(title, [Column("layer", no_wrap=True)], names)
    found = {(r["backend"], r["layer"], r["direction"]): r["error"] for r in result.layers}
    for layer in dict.fromkeys(row["layer"] for row in result.layers):
        cells = [
            " | ".join(number(found[name, layer, way]) for way in ("forward", "backward"))
            for name in names
        ]
        table.add_row(layer, *cells)
    console.print(table)


def print_growth(result: Result) -> None:
    """The loss's error at a few steps, and at the last."""
    for dtype, lines in result.growth.items():
        if not lines:
            continue
        longest = max(map(len, lines.values()))
        steps = [*(s for s in (0, 1, 5, 20, 100, 500) if s < longest - 1), longest - 1]
        title = f"{dtype}: relative error of the loss at step"
        table = new_table(title, [Column("", no_wrap=True)], map(str, steps))
        for label, errors in lines.items():
            cells = [number(errors[s]) if s < len(errors) else "" for s in steps]
            table.add_row(label, *cells)
        console.print(table)


def print_changes(result: Result) -> None:
    """Decisions that change, and how the gradients were judged."""
    if not result.probes:
        return
    say(
        f"decisions (ReLU signs, max-pool winners) that change between a backend and the"
        f" reference, of {result.probes[0].decisions} a batch, and what they do to the gradients:"
    )
    for row in (probe.gradients() for probe in result.probes):
        changes = f"{row['flips']} in {row['where']}" if row["flips"] else "none"
        judged = f"{row['gated']} of {row['of']} gradients judged"
        if row["gated"]:
            judged += f", least margin {number(row['gated_error'])} of {number(row['gate'])}"
        if row["gated"] < row["of"]:
            judged += f"; the others, behind the change, up to {number(row['error'])}"
        held = "" if row["held"] else " NOT HELD"
        say(f"  {row['backend']} batch {row['batch']}: changes: {changes}; {judged}{held}")


def print_chaos(result: Result) -> None:
    """How much of the spread after the last step another number of threads brings about."""
    for dtype, lines in result.growth.items():
        last = {label: errors[-1] for label, errors in lines.items() if errors}
        twice = [error for label, error in last.items() if label.endswith("two threads")]
        others = [error for label, error in last.items() if not label.endswith("two threads")]
        if twice and others:
            say(
                f"{dtype}, after the last step: backends up to {number(max(others))} apart, one"
                f" backend with one and with two threads up to {number(max(twice))}"
            )


def print_result(result: Result) -> None:
    """All that was found, the verdict last."""
    print_report(result.comparison, with_verdict=False)
    if result.proof is not None:
        say(f"the float64 reference: {result.proof.verdict()}")
    print_layers(result)
    print_growth(result)
    print_chaos(result)
    print_changes(result)
    for name, stages in result.noise.items():
        told = ", ".join(f"{stage} {number(error)}" for stage, error in stages.items())
        say(f"own noise of {name}: {told}")
    facts = result.facts
    say(f"{facts['seconds']:.0f} s, at most {facts['peak_mb'] / 1024:.1f} GiB at a time")
    print_verdict(result.passed, result.verdict())


def _hard(folder: Path, backends: Sequence[str], bar: Any, json_path: Path | None) -> None:
    begin = time.monotonic()
    try:
        reports = run_settings(folder, backends, bar)
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    bar.stop()
    say(f"{len(reports)} settings, {time.monotonic() - begin:.0f} s")
    print_settings(reports, backends)
    write_json(json_path, to_dict(reports))
    if not passed(reports):
        raise typer.Exit(1)


@app.command()
def parity(
    backends: BackendsOption = None,
    architecture: ArchitectureOption = Config.architecture,
    head: HeadOption = Config.head,
    dtype: Annotated[
        Dtype, typer.Option(help="float64: with one another; float32: with the float64 reference.")
    ] = Dtype.float64,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each run.")] = STEPS,
    seed: Annotated[int, setting("seed")] = Config.seed,
    head_rate: HeadRateOption = Config.head_rate,
    freeze: FreezeOption = Config.freeze,
    accumulate: AccumulateOption = Config.accumulate,
    hard: Annotated[
        bool,
        typer.Option("--hard", help="Thin networks on data that show what ordinary data hide."),
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep traces and inputs in a new folder.")
    ] = None,
    json_path: JsonOption = None,
    html_path: HtmlOption = None,
    force: ForceOption = False,
) -> None:
    """Do all backends compute the same thing? Exit code 0 only if every tolerance holds, else 1."""
    chosen = choose_backends(backends)
    if dtype is Dtype.bfloat16:
        raise InputError("--dtype bfloat16: parity judges float64 and float32 alone")
    if dtype is Dtype.float64 and len(chosen) < 2:
        raise InputError(f"--backends {chosen[0]}: alone; float64 is held against another backend")
    config = Config(
        architecture=architecture,
        head=head,
        seed=seed,
        head_rate=head_rate,
        freeze=freeze,
        accumulate=accumulate,
    )
    if hard and (config, dtype, steps, html_path) != (Config(), Dtype.float64, STEPS, None):
        raise InputError("--hard: takes --backends, --keep and --json; all else is its own")
    check_places((json_path, JSON), (html_path, HTML), force=force)
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parity-")))
        check_new_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        bar = stack.enter_context(progress("parity"))
        if hard:
            _hard(folder, chosen, bar, json_path)
            return
        laboratory = stack.enter_context(Laboratory(folder, config, steps, bar))
        try:
            run_all(laboratory, chosen, dtype)
            witnesses = _witness(laboratory, chosen) if dtype is Dtype.float32 else []
        except WorkerError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        bar.stop()
        files = Files(folder, chosen, architecture, head, dtype, steps)
        with console.status("comparing"):
            result = judge(files, seed, witnesses)
        own = peak_memory()
        peaks = sorted(laboratory.peaks)[-2:]  # two runs at a time, then this process
        result.facts |= {"seconds": time.monotonic() - begin, "peak_mb": max(own, sum(peaks))}
        print_result(result)
        write_reports(result.to_dict(), result.traces, json_path, html_path)
    if not result.passed:
        raise typer.Exit(1)


if __name__ == "__main__":
    main(app)
