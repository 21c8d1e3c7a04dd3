"""PyTorch: the network's layers."""

import torch
from torch import nn

from common.config import Config


def conv(
    in_channels: int,
    channels: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    *,
    bias: bool = False,
    config: Config,
) -> nn.Conv2d:
    """A convolution: (N, in, H, W) -> (N, channels, H', W')."""
    # differs(conv_layout): (out, in, kh, kw); `padding` is on all four sides.
    dtype = getattr(torch, config.dtype.storage)
    return nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=bias, dtype=dtype)


def batch_norm(channels: int, config: Config, *, affine: bool = True) -> nn.BatchNorm2d:
    """Batch normalisation: (N, channels, H, W) -> the same."""
    # differs(bn_momentum): `momentum` is the weight of the new value.
    # differs(bn_running_variance): the running variance is unbiased (n - 1).
    # differs(bn_update): the buffers change in forward.
    momentum, dtype = 1 - config.bn_decay, getattr(torch, config.dtype.storage)
    return nn.BatchNorm2d(channels, config.bn_eps, momentum, affine=affine, dtype=dtype)


def max_pool() -> nn.MaxPool2d:
    """The largest of 3x3 at stride 2, padding 1: (N, C, H, W) -> (N, C, H/2, W/2)."""
    return nn.MaxPool2d(3, stride=2, padding=1)
