"""What a framework says of itself, in a process of its own: `python -m scripts.choose.probe JOB`.

See `scripts.shared.workers`. Says once: `devices`, the floating `dtypes` that it multiplies
matrices in on a CPU, and the `formats` whose readers and writers it has.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from backends import load_backend
from common.errors import InputError
from scripts.shared.workers import Say, serve

DTYPES = ("float64", "float32", "float16", "bfloat16")

SIDE = 8
"""Of the matrices that are multiplied."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Which backend, or `onnxruntime`; `formats` as in `dated.toml`."""

    backend: str
    formats: Sequence[dict[str, str]]


def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module, or leads from one to something."""
    try:
        return pkgutil.resolve_name(dotted) is not None
    except (AttributeError, ImportError):
        return False


def _ways(formats: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Of each format that is there: its name, and whether it is read and written."""
    told = [
        {"name": one["name"]} | {way: is_there(one[way]) for way in ("reads", "writes") if one[way]}
        for one in formats
    ]
    return [one for one in told if one.get("reads") or one.get("writes")]


def _dtypes(backend: str) -> list[str]:
    """Those in which a product of two matrices comes to its end on a CPU."""
    framework = importlib.import_module(f"scripts.shared.speed.{backend}")
    device = load_backend(backend).select_device("cpu")
    found = []
    for dtype in DTYPES:
        try:
            framework.product(SIDE, dtype, device)()
        except Exception:  # each framework has its own way to refuse a type
            continue
        found.append(dtype)
    return found


def _devices(backend: str) -> list[str]:
    found = []
    for name in ("cpu", "gpu"):
        try:
            load_backend(backend).select_device(name)
        except InputError:
            continue
        found.append(name)
    return found


def probe(work: dict[str, Any], say: Say) -> None:
    """Does the job."""
    job = Job(**work)
    if job.backend == "onnxruntime":
        runtime: Any = importlib.import_module("onnxruntime")
        devices = [runtime.get_device().lower()]
        say({"devices": devices, "dtypes": [], "formats": _ways(job.formats)})
        return
    load_backend(job.backend)
    say(
        {
            "devices": _devices(job.backend),
            "dtypes": _dtypes(job.backend),
            "formats": _ways(job.formats),
        }
    )


if __name__ == "__main__":
    serve(probe)
