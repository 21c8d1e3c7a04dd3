"""Plots: the curves of a run, curves on top of each other, the confusion matrix."""

import collections
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.fonts import charmap, drawable, usual_font

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = Sequence[Mapping[str, Any]]

_LONGEST = 24
"""Characters of a class's name in a plot."""


def smooth(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """The mean of each value and up to `window` - 1 before it."""
    total = np.cumsum([0.0, *values])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    means: NDArray[np.float64] = (total[last] - total[first]) / (last - first)
    return means


def _tick_names(names: Sequence[str]) -> list[str]:
    """Classes' names as a plot can show them."""
    known = charmap(usual_font())
    return drawable(names, range(len(names)), _LONGEST, lambda letter: ord(letter) in known)


def _series(lines: Lines, key: str) -> tuple[Any, list[Any]]:
    return [line["step"] for line in lines], [line[key] for line in lines]


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # here: half of what a command takes to start

    return Figure(figsize=(width, height), layout="constrained")


def plot_run(path: Path, steps: Lines, val: Lines) -> None:
    """The loss of each step, its running mean, and if any the metrics on val; a PNG file."""
    columns = 2 if val else 1
    figure = _figure(4.5 * columns, 3.6)
    left, *right = figure.subplots(1, columns, squeeze=False)[0]
    numbers, losses = _series(steps, "loss")
    left.plot(numbers, losses, color="0.75", linewidth=0.8, label="each step")
    left.plot(numbers, smooth(losses, 20), color="C0", label="mean of 20 steps")
    left.set(xlabel="step", ylabel="loss", title="training loss")
    left.legend(frameon=False)
    for axes in right:
        for key, label in (("mean_iou", "mean IoU"), ("pixel_accuracy", "pixel accuracy")):
            axes.plot(*_series(val, key), marker="o", label=label)
        axes.set(xlabel="step", ylim=(0, 1), title="val")
        axes.legend(frameon=False)
    _save(figure, path)


def plot_runs(path: Path, runs: Lines, against_time: bool = False) -> None:
    """The losses of several runs, means of 50 steps, and their mean IoU on val; a PNG file.

    `runs` are those of `scripts.curves`; each backend, or relay of several, has a colour, and each
    seed a line of its own. They are drawn against the step, or the minutes that steps have taken.
    """
    figure = _figure(10, 3.8)
    left, right = figure.subplots(1, 2)
    names = [" > ".join(run["backends"]) for run in runs]
    colours = {name: f"C{k}" for k, name in enumerate(dict.fromkeys(names))}
    seeds = list(dict.fromkeys(run["seed"] for run in runs))
    for name, run in zip(names, runs, strict=True):
        style: dict[str, Any] = {
            "color": colours[name],
            "linestyle": ("-", "--", ":", "-.")[seeds.index(run["seed"]) % 4],
            "label": f"{name}, seed {run['seed']}",
        }
        steps, losses = _series(run["steps"], "loss")
        val_steps, ious = _series(run["val"], "mean_iou")
        if against_time:
            minutes = np.cumsum([0.0, *(line["seconds"] / 60 for line in run["steps"])])
            steps, val_steps = minutes[1:], minutes[val_steps]
        left.plot(steps, smooth(losses, 50), **style)
        right.plot(val_steps, ious, marker=".", **style)
    unit = "minutes of training steps" if against_time else "step"
    left.set(xlabel=unit, ylabel="loss", title="training loss, mean of 50 steps")
    right.set(xlabel=unit, title="mean IoU on val")
    right.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=8)
    _save(figure, path)


def plot_losses(path: Path, runs: Mapping[str, Sequence[float]]) -> None:
    """The losses of several runs on top of each other, and how far each is from the first."""
    figure = _figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    names = list(runs)
    for k, name in enumerate(names):
        style = {"linestyle": ("-", "--", ":")[k % 3], "linewidth": 3 - 0.8 * k, "label": name}
        left.plot(smooth(runs[name], 10), **style)
        if k:
            apart = np.abs(np.subtract(runs[name], runs[names[0]]))
            right.semilogy(np.maximum(apart, 1e-9), color=f"C{k}", label=f"|{name} - {names[0]}|")
    left.set(xlabel="step", ylabel="loss", title="training loss, mean of 10 steps")
    right.set(xlabel="step", title="loss difference, float32, each step")
    left.legend(frameon=False)
    if len(names) > 1:
        right.legend(frameon=False)
    _save(figure, path)


