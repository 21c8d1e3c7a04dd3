"""PyTorch: what the laboratory sees of a network that is trained, or of a layer alone."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from backends.torch.device import to_device, to_numpy
from backends.torch.model import FCN
from backends.torch.record import watched
from backends.torch.train import Trainer
from backends.torch.weights import find_module, trained_tensors
from common.network.grid import image_size
from common.network.tensors import config_tensors, watched_modules
from common.parity.watching import Watcher

Array = NDArray[Any]


def find_layer(model: FCN, name: str) -> Callable[..., torch.Tensor]:
    """One of `common.network.tensors.layer_names` by itself: what makes its output of its inputs.

    Those are `common.network.tensors.layer_sources`.
    """
    if name == "logits":
        return model.transpose_conv
    if name.startswith("layer"):
        return find_module(model, f"backbone.{name}")
    owner = model.backbone if name in ("stem", "norm") else model
    layer: Callable[..., torch.Tensor] = getattr(owner, name)
    return layer


@contextlib.contextmanager
def activations_of(model: FCN) -> Iterator[dict[str, torch.Tensor]]:
    """While it is entered, a pass leaves `common.network.tensors.activation_names`; cells last."""
    places = watched_modules(model.architecture, model.head)
    modules = {path: find_module(model, path) for path, _ in places.values()}
    upsampling = {"transpose_conv": modules.pop("transpose_conv")}
    activations: dict[str, torch.Tensor] = {}
    # A copy, since a ReLU in place changes what went into it.
    watcher = Watcher(torch.is_tensor, torch.clone)
    with watched(modules, watcher), watched(upsampling, watcher, "cells"):
        yield activations
    for name, (path, side) in places.items():
        activations[name] = watcher.values[f"{path}:{side}"]


class Probe:
    """A trainer that is looked at: see `common.protocol.Probe`."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def activations(self, images: Array) -> dict[str, Array]:
        with activations_of(self.trainer.model) as activations:
            self.trainer.logits(images)
        return self._export(activations, images)

    def traced_step(
        self, images: Array, labels: Array, rate: float, head_rate: float | None = None
    ) -> tuple[float, dict[str, Array], dict[str, Array]]:
        seen: list[dict[str, torch.Tensor]] = []

        def backward(*part: Any) -> torch.Tensor:
            with activations_of(self.trainer.model) as activations:
                loss = self.trainer._backward(*part)
            seen.append(activations)
            return loss

        loss = self.trainer._step_through(backward, images, labels, rate, head_rate)
        activations = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
        # differs(gradient_not_cleared): .grad holds it, without decay, until the next step.
        gradients = {
            name: to_numpy(parameter.grad)
            for name, parameter in trained_tensors(self.trainer.model).items()
            if parameter.grad is not None
        }
        return loss, self._export(activations, images), gradients

    def layer(
        self, name: str, inputs: Sequence[Array], gradient: Array
    ) -> tuple[Array, list[Array], dict[str, Array]]:
        model = self.trainer.model.train()
        specs = config_tensors(self.trainer.config)
        own = {k: p for k, p in trained_tensors(model).items() if specs[k].layer == name}
        sources = [self._to_device(x).requires_grad_() for x in inputs]
        output = find_layer(model, name)(*sources)
        found = torch.autograd.grad(output, [*sources, *own.values()], self._to_device(gradient))
        by_input, by_weight = found[: len(sources)], found[len(sources) :]
        named = zip(own, map(to_numpy, by_weight), strict=True)
        return to_numpy(output), [*map(to_numpy, by_input)], dict(named)

    def _to_device(self, array: Array) -> torch.Tensor:
        trainer = self.trainer
        tensor = to_device(array, trainer.device, trainer.config.dtype.storage)
        return tensor.contiguous(memory_format=torch.channels_last)

    def _export(self, activations: Mapping[str, torch.Tensor], images: Array) -> dict[str, Array]:
        height, width = image_size(images)
        upsampling = self.trainer.model.transpose_conv
        logits = upsampling.assemble(activations["logits"])[:, :, :height, :width]
        return {name: to_numpy(t) for name, t in {**activations, "logits": logits}.items()}
