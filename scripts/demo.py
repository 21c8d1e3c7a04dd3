"""The main job in all three frameworks, from the same weights and the same batches.

What stays in the folder: three pictures, the images, and of each backend its numbers, the logs of
its run, and its trained weights (`python -m scripts.predict --weights demo/torch.safetensors ...`).
"""

import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import rich.box
import rich.table
import typer
from PIL import Image

from backends import BACKENDS, load_backend, missing_packages
from common.config import Config, Dtype
from common.data.dataset import Dataset, open_dataset
from common.data.drawing import prediction_sheet, sheet
from common.data.shapes import SHAPES_TRAIN, SHAPES_VAL, write_shapes
from common.errors import InputError
from common.evaluation.metrics import confusion_matrix, summarize
from common.network.bilinear import upsample
from common.network.initial import initial_weights
from common.parity.compare import relative_l2
from common.runs.run_folder import LAST, RunFolder
from common.weights.checkpoint import (
    Weights,
    read_tensors,
    read_weights,
    write_tensors,
    write_weights,
)
from scripts.shared.cli import BackendOption, console, main, new_app, write_json
from scripts.shared.evaluation import config_of, evaluate_dataset
from scripts.shared.plots import plot_losses
from scripts.shared.training import Training, open_data

app = new_app()

STEPS, CROP = 125, (96, 128)
COLUMNS = (
    *("first\nloss", "last\nloss", "pixel\naccuracy", "mean\nIoU"),
    *("seconds\na step", "logits\napart", "losses\napart"),
)
INITIAL, PICTURES = "initial.safetensors", ("losses", "predictions", "bilinear")
SHOWN, UPSAMPLING = 4, 4
"""Validation images in the picture of predictions; how much larger the upsampled image is."""


@app.command(hidden=True)
def one(backend: BackendOption, folder: Path) -> None:
    """Do one backend's part, in a process of its own, and leave what it found in the folder."""
    start = read_weights(folder / INITIAL)
    config = config_of(start, steps=STEPS, crop=CROP)
    train, val = open_data(folder / "shapes", config)
    assert val is not None
    framework = load_backend(backend)
    exact = framework.Trainer(config.replace(dtype=Dtype.float64), start.arrays)
    arrays = {"logits": framework.to_numpy(exact.logits(val.read(0)[0][None]))}
    trainer = framework.Trainer(config, start.arrays)
    untrained = evaluate_dataset(trainer, val)
    with RunFolder(folder / f"run-{backend}") as run:
        run.create()
        training = Training(backend, trainer, train, val, config, run)
        training.run()
    metrics = training.metrics
    assert metrics is not None
    for k in range(SHOWN):
        arrays[f"mask{k}"] = trainer.predict(val.read(k)[0][None])[0]
    write_tensors(folder / f"{backend}.safetensors", arrays, {})
    result = {
        "version": framework.versions()[backend],
        "losses": [line["loss"] for line in run.steps],
        "seconds_per_step": statistics.median(training.seconds),
        "untrained_mean_iou": untrained["mean_iou"],
        "pixel_accuracy": metrics["pixel_accuracy"],
        "mean_iou": metrics["mean_iou"],
    }
    write_json(folder / f"{backend}.json", result)


def one_class_iou(dataset: Dataset) -> float:
    """The mean IoU of the answer that calls every pixel class 0."""
    labels = np.concatenate([dataset.read(index)[1].ravel() for index in range(len(dataset))])
    confusion = confusion_matrix(labels, np.zeros_like(labels), dataset.num_classes)
    return float(summarize(confusion, confusion, dataset.class_names)["mean_iou"])


def furthest(name: str, values: Mapping[str, Any], apart: Callable[[Any, Any], float]) -> float:
    """How far `name`'s value is from the others', at most."""
    return max(apart(values[name], value) for value in values.values())


