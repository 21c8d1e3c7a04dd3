"""JAX and Flax NNX: the fully convolutional network on a ResNet.

Dive into Deep Learning 14.11; Long et al., 2015; the backbone is He et al., 2015, as in
torchvision's resnet18, or He et al., 2016, as in Gluon's resnet18_v2. Tensors are NHWC, but for
the logits.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from backends.jax.upsampling import TransposeConv
from common.config import Config
from common.network.architecture import DESIGNS, stages


def _conv(
    in_channels: int,
    channels: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    *,
    bias: bool = False,
    config: Config,
) -> nnx.Conv:
    # differs(conv_layout): (kh, kw, in, out); the default SAME is not symmetric at stride 2.
    return nnx.Conv(
        in_channels,
        channels,
        (kernel, kernel),
        strides=stride,
        padding=((padding, padding), (padding, padding)),
        use_bias=bias,
        dtype=config.dtype,
        param_dtype=config.dtype.storage,
        rngs=nnx.Rngs(0),
    )


class _BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy, 2015).

    Flax's own adds the biased variance to the running one, and takes it from one pass.
    """

    def __init__(self, channels: int, config: Config, *, affine: bool = True) -> None:
        self.affine = affine
        if affine:
            self.scale = nnx.Param(jnp.ones(channels, config.dtype.storage))
            self.bias = nnx.Param(jnp.zeros(channels, config.dtype.storage))
        self.mean = nnx.BatchStat(jnp.zeros(channels, config.dtype.storage))
        self.var = nnx.BatchStat(jnp.ones(channels, config.dtype.storage))
        # differs(bn_momentum): `decay` is the weight of the old value.
        self.eps, self.decay = config.bn_eps, config.bn_decay
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = x.dtype
        mean, var = self.mean[...], self.var[...]
        scale, bias = (self.scale[...], self.bias[...]) if self.affine else (1, 0)
        x = x.astype(mean.dtype)  # from bfloat16; otherwise it is that already
        if not self.use_running_average:
            n = x.size // x.shape[-1]
            old_mean, old_var = mean, var
            mean, var = jnp.mean(x, axis=(0, 1, 2)), jnp.var(x, axis=(0, 1, 2))
            # differs(bn_running_variance): the running variance is unbiased (n - 1), written out.
            # differs(bn_update): the buffers change in the call, and a compiled step returns them.
            self.mean[...] = self.decay * old_mean + (1 - self.decay) * mean
            self.var[...] = self.decay * old_var + (1 - self.decay) * var * (n / (n - 1))
        x = (x - mean) * (jax.lax.rsqrt(var + self.eps) * scale) + bias
        return x.astype(dtype)


class BasicBlock(nnx.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)); the stride is in conv1."""

    def __init__(self, in_channels: int, channels: int, stride: int, config: Config) -> None:
        self.conv1 = _conv(in_channels, channels, 3, stride, padding=1, config=config)
        self.bn1 = _BatchNorm(channels, config)
        self.conv2 = _conv(channels, channels, 3, padding=1, config=config)
        self.bn2 = _BatchNorm(channels, config)
        if in_channels != channels:
            self.downsample = nnx.Sequential(
                _conv(in_channels, channels, 1, stride, config=config), _BatchNorm(channels, config)
            )
        else:
            self.downsample = None

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return nnx.relu(x + shortcut)


class PreActBlock(nnx.Module):
    """conv2(relu(bn2(conv1(a)))) + shortcut, of a = relu(bn1(x)); the stride is in conv1.

    The shortcut is x itself, or where the channels change a convolution of a.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, config: Config) -> None:
        self.bn1 = _BatchNorm(in_channels, config)
        self.conv1 = _conv(in_channels, channels, 3, stride, padding=1, config=config)
        self.bn2 = _BatchNorm(channels, config)
        self.conv2 = _conv(channels, channels, 3, padding=1, config=config)
        if in_channels != channels:
            self.downsample = _conv(in_channels, channels, 1, stride, config=config)
        else:
            self.downsample = None

    def __call__(self, x: jax.Array) -> jax.Array:
        active = nnx.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        x = nnx.relu(self.bn2(self.conv1(active)))
        return self.conv2(x) + shortcut


class ResNet(nnx.Module):
    """The backbone without pooling and classifier: (N, H, W, 3) -> its stages' outputs by name."""

    block: type[nnx.Module] = BasicBlock

    def __init__(self, config: Config) -> None:
        self.conv1 = _conv(3, config.width, 7, stride=2, padding=3, config=config)
        self.bn1 = _BatchNorm(config.width, config)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nnx.Sequential(*(self.block(*size, config) for size in stage))
            for stage in stages(config.architecture, config.width)
        )

    def stem(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn1(self.conv1(x)))  # (N, H/2, W/2, w)
        return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # (N, H/4, W/4, w)

    def norm(self, x: jax.Array) -> jax.Array:
        return x

    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        x = self.stem(x)
        outputs = {}
        outputs["layer1"] = x = self.layer1(x)  # (N, H/4, W/4, w)
        outputs["layer2"] = x = self.layer2(x)  # (N, H/8, W/8, 2w)
        outputs["layer3"] = x = self.layer3(x)  # (N, H/16, W/16, 4w)
        outputs["layer4"] = x = self.layer4(x)  # (N, H/32, W/32, 8w)
        outputs["out"] = self.norm(x)
        return outputs


class PreActResNet(ResNet):
    """The same of pre-activation blocks, between two more BatchNorms: of the input and the output.

    The first has neither gamma nor beta; a ReLU follows the last.
    """

    block = PreActBlock

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.bn0 = _BatchNorm(3, config, affine=False)
        self.bn2 = _BatchNorm(8 * config.width, config)

    def stem(self, x: jax.Array) -> jax.Array:
        return super().stem(self.bn0(x))

    def norm(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn2(x))


class FCN(nnx.Module):
    """Backbone, 1x1 convolution to the classes, transposed convolution to the image's size.

    (N, H, W, 3), H and W multiples of 32 -> logits (N, classes, H, W).
    """

    def __init__(self, config: Config) -> None:
        self.architecture, self.width = config.architecture, config.width
        self.num_classes = config.num_classes
        pre_activation = DESIGNS[config.architecture].pre_activation
        self.backbone = PreActResNet(config) if pre_activation else ResNet(config)
        self.final_conv = _conv(8 * config.width, config.num_classes, 1, bias=True, config=config)
        self.transpose_conv = TransposeConv(config.num_classes, config)

    def scores(self, x: jax.Array) -> jax.Array:
        x = self.backbone(x)["out"]  # (N, H/32, W/32, 8w)
        return self.final_conv(x)  # (N, H/32, W/32, classes)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.transpose_conv(self.scores(x))  # (N, classes, H, W)


def build_model(config: Config) -> FCN:
    """The network of `config`, its weights yet to be imported, in the run's dtype."""
    # fast: built abstract, shapes and dtypes alone, then filled with zeros, so that no random
    # numbers are drawn only to be replaced.
    structure, state = nnx.split(nnx.eval_shape(functools.partial(FCN, config)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    model: FCN = nnx.merge(structure, zeros)
    return model
