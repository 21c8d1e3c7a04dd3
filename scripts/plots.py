"""Plots: the curves of a run, curves on top of each other, the confusion matrix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray


def smooth(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """The mean of each value and up to `window` - 1 before it."""
    total = np.cumsum([0.0, *values])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    means: NDArray[np.float64] = (total[last] - total[first]) / (last - first)
    return means


def plot_run(
    path: Path, steps: Sequence[Mapping[str, Any]], val: Sequence[Mapping[str, Any]]
) -> None:
    """The loss of each step, its running mean, and the metrics on val; a PNG file."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [line["loss"] for line in steps]
    numbers = [line["step"] for line in steps]
    left.plot(numbers, losses, color="0.75", linewidth=0.8, label="each step")
    left.plot(numbers, smooth(losses, 20), color="C0", label="mean of 20 steps")
    left.set(xlabel="step", ylabel="loss", title="training loss")
    left.legend(frameon=False)
    for key, label in (("mean_iou", "mean IoU"), ("pixel_accuracy", "pixel accuracy")):
        points = [(line["step"], line[key]) for line in val if line[key] is not None]
        if points:
            right.plot(*zip(*points, strict=True), marker="o", label=label)
    right.set(xlabel="step", ylim=(0, 1), title="val")
    right.legend(frameon=False)
    _save(figure, path)


def plot_losses(path: Path, runs: Mapping[str, Sequence[float]]) -> None:
    """The losses of several runs on top of each other, and how far each is from the first."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
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


def plot_confusion(path: Path, confusion: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """The confusion matrix, each row as shares of that class's pixels; a PNG file."""
    counts = np.asarray(confusion, dtype=np.float64)
    rows = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, rows, out=np.full_like(counts, np.nan), where=rows > 0)
    side = 2.6 + 0.36 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="prediction", ylabel="truth", title="share of each true class")
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.01:
            colour = "white" if value > 0.5 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, size=6)
    figure.colorbar(image, ax=axes, shrink=0.8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=120)
