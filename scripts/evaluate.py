"""Measures a network on a split, image by image, each in its own size."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from common.config import Config, Inference
from common.data.dataset import open_dataset
from common.errors import InputError
from common.files import write_whole
from scripts.shared.cli import (
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
    image_progress,
    main,
    new_app,
    write_json,
)
from scripts.shared.evaluation import (
    NUMBERS,
    build_predictor,
    evaluate_dataset,
    print_metrics,
)
from scripts.shared.plots import plot_confusion
from scripts.shared.weights_files import load_network

app = new_app()


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
    options = Inference(flip, tuple(scales or Inference.scales), tile, overlap)
    check_places(json_path, confusion)
    start = load_network(weights)
    dataset = open_dataset(data, split)
    if start.num_classes != dataset.num_classes:
        has = f"{dataset.root} has {dataset.num_classes}"
        raise InputError(f"{weights}: {start.num_classes} classes, {has}")
    trainer = build_predictor(backend, start, options, device=device, dtype=dtype)
    with image_progress(f"evaluate {backend}", len(dataset)) as show:
        result = evaluate_dataset(trainer, dataset, show)
    if options != Inference():
        result["inference"] = dataclasses.asdict(options)
    print_metrics(result)
    write_json(json_path, result)
    if confusion is not None:
        names = dataset.class_names
        write_whole(confusion, lambda path: plot_confusion(path, result["confusion"], names))


if __name__ == "__main__":
    main(app, NUMBERS)
