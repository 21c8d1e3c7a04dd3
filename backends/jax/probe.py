"""JAX: what the laboratory sees of a network that is trained, or of a layer alone."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from numpy.typing import NDArray

from backends.jax.device import images_to_device, to_device, to_numpy
from backends.jax.model import FCN
from backends.jax.record import watched
from backends.jax.train import (
    Trainer,
    _add_part,
    _compile_part,
    _compile_step,
    _loss_of,
    _whole_step,
)
from backends.jax.weights import export_weights, find_module, trained_tensors
from common.network.grid import image_size
from common.network.tensors import config_tensors, watched_modules
from common.parity.watching import Watcher

Array = NDArray[Any]
Activations = dict[str, jax.Array]


def find_layer(model: FCN, name: str) -> Callable[..., jax.Array]:
    """One of `common.network.tensors.layer_names` by itself: what makes its output of its inputs.

    Those are `common.network.tensors.layer_sources`.
    """
    if name == "logits":
        return model.transpose_conv
    if name.startswith("layer"):
        return find_module(model, f"backbone.{name}")
    owner = model.backbone if name in ("stem", "norm") else model
    layer: Callable[..., jax.Array] = getattr(owner, name)
    return layer


@contextlib.contextmanager
def activations_of(model: FCN) -> Iterator[Activations]:
    """While it is entered, a pass leaves `common.network.tensors.activation_names`; cells last."""
    places = watched_modules(model.architecture, model.head)
    modules = {path: find_module(model, path) for path, _ in places.values()}
    upsampling = {"transpose_conv": modules.pop("transpose_conv")}
    activations: Activations = {}
    watcher = Watcher(lambda value: isinstance(value, jax.Array), lambda array: array)
    with watched(modules, watcher), watched(upsampling, watcher, "cells"):
        yield activations
    for name, (path, side) in places.items():
        activations[name] = watcher.values[f"{path}:{side}"]


# differs: what is seen while a function is traced must leave it as a result.


@functools.partial(jax.jit, static_argnames="structure")
def _evaluate(structure: nnx.GraphDef, state: nnx.State, images: jax.Array) -> Activations:
    model = nnx.merge(structure, state)
    with activations_of(model) as activations:
        model(images)
    return activations


def _traced_loss(
    model: FCN, images: jax.Array, labels: jax.Array, count: jax.Array | None
) -> tuple[jax.Array, Activations]:
    with activations_of(model) as activations:
        loss, _ = _loss_of(model, images, labels, count)
    return loss, activations


@_compile_step
def _traced_step(**arguments: Any) -> tuple[Any, ...]:
    return _whole_step(_traced_loss, **arguments)


@_compile_part
def _traced_part(**arguments: Any) -> tuple[Any, Activations]:
    return _add_part(_traced_loss, **arguments)


@functools.partial(jax.jit, static_argnames=("structure", "name"))
def _layer(
    structure: nnx.GraphDef,
    parameters: nnx.State,
    buffers: nnx.State,
    name: str,
    inputs: list[jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, tuple[nnx.State, list[jax.Array]]]:
    def forward(parameters: nnx.State, inputs: list[jax.Array]) -> jax.Array:
        # copied: the buffers change inside the function that is differentiated
        model = nnx.merge(structure, parameters, buffers, copy=True)
        output = find_layer(model, name)(*(x.transpose(0, 2, 3, 1) for x in inputs))
        return output.transpose(0, 3, 1, 2)

    output, pullback = jax.vjp(forward, parameters, inputs)
    return output, pullback(gradient)


class Probe:
    """A trainer that is looked at: see `common.protocol.Probe`."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def activations(self, images: Array) -> dict[str, Array]:
        trainer = self.trainer
        trainer.model.eval()
        x = images_to_device(images, trainer.device, trainer.config)
        return self._export(_evaluate(*nnx.split(trainer.model), x), images)

    def traced_step(
        self, images: Array, labels: Array, rate: float, head_rate: float | None = None
    ) -> tuple[float, dict[str, Array], dict[str, Array]]:
        loss, told, gradients = self.trainer._step_through(
            _traced_step, _traced_part, images, labels, rate, head_rate
        )
        # differs(gradient_not_cleared): it is a function's value.
        activations = {k: jnp.concatenate([part[k] for part in told]) for k in told[0]}
        return loss, self._export(activations, images), self._by_name(gradients)

    def layer(
        self, name: str, inputs: Sequence[Array], gradient: Array
    ) -> tuple[Array, list[Array], dict[str, Array]]:
        model = self.trainer.model
        model.train()
        structure, parameters, buffers = nnx.split(model, nnx.Param, ...)
        output, (by_weight, by_input) = _layer(
            *(structure, parameters, buffers, name),
            [self._to_device(x) for x in inputs],
            self._to_device(gradient),
        )
        specs = config_tensors(self.trainer.config)
        named = self._by_name(by_weight)
        own = {k: array for k, array in named.items() if specs[k].layer == name}
        return to_numpy(output), [*map(to_numpy, by_input)], own

    def _to_device(self, array: Array) -> jax.Array:
        return to_device(array, self.trainer.device, self.trainer.config.dtype.storage)

    def _by_name(self, gradients: nnx.State) -> dict[str, Array]:
        # Gradients have the structure of the model, so a copy of the model names them.
        model = nnx.clone(self.trainer.model)
        nnx.update(model, gradients)
        arrays = export_weights(model)
        return {name: arrays[name] for name in trained_tensors(model)}

    def _export(self, activations: Mapping[str, jax.Array], images: Array) -> dict[str, Array]:
        height, width = image_size(images)
        logits = self.trainer.model.transpose_conv.assemble(activations["logits"])
        nhwc = {**activations, "logits": logits[:, :height, :width]}
        return {name: to_numpy(array.transpose(0, 3, 1, 2)) for name, array in nhwc.items()}
