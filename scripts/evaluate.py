"""Measures a network on a split, image by image, each in its own size."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import rich.table
import typer

from backends import load_backend
from common.ahead import map_ahead
from common.checkpoint import Weights, write_whole
from common.config import Config, Inference
from common.dataset import Dataset, open_dataset
from common.errors import InputError
from common.inference import Predictor, predictor
from common.metrics import confusion_matrix, summarize
from scripts.cli import (
    BackendOption,
    DataOption,
    DeviceOption,
    DtypeOption,
    FlipOption,
    JsonOption,
    OverlapOption,
    ScalesOption,
    TileOption,
    WeightsOption,
    check_places,
    console,
    fraction,
    image_progress,
    inference_of,
    main,
    new_app,
    write_json,
)
from scripts.plots import plot_confusion
from scripts.weights_files import load_network

app = new_app()

NUMBERS = ("--scales",)
"""Options that take several numbers."""


def evaluate_dataset(
    trainer: Predictor,
    dataset: Dataset,
    config: Config,
    on_image: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """The metrics of `common.metrics.summarize` over a split; each image whole, in its own size.

    Raises:
        InputError: an image or a mask cannot be read, a label is no class, or all are void.
    """
    confusion = np.zeros((dataset.num_classes, dataset.num_classes), np.int64)
    pairs = map_ahead(dataset.read, range(len(dataset)))
    for count, (image, label) in enumerate(pairs, start=1):
        prediction = trainer.predict(image[None])[0]
        confusion += confusion_matrix(label, prediction, dataset.num_classes)
        on_image(count)
    if not confusion.any():
        raise InputError(f"{dataset.split_path}: every mask it names is void everywhere")
    return summarize(confusion, dataset.class_names)


def check_classes(weights_path: Path, weights: Weights, dataset: Dataset) -> None:
    """Refuses weights of another class count than the data's.

    Raises:
        InputError: the counts differ.
    """
    if weights.num_classes != dataset.num_classes:
        raise InputError(
            f"{weights_path}: {weights.num_classes} classes, {dataset.root} has"
            f" {dataset.num_classes}"
        )


def config_of(weights: Weights, **more: Any) -> Config:
    """The configuration that a weights file asks for."""
    return Config(
        architecture=weights.architecture,
        num_classes=weights.num_classes,
        mean=weights.mean,
        std=weights.std,
        **more,
    )


def print_metrics(result: dict[str, Any]) -> None:
    """The per-class table and the four metrics."""
    table = rich.table.Table("class", rich.table.Column("IoU", justify="right"), box=None)
    table.add_column("accuracy", justify="right")
    for row in result["per_class"]:
        table.add_row(row["name"], fraction(row["iou"]), fraction(row["accuracy"]))
    console.print(table)
    for key in ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"):
        console.print(f"{key.replace('_', ' ')}: {fraction(result[key])}")


@app.command()
def evaluate(
    backend: BackendOption,
    weights: WeightsOption,
    data: DataOption,
    split: Annotated[str, typer.Option(help="Name of a file in ImageSets/Segmentation.")] = "val",
    device: DeviceOption = Config.device,
    dtype: DtypeOption = Config.dtype,
    flip: FlipOption = Inference.flip,
    scales: ScalesOption = None,
    tile: TileOption = Inference.tile,
    overlap: OverlapOption = Inference.overlap,
    json_path: JsonOption = None,
    confusion: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the confusion matrix, a PNG.")
    ] = None,
) -> None:
    """Measure a network on a split: pixel and mean accuracy, IoU, per class and in all."""
    options = inference_of(flip, scales, tile, overlap)
    check_places(json_path, confusion)
    start = load_network(weights)
    dataset = open_dataset(data, split)
    check_classes(weights, start, dataset)
    config = config_of(start, device=device, dtype=dtype)
    framework = load_backend(backend)
    trainer = predictor(framework, framework.Trainer(config, start.arrays), options)
    with image_progress(f"evaluate {backend}", len(dataset)) as show:
        result = evaluate_dataset(trainer, dataset, config, show)
    if options != Inference():
        result["inference"] = dataclasses.asdict(options)
    print_metrics(result)
    write_json(json_path, result)
    if confusion is not None:
        names = dataset.class_names
        write_whole(confusion, lambda path: plot_confusion(path, result["confusion"], names))


if __name__ == "__main__":
    main(app, NUMBERS)
