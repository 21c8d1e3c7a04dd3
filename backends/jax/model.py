"""JAX and Flax NNX: the fully convolutional network on ResNet-18.

Dive into Deep Learning 14.11; Long et al., 2015; the backbone is He et al., 2015, as in
torchvision's resnet18, or He et al., 2016, as in Gluon's resnet18_v2.
Tensors are NHWC, which XLA computes faster than NCHW on a CPU.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from common.config import Config


def _conv(
    in_channels: int, channels: int, kernel: int, stride: int, padding: int, config: Config
) -> nnx.Conv:
    # differs: (kh, kw, in, out); the default padding SAME is not symmetric at stride 2.
    return nnx.Conv(
        in_channels,
        channels,
        (kernel, kernel),
        strides=stride,
        padding=((padding, padding), (padding, padding)),
        use_bias=False,
        dtype=config.dtype,
        param_dtype=config.dtype.storage,
        rngs=nnx.Rngs(0),
    )


class _BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy, 2015)."""

    # differs: Flax's own adds the biased variance to the running one. This one normalises with
    # the biased variance, from two passes, and keeps the unbiased one (n - 1). The buffers are
    # variables of the module, updated in the call.

    def __init__(self, channels: int, config: Config, *, affine: bool = True) -> None:
        self.affine = affine
        if affine:
            self.scale = nnx.Param(jnp.ones(channels, config.dtype.storage))
            self.bias = nnx.Param(jnp.zeros(channels, config.dtype.storage))
        self.mean = nnx.BatchStat(jnp.zeros(channels, config.dtype.storage))
        self.var = nnx.BatchStat(jnp.ones(channels, config.dtype.storage))
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
            self.mean[...] = self.decay * old_mean + (1 - self.decay) * mean
            self.var[...] = self.decay * old_var + (1 - self.decay) * var * (n / (n - 1))
        x = (x - mean) * (jax.lax.rsqrt(var + self.eps) * scale) + bias
        return x.astype(dtype)


class BasicBlock(nnx.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x)))))); the stride is in conv1.

    Returns the output, and that of the inner ReLU by name.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, config: Config) -> None:
        self.conv1 = _conv(in_channels, channels, 3, stride, 1, config)
        self.bn1 = _BatchNorm(channels, config)
        self.conv2 = _conv(channels, channels, 3, 1, 1, config)
        self.bn2 = _BatchNorm(channels, config)
        self.has_downsample = in_channels != channels
        if self.has_downsample:
            self.downsample_0 = _conv(in_channels, channels, 1, stride, 0, config)
            self.downsample_1 = _BatchNorm(channels, config)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        shortcut = self.downsample_1(self.downsample_0(x)) if self.has_downsample else x
        inner = nnx.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(inner))
        return nnx.relu(x + shortcut), {"relu": inner}