def print_table(results: dict[str, dict[str, Any]], logits: dict[str, Any], one: float) -> None:
    """Each backend's training, and how far it is from the others."""
    losses = {name: np.array(result["losses"][:5]) for name, result in results.items()}
    table = rich.table.Table(box=rich.box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("backend", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, result in results.items():
        table.add_row(
            f"{name} {result['version'].split('+')[0]}",
            f"{result['losses'][0]:.4f}",
            f"{result['losses'][-1]:.4f}",
            f"{result['pixel_accuracy']:.4f}",
            f"{result['mean_iou']:.4f}",
            f"{result['seconds_per_step']:.3f}",
            f"{furthest(name, logits, relative_l2):.1e}",
            f"{furthest(name, losses, lambda a, b: np.abs(a - b).max()):.1e}",
        )
    console.print(table)
    untrained = min(result["untrained_mean_iou"] for result in results.values())
    console.print(
        f"mean IoU untrained: {untrained:.2f}, of an answer with one class: {one:.2f}\n"
        "logits apart: relative L2 from the other backends at most, in float64,\n"
        "  from the same initial weights\n"
        "losses apart: over the first five, in float32, where rounding decides\n"
        "  some ReLUs, and training makes much of little"
    )


def draw(folder: Path, val: Dataset, results: dict[str, Any], masks: dict[str, Any]) -> list[Path]:
    """Writes the three pictures; returns their paths."""
    paths = [folder / f"{name}.png" for name in PICTURES]
    plot_losses(paths[0], {name: result["losses"] for name, result in results.items()})
    rows = []
    for k in range(SHOWN):
        image, label = val.read(k)
        rows.append((image, [label, *(found[f"mask{k}"] for found in masks.values())]))
    prediction_sheet(["image", "truth", *masks], rows, val.class_names).save(paths[1])
    source = val.read(0)[0]
    large = np.rint(upsample(source.astype(np.float64), UPSAMPLING)).astype(np.uint8)
    titles = ["source", f"{UPSAMPLING} times as large, by the bilinear kernel"]
    sheet(titles, [[Image.fromarray(source), Image.fromarray(large)]]).save(paths[2])
    return paths


def clear(folder: Path, names: list[str]) -> None:
    """Leaves one file of weights of each backend, the trained ones, and removes all others."""
    for name in names:
        run = folder / f"run-{name}"
        trained = dataclasses.replace(read_weights(run / LAST), momentum={})
        write_weights(folder / f"{name}.safetensors", trained)
        for checkpoint in run.glob("*.safetensors"):
            checkpoint.unlink()
    (folder / INITIAL).unlink()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder to make; an earlier demo is replaced.")],
) -> None:
    """Train, evaluate and predict with every installed backend, from the same weights."""
    earlier = any((out / name).exists() for name in (INITIAL, f"{PICTURES[-1]}.png"))
    if out.exists() and not earlier and any(out.iterdir()):
        raise InputError(f"{out}: is not empty and no earlier demo")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_shapes(out / "shapes", SHAPES_TRAIN, SHAPES_VAL, Config.seed)
    val = open_dataset(out / "shapes", "val")
    arrays = dict(initial_weights(Config.architecture, val.num_classes, Config.seed))
    write_weights(out / INITIAL, Weights(arrays, Config.architecture, val.class_names))
    names = [name for name in BACKENDS if not missing_packages(name)]
    for name in names:  # each in its own process: their thread pools slow each other down
        subprocess.run(
            [sys.executable, "-m", "scripts.demo", "one", "--backend", name, str(out)], check=True
        )
    results = {name: json.loads((out / f"{name}.json").read_text()) for name in names}
    found = {name: read_tensors(out / f"{name}.safetensors")[0] for name in names}
    logits = {name: arrays["logits"] for name, arrays in found.items()}
    print_table(results, logits, one_class_iou(val))
    for path in draw(out, val, results, found):
        console.print(str(path), soft_wrap=True)
    clear(out, names)


if __name__ == "__main__":
    main(app)
