"""PyTorch: a training step, and the network on whole images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.torch.device import images_to_device, select_device, to_device, to_numpy
from backends.torch.loss import cross_entropy
from backends.torch.model import build_model
from backends.torch.optimizer import build_optimizer, export_momentum, import_momentum
from backends.torch.weights import export_weights, freeze_tensors, import_weights
from common.config import Config, Dtype
from common.machine import keep_pages
from common.network.grid import image_size, label_cells
from common.network.tensors import frozen_tensors

Array = NDArray[Any]


class Trainer:
    """The network and its optimizer on one device: see `common.protocol.Trainer`."""

    def __init__(self, config: Config, weights: Mapping[str, Array]) -> None:
        keep_pages()  # fast: JAX does without
        self.config = config
        self.device = select_device(config.device)
        self.model = build_model(config)
        import_weights(self.model, weights)
        freeze_tensors(self.model, frozen_tensors(config))
        # fast: NCHW by shape, NHWC in memory.
        self.model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.model, config)

    @torch.inference_mode()
    def predict(self, images: Array) -> NDArray[np.uint8]:
        self.model.eval()
        # fast: argmax takes six times as long as max.
        classes = self._cells(images).max(dim=-1, keepdim=True).indices.to(torch.uint8)
        height, width = image_size(images)
        return to_numpy(self.model.transpose_conv.assemble(classes)[:, 0, :height, :width])

    @torch.inference_mode()
    def logits(self, images: Array) -> torch.Tensor:
        self.model.eval()
        height, width = image_size(images)
        logits = self.model.transpose_conv.assemble(self._cells(images))[:, :, :height, :width]
        # differs(late_errors): a GPU computes in the background, a CPU does not.
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return logits

    def step(
        self, images: Array, labels: Array, rate: float, head_rate: float | None = None
    ) -> float:
        # differs(eval_mode_in_training): a switch of the model.
        self.model.train()
        self.optimizer.zero_grad()
        truth = to_device(label_cells(labels, self.config), self.device, "uint8").long()
        cells = self._cells(images)
        loss = cross_entropy(cells.flatten(0, -2), truth.flatten())
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = rate if head_rate is None or not group["in_head"] else head_rate
        self.optimizer.step()
        return loss.item()

    def weights(self) -> dict[str, Array]:
        return export_weights(self.model)

    def momentum(self) -> dict[str, Array]:
        return export_momentum(self.model, self.optimizer)

    def load_momentum(self, arrays: Mapping[str, Array]) -> None:
        import_momentum(self.model, self.optimizer, arrays)

    def _cells(self, images: Array) -> torch.Tensor:
        """The logits in cells (N, h+1, w+1, s, s, classes), in float32 or float64."""
        x = images_to_device(images, self.device, self.config)
        # Autocast casts the inputs and weights of products to bfloat16, and nothing else.
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.dtype == Dtype.bfloat16
        ):
            cells = self.model.transpose_conv.cells(self.model.scores(x))
        return cells.to(getattr(torch, self.config.dtype.storage))
