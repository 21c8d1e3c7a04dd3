"""JAX and Optax: stochastic gradient descent with momentum and coupled weight decay.

g = gradient + weight_decay * w;  v = momentum * v + g;  w = w - rate * v
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import optax
from flax import nnx
from numpy.typing import NDArray

from backends.jax.model import FCN
from backends.jax.weights import _variable_paths, export_weights, import_weights, trained_tensors
from common.config import Config
from common.network.tensors import decayed_tensors


@functools.cache
def _sgd(
    momentum: float, weight_decay: float, decayed: frozenset[tuple[str | int, ...]]
) -> optax.GradientTransformation:
    # differs(weight_decay): tensors are known by their paths in the tree of parameters.
    def mask(parameters: nnx.State) -> nnx.State:
        flat = nnx.to_flat_state(parameters)
        return nnx.from_flat_state([(path, path in decayed) for path, _ in flat])

    # differs(sgd_momentum): optax.sgd has neither decay nor a rate that a caller sets, so the
    # links are chained: g, then v. The rate stands outside v, in `train.py`.
    return optax.chain(optax.add_decayed_weights(weight_decay, mask), optax.trace(momentum))


@dataclasses.dataclass
class _Optimizer:
    """A pure transformation and its state, v in the structure of the parameters."""

    transform: optax.GradientTransformation
    state: tuple[optax.EmptyState, optax.TraceState]


def build_optimizer(model: FCN, config: Config) -> _Optimizer:
    """SGD over every trained tensor of the model, v = 0."""
    names = decayed_tensors(config)
    decayed = frozenset(path for name, path in _variable_paths(model).items() if name in names)
    transform = _sgd(config.momentum, config.weight_decay, decayed)
    return _Optimizer(transform, transform.init(nnx.state(model, nnx.Param)))


def export_momentum(model: FCN, optimizer: _Optimizer) -> dict[str, NDArray[Any]]:
    """The momentum buffer of each trained tensor by canonical name; zeros before a step."""
    # It has the structure of the model, so a copy of the model names its arrays.
    buffer = nnx.clone(model)
    nnx.update(buffer, optimizer.state[1].trace)
    arrays = export_weights(buffer)
    return {name: arrays[name] for name in trained_tensors(model)}


def import_momentum(model: FCN, optimizer: _Optimizer, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Sets the momentum buffer of each trained tensor from arrays by canonical name."""
    buffer = nnx.clone(model)
    import_weights(buffer, {**export_weights(model), **arrays})
    optimizer.state = (optimizer.state[0], optax.TraceState(nnx.state(buffer, nnx.Param)))
