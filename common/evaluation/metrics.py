"""Segmentation metrics, all from one confusion matrix (Long et al., 2015, section 5)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import TRIMAP, VOID

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


def _windows(labels: NDArray[np.uint8], extreme: np.ufunc) -> NDArray[np.uint8]:
    """By pixel of (H, W), the extreme of the square of side 2 * TRIMAP + 1 around it."""
    for axis in (0, 1):
        ends = [(TRIMAP, TRIMAP) if axis == k else (0, 0) for k in (0, 1)]
        padded, length = np.pad(labels, ends, mode="edge"), labels.shape[axis]
        shifted = [padded.take(range(k, k + length), axis) for k in range(2 * TRIMAP + 1)]
        labels = extreme.reduce(shifted)
    return labels


def trimap(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels (H, W), void but where another label is at most TRIMAP pixels away.

    Along rows, columns and diagonals; void is another label, too (Kohli et al., 2009; Long et al.,
    2015, take bands of this kind).
    """
    border = _windows(labels, np.maximum) != _windows(labels, np.minimum)
    return np.where(border, labels, VOID).astype(np.uint8)


def _mean(values: NDArray[np.float64]) -> float | None:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else None


def _number(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


def _iou(confusion: Matrix) -> NDArray[np.float64]:
    """By class; NaN where it is neither in the truth nor predicted."""
    hits = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    with np.errstate(invalid="ignore"):  # 0 / 0
        iou: NDArray[np.float64] = hits / union
    return iou


def _mean_iou_present(confusion: Matrix) -> float | None:
    """Over the classes of the truth."""
    return _mean(_iou(confusion)[confusion.sum(axis=1) > 0])


def summarize(confusion: Matrix, border: Matrix, class_names: Sequence[str]) -> dict[str, Any]:
    """The metrics and the per-class table of a confusion matrix, ready for JSON.

    `border` is that of the pixels of `trimap` alone. `mean_iou` is over every class that is in the
    truth or was predicted, `mean_iou_present` and `trimap_mean_iou` over those in the truth.

    Accuracy of a class is its recall; a class absent from the truth has none, and a class absent
    from both truth and prediction has no IoU (None). Means skip what is None; they are None
    where nothing is left.
    """
    hits = np.diag(confusion)
    truth = confusion.sum(axis=1)
    total = truth.sum()
    iou = _iou(confusion)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: what there is none of
        accuracy = hits / truth
        pixel_accuracy = hits.sum() / total
        frequency_weighted_iou = np.nansum(truth * iou) / total
    per_class = zip(class_names, iou, accuracy, strict=True)
    return {
        "pixel_accuracy": _number(pixel_accuracy),
        "mean_accuracy": _mean(accuracy),
        "mean_iou": _mean(iou),
        "frequency_weighted_iou": _number(frequency_weighted_iou),
        "mean_iou_present": _mean_iou_present(confusion),
        "classes_present": int(np.count_nonzero(truth)),
        "trimap_mean_iou": _mean_iou_present(border),
        "per_class": [
            {"name": name, "iou": _number(i), "accuracy": _number(a)} for name, i, a in per_class
        ],
        "confusion": confusion.tolist(),
    }
