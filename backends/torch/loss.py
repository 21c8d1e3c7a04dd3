"""PyTorch: the loss."""

import torch
from torch.nn import functional

from common.config import VOID


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, count: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy summed over the batch's valid pixels, divided by their number (at least 1).

    logits: (N, classes, ...); labels: (N, ...) int64, a class or 255 (void, left out). Returns
    a scalar. N images of pixels, or N pixels: the sum is the same. Where they are a part
    of a batch, `count` is the number in all of it.
    """
    # differs(label_255): `ignore_index` skips void; any other value that is no class raises.
    total = functional.cross_entropy(logits, labels, ignore_index=VOID, reduction="sum")
    valid = labels != VOID
    number = valid.sum() if count is None else count
    return total / number.clamp(min=1)