class PreActBlock(nnx.Module):
    """shortcut + conv2(relu(bn2(conv1(a)))) of a = relu(bn1(x)); the stride is in conv1.

    The shortcut is x itself, or where the channels change a convolution of a. Returns the output,
    and that of the two ReLUs by name.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, config: Config) -> None:
        self.bn1 = _BatchNorm(in_channels, config)
        self.conv1 = _conv(in_channels, channels, 3, stride, 1, config)
        self.bn2 = _BatchNorm(channels, config)
        self.conv2 = _conv(channels, channels, 3, 1, 1, config)
        self.has_downsample = in_channels != channels
        if self.has_downsample:
            self.downsample = _conv(in_channels, channels, 1, stride, 0, config)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        active = nnx.relu(self.bn1(x))
        shortcut = self.downsample(active) if self.has_downsample else x
        inner = nnx.relu(self.bn2(self.conv1(active)))
        return self.conv2(inner) + shortcut, {"relu1": active, "relu2": inner}


class ResNet18(nnx.Module):
    """The backbone without pooling and classifier: (N, H, W, 3) -> (N, H/32, W/32, 512)."""

    block: type[BasicBlock] | type[PreActBlock] = BasicBlock

    def __init__(self, config: Config) -> None:
        self.conv1 = _conv(3, 64, 7, 2, 3, config)
        self.bn1 = _BatchNorm(64, config)
        block = self.block
        self.layer1_0 = block(64, 64, 1, config)
        self.layer1_1 = block(64, 64, 1, config)
        self.layer2_0 = block(64, 128, 2, config)
        self.layer2_1 = block(128, 128, 1, config)
        self.layer3_0 = block(128, 256, 2, config)
        self.layer3_1 = block(256, 256, 1, config)
        self.layer4_0 = block(256, 512, 2, config)
        self.layer4_1 = block(512, 512, 1, config)

    def stem(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        inner = nnx.relu(self.bn1(self.conv1(x)))  # (N, H/2, W/2, 64)
        x = nnx.max_pool(inner, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        return x, inner  # (N, H/4, W/4, 64)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        # differs: all activations are returned; what its caller drops, XLA does not keep.
        activations = {}
        x, activations["stem.relu"] = self.stem(x)
        activations["stem"] = x
        blocks = {
            "layer1.0": self.layer1_0,  # (N, H/4, W/4, 64)
            "layer1.1": self.layer1_1,
            "layer2.0": self.layer2_0,  # (N, H/8, W/8, 128)
            "layer2.1": self.layer2_1,
            "layer3.0": self.layer3_0,  # (N, H/16, W/16, 256)
            "layer3.1": self.layer3_1,
            "layer4.0": self.layer4_0,  # (N, H/32, W/32, 512)
            "layer4.1": self.layer4_1,
        }
        for name, block in blocks.items():
            x, relus = block(x)
            activations |= {f"{name}.{relu}": array for relu, array in relus.items()}
            activations[name] = x
        return x, activations


class ResNet18V2(ResNet18):
    """The same of pre-activation blocks, between two more BatchNorms: of the input and the output.

    The first has neither gamma nor beta; a ReLU follows the last.
    """

    block = PreActBlock

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.bn0 = _BatchNorm(3, config, affine=False)
        self.bn2 = _BatchNorm(512, config)

    def stem(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return super().stem(self.bn0(x))

    def norm(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn2(x))

    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        x, activations = super().__call__(x)
        x = self.norm(x)
        activations["norm"] = x
        return x, activations


class TransposeConv(nnx.Module):
    """Transposed convolution, kernel 64, stride 32, padding 16, as one matrix product.

    (N, h, w, C) -> cells (N * (h + 1) * (w + 1), C, 32, 32). Along one axis,
    output pixel q = 32 i + r of the uncropped result receives x[i] times tap r and x[i - 1] times
    tap r + 32, and no other:

        x[i - 1]   |------- taps 0..31 -------|------ taps 32..63 ------|
        x[i]                                  |------- taps 0..31 ------|------ taps 32..63 ...
        output                                |--- cell i: 32 pixels ---|

    So each of the (h + 1)(w + 1) cells of 32x32 output pixels is a product of the 2x2 input
    pixels that reach it, 4C values, with the kernel permuted to (4C, C * 32 * 32). The
    result is left in cells, each a picture of its own: the loss is a sum over pixels in any order
    (`common.network.grid.label_cells`), the most likely class is found pixel by pixel, and
    `assemble` puts side by side what is to be seen.
    """

    def __init__(self, channels: int, config: Config) -> None:
        self.kernel, self.stride, self.padding = 64, 32, 16
        # differs: the canonical (in, out, kh, kw), since no operator of JAX's own sees it.
        shape = (channels, channels, self.kernel, self.kernel)
        self.weight = nnx.Param(jnp.zeros(shape, config.dtype.storage))
        self.bias = nnx.Param(jnp.zeros(channels, config.dtype.storage))

    def __call__(self, x: jax.Array) -> jax.Array:
        c, s = x.shape[-1], self.stride
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # (N, h+2, w+2, C)
        reach = [x[:, 1:, 1:], x[:, 1:, :-1], x[:, :-1, 1:], x[:, :-1, :-1]]
        patches = jnp.concatenate(reach, axis=-1)  # (N, h+1, w+1, 4C)
        taps = self.weight[...].reshape(c, c, 2, s, 2, s).transpose(2, 4, 0, 1, 3, 5)
        cells = jnp.matmul(
            patches.reshape(-1, 4 * c),
            taps.reshape(4 * c, -1).astype(x.dtype),
            preferred_element_type=taps.dtype,
        )
        # differs: classes before pixels, where XLA finds the largest faster than at the end.
        return cells.reshape(-1, c, s, s) + self.bias[...][:, None, None]

    def textbook(self, x: jax.Array) -> jax.Array:
        """The same by its definition: (N, h, w, C) -> (N, 32h, 32w, C)."""
        # differs: padding is counted from the full output's edge: kernel - 1 - padding.
        edge = self.kernel - 1 - self.padding
        return self.bias[...] + jax.lax.conv_transpose(
            x,
            self.weight[...],
            (self.stride, self.stride),
            ((edge, edge), (edge, edge)),
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            transpose_kernel=True,
        )


def assemble(cells: jax.Array, height: int, width: int) -> jax.Array:
    """Cells (N * (h + 1) * (w + 1), C, 32, 32) side by side, cropped by 16 on each side.

    (N, C, height, width), with height = 32h and width = 32w.
    """
    c, s = cells.shape[1:3]
    rows, columns = height // s + 1, width // s + 1
    x = cells.reshape(-1, rows, columns, c, s, s).transpose(0, 3, 1, 4, 2, 5)
    x = x.reshape(-1, c, rows * s, columns * s)
    return x[:, :, s // 2 : -s // 2, s // 2 : -s // 2]


class FCN(nnx.Module):
    """Backbone, 1x1 convolution to the classes, transposed convolution back to the image's size.

    (N, H, W, 3), H and W multiples of 32 -> logits in cells, (M, classes, 32, 32), and the
    activations by layer name; `assemble` makes (N, classes, H, W) of cells.
    """

    def __init__(self, config: Config) -> None:
        self.architecture, self.num_classes = config.architecture, config.num_classes
        backbones = {"resnet18": ResNet18, "resnet18_v2": ResNet18V2}
        self.backbone = backbones[config.architecture](config)
        self.final_conv = nnx.Conv(
            512,
            config.num_classes,
            (1, 1),
            padding="VALID",
            dtype=config.dtype,
            param_dtype=config.dtype.storage,
            rngs=nnx.Rngs(0),
        )
        self.transpose_conv = TransposeConv(config.num_classes, config)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        x, activations = self.backbone(x)  # (N, H/32, W/32, 512)
        x = self.final_conv(x)  # (N, H/32, W/32, classes)
        activations["final_conv"] = x
        x = self.transpose_conv(x)  # (N * (H/32 + 1) * (W/32 + 1), classes, 32, 32)
        activations["logits"] = x
        return x, activations

    def layer(self, name: str, x: jax.Array) -> jax.Array:
        """What one of `common.network.tensors.layer_names` makes of its input, NHWC."""
        if name == "stem":
            return self.backbone.stem(x)[0]
        if name == "norm":
            return self.backbone.norm(x)
        if name == "final_conv":
            return self.final_conv(x)
        if name == "logits":
            s = self.transpose_conv.stride
            logits = assemble(self.transpose_conv(x), s * x.shape[1], s * x.shape[2])
            return logits.transpose(0, 2, 3, 1)
        block: BasicBlock | PreActBlock = getattr(self.backbone, name.replace(".", "_"))
        return block(x)[0]


def build_model(config: Config) -> FCN:
    """The network of `config`, its weights yet to be imported, in the run's dtype."""
    # differs: built abstract, shapes and dtypes alone, then filled with zeros, so that no random
    # numbers are drawn only to be replaced.
    structure, state = nnx.split(nnx.eval_shape(functools.partial(FCN, config)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    model: FCN = nnx.merge(structure, zeros)
    return model
