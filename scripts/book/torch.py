"""PyTorch: the book's network and loop, eager, NCHW, with PyTorch's own transposed convolution."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from common.bilinear import bilinear_weight
from common.config import Config

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


class Trainer:
    """The book's network and its optimizer."""

    def __init__(self, config: Config) -> None:
        torch.manual_seed(config.seed)
        classes = config.num_classes
        self.net = _resnet18()
        final_conv = nn.Conv2d(512, classes, 1)
        upsample = nn.ConvTranspose2d(classes, classes, 64, stride=32, padding=16)
        self.net.append(final_conv).append(upsample)
        nn.init.xavier_uniform_(final_conv.weight)
        upsample.weight.data.copy_(torch.from_numpy(bilinear_weight(classes, 64)))
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def step(self, images: Array, labels: Array) -> float:
        """One training step on (N, 3, H, W) float32 and (N, H, W) uint8; the loss before it."""
        self.net.train()
        self.optimizer.zero_grad()
        logits = self.net(torch.from_numpy(images))
        loss = functional.cross_entropy(logits, torch.from_numpy(labels).long())
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def predict(self, images: Array) -> NDArray[np.integer[Any]]:
        """The most likely class of each pixel, (N, H, W)."""
        self.net.eval()
        with torch.no_grad():
            classes: torch.Tensor = self.net(torch.from_numpy(images)).argmax(dim=1)
        return classes.numpy()
