"""The solutions in PyTorch."""

import torch
from torch import nn

from backends.torch.layers import batch_norm
from common.config import Config, Dtype
from scripts.lessons.exercises import Answers

# 1 to 7: arrays to loss


def bn_two_batches() -> Answers:
    """The layer's own statistics are the formula's: its momentum is what it takes of the new."""
    layer = nn.BatchNorm1d(1, momentum=0.25)
    for batch in ([[1.0], [3.0]], [[3.0], [5.0]]):
        layer(torch.tensor(batch))
    found = layer.state_dict()
    return {"mean": found["running_mean"].item(), "variance": found["running_var"].item()}


def bn_beside_another() -> Answers:
    """In train mode an output depends on the whole batch, in eval mode on its own input alone."""
    layer = batch_norm(1, Config(dtype=Dtype.float64))

    def first_of(*values: float) -> float:
        x = torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)
        return float(layer(x)[0].item())

    layer.eval()
    in_eval = [first_of(1, 3, 5), first_of(1, 3, 11)]
    layer.train()
    return {"eval": in_eval, "train": [first_of(1, 3, 5), first_of(1, 3, 11)]}


# 8 to 14: gradients to processes