def plot_relay(path: Path, stayed: Mapping[str, Sequence[float]], relays: Lines) -> None:
    """Losses of runs that stay in a framework and of relays, and how far apart; a PNG file.

    The result of `scripts.relay`.
    """
    figure = _figure(10, 3.8)
    left, right = figure.subplots(1, 2)
    for k, (name, losses) in enumerate(stayed.items()):
        left.plot(losses, color="0.75", linewidth=5 - 1.5 * k, label=f"{name} alone")
    for k, relay in enumerate(relays):
        label = " > ".join(relay["order"])
        left.plot(relay["losses"], color=f"C{k}", linewidth=0.9, label=label)
        alone = np.asarray(stayed[relay["order"][0]])
        apart = np.abs(np.asarray(relay["losses"]) - alone) / np.abs(alone)
        right.semilogy(np.maximum(apart, 1e-17), color=f"C{k}", linewidth=0.9, label=label)
    steps, parts = len(relays[0]["losses"]), len(relays[0]["order"])
    for axes in (left, right):
        for part in range(1, parts):
            axes.axvline(steps * part // parts - 0.5, color="0.6", linestyle=":")
    right.axhline(1e-9, color="black", linestyle="--", linewidth=0.8)
    right.annotate("gate, for every weight, buffer and momentum at the end", (0, 1.4e-9), size=8)
    left.set(xlabel="step", ylabel="loss", title="float64, another framework after each third")
    right.set(xlabel="step", title="loss, relative to a run that stays", ylim=(1e-17, 1e-8))
    left.legend(frameon=False, fontsize=8)
    _save(figure, path)


def plot_confusion(path: Path, confusion: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """The confusion matrix, each row as shares of that class's pixels; a PNG file."""
    counts = np.asarray(confusion, dtype=np.float64)
    rows = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, rows, out=np.full_like(counts, np.nan), where=rows > 0)
    side = 2.6 + 0.36 * len(names)
    figure = _figure(side + 0.8, side)
    axes = figure.subplots()
    image = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    ticks = range(len(names)), _tick_names(names)
    axes.set_xticks(*ticks, rotation=90, parse_math=False)
    axes.set_yticks(*ticks, parse_math=False)
    axes.set(xlabel="prediction", ylabel="truth", title="share of each true class")
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.01:
            colour = "white" if value > 0.5 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, size=6)
    figure.colorbar(image, ax=axes, shrink=0.8)
    _save(figure, path)


def plot_classes(path: Path, rows: Lines, mean_iou: float | None) -> None:
    """IoU and accuracy of each class as bars, their values beside them; a PNG file.

    `rows` is `per_class` of `common.evaluation.metrics.summarize`; what is None has no bar.
    """
    figure = _figure(7, 1.3 + 0.34 * len(rows))
    axes = figure.subplots()
    for key, label, shift in (("iou", "IoU", -0.19), ("accuracy", "accuracy", 0.19)):
        places = [k + shift for k in range(len(rows))]
        bars = axes.barh(places, [row[key] or 0.0 for row in rows], 0.36, label=label)
        values = ["-" if row[key] is None else f"{row[key]:.3f}" for row in rows]
        axes.bar_label(bars, values, padding=3, fontsize=7)
    if mean_iou is not None:
        axes.axvline(mean_iou, color="black", linestyle=":", label=f"mean IoU {mean_iou:.3f}")
    names = _tick_names([row["name"] for row in rows])
    axes.set_yticks(range(len(rows)), names, parse_math=False)
    axes.set(xlim=(0, 1.1), ylim=(len(rows) - 0.5, -0.5), title="val, each class")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


_FORM_COLOURS = {"ours": "C0", "fcn16s": "C1", "fcn8s": "C2", "convolutions": "C9"} | {
    "bilinear": "0.6",
    "book": "0.8",
}


def plot_bench(path: Path, rows: Lines) -> None:
    """The rows of `scripts.bench`; a PNG file.

    One line of panels for each mode: bars of the largest batch and size, and, where there are
    several batch sizes or sizes, a batch's time against images and against megapixels.
    """
    rows = [{**row, "pixels": row["height"] * row["width"]} for row in rows]
    growing = [key for key in ("batch_size", "pixels") if len({row[key] for row in rows}) > 1]
    by_mode = [list(group) for _, group in itertools.groupby(rows, lambda row: row["mode"])]
    largest = [_largest(_largest(of_mode, "pixels"), "batch_size") for of_mode in by_mode]
    bars = [sum(row["form"] != "limit" for row in of_mode) for of_mode in largest]
    heights = [max(1.1 + 0.25 * count, 2.8 if growing else 0) for count in bars]
    widths = [7.2] + [3.6] * len(growing)
    figure = _figure(sum(widths), sum(heights) + 0.5)
    grid = figure.subplots(
        len(heights), len(widths), squeeze=False, height_ratios=heights, width_ratios=widths
    )
    for (left, *right), of_mode, shown in zip(grid, by_mode, largest, strict=True):
        _draw_bars(left, shown)
        for axes, key in zip(right, growing, strict=True):
            _draw_growth(axes, of_mode, key)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    once = {form: once[form] for form in (*_FORM_COLOURS, "limit") if form in once}
    figure.legend(once.values(), once, loc="outside lower center", ncols=5, frameon=False)
    _save(figure, path)


def _largest(rows: Lines, key: str) -> Lines:
    """The rows with the largest value."""
    most = max(row[key] for row in rows)
    return [row for row in rows if row[key] == most]


