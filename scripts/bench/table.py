"""From what the candidates took to rows and facts, and from rows to a table."""

import dataclasses
import itertools
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import rich.box
import rich.table

from common.config import Config
from common.machine import cpu_info
from common.network.flops import forward_flops, training_flops
from scripts.shared.cli import console
from scripts.shared.speed.turns import Measured, cores, threads
from scripts.shared.speed.worker import SIDE

COLUMNS = (
    *("\nbackend", "\nform", "first\nms", "median\nms", "\nmin..max", "CPU\nms"),
    *("\nimg/s", "x\nbook", "%\nlimit", "%\nconv", "\nMB", "x\nMB"),
)

Row = dict[str, Any]
Turns = Sequence[Mapping[str, float]]

# `bilinear` is held to the same limit, though its head has a twentieth less to do.
EXPLANATION = (
    "convolutions: those of ours alone, and its last product; % conv: their time over the row's\n"
    "bilinear: the book's loop (float32), interpolating; book: as it is;"
    " limit: the FLOPs at that rate"
)
EXPLANATION_OF_DATA = "book: its items, one after the other"

SETTINGS = ("backend", "form", "mode", "dtype", "batch_size", "height", "width")
"""What a row has of its job."""

WIDTH = 100
"""Columns that a table may take; where the output is no terminal, there would be 80."""


def gflop(mode: str, height: int, width: int) -> float:
    """Billions of operations for an image: a training step in `train`, else a forward pass."""
    count = training_flops if mode == "train" else forward_flops
    flops = count(Config.architecture, Config.num_classes, height, width)
    return sum(flops.values()) / 1e9


def product_rate(measured: Measured) -> float:
    """GFLOP/s of a candidate of the form `limit`: the median over its rounds."""
    return 2 * SIDE[measured.job.device] ** 3 / _seconds(measured.turns) / 1e9


def fastest_product(measured: Iterable[Measured], dtype: str) -> Measured | None:
    """The candidate whose rate the limits in this type are of; None where there is none.

    It is that of all backends, so that a framework does not look good by a slow product.
    """
    products = (one for one in measured if (one.job.form, one.job.dtype) == ("limit", dtype))
    return max(products, key=product_rate, default=None)


def limit_turns(product: Measured) -> list[dict[str, float]]:
    """What the work of the product's combination would have taken in each round at its rate."""
    job = product.job
    work = job.batch_size * gflop(job.mode, job.height, job.width) * 1e9
    share = work / (2 * SIDE[job.device] ** 3)
    return [{"seconds": share * turn["seconds"]} for turn in product.turns]


def make_rows(measured: Sequence[Measured]) -> list[Row]:
    """The rows of a combination: each backend's forms in turn, then the limit of its own type.

    A row's shares are of the limit and the convolutions in the row's type: the book's in float32.
    """
    products = {one.job.dtype: fastest_product(measured, one.job.dtype) for one in measured}
    limits = {dtype: limit_turns(product) for dtype, product in products.items() if product}
    rows = []
    for _, group in itertools.groupby(measured, lambda one: one.job.backend):
        own = [one for one in group if one.job.form != "limit"]
        book = next(one.turns for one in own if one.job.form == "book")
        alone = {one.job.dtype: one.turns for one in own if one.job.form == "convolutions"}
        if limit := limits.get(own[0].job.dtype):
            own.append(Measured(dataclasses.replace(own[0].job, form="limit"), turns=limit))
        rows += [
            _row(one, book, limits.get(one.job.dtype), alone.get(one.job.dtype)) for one in own
        ]
    return rows


def _row(measured: Measured, book: Turns, limit: Turns | None, convolutions: Turns | None) -> Row:
    """Seconds are medians of the rounds; of a limit, which was not run, costs are None.

    How many times faster than the book's form is the median of each round's ratio, and so is the
    share of the backend's convolutions.
    """
    job, turns = measured.job, measured.turns
    seconds, was_run = _seconds(turns), job.form != "limit"
    spread = [turn["seconds"] for turn in turns]
    return {
        **{key: getattr(job, key) for key in SETTINGS},
        "seconds": seconds,
        "spread": [min(spread), max(spread)],
        "cpu_seconds": statistics.median(t["cpu_seconds"] for t in turns) if was_run else None,
        "first_seconds": measured.first.get("seconds"),
        "peak_mb": max(turn["peak_mb"] for turn in turns) if was_run else None,
        "images_per_second": job.batch_size / seconds,
        "share_of_limit": _seconds(limit) / seconds if limit else None,
        "share_of_convolutions": _ratio(convolutions, turns) if convolutions else None,
        "speedup_over_book": _ratio(book, turns),
    }


