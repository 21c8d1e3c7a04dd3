"""A run that changes framework on the way, in every order, beside runs that never do."""

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import rich.table
import typer

from backends import BACKENDS
from common.config import Config
from common.data.dataset import contents, open_dataset
from common.errors import InputError
from common.network.tensors import config_tensors
from common.parity.compare import relative_l2
from common.runs.run_folder import BEST, LAST, PREVIOUS
from common.weights.checkpoint import read_tensors
from scripts.shared.cli import (
    DataOption,
    ForceOption,
    JsonOption,
    choose_backends,
    console,
    last_line,
    main,
    new_app,
    run_progress,
    say,
    setting,
    write_json,
)
from scripts.shared.outputs import JSON, PNG, check_places, check_room, size_in_words
from scripts.shared.plots import plot_relay

app = new_app()

TOLERANCE = 1e-9
"""Relative L2 distance after several steps in float64, at most."""


def run_relay(folder: Path, order: Sequence[str], steps: int, *settings: object) -> list[float]:
    """Trains in `folder`, an equal part of the steps in each framework of `order`; the losses."""
    run: tuple[object, ...] = ("--out", folder, "--steps", steps, "--dtype", "float64", *settings)
    for part, backend in enumerate(order, start=1):
        stop = ("--backend", backend, "--stop-after", steps * part // len(order))
        program = [sys.executable, "-m", "scripts.train", *map(str, run + stop)]
        done = subprocess.run(program, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"relay: {last_line(done.stderr)}")
        run = ("--resume", folder)
    _remove(folder, PREVIOUS, BEST)
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def _remove(folder: Path, *names: str) -> None:
    """Frees the disk of checkpoints that nothing needs any more."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _checkpoint_size(num_classes: int) -> int:
    """Bytes: weights and momentum in float64."""
    specs = config_tensors(Config(num_classes=num_classes)).values()
    return 8 * sum(math.prod(spec.shape) * (2 if spec.trainable else 1) for spec in specs)


def compare(folder: Path, other: Path) -> tuple[str, float]:
    """The tensor of two runs' ends, momentum too, that is furthest apart, and how far."""
    ours, theirs = (read_tensors(path / LAST)[0] for path in (folder, other))
    apart = {name: relative_l2(ours[name], array) for name, array in theirs.items()}
    worst = max(apart, key=apart.__getitem__)
    return worst, apart[worst]


@app.command()
def relay(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="A new folder for the runs.")],
    steps: Annotated[int, typer.Option(min=3, help="Steps of each run.")] = 60,
    batch_size: Annotated[int, setting("batch_size")] = 2,
    crop: Annotated[tuple[int, int], setting("crop", metavar="H W")] = (64, 96),
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="A picture, a PNG.")] = None,
    json_path: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Train in float64, a third of the steps in each framework, in every order.

    Each run is held against one that stays in the framework it starts in. Exit code 1 if a
    tensor of any is further away than 1e-9. Of the checkpoints, those of the runs that stay are
    kept.
    """
    places = (plot, PNG), (json_path, JSON)
    check_places(*places, reads=contents(data), made=out, force=force)
    if len(choose_backends(None)) < len(BACKENDS):
        raise InputError("relay: needs all three frameworks")
    settings = ("--data", data, "--batch-size", batch_size, "--crop", *crop)
    orders = list(itertools.permutations(BACKENDS))
    # three runs' last; of the one on its way last, previous, best and the one that is written
    size = 7 * _checkpoint_size(open_dataset(data, "train").num_classes)
    check_room(out, size)
    count = len(BACKENDS) + len(orders)
    say(f"{out}: {count} runs of {steps} steps each, {size_in_words(size)} at most")
    stayed: dict[str, list[float]] = {}
    where = rich.table.Column("furthest apart", overflow="fold")
    table = rich.table.Table("order", where, box=None)
    table.add_column("from one that stays", justify="right")
    found: list[dict[str, Any]] = []
    with run_progress("relay", count) as show:
        for backend in BACKENDS:
            stayed[backend] = run_relay(out / backend, [backend], steps, *settings)
            show(len(stayed))
        for order in orders:
            name = "-".join(order)
            losses = run_relay(out / name, order, steps, *settings)
            worst, apart = compare(out / name, out / order[0])
            _remove(out / name, LAST)
            losses_apart = relative_l2(np.array(losses), np.array(stayed[order[0]]))
            found.append({"order": order, "losses": losses, "worst": worst, "apart": apart})
            found[-1]["losses_apart"] = losses_apart
            table.add_row(" -> ".join(order), worst, f"{apart:.1e}")
            show(len(stayed) + len(found))
    console.print(table)
    write_json(json_path, {"steps": steps, "stayed": stayed, "relays": found})
    if plot is not None:
        plot_relay(plot, stayed, found)
    if max(max(one["apart"], one["losses_apart"]) for one in found) > TOLERANCE:
        raise typer.Exit(1)


if __name__ == "__main__":
    main(app)