def _draw_bars(axes: "Axes", rows: Lines) -> None:
    """Milliseconds an image, a group of bars for each backend, the limit a line through it."""
    place, ticks = 0.0, {}
    for backend, group in itertools.groupby(rows, lambda row: row["backend"]):
        first = place
        for row in group:
            time = 1000 * row["seconds"] / row["batch_size"]
            if row["form"] == "limit":
                ends = first - 0.5, place - 0.5
                axes.vlines(time, *ends, color="black", linestyle=":", label="limit", zorder=3)
                continue
            axes.barh(place, time, 0.86, color=_FORM_COLOURS[row["form"]], label=row["form"])
            text = f"{row['speedup_over_book']:.2f}x book"
            if row["share_of_limit"] is not None:
                text += f", {100 * row['share_of_limit']:.0f}% of limit"
            axes.annotate(
                text, (time, place), (4, 0), textcoords="offset points", va="center", size=8
            )
            place += 1
        ticks[(first + place - 1) / 2] = backend or "from files"
        place += 0.5
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_ylim(max(place, 5) - 0.75, -0.75)  # from above; few bars are not drawn thicker
    axes.set_xlim(right=1.35 * axes.get_xlim()[1])  # room for what stands beside the longest bar
    at = rows[0]
    kind = "from files," if at["mode"] == "data" else f"{at['dtype']},"
    title = f"{at['mode']}, {kind} batch {at['batch_size']} of {at['height']}x{at['width']}"
    axes.set(xlabel="milliseconds an image", title=title)


def _draw_growth(axes: "Axes", rows: Lines, key: str) -> None:
    """A batch's time against how much is in it; a straight line from the origin to the largest."""
    points: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
    for row in _largest(rows, "pixels" if key == "batch_size" else "batch_size"):
        amount = row["batch_size"] * (1 if key == "batch_size" else row["pixels"] / 1e6)
        if row["form"] in ("ours", "limit"):
            name = row["backend"] if row["form"] == "ours" else "limit"
            points[name or "from files"].append((amount, 1000 * row["seconds"]))
    limit = points.pop("limit", [])
    for k, (backend, own) in enumerate(points.items()):
        axes.plot(*zip(*sorted(own), strict=True), "o-", color=f"C{k}", label=backend)
        axes.plot(*zip((0, 0), max(own), strict=True), "--", color=f"C{k}", linewidth=0.8)
    if limit:
        axes.plot(*zip(*sorted(set(limit)), strict=True), ":", color="black", label="limit")
    label = "images in a batch" if key == "batch_size" else "megapixels in a batch"
    axes.set(xlabel=label, ylabel="milliseconds a batch", title="ours; dashed: in proportion")
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=5)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)


def plot_scaling(path: Path, rows: Lines, forecast: Lines) -> None:
    """`scripts.bench --processes`: what was measured, and what the model says; a PNG file.

    Left, bars of the share of perfect, several processes beside one with as many threads. Right,
    an engine in each panel, that share against the time in which a process computes a step.
    """
    rows = [row for row in rows if row["processes"] * row["threads"] > 1]
    by_engine = [list(group) for _, group in itertools.groupby(forecast, lambda r: r["engine"])]
    widths = [4.8] + [2.4] * len(by_engine)
    figure = _figure(sum(widths), max(4.0, 1.2 + 0.25 * len(rows)))
    left, *right = figure.subplots(1, len(widths), width_ratios=widths)
    _draw_shares(left, rows)
    for axes, of_engine in zip(right, by_engine, strict=True):
        lines = itertools.groupby(of_engine, lambda r: (r["processes"], r["gbit_per_second"]))
        for (count, gbit), line in lines:
            points = [(1000 * r["compute_seconds"], 100 * r["share_of_perfect"]) for r in line]
            label = f"{count} processes, {gbit} Gbit/s"
            axes.plot(*zip(*points, strict=True), label=label)
        axes.set(xscale="log", ylim=(0, 105), title=of_engine[0]["engine"])
        axes.set(xlabel="ms a step computes")
    right[0].set_ylabel("% of perfect, by the model")
    lines_and_labels = right[0].get_legend_handles_labels()
    figure.legend(*lines_and_labels, loc="outside lower right", ncols=4, frameon=False)
    _save(figure, path)


def _draw_shares(axes: "Axes", rows: Lines) -> None:
    """Bars of the share of perfect, a line at 100."""
    names = []
    for place, row in enumerate(rows):
        several = row["processes"] > 1
        share = 100 * row["share_of_perfect"]
        axes.barh(place, share, 0.86, color="C0" if several else "0.75")
        axes.annotate(
            f"{share:.0f}", (share, place), (4, 0), textcoords="offset points", va="center", size=8
        )
        kind = f"{row['processes']} processes" if several else f"{row['threads']} threads"
        names.append(f"{row['backend']}, {row['scaling']}, {kind}")
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.axvline(100, color="black", linestyle=":")
    axes.set(xlabel="% of perfect", title="measured")


def _save(figure: "Figure", path: Path) -> None:
    figure.savefig(path, format="png", dpi=120)