def _seconds(turns: Turns) -> float:
    return float(statistics.median(turn["seconds"] for turn in turns))


def _ratio(theirs: Turns, own: Turns) -> float:
    """The median of each round's ratio."""
    pairs = zip(theirs, own, strict=True)
    return float(statistics.median(a["seconds"] / b["seconds"] for a, b in pairs))


def machine(measured: Sequence[Measured]) -> dict[str, Any]:
    """What the numbers were taken on, and what the limits are made of."""
    versions = {"python": platform.python_version()}
    cpu = cpu_info().get("model name", platform.machine())
    rates: dict[str, dict[str, list[float]]] = {}
    for one in measured:
        versions |= one.first["versions"]
        if one.job.form == "limit":
            by_backend = rates.setdefault(one.job.dtype, {})
            by_backend.setdefault(str(one.job.backend), []).append(product_rate(one))
    sizes = dict.fromkeys((one.job.height, one.job.width) for one in measured)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": next((one.first["gpu"] for one in measured if one.first["gpu"]), cpu),
        "cores": cores(),
        "threads": threads(),
        "versions": versions,
        "gflop_per_image": {
            f"{h}x{w}": {"forward": gflop("eval", h, w), "train": gflop("train", h, w)}
            for h, w in sizes
        },
        "product_gflop_per_second": {
            dtype: {name: statistics.median(values) for name, values in by_backend.items()}
            for dtype, by_backend in rates.items()
        },
    }


def figures(value: float | None, times: float = 1) -> str:
    """Three figures, or a whole number; nothing for None."""
    if value is None:
        return ""
    value *= times
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _heading(measured: Sequence[Measured]) -> str:
    """What was done, how much arithmetic that is, and at which rate."""
    job = measured[0].job
    at = f"batch {job.batch_size} of {job.height}x{job.width}"
    if job.mode == "data":
        return f"data, from files, {at}, in one process"
    count = gflop(job.mode, job.height, job.width)
    source = " from files" if job.data else ""
    text = f"{job.mode}, {job.dtype}, {at}{source}: {count:.3g} GFLOP an image"
    if product := fastest_product(measured, job.dtype):
        text += f", {product.job.backend}'s product {product_rate(product):.0f} GFLOP/s"
    return text


def show(measured: Sequence[Measured], rows: Sequence[Row]) -> None:
    """Prints a combination as a table."""
    if not console.is_terminal:
        console.width = WIDTH
    explanation = EXPLANATION_OF_DATA if rows[0]["mode"] == "data" else EXPLANATION
    console.print(f"\n{_heading(measured)}\n{explanation}", soft_wrap=True)
    book = fastest_product(measured, "float32")
    if book and rows[0]["dtype"] != "float32":
        rate = product_rate(book)
        print(f"% limit of the book's forms: of float32's product, {rate:.0f} GFLOP/s")
    table = rich.table.Table(box=rich.box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        left = name in COLUMNS[:2]
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    peaks = {row["backend"]: row["peak_mb"] for row in rows if row["form"] == "book"}
    for row in rows:
        table.add_row(
            row["backend"] or "",
            row["form"],
            figures(row["first_seconds"], 1000),
            figures(row["seconds"], 1000),
            "..".join(figures(end, 1000) for end in row["spread"]),
            figures(row["cpu_seconds"], 1000),
            figures(row["images_per_second"]),
            f"{row['speedup_over_book']:.2f}",
            figures(row["share_of_limit"], 100),
            figures(row["share_of_convolutions"], 100),
            figures(row["peak_mb"]),
            figures(row["peak_mb"], 1 / peaks[row["backend"]]),
            end_section=row["form"] == "limit",
        )
    console.print(table)
