"""PyTorch: the loss."""

import torch
from torch.nn import functional

from common.config import VOID


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over the batch's valid pixels, divided by their number (at least 1).

    logits: (N, classes, H, W); labels: (N, H, W) int64, a class or 255 (void, left out). 0-d.
    N pictures, or the cells of the upsampling, which hold the same pixels in another order.
    """
    # differs: `ignore_index` skips void; any other value that is no class raises.
    total = functional.cross_entropy(logits, labels, ignore_index=VOID, reduction="sum")
    return total / (labels != VOID).sum().clamp(min=1)
