"""That the choice does not change the numbers: a short float64 run of each backend, compared."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import OUTPUT_STRIDE, Architecture, Config, Dtype
from common.errors import WorkerError
from common.parity.compare import compare
from common.parity.traces import read_trace, write_generic
from scripts.shared.cli import last_line
from scripts.shared.workers import ROOT

STEPS = 3

NETWORK = (5, 8)
"""Classes and width: the same code at a fortieth of the arithmetic."""

SIZE = (2 * OUTPUT_STRIDE - 4, 3 * OUTPUT_STRIDE - 6)
"""60x90: padding and cropping take part."""


def trace(backend: str, folder: Path) -> Path:
    """Runs `scripts.trace` in one backend on the files of the folder; its trace.

    Raises:
        WorkerError: it has failed.
    """
    out = folder / f"{backend}.safetensors"
    files = ("--weights", folder / "W.safetensors", "--batches", folder / "B.safetensors")
    settings = ("--dtype", Dtype.float64, "--device", "cpu", "--steps", STEPS)
    command = ["--backend", backend, *files, "--out", out, *settings]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.trace", *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise WorkerError(f"{backend}: {last_line(done.stderr).removeprefix('error: ')}")
    return out


def prove(backends: Sequence[str], folder: Path) -> dict[str, Any] | None:
    """The comparison's verdict, and the worst error of each backend; None where one is alone.

    Raises:
        WorkerError: a run has failed.
    """
    if len(backends) < 2:
        return None
    files = folder / "W.safetensors", folder / "B.safetensors"
    write_generic(*files, Architecture.resnet18, STEPS, 2, SIZE, Config.seed, *NETWORK)
    report = compare([read_trace(trace(name, folder)) for name in backends])
    return {
        "passed": report.passed,
        "verdict": report.verdict(),
        "steps": STEPS,
        "reference": report.reference,
        "worst": {name: max(d.error for d in report.of(name)) for name in report.compared},
        "equal": {name: report.first(name) is None for name in backends},
    }
