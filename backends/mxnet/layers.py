"""MXNet Gluon: the network's layers."""

from mxnet.gluon import nn

from common.config import Config, Freeze


def conv(
    in_channels: int,
    channels: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    *,
    bias: bool = False,
    config: Config,
) -> nn.Conv2D:
    """A convolution: (N, in, H, W) -> (N, channels, H', W')."""
    # differs(conv_layout): (out, in, kh, kw); `padding` is on all four sides.
    # `in_channels` is told, since a block whose shapes are deferred silently takes wrong weights.
    layer = nn.Conv2D(channels, kernel, stride, padding, use_bias=bias, in_channels=in_channels)
    layer.cast(config.dtype.storage)
    return layer


def batch_norm(channels: int, config: Config, *, affine: bool = True) -> nn.BatchNorm:
    """Batch normalisation: (N, channels, H, W) -> the same."""
    # differs(bn_momentum): `momentum` is the weight of the old value.
    # differs(frozen_norm_takes_the_batch_s_statistics): an option of the layer.
    # differs(bn_running_variance): the running variance is biased (n), which `train.py` corrects.
    # differs(bn_update): the buffers change in backward.
    layer = nn.BatchNorm(
        momentum=config.bn_decay,
        epsilon=config.bn_eps,
        scale=affine,
        center=affine,
        use_global_stats=config.freeze != Freeze.none,
        in_channels=channels,
    )
    layer.cast(config.dtype.storage)
    return layer


def max_pool() -> nn.MaxPool2D:
    """The largest of 3x3 at stride 2, padding 1: (N, C, H, W) -> (N, C, H/2, W/2)."""
    return nn.MaxPool2D(3, strides=2, padding=1)
