"""`python -m scripts.bench`: the backends' speed and memory, side by side with the book's way.

Each candidate (a backend in one form) lives in a process of its own and computes only in its turn;
the candidates take turns round by round, so that what slows the machine for a while slows all of
them. One combination of mode, batch size and size comes after the other.
"""

import contextlib
import dataclasses
import itertools
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from common.config import Config, Dtype
from common.dataset import open_dataset
from common.errors import InputError
from common.names import OUTPUT_STRIDE
from scripts.bench_data import draw_pictures
from scripts.bench_table import FORMS, Row, gflop, make_rows, product_rate, show
from scripts.bench_turns import Measured, WorkerError, cores, take_turns
from scripts.bench_worker import Job
from scripts.cli import (
    BackendsOption,
    DtypeOption,
    JsonOption,
    choose_backends,
    console,
    main,
    new_app,
    write_json,
)
from scripts.plots import plot_bench

app = new_app()

NUMBERS = ("--batch-size", "--size")
"""Options that take several whole numbers."""

NO_PRODUCT = {("mxnet", "bfloat16")}
"""Backends that cannot multiply matrices of a type."""

PICTURES = 24
"""Of the synthetic set, at least; each is drawn in a few hundredths of a second."""


class Mode(StrEnum):
    """The values of `--mode`."""

    train = "train"
    eval = "eval"
    predict = "predict"
    data = "data"
    all = "all"


def make_jobs(at: Job, backends: Sequence[str]) -> list[Job]:
    """The candidates of the combination that `at` describes."""
    if at.mode == Mode.data:
        return [dataclasses.replace(at, form=form, dtype="float32") for form in ("ours", "book")]
    jobs = []
    for name in backends:
        for form in FORMS:
            # the book's way has no types to choose from
            dtype = at.dtype if form in ("ours", "limit") else "float32"
            if form != "limit" or (name, dtype) not in NO_PRODUCT:
                jobs.append(dataclasses.replace(at, backend=name, form=form, dtype=dtype))
    return jobs


