"""Segmentation metrics, all from one confusion matrix (Long et al., 2015, section 5)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import VOID

Matrix = NDArray[np.int64]


def confusion_matrix(
    truth: NDArray[np.integer[Any]], prediction: NDArray[np.integer[Any]], num_classes: int
) -> Matrix:
    """Counts (num_classes, num_classes), int64: rows truth, columns prediction.

    Pixels whose truth is void (255) are left out. Both arrays have one shape and hold class
    indices.

    Raises:
        ValueError: the shapes differ, or a value is no class.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {truth.shape}, prediction {prediction.shape}")
    valid = truth != VOID
    rows = truth[valid].astype(np.int64)
    columns = prediction[valid].astype(np.int64)
    for values in (rows, columns):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(f"a value is not one of {num_classes} classes")
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def _mean(values: NDArray[np.float64]) -> float | None:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else None


def _number(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


def summarize(confusion: Matrix, class_names: Sequence[str]) -> dict[str, Any]:
    """The four metrics and the per-class table of a confusion matrix, ready for JSON.

    Accuracy of a class is its recall; a class absent from the truth has none, and a class absent
    from both truth and prediction has no IoU (None). Means skip what is None; they are None
    where nothing is left.
    """
    hits = np.diag(confusion)
    truth = confusion.sum(axis=1)
    prediction = confusion.sum(axis=0)
    total = truth.sum()
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: what there is none of
        accuracy = hits / truth
        iou = hits / (truth + prediction - hits)
        pixel_accuracy = hits.sum() / total
        frequency_weighted_iou = np.nansum(truth * iou) / total
    per_class = zip(class_names, iou, accuracy, strict=True)
    return {
        "pixel_accuracy": _number(pixel_accuracy),
        "mean_accuracy": _mean(accuracy),
        "mean_iou": _mean(iou),
        "frequency_weighted_iou": _number(frequency_weighted_iou),
        "per_class": [
            {"name": name, "iou": _number(i), "accuracy": _number(a)} for name, i, a in per_class
        ],
        "confusion": confusion.tolist(),
    }
