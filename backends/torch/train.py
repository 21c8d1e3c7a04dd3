"""PyTorch: a training step, and the network on whole images."""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from backends.torch.device import images_to_device, select_device, to_device, to_numpy
from backends.torch.loss import cross_entropy
from backends.torch.model import FCN, build_model
from backends.torch.optimizer import build_optimizer, export_momentum, import_momentum
from backends.torch.processes import Group
from backends.torch.weights import export_weights, freeze_tensors, import_weights
from common.config import Config, Dtype, Freeze
from common.machine import keep_pages
from common.network.grid import image_size, label_cells, parts_of, valid_pixels
from common.network.tensors import frozen_tensors

Array = NDArray[Any]


class _Cells(nn.Module):
    """The network up to the logits in cells: (N, 3, H, W) -> (N, h+1, w+1, s, s, classes)."""

    def __init__(self, model: FCN) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.transpose_conv.cells(self.model.scores(x))


class Trainer:
    """The network and its optimizer on one device: see `common.protocol.Trainer`."""

    def __init__(
        self, config: Config, weights: Mapping[str, Array], group: Group | None = None
    ) -> None:
        keep_pages()  # fast: JAX does without
        self.config = config
        self.group = group or Group()
        self.device = select_device(config.device, self.group.local_rank)
        self.model = build_model(config)
        import_weights(self.model, weights)
        freeze_tensors(self.model, frozen_tensors(config))
        # fast: NCHW by shape, NHWC in memory.
        self.model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.model, config)
        self.cells: nn.Module = _Cells(self.model)
        if self.group.size > 1:
            # differs: by default the first process's buffers would take the place of all others'
            # before each pass. Gradients travel in buckets while backward goes on; these are
            # formed anew after the first step, unless unused parameters are looked for, and then
            # a run that goes on would add in another order.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # a new name, unknown before 2.13
                self.cells = DistributedDataParallel(
                    self.cells,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                    find_unused_parameters=True,
                )

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
        return self._step_through(self._backward, images, labels, rate, head_rate)

    def _step_through(
        self,
        backward: Callable[..., torch.Tensor],
        images: Array,
        labels: Array,
        rate: float,
        head_rate: float | None,
    ) -> float:
        """`step`, of which `backward` computes each part's loss and gradients, or the batch's."""
        # differs(eval_mode_in_training): a switch of the model.
        self.model.train()
        self.optimizer.zero_grad()
        if self.config.parts == 1:
            loss = backward(images, labels)
        else:
            loss = self._backward_in_parts(backward, images, labels)
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

    def _backward(
        self, images: Array, labels: Array, count: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of a batch, or of a part; adds its gradients to those that are there."""
        truth = to_device(label_cells(labels, self.config), self.device, "uint8").long()
        cells = self._cells(images)
        loss = cross_entropy(cells.flatten(0, -2), truth.flatten(), count)
        # differs: the sum of the processes' gradients is divided by their number.
        (loss * self.group.size).backward()
        return loss.detach()

    def _backward_in_parts(
        self, backward: Callable[..., torch.Tensor], images: Array, labels: Array
    ) -> torch.Tensor:
        """The same of a batch in parts, some of which are other processes'.

        The running statistics take the mean of what each part would have made of them.
        """
        config, group = self.config, self.group
        count = torch.tensor(group.sum(np.array(valid_pixels(labels))), device=self.device)
        batch = [*zip(parts_of(images, config), parts_of(labels, config), strict=True)]
        frozen = config.freeze != Freeze.none
        buffers = [] if frozen else [b for b in self.model.buffers() if b.is_floating_point()]
        before = [buffer.clone() for buffer in buffers]
        dtype = getattr(torch, config.dtype.storage)
        loss = torch.zeros((), dtype=dtype, device=self.device)
        changes = [torch.zeros_like(buffer) for buffer in buffers]
        parallel = self.cells if isinstance(self.cells, DistributedDataParallel) else None
        for k, part in enumerate(batch):
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)
            # Gradients travel once a step, with the last part's.
            last = k == len(batch) - 1
            with contextlib.nullcontext() if last or parallel is None else parallel.no_sync():
                loss += backward(*part, count)
            for change, buffer, old in zip(changes, buffers, before, strict=True):
                change += (buffer - old) / config.parts
        group.reduce([loss, *changes])
        for buffer, old, change in zip(buffers, before, changes, strict=True):
            buffer.copy_(old + change)
        return loss

    def _cells(self, images: Array) -> torch.Tensor:
        """The logits in cells (N, h+1, w+1, s, s, classes), in float32 or float64."""
        x = images_to_device(images, self.device, self.config)
        # Autocast casts the inputs and weights of products to bfloat16, and nothing else.
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.dtype == Dtype.bfloat16
        ):
            cells: torch.Tensor = self.cells(x)
        return cells.to(getattr(torch, self.config.dtype.storage))
