"""JAX and Flax NNX: the fully convolutional network on a ResNet.

Dive into Deep Learning 14.11; Long et al., 2015; the backbone is He et al., 2015, as in
torchvision's resnet18, or He et al., 2016, as in Gluon's resnet18_v2. Tensors are NHWC, but for
the logits.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from backends.jax.layers import batch_norm, conv, max_pool
from backends.jax.upsampling import TransposeConv
from common.config import Config
from common.network.architecture import DESIGNS, stages


class BasicBlock(nnx.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)); the stride is in conv1."""

    def __init__(self, in_channels: int, channels: int, stride: int, config: Config) -> None:
        self.conv1 = conv(in_channels, channels, 3, stride, padding=1, config=config)
        self.bn1 = batch_norm(channels, config)
        self.conv2 = conv(channels, channels, 3, padding=1, config=config)
        self.bn2 = batch_norm(channels, config)
        if in_channels != channels:
            self.downsample = nnx.Sequential(
                conv(in_channels, channels, 1, stride, config=config), batch_norm(channels, config)
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
        self.bn1 = batch_norm(in_channels, config)
        self.conv1 = conv(in_channels, channels, 3, stride, padding=1, config=config)
        self.bn2 = batch_norm(channels, config)
        self.conv2 = conv(channels, channels, 3, padding=1, config=config)
        if in_channels != channels:
            self.downsample = conv(in_channels, channels, 1, stride, config=config)
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
        self.conv1 = conv(3, config.width, 7, stride=2, padding=3, config=config)
        self.bn1 = batch_norm(config.width, config)
        self.maxpool = max_pool()
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nnx.Sequential(*(self.block(*size, config) for size in stage))
            for stage in stages(config.architecture, config.width)
        )

    def stem(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn1(self.conv1(x)))  # (N, H/2, W/2, w)
        return self.maxpool(x)  # (N, H/4, W/4, w)

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
        self.bn0 = batch_norm(3, config, affine=False)
        self.bn2 = batch_norm(8 * config.width, config)

    def stem(self, x: jax.Array) -> jax.Array:
        return super().stem(self.bn0(x))

    def norm(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn2(x))


class FCN(nnx.Module):
    """Backbone, 1x1 convolution to the classes, transposed convolution to the image's size.

    Between the two, FCN-16s and FCN-8s upsample the scores by 2 and add those of finer stages.
    (N, H, W, 3), H and W multiples of 32 -> logits (N, classes, H, W).
    """

    def __init__(self, config: Config) -> None:
        self.architecture, self.head, self.width = config.architecture, config.head, config.width
        self.num_classes = classes = config.num_classes
        pre_activation = DESIGNS[config.architecture].pre_activation
        self.backbone = PreActResNet(config) if pre_activation else ResNet(config)
        self.final_conv = conv(8 * config.width, classes, 1, bias=True, config=config)
        if config.head.stride <= 16:
            self.up_layer4 = TransposeConv(classes, 2, config=config)
            self.score_layer3 = conv(4 * config.width, classes, 1, bias=True, config=config)
        if config.head.stride <= 8:
            self.up_layer3 = TransposeConv(classes, 2, config=config)
            self.score_layer2 = conv(2 * config.width, classes, 1, bias=True, config=config)
        self.transpose_conv = TransposeConv(classes, config.head.stride, bias=True, config=config)

    def fuse16(self, x: jax.Array, layer3: jax.Array) -> jax.Array:
        return self.up_layer4(x) + self.score_layer3(layer3)  # (N, H/16, W/16, classes)

    def fuse8(self, x: jax.Array, layer2: jax.Array) -> jax.Array:
        return self.up_layer3(x) + self.score_layer2(layer2)  # (N, H/8, W/8, classes)

    def scores(self, x: jax.Array) -> jax.Array:
        outputs = self.backbone(x)
        x = self.final_conv(outputs["out"])  # (N, H/32, W/32, classes)
        if self.head.stride <= 16:
            x = self.fuse16(x, outputs["layer3"])
        if self.head.stride <= 8:
            x = self.fuse8(x, outputs["layer2"])
        return x

    def __call__(self, x: jax.Array) -> jax.Array:
        logits = self.transpose_conv(self.scores(x))  # (N, H, W, classes)
        return logits.transpose(0, 3, 1, 2)  # (N, classes, H, W)


def build_model(config: Config) -> FCN:
    """The network of `config`, its weights yet to be imported, in the run's dtype."""
    # fast: built abstract, shapes and dtypes alone, then filled with zeros, so that no random
    # numbers are drawn only to be replaced.
    structure, state = nnx.split(nnx.eval_shape(functools.partial(FCN, config)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    model: FCN = nnx.merge(structure, zeros)
    return model
