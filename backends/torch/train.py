"""PyTorch: a training step, and the network on whole images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.torch.device import images_to_device, select_device, to_device, to_numpy
from backends.torch.loss import cross_entropy
from backends.torch.model import assemble, build_model
from backends.torch.optimizer import build_optimizer, export_momentum, import_momentum
from backends.torch.weights import export_weights, import_weights, trained_tensors
from common.config import Config, Dtype
from common.memory import keep_pages
from common.network.grid import image_size, label_cells, padded_size
from common.network.tensors import tensors

Array = NDArray[Any]


class Trainer:
    """The network and its optimizer on one device: see `common.protocol.Trainer`."""

    def __init__(self, config: Config, weights: Mapping[str, Array]) -> None:
        keep_pages()  # differs: JAX does without
        self.config = config
        self.device = select_device(config.device)
        self.model = build_model(config)
        import_weights(self.model, weights)
        # differs: NCHW by shape, NHWC in memory, which oneDNN and cuDNN compute faster.
        self.model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.model, config)

    def predict(self, images: Array) -> NDArray[np.uint8]:
        # differs: argmax is six times slower than max.
        classes = self._evaluate(images).max(dim=1, keepdim=True).indices.to(torch.uint8)
        return to_numpy(self._assemble(classes, images)[:, 0])

    def logits(self, images: Array) -> torch.Tensor:
        logits = self._assemble(self._evaluate(images), images)
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # differs: a GPU computes in the background
        return logits

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

    def _to_device(self, array: Array) -> torch.Tensor:
        tensor = to_device(array, self.device, self.config.dtype.storage)
        return tensor.contiguous(memory_format=torch.channels_last)

    def _assemble(self, cells: torch.Tensor, images: Array) -> torch.Tensor:
        """Cells as pictures, cropped to the images' own size."""
        height, width = image_size(images)
        return assemble(cells, *padded_size(images))[:, :, :height, :width]

    def _export(self, activations: Mapping[str, torch.Tensor], images: Array) -> dict[str, Array]:
        logits = self._assemble(activations["logits"], images)
        return {name: to_numpy(t) for name, t in {**activations, "logits": logits}.items()}

    def _forward(self, images: Array) -> torch.Tensor:
        """Logits in cells, in float32 or float64."""
        x = images_to_device(images, self.device, self.config)
        # differs: autocast casts weights and inputs of products to bfloat16, and nothing else.
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.dtype == Dtype.bfloat16
        ):
            cells: torch.Tensor = self.model(x)
        return cells.to(getattr(torch, self.config.dtype.storage))

    @torch.inference_mode()
    def _evaluate(self, images: Array) -> torch.Tensor:
        self.model.eval()
        return self._forward(images)

    def _step(self, images: Array, labels: Array, rate: float) -> torch.Tensor:
        self.model.train()
        self.optimizer.zero_grad()
        truth = to_device(label_cells(labels), self.device, "uint8").long()
        loss = cross_entropy(self._forward(images), truth)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return loss.detach()
