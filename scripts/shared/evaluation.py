"""What a network makes of a split, image by image, each in its own size."""

from collections.abc import Callable
from typing import Any

import numpy as np
import rich.table

from backends import load_backend
from common.config import Config, Inference
from common.data.dataset import Dataset
from common.errors import InputError
from common.evaluation.ahead import map_ahead
from common.evaluation.metrics import confusion_matrix, summarize
from common.evaluation.views import Predictor, predictor
from common.weights.checkpoint import Weights
from scripts.shared.cli import console, fraction

NUMBERS = ("--scales",)
"""Options that take several numbers."""


def evaluate_dataset(
    trainer: Predictor,
    dataset: Dataset,
    on_image: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """`common.evaluation.metrics.summarize` over a split; each image whole, in its own size.

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


def config_of(weights: Weights, config: Config | None = None, **more: Any) -> Config:
    """A configuration with the network that a weights file asks for."""
    return (config or Config()).replace(
        architecture=weights.architecture,
        num_classes=weights.num_classes,
        width=weights.width,
        mean=weights.mean,
        std=weights.std,
        **more,
    )


def build_predictor(backend: str, weights: Weights, options: Inference, **more: Any) -> Predictor:
    """What predicts with these weights as the options say.

    Raises:
        InputError: the backend or the device cannot be had.
    """
    config = config_of(weights, **more)
    framework = load_backend(backend)
    return predictor(framework, framework.Trainer(config, weights.arrays), options)


def print_metrics(result: dict[str, Any]) -> None:
    """The per-class table and the four metrics."""
    table = rich.table.Table("class", rich.table.Column("IoU", justify="right"), box=None)
    table.add_column("accuracy", justify="right")
    for row in result["per_class"]:
        table.add_row(row["name"], fraction(row["iou"]), fraction(row["accuracy"]))
    console.print(table)
    for key in ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"):
        console.print(f"{key.replace('_', ' ')}: {fraction(result[key])}")
