"""Measures a network on a split, image by image, each in its own size."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from common.config import Config, Inference, Void
from common.data.dataset import contents, open_dataset
from common.data.drawing import mask_image
from common.data.images import MAX_PIXELS, set_max_pixels
from common.errors import InputError
from common.evaluation.counting import WHOLE, Counting
from common.files import write_whole, writing
from common.runs.agreement import check_alike, sizes_of
from common.weights.checkpoint import digest
from scripts.shared import cli
from scripts.shared.evaluation import (
    NUMBERS,
    Mask,
    build_predictor,
    check_background,
    check_names,
    evaluate_dataset,
    print_metrics,
)
from scripts.shared.outputs import JSON, PNG, check_places
from scripts.shared.plots import plot_confusion
from scripts.shared.processes import joined, launched, run_processes, show_pulse
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
    void: Annotated[
        Void, typer.Option(help="ignore: void counts nowhere; background: it is class 0.")
    ] = Config.void,
    crop: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="H W",
            help="Measure a random crop of each image, and none of smaller ones; the book does,"
            " with --void background --crop 320 480.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the crops.")] = Config.seed,
    save_masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write each prediction as DIR/<image>.png, class indices in VOC's palette, as its"
            " server takes them.",
        ),
    ] = None,
    max_pixels: cli.MaxPixelsOption = MAX_PIXELS,
    processes: cli.ProcessesOption = Config.processes,
    port: cli.PortOption = None,
    patience: cli.PatienceOption = Config.patience,
    json_path: cli.JsonOption = None,
    confusion: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the confusion matrix, a PNG.")
    ] = None,
    force: cli.ForceOption = False,
) -> None:
    """Measure a network on a split: pixel and mean accuracy, IoU, per class and in all."""
    show_pulse()
    set_max_pixels(max_pixels)
    options = Inference(flip, tuple(scales or Inference.scales), tile, overlap)
    counting = Counting(void, crop, seed)
    if crop is not None and min(crop) < 1:
        raise InputError(f"--crop {crop[0]} {crop[1]}: at least 1 is wanted")
    if crop is not None and save_masks is not None:
        raise InputError("--save-masks: not with --crop, for it wants whole images")
    read = [weights, *contents(data)]
    places = (json_path, JSON), (confusion, PNG)
    check_places(*places, reads=read, made=save_masks, force=force)
    size = max(processes, launched(backend))
    if size > 1 and launched(backend) == 1:
        raise SystemExit(run_processes(backend, size, port, patience))
    start = load_network(weights)
    dataset = open_dataset(data, split)
    if start.num_classes != dataset.num_classes:
        has = f"{dataset.root} has {dataset.num_classes}"
        raise InputError(f"{weights}: {start.num_classes} classes, {has}")
    check_names(weights, start, dataset)
    check_background(dataset, void)
    masks = dataset.mask_path(0).parent
    if save_masks is not None and save_masks.exists() and save_masks.samefile(masks):
        raise InputError(f"--save-masks {save_masks}: holds the data's own masks")
    if save_masks is not None:
        saved = [(save_masks / f"{name}.png", PNG) for name in dataset.names]
        check_places(*places, *saved, reads=read, made=save_masks, force=force)
        with writing(save_masks, "cannot be made"):
            save_masks.mkdir(parents=True, exist_ok=True)

    def save(name: str, mask: Mask) -> None:
        if save_masks is not None:
            picture = mask_image(mask)
            write_whole(save_masks / f"{name}.png", lambda new: picture.save(new, format="PNG"))

    with joined(backend, size, patience) as group:
        check_alike(group, {"weights": digest(start.arrays, {}), "data": sizes_of(dataset)})
        trainer = build_predictor(backend, start, options, group, device=device, dtype=dtype)
        with cli.image_progress(f"evaluate {backend}", len(dataset)) as show:
            result = evaluate_dataset(trainer, dataset, show, counting, save, group)
        if group.rank > 0:
            return
        if options != Inference():
            result["inference"] = dataclasses.asdict(options)
        if counting != WHOLE:
            result["counting"] = dataclasses.asdict(counting)
        print_metrics(result)
        if crop is not None:
            print(f"of {result['images']} of {len(dataset)} images")
        cli.write_json(json_path, result)
        if confusion is not None:
            names = dataset.class_names
            write_whole(confusion, lambda path: plot_confusion(path, result["confusion"], names))


if __name__ == "__main__":
    cli.main(app, NUMBERS)
