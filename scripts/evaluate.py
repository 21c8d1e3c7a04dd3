"""Measures a network on a split, image by image, each in its own size."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from common.config import Config, Inference
from common.data.dataset import open_dataset
from common.errors import InputError
from common.files import write_whole
from scripts.shared import cli
from scripts.shared.evaluation import NUMBERS, build_predictor, evaluate_dataset, print_metrics
from scripts.shared.plots import plot_confusion
from scripts.shared.weights_files import load_network

app = cli.new_app()


@app.command()
def evaluate(
    backend: cli.BackendOption,
    weights: cli.WeightsOption,
    data: cli.DataOption,
    split: Annotated[str, typer.Option(help="Name of a file in ImageSets/Segmentation.")] = "val",
    device: cli.DeviceOption = Config.device,
    dtype: cli.DtypeOption = Config.dtype,
    flip: cli.FlipOption = Inference.flip,
    scales: cli.ScalesOption = None,
    tile: cli.TileOption = Inference.tile,
    overlap: cli.OverlapOption = Inference.overlap,
    json_path: cli.JsonOption = None,
    confusion: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the confusion matrix, a PNG.")
    ] = None,
) -> None:
    """Measure a network on a split: pixel and mean accuracy, IoU, per class and in all."""
    options = Inference(flip, tuple(scales or Inference.scales), tile, overlap)
    cli.check_places(json_path, confusion)
    start = load_network(weights)
    dataset = open_dataset(data, split)
    if start.num_classes != dataset.num_classes:
        has = f"{dataset.root} has {dataset.num_classes}"
        raise InputError(f"{weights}: {start.num_classes} classes, {has}")
    trainer = build_predictor(backend, start, options, device=device, dtype=dtype)
    with cli.image_progress(f"evaluate {backend}", len(dataset)) as show:
        result = evaluate_dataset(trainer, dataset, show)
    if options != Inference():
        result["inference"] = dataclasses.asdict(options)
    print_metrics(result)
    cli.write_json(json_path, result)
    if confusion is not None:
        names = dataset.class_names
        write_whole(confusion, lambda path: plot_confusion(path, result["confusion"], names))


if __name__ == "__main__":
    cli.main(app, NUMBERS)
