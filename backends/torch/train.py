"""PyTorch: a training step, and the network on whole images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.torch.device import select_device, to_device, to_numpy
from backends.torch.loss import cross_entropy
from backends.torch.model import build_model
from backends.torch.optimizer import build_optimizer, export_momentum, import_momentum
from backends.torch.weights import export_weights, import_weights, trained_tensors
from common.config import Config
from common.names import tensors
from common.transforms import crop_activations, pad_batch, pad_images

Array = NDArray[Any]


class Trainer:
    """The network and its optimizer on one device: see `common.protocol.Trainer`."""

    def __init__(self, config: Config, weights: Mapping[str, Array]) -> None:
        self.config = config
        self.device = select_device(config.device)
        self.model = build_model(config)
        import_weights(self.model, weights)
        # differs: NCHW by shape, NHWC in memory, which oneDNN and cuDNN compute faster.
        self.model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.model, config)

    def predict(self, images: Array) -> NDArray[np.uint8]:
        height, width = images.shape[2:]
        classes = self._evaluate(images).max(dim=1).indices  # differs: argmax is six times slower
        return to_numpy(classes[:, :height, :width].to(torch.uint8))

    def activations(self, images: Array) -> dict[str, Array]:
        with self.model.trace() as activations:
            self._evaluate(images)
        return self._export(activations, images)

    def step(self, images: Array, labels: Array, rate: float) -> float:
        return self._step(images, labels, rate).item()

    def traced_step(
        self, images: Array, labels: Array, rate: float
    ) -> tuple[float, dict[str, Array], dict[str, Array]]:
        with self.model.trace() as activations:
            loss = self._step(images, labels, rate)
        # differs: .grad holds the gradient, without decay, until the next step clears it.
        gradients = {
            name: to_numpy(parameter.grad)
            for name, parameter in trained_tensors(self.model).items()
            if parameter.grad is not None
        }
        return loss.item(), self._export(activations, images), gradients

    def layer(self, name: str, x: Array, gradient: Array) -> tuple[Array, Array, dict[str, Array]]:
        self.model.train()
        specs = tensors(self.config.architecture, self.config.num_classes)
        own = {k: p for k, p in trained_tensors(self.model).items() if specs[k].layer == name}
        source = self._to_device(x).requires_grad_()
        output = self.model.layer(name, source)
        by_input, *by_weight = torch.autograd.grad(
            output, [source, *own.values()], self._to_device(gradient)
        )
        named = zip(own, map(to_numpy, by_weight), strict=True)
        return to_numpy(output), to_numpy(by_input), dict(named)

    def weights(self) -> dict[str, Array]:
        return export_weights(self.model)

    def momentum(self) -> dict[str, Array]:
        return export_momentum(self.model, self.optimizer)

    def load_momentum(self, arrays: Mapping[str, Array]) -> None:
        import_momentum(self.model, self.optimizer, arrays)

    def _to_device(self, images: Array) -> torch.Tensor:
        tensor = to_device(images, self.device, self.config.dtype)
        return tensor.contiguous(memory_format=torch.channels_last)

    def _export(self, activations: Mapping[str, torch.Tensor], images: Array) -> dict[str, Array]:
        arrays = {name: to_numpy(tensor) for name, tensor in activations.items()}
        return crop_activations(arrays, images.shape)

    @torch.inference_mode()
    def _evaluate(self, images: Array) -> torch.Tensor:
        self.model.eval()
        return self.model(self._to_device(pad_images(images)))

    def _step(self, images: Array, labels: Array, rate: float) -> torch.Tensor:
        self.model.train()
        images, labels = pad_batch(images, labels)
        self.optimizer.zero_grad()
        logits = self.model(self._to_device(images))
        loss = cross_entropy(logits, to_device(labels, self.device, "int64"))
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return loss.detach()
