"""MXNet: stochastic gradient descent with momentum and coupled weight decay.

g = gradient + weight_decay * w;  v = momentum * v + g;  w = w - rate * v
"""

from collections.abc import Mapping
from typing import Any

import mxnet as mx
from numpy.typing import NDArray

from backends.mxnet.device import to_device, to_numpy
from backends.mxnet.model import FCN
from backends.mxnet.weights import trained_tensors
from common.config import Config
from common.network.tensors import decayed_tensors, in_head


class _SGD(mx.optimizer.Optimizer):
    """SGD with the rate outside v, and the head's rate beside that of all else."""

    # differs(sgd_momentum): MXNet's own SGD keeps rate * v, another value once the rate changes.

    def __init__(self, momentum: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.head_rate = self.lr

    def create_state(self, index: str, weight: mx.nd.NDArray) -> mx.nd.NDArray:
        return mx.nd.zeros_like(weight)

    def update(
        self, index: str, weight: mx.nd.NDArray, grad: mx.nd.NDArray, state: mx.nd.NDArray
    ) -> None:
        # fast: MXNet's SGD at the rate -1 makes state = momentum * state + grad + wd * weight, and
        # a weight that nobody wants. Its rate, of float32, is not for the step itself.
        mx.nd.sgd_mom_update(
            weight,
            grad,
            state,
            lr=-1,
            momentum=self.momentum,
            wd=self._get_wd(index),
            out=mx.nd.empty(weight.shape, weight.context, weight.dtype),
        )
        weight -= (self.head_rate if in_head(index) else self.lr) * state


def build_optimizer(model: FCN, config: Config) -> mx.optimizer.Updater:
    """SGD over every trained tensor of the model, v = 0."""
    # differs(weight_decay): an updater knows tensors by a key, here the canonical name.
    sgd = _SGD(config.momentum, learning_rate=config.learning_rate, wd=config.weight_decay)
    trained, decayed = trained_tensors(model), decayed_tensors(config)
    sgd.set_wd_mult({name: 0.0 for name in trained if name not in decayed})
    updater = mx.optimizer.get_updater(sgd)
    for name, parameter in trained.items():
        updater.states[name] = sgd.create_state(name, parameter.data())
        updater.states_synced[name] = True
    return updater


def export_momentum(model: FCN, optimizer: mx.optimizer.Updater) -> dict[str, NDArray[Any]]:
    """The momentum buffer of each trained tensor by canonical name; zeros before a step."""
    return {name: to_numpy(optimizer.states[name]) for name in trained_tensors(model)}


def import_momentum(
    model: FCN, optimizer: mx.optimizer.Updater, arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Sets the momentum buffer of each trained tensor from arrays by canonical name."""
    for name in trained_tensors(model):
        buffer = optimizer.states[name]
        buffer[:] = to_device(arrays[name], buffer.context, buffer.dtype)
