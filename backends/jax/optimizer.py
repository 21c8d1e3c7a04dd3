"""JAX and Optax: stochastic gradient descent with momentum and coupled weight decay.

g = gradient + weight_decay * w;  v = momentum * v + g;  w = w - rate * v
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import optax
from flax import nnx
from numpy.typing import NDArray

from backends.jax.model import FCN
from backends.jax.weights import export_weights, import_weights, trained_tensors
from common.config import Config, Decay


def _kernels(parameters: Any) -> Any:
    """Which leaves are kernels of convolutions, in the structure of the parameters."""
    return jax.tree.map(lambda leaf: leaf.ndim == 4, parameters)


@functools.cache
def _sgd(momentum: float, weight_decay: float, decay: Decay) -> optax.GradientTransformation:
    # differs: optax.sgd has neither decay nor a rate that a caller sets, so the links are chained
    # here: g, then v. The rate stands outside v: `train.py`.
    mask = _kernels if decay == Decay.kernels else None
    return optax.chain(optax.add_decayed_weights(weight_decay, mask), optax.trace(momentum))


@dataclasses.dataclass
class _Optimizer:
    """A pure transformation and its state, v in the structure of the parameters."""

    transform: optax.GradientTransformation
    state: tuple[optax.EmptyState, optax.TraceState]


def build_optimizer(model: FCN, config: Config) -> _Optimizer:
    """SGD over every trained tensor of the model, v = 0."""
    transform = _sgd(config.momentum, config.weight_decay, config.decay)
    return _Optimizer(transform, transform.init(nnx.state(model, nnx.Param)))


def export_momentum(model: FCN, optimizer: _Optimizer) -> dict[str, NDArray[Any]]:
    """V of each trained tensor, by canonical name; zeros before the first step."""
    # differs: v has the structure of the model, so a copy of the model names it.
    velocity = nnx.clone(model)
    nnx.update(velocity, optimizer.state[1].trace)
    arrays = export_weights(velocity)
    return {name: arrays[name] for name in trained_tensors(model)}


def import_momentum(model: FCN, optimizer: _Optimizer, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Sets v of each trained tensor from arrays by canonical name."""
    velocity = nnx.clone(model)
    import_weights(velocity, {**export_weights(model), **arrays})
    optimizer.state = (optimizer.state[0], optax.TraceState(nnx.state(velocity, nnx.Param)))
