"""JAX: what the laboratory sees of a network that is trained, or of a layer alone."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from backends.jax.device import images_to_device, to_device, to_numpy
from backends.jax.model import FCN
from backends.jax.train import Trainer, _compile_update, _loss_of, _update
from backends.jax.upsampling import assemble
from backends.jax.weights import export_weights, find_module, trained_tensors
from common.network.grid import image_size
from common.network.tensors import config_tensors, watched_modules
from common.parity.watch import watch

Array = NDArray[Any]
Activations = dict[str, jax.Array]


def find_layer(model: FCN, name: str) -> Callable[[jax.Array], jax.Array]:
    """One of `common.network.tensors.layer_names` by itself: what makes its output of its input."""
    if name in ("stem", "norm"):
        layer: Callable[[jax.Array], jax.Array] = getattr(model.backbone, name)
        return layer
    if name == "logits":
        return model.transpose_conv
    return find_module(model, name if name == "final_conv" else f"backbone.{name}")


@contextlib.contextmanager
def activations_of(model: FCN) -> Iterator[Activations]:
    """While it is entered, a pass leaves `common.network.tensors.activation_names`; cells last."""
    places = watched_modules(model.architecture)
    modules = {path: find_module(model, path) for path, _ in places.values()}
    activations: Activations = {}
    with watch(modules, "__call__") as seen, watch({"": model.transpose_conv}, "cells") as cells:
        yield activations
    for name, (path, side) in places.items():
        activations[name] = seen[path][side == "output"]
    activations["logits"] = cells[""][1]


# differs: what is seen while a function is traced must leave it as a result.


@functools.partial(jax.jit, static_argnames="structure")
def _evaluate(structure: nnx.GraphDef, state: nnx.State, images: jax.Array) -> Activations:
    model = nnx.merge(structure, state)
    with activations_of(model) as activations:
        model(images)
    return activations


def _traced_loss(model: FCN, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, Activations]:
    with activations_of(model) as activations:
        loss, _ = _loss_of(model, images, labels)
    return loss, activations


@_compile_update
def _traced_step(**arguments: Any) -> tuple[Any, ...]:
    return _update(_traced_loss, **arguments)


@functools.partial(jax.jit, static_argnames=("structure", "name"))
def _layer(
    structure: nnx.GraphDef,
    parameters: nnx.State,
    buffers: nnx.State,
    name: str,
    x: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, tuple[nnx.State, jax.Array]]:
    def forward(parameters: nnx.State, x: jax.Array) -> jax.Array:
        # copied: the buffers change inside the function that is differentiated
        model = nnx.merge(structure, parameters, buffers, copy=True)
        output = find_layer(model, name)(x.transpose(0, 2, 3, 1))
        return output if name == "logits" else output.transpose(0, 3, 1, 2)

    output, pullback = jax.vjp(forward, parameters, x)
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
        self, images: Array, labels: Array, rate: float
    ) -> tuple[float, dict[str, Array], dict[str, Array]]:
        loss, told = self.trainer._step_through(_traced_step, images, labels, rate)
        # differs(gradient_not_cleared): it is a function's value.
        activations, gradients = told[0]
        return loss, self._export(activations, images), self._by_name(gradients)

    def layer(self, name: str, x: Array, gradient: Array) -> tuple[Array, Array, dict[str, Array]]:
        model = self.trainer.model
        model.train()
        structure, parameters, buffers = nnx.split(model, nnx.Param, nnx.BatchStat)
        output, (by_weight, by_input) = _layer(
            structure, parameters, buffers, name, self._to_device(x), self._to_device(gradient)
        )
        specs = config_tensors(self.trainer.config)
        named = self._by_name(by_weight)
        own = {k: array for k, array in named.items() if specs[k].layer == name}
        return to_numpy(output), to_numpy(by_input), own

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
        logits = to_numpy(assemble(activations["logits"]))[:, :, :height, :width]
        arrays = {"logits": np.ascontiguousarray(logits)}
        for name, array in activations.items():
            if name != "logits":
                arrays[name] = to_numpy(array.transpose(0, 3, 1, 2))
        return arrays
