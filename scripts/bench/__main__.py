"""`python -m scripts.bench`: the backends' speed and memory, side by side with the book's way.

Each candidate (a backend in one form) lives in a process of its own and computes only in its turn;
the candidates take turns round by round, so that what slows the machine for a while slows all of
them. One combination of mode, batch size and size comes after the other.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from common.config import OUTPUT_STRIDE, Config, Dtype, Head
from common.data.dataset import contents, open_dataset
from common.errors import InputError
from scripts.bench.scaling import forecast, measure_scaling, show_forecast
from scripts.bench.table import Row, machine, make_rows, show
from scripts.shared.cli import (
    BackendsOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    choose_backends,
    main,
    new_app,
    write_json,
)
from scripts.shared.outputs import JSON, PNG, check_places
from scripts.shared.plots import plot_bench, plot_scaling
from scripts.shared.speed.data import pictures
from scripts.shared.speed.turns import Measured, check_processes, take_turns
from scripts.shared.speed.worker import Job

app = new_app()

NUMBERS = ("--batch-size", "--size", "--processes")
"""Options that take several whole numbers."""

NO_PRODUCT = {("mxnet", "bfloat16")}
"""Backends that cannot multiply matrices, nor convolve, in a type."""

BATCH_SIZE = 4

CLASSES = Config.num_classes

MODES = ("train", "eval", "predict", "data")

PICTURES = 24
"""Of the synthetic set, at least; each is drawn in a few hundredths of a second."""


def make_jobs(at: Job, backends: Sequence[str], heads: Sequence[Head] = ()) -> list[Job]:
    """The candidates of the combination that `at` describes; also with `heads` that are others."""
    if at.mode == "data":
        return [dataclasses.replace(at, form=form, dtype="float32") for form in ("ours", "book")]
    book = dataclasses.replace(at, dtype="float32")  # it knows no other type
    forms = (
        *((at, form) for form in ("ours", *heads, "convolutions")),
        *((book, "bilinear"), (book, "book")),
        *((at, "limit"), (book, "limit")),
    )
    jobs = dict.fromkeys(
        dataclasses.replace(one, backend=name, form=form)
        for name in backends
        for one, form in forms
        if form not in ("convolutions", "limit") or (name, one.dtype) not in NO_PRODUCT
    )
    return list(jobs)


def read_sizes(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The values of `--size`, height and width in turn, as pairs.

    Raises:
        InputError: one lacks its width, or is no multiple of 32.
    """
    if len(numbers) % 2:
        raise InputError("--size: takes a height and a width")
    sizes = list(dict.fromkeys(zip(numbers[::2], numbers[1::2], strict=True)))
    for height, width in sizes:
        if any(side < OUTPUT_STRIDE or side % OUTPUT_STRIDE for side in (height, width)):
            raise InputError(
                f"--size {height} {width}: the book's network takes multiples of {OUTPUT_STRIDE}"
            )
    return sizes


@app.command()
def bench(
    backends: BackendsOption = None,
    mode: Annotated[
        Literal["train", "eval", "predict", "data", "all"],
        typer.Option(
            help="A training step; a forward pass to the logits; a prediction up to the class map"
            " on the host; reading a batch from files; or all four."
        ),
    ] = "train",
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            metavar="N...",
            help="Images in a batch, or several such.",
            show_default=str(BATCH_SIZE),
        ),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(
            metavar="H W...", help="The images' size; may repeat.", show_default="320 480"
        ),
    ] = None,
    processes: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            metavar="N...",
            help="Train in so many processes, a thread each: on --batch-size images in each, then"
            " in all together.",
        ),
    ] = None,
    head: Annotated[
        list[Head] | None, typer.Option(help="Ours with this head, too; may repeat.")
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
    force: ForceOption = False,
) -> None:
    """Times each backend against the book's plain loop, its own convolutions, and arithmetic.

    The book's forms compute in float32 whatever --dtype says, from images normalised on the host,
    as its dataset gives them; ours start from pictures as decoded. A call ends when its result
    is there.

    With --processes each backend is timed against itself in one process, and a model says what
    more of them would give.
    """
    modes = MODES if mode == "all" else (mode,)
    sizes = read_sizes(size or Config.crop)
    batch_sizes = list(dict.fromkeys(batch_size or [BATCH_SIZE]))
    reading = [one for one in modes if one == "data" or (one == "train" and with_data)]
    if processes and (modes != ("train",) or with_data or head):
        raise InputError("--processes: is for --mode train, without --with-data and --head")
    counts = check_processes(processes or [1], batch_sizes)
    least = min(batch_sizes) // counts[-1]
    if "train" in modes and least == 1 and (OUTPUT_STRIDE, OUTPUT_STRIDE) in sizes:
        raise InputError("--mode train: one image of 32x32 leaves BatchNorm one value a channel")
    if with_data and "train" not in modes:
        raise InputError("--with-data: is for --mode train")
    if data is not None and not reading:
        raise InputError("--data: only --mode data and --with-data read pictures")
    if data is not None and (classes := open_dataset(data, "train").num_classes) > CLASSES:
        raise InputError(f"{data}: {classes} classes, the benchmark's network has {CLASSES}")
    read = contents(data) if data is not None else []
    check_places((json_file, JSON), (plot, PNG), reads=read, force=force)
    names = choose_backends(backends)
    heads = [one for one in dict.fromkeys(head or ()) if one != Config.head]
    count = max(PICTURES, 2 * max(batch_sizes)) if reading else 0
    measured: list[Measured] = []
    rows: list[Row] = []
    with pictures(data, count, crops=sizes) as folder:
        for one, images, (height, width) in itertools.product(modes, batch_sizes, sizes):
            source = str(folder) if one in reading else None
            at = Job(None, "", one, images, height, width, dtype, device, source)
            if processes:
                took, made = measure_scaling(at, names, counts, rounds)
            else:
                took = take_turns(make_jobs(at, names, heads), rounds)
                made = make_rows(took)
                show(took, made)
            measured += took
            rows += made
    facts = machine(measured) | {"pictures": str(data or "synthetic") if reading else None}
    print(f"{facts['device']}, {facts['cores']} cores, {facts['threads']} threads")
    print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    result: dict[str, Any] = {"rows": rows, "machine": facts}
    if processes:
        result["forecast"] = forecast(sizes[-1])
        show_forecast(result["forecast"])
    write_json(json_file, result)
    if plot is not None and processes:
        plot_scaling(plot, rows, result["forecast"])
    elif plot is not None:
        plot_bench(plot, rows)


if __name__ == "__main__":
    main(app, NUMBERS)
