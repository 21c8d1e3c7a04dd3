"""PyTorch: stochastic gradient descent with momentum and coupled weight decay.

g = gradient + weight_decay * w;  v = momentum * v + g;  w = w - rate * v
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from backends.torch.device import to_numpy
from backends.torch.model import FCN
from backends.torch.weights import trained_tensors
from common.config import Config
from common.network.tensors import decayed_tensors, in_head


def build_optimizer(model: FCN, config: Config) -> torch.optim.SGD:
    """SGD over every trained tensor of the model, v = 0."""
    trained, decayed = trained_tensors(model), decayed_tensors(config)
    # differs(weight_decay): tensors with settings of their own are a group of their own.
    groups: list[dict[str, Any]] = [
        {
            "params": [p for k, p in trained.items() if (k in decayed, in_head(k)) == kind],
            "weight_decay": config.weight_decay if kind[0] else 0.0,
            "in_head": kind[1],
        }
        for kind in itertools.product((True, False), repeat=2)
    ]
    # differs(sgd_momentum): the rate stands outside v, as in the definition.
    return torch.optim.SGD(
        groups,
        lr=config.learning_rate,
        # Without momentum PyTorch keeps no v. The smallest positive number keeps it and changes
        # no value.
        momentum=max(config.momentum, math.ulp(0.0)),
        fused=True,
    )


def export_momentum(model: FCN, optimizer: torch.optim.SGD) -> dict[str, NDArray[Any]]:
    """The momentum buffer of each trained tensor by canonical name; zeros before a step."""
    # PyTorch makes the buffers in the first step.
    momentum = {}
    for name, parameter in trained_tensors(model).items():
        buffer = optimizer.state[parameter].get("momentum_buffer")
        momentum[name] = to_numpy(torch.zeros_like(parameter) if buffer is None else buffer)
    return momentum


def import_momentum(
    model: FCN, optimizer: torch.optim.SGD, arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Sets the momentum buffer of each trained tensor from arrays by canonical name."""
    for name, parameter in trained_tensors(model).items():
        buffer = torch.empty_like(parameter, requires_grad=False)
        buffer.copy_(torch.from_numpy(arrays[name]))
        optimizer.state[parameter]["momentum_buffer"] = buffer
