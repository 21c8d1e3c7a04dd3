"""A small U-Net with GroupNorm and attention in PyTorch, and its record: the reference.

python -m docs.port.unet_torch torch.safetensors
"""

import sys

import torch
from torch import nn
from torch.nn import functional

from backends.torch import record


class Block(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm1 = nn.GroupNorm(4, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(4, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.silu(self.norm1(self.conv1(x)))
        return functional.silu(self.norm2(self.conv2(x)))


class UNet(nn.Module):
    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.down1 = Block(3, 16)
        self.down2 = Block(16, 32)
        self.mid = Block(32, 32)
        self.norm = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.up1 = Block(32, 16)
        self.head = nn.Conv2d(16, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.down1(x)
        x = self.mid(self.down2(functional.max_pool2d(skip, 2)))
        tokens = x.flatten(2).transpose(1, 2)
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        x = tokens.transpose(1, 2).reshape(x.shape)
        x = self.up1(torch.cat([skip, self.up(x)], 1))
        return self.head(x)


torch.manual_seed(0)
image = torch.randn(2, 3, 16, 16)
record(UNet(), image, loss=lambda y: y.square().mean(), generic=0, out=sys.argv[1])
