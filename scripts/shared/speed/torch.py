"""PyTorch: the book's network and loop, eager, NCHW, with PyTorch's own transposed convolution."""

import math
import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn
from torch.nn import functional

from backends.torch.device import select_device, to_numpy
from backends.torch.processes import Group
from backends.torch.upsampling import TransposeConv
from common.config import Config
from common.errors import InputError
from common.machine import keep_pages
from common.network.bilinear import bilinear_weight
from common.network.tensors import gradient_shapes
from scripts.shared.speed.chain import POOLED, follow, starting_arrays

Array = NDArray[Any]


class _Residual(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Sequential()
        if in_channels != channels:
            self.downsample.append(nn.Conv2d(in_channels, channels, 1, stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.downsample(x)
        out: torch.Tensor = self.relu(y)
        return out


def _resnet18() -> nn.Sequential:
    """ResNet-18's layers up to the last block, as torchvision builds them."""
    net = nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    in_channels = 64
    for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        net.append(_Residual(in_channels, channels, stride))
        net.append(_Residual(channels, channels, 1))
        in_channels = channels
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def _upsample(classes: int, bilinear: bool) -> nn.Module:
    """(N, classes, h, w) -> (N, classes, 32h, 32w)."""
    if bilinear:
        return nn.Upsample(scale_factor=32, mode="bilinear", align_corners=False)
    upsample = nn.ConvTranspose2d(classes, classes, 64, stride=32, padding=16)
    upsample.weight.data.copy_(torch.from_numpy(bilinear_weight(classes, 64)))
    return upsample


class Trainer:
    """The book's network and its optimizer."""

    def __init__(self, config: Config, bilinear: bool = False) -> None:
        torch.manual_seed(config.seed)
        self.device = select_device(config.device)
        classes = config.num_classes
        final_conv = nn.Conv2d(512, classes, 1)
        nn.init.xavier_uniform_(final_conv.weight)
        self.net = _resnet18().append(final_conv).append(_upsample(classes, bilinear))
        self.net.to(self.device)
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def step(self, images: Array, labels: Array) -> float:
        """One training step on (N, 3, H, W) float32 and (N, H, W) uint8; the loss before it."""
        self.net.train()
        self.optimizer.zero_grad()
        logits = self.net(self._to_device(images))
        loss = functional.cross_entropy(logits, self._to_device(labels).long())
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def logits(self, images: Array) -> torch.Tensor:
        """The scores (N, classes, H, W) in eval mode."""
        logits = self._evaluate(images)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return logits

    def predict(self, images: Array) -> NDArray[np.integer[Any]]:
        """The most likely class of each pixel, (N, H, W)."""
        return to_numpy(self._evaluate(images).argmax(dim=1))

    @torch.no_grad()
    def _evaluate(self, images: Array) -> torch.Tensor:
        self.net.eval()
        logits: torch.Tensor = self.net(self._to_device(images))
        return logits

    def _to_device(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def compiled(trainer: Any) -> Any:
    """Our trainer, its network by `torch.compile`, in training and in prediction.

    Raises:
        InputError: there is no C++ compiler, which makes the code for a CPU.
    """
    compiler = os.environ.get("CXX", "g++")  # where torch._inductor looks
    if trainer.device.type == "cpu" and shutil.which(compiler) is None:
        raise InputError(f"torch.compile: no C++ compiler: {compiler} is not installed")
    trainer.cells = torch.compile(trainer.cells)
    return trainer


class Convolutions:
    """Our network's convolutions and its last product alone, channels_last."""

    def __init__(self, config: Config) -> None:
        keep_pages()  # as ours
        self.config, self.device = config, select_device(config.device)
        images, arrays = starting_arrays(config)
        self.images = self._to_device(images)
        self.parameters = {
            name: nn.Parameter(self._to_device(array)) for name, array in arrays.items()
        }
        head = TransposeConv(config.num_classes, config.head.stride, config=config)
        self.head = head.to(self.images)
        self.head.weight = self.parameters["transpose_conv.weight"]

    @torch.inference_mode()
    def forward(self) -> list[torch.Tensor]:
        """What no convolution takes, the cells last."""
        outputs = self._outputs()
        self._wait()
        return outputs

    def gradients(self) -> dict[str, torch.Tensor]:
        """Those of half the sum of the outputs' squares: what comes back is what came out."""
        outputs = self._outputs()
        found = torch.autograd.grad(
            outputs, list(self.parameters.values()), [output.detach() for output in outputs]
        )
        self._wait()
        return dict(zip(self.parameters, found, strict=True))

    def _outputs(self) -> list[torch.Tensor]:
        def convolve(x: torch.Tensor, name: str, stride: int, padding: int) -> torch.Tensor:
            return functional.conv2d(x, self.parameters[name], None, stride, padding)

        *outputs, scores = follow(self.config, convolve, self.images, self.parameters[POOLED])
        return [*outputs, self.head.cells(scores)]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _to_device(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(
            self.device, getattr(torch, self.config.dtype), memory_format=torch.channels_last
        )


def product(side: int, dtype: str, device: torch.device) -> Callable[[], None]:
    """A function that multiplies two (side, side) matrices and waits for the result."""
    a, b = torch.rand(2, side, side, dtype=torch.float32, device=device).to(getattr(torch, dtype))

    def multiply() -> None:
        torch.matmul(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return multiply


def gradient_sum(config: Config, group: Group) -> Callable[[], None]:
    """A function that sums as many numbers as there are gradients over the processes."""
    device = select_device(config.device, group.local_rank)
    count = sum(map(math.prod, gradient_shapes(config).values()))
    flat = torch.zeros(count, dtype=getattr(torch, config.dtype.storage), device=device)

    def add_up() -> None:
        distributed.all_reduce(flat)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return add_up


def gpu(device: torch.device) -> tuple[str, float]:
    """A GPU's name, and the most megabytes that tensors have held on it."""
    return torch.cuda.get_device_name(device), torch.cuda.max_memory_allocated(device) / 2**20