def read_sizes(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The values of `--size`, height and width in turn, as pairs.

    Raises:
        InputError: one lacks its width, or is no multiple of 32.
    """
    if len(numbers) % 2:
        raise InputError("--size: takes a height and a width")
    sizes = list(dict.fromkeys(zip(numbers[::2], numbers[1::2], strict=True)))
    for height, width in sizes:
        if min(height, width) < OUTPUT_STRIDE or height % OUTPUT_STRIDE or width % OUTPUT_STRIDE:
            raise InputError(
                f"--size {height} {width}: the book's network takes multiples of {OUTPUT_STRIDE}"
            )
    return sizes


def check_options(
    modes: Sequence[Mode],
    batches: Sequence[tuple[int, tuple[int, int]]],
    with_data: bool,
    data: Path | None,
    outputs: Sequence[Path | None],
) -> None:
    """Refuses, before all the work, what could not be done or would not count.

    Raises:
        InputError: a training batch without variance, an option that nothing reads, a folder that
            is not there, or more classes than the network has.
    """
    if Mode.train in modes and (1, (OUTPUT_STRIDE, OUTPUT_STRIDE)) in batches:
        raise InputError("--mode train: one image of 32x32 leaves BatchNorm one value a channel")
    if with_data and Mode.train not in modes:
        raise InputError("--with-data: is for --mode train")
    if data is not None:
        if not with_data and Mode.data not in modes:
            raise InputError("--data: only --mode data and --with-data read pictures")
        dataset = open_dataset(data, "train")
        if dataset.num_classes > Config.num_classes:
            raise InputError(
                f"{data}: {dataset.num_classes} classes, the benchmark's network has"
                f" {Config.num_classes}"
            )
    for path in outputs:
        if path is not None and not path.absolute().parent.is_dir():
            raise InputError(f"{path}: there is no such folder")


@contextlib.contextmanager
def pictures(data: Path | None, count: int, crop: tuple[int, int]) -> Iterator[Path]:
    """A folder in VOC's layout: `data`, or a synthetic one for the time of the `with` block."""
    if data is not None:
        yield data.absolute()
        return
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "shapes"
        with console.status("drawing pictures"):
            height, width = draw_pictures(folder, count, crop)
        print(f"no --data: {count} synthetic pictures of {width}x{height}, in a temporary folder")
        yield folder


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine(measured: Sequence[Measured]) -> dict[str, Any]:
    """What the numbers were taken on, and what the limits are made of."""
    versions = {"python": platform.python_version()}
    rates: dict[str, dict[str, list[float]]] = {}
    gflops = {}
    for one in measured:
        versions |= one.first["versions"]
        height, width = one.job.height, one.job.width
        gflops[f"{height}x{width}"] = {
            name: gflop(mode, height, width)
            for name, mode in (("forward", "eval"), ("train", "train"))
        }
        if one.job.form == "limit":
            by_backend = rates.setdefault(one.job.dtype, {})
            by_backend.setdefault(str(one.job.backend), []).append(product_rate(one))
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": next((one.first["gpu"] for one in measured if one.first["gpu"]), _cpu_name()),
        "cores": cores(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", cores())),
        "versions": versions,
        "gflop_per_image": gflops,
        "product_gflop_per_second": {
            dtype: {name: statistics.median(values) for name, values in by_backend.items()}
            for dtype, by_backend in rates.items()
        },
    }


def print_machine(facts: dict[str, Any]) -> None:
    """The machine in two lines."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(f"{facts['device']}, {facts['cores']} cores, {facts['threads']} threads")
    print(versions)


@app.command()
def bench(
    backends: BackendsOption = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="A training step; a forward pass to the logits; a prediction up to the class map"
            " on the host; reading a batch from files; or all four."
        ),
    ] = Mode.train,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            min=1, metavar="N...", help="Images in a batch, or several such.", show_default="4"
        ),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(
            metavar="H W...", help="The images' size; may repeat.", show_default="320 480"
        ),
    ] = None,
    dtype: DtypeOption = Dtype.float32,
    device: Annotated[
        Literal["cpu", "gpu"], typer.Option(help="Where the networks compute.")
    ] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each candidate.")] = 7,
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Train on batches that are read on the way.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Pictures to read, a folder in VOC's layout. Default: synthetic ones."),
    ] = None,
    json_file: JsonOption = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the result, a PNG file.")
    ] = None,
) -> int:
    """Times each backend against the plain loop of the book, and against the bare arithmetic.

    The book's forms are in float32 whatever --dtype is: they get images normalised on the host,
    which is where the book does it; ours get pictures as decoded. Every call ends when its
    result is there.
    """
    modes = [one for one in Mode if mode in (one, Mode.all) and one is not Mode.all]
    sizes = read_sizes(size or Config.crop)
    batch_sizes = list(dict.fromkeys(batch_size or [4]))
    batches = list(itertools.product(batch_sizes, sizes))
    check_options(modes, batches, with_data, data, (json_file, plot))
    names = choose_backends(backends)
    measured: list[Measured] = []
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        folder = None
        if with_data or Mode.data in modes:
            largest = max(height for height, _ in sizes), max(width for _, width in sizes)
            count = max(PICTURES, 2 * max(batch_sizes))
            folder = str(stack.enter_context(pictures(data, count, largest)))
        for now, images, (height, width) in itertools.product(modes, batch_sizes, sizes):
            reads = now is Mode.data or (with_data and now is Mode.train)
            at = Job(None, "", now, images, height, width, dtype, device, folder if reads else None)
            try:
                took = take_turns(make_jobs(at, names), rounds)
            except WorkerError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            measured += took
            rows += make_rows(took)
            show(took, make_rows(took))
    facts = machine(measured) | {"pictures": str(data or "synthetic") if folder else None}
    print_machine(facts)
    write_json(json_file, {"rows": rows, "machine": facts})
    if plot is not None:
        plot_bench(plot, rows)
    return 0


if __name__ == "__main__":
    main(app, NUMBERS)
