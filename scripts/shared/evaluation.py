"""What a network makes of a split, image by image, each in its own size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rich.table
from numpy.typing import NDArray

from backends import load_backend
from common.config import TRIMAP, Config, Inference, Void
from common.data.dataset import Dataset
from common.data.voc import BACKGROUND
from common.errors import InputError, listed
from common.evaluation.ahead import map_ahead
from common.evaluation.counting import WHOLE, Counting
from common.evaluation.metrics import confusion_matrix, summarize, trimap
from common.evaluation.views import Predictor, predictor
from common.protocol import ProcessGroup
from common.weights.checkpoint import Weights, default_class_names, unnamed
from scripts.shared.cli import console, fraction, note

Mask = NDArray[np.uint8]

METRICS = (
    *("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"),
    *("mean_iou_present", "trimap_mean_iou"),
)
"""What is printed and logged, in this order."""

NUMBERS = ("--scales",)
"""Options that take several numbers."""


def evaluate_dataset(
    trainer: Predictor,
    dataset: Dataset,
    on_image: Callable[[int], None] = lambda count: None,
    counting: Counting = WHOLE,
    on_mask: Callable[[str, Mask], None] = lambda name, mask: None,
    group: ProcessGroup | None = None,
) -> dict[str, Any]:
    """`common.evaluation.metrics.summarize` over a split, and of how many `images` a pixel counts.

    `on_image` is told how many are done, `on_mask` each image's name and prediction. Of several
    processes each takes its share, and all have the result.

    Raises:
        InputError: an image or a mask cannot be read, a label is no class, or nothing counts.
    """
    rank, size = (0, 1) if group is None else (group.rank, group.size)
    classes, images = dataset.num_classes, 0
    confusion, border = np.zeros((2, classes, classes), np.int64)

    def read(index: int) -> tuple[Mask, Mask] | None:
        return counting.take(*dataset.read(index), index)

    share = range(rank, len(dataset), size)
    for index, pair in zip(share, map_ahead(read, share), strict=True):
        if pair is not None:
            image, label = pair
            prediction = trainer.predict(image[None])[0]
            counts = confusion_matrix(label, prediction, classes)
            confusion += counts
            border += confusion_matrix(trimap(label), prediction, classes)
            on_mask(dataset.names[index], prediction)
            images += bool(counts.any())
        on_image(min(index - rank + size, len(dataset)))
    if group is not None:
        confusion, border = group.sum(np.stack([confusion, border]))
        images = int(group.sum(np.array([images]))[0])
    if images == 0:
        least = "" if counting.crop is None else " or smaller than {}x{}".format(*counting.crop)
        raise InputError(f"{dataset.split_path}: every mask it names is void everywhere{least}")
    return summarize(confusion, border, dataset.class_names) | {"images": images}


def check_background(dataset: Dataset, void: Void) -> None:
    """Refuses void as class 0 where that is not the background.

    Raises:
        InputError: it is another class.
    """
    if void == Void.background and not dataset.has_background:
        first = dataset.class_names[0]
        raise InputError(
            f"{dataset.root}: --void background, but class 0 is {first}, not background"
        )


def check_names(path: Path, weights: Weights, dataset: Dataset) -> None:
    """Holds the names of the classes of weights and data, as many, against each other.

    A class that has another name is told; it may be `airplane` for `aeroplane`. Names that are
    given where a file has none are not held against the data's order.

    Raises:
        InputError: both have a class, at different places.
    """
    theirs, ours = (
        ("background" if names[0] in BACKGROUND else names[0], *names[1:])
        for names in (weights.class_names, dataset.class_names)
    )
    if theirs == unnamed(len(theirs)):
        return
    for label, name in enumerate(ours):
        there = theirs.index(name) if name in theirs else label
        if there != label and theirs != default_class_names(len(theirs)):
            raise InputError(
                f"{path}: its class {there} is {name}, which is class {label} of {dataset.root}:"
                " the classes are in another order"
            )
    differing = [f"{a} for {b}" for a, b in zip(theirs, ours, strict=True) if a != b]
    if differing:
        note(f"{path}: its classes are not named as those of {dataset.root}: {listed(differing)}")


def config_of(weights: Weights, config: Config | None = None, **more: Any) -> Config:
    """A configuration with the network that a weights file asks for."""
    return (config or Config()).replace(
        architecture=weights.architecture,
        head=weights.head,
        num_classes=weights.num_classes,
        width=weights.width,
        mean=weights.mean,
        std=weights.std,
        **more,
    )


def build_predictor(
    backend: str,
    weights: Weights,
    options: Inference,
    group: ProcessGroup | None = None,
    **more: Any,
) -> Predictor:
    """What predicts with these weights as the options say.

    Raises:
        InputError: the backend or the device cannot be had.
    """
    config = config_of(weights, **more)
    framework = load_backend(backend)
    return predictor(framework, framework.Trainer(config, weights.arrays, group), options)


def print_metrics(result: dict[str, Any]) -> None:
    """The per-class table, and what it comes to."""
    table = rich.table.Table(rich.table.Column("class", overflow="fold"), box=None)
    for name in ("IoU", "accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["per_class"]:
        table.add_row(row["name"], fraction(row["iou"]), fraction(row["accuracy"]))
    console.print(table)
    counted = sum(row["iou"] is not None for row in result["per_class"])
    remarks = {
        "mean_iou": f", over the {counted} classes that are there or were predicted",
        "mean_iou_present": f", over the {result['classes_present']} classes that are there",
        "trimap_mean_iou": f", the same up to {TRIMAP} pixels from a border",
    }
    for key in METRICS:
        name = key.replace("_", " ").replace("iou", "IoU")
        console.print(f"{name}: {fraction(result[key])}{remarks.get(key, '')}")
