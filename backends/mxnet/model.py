"""MXNet Gluon: the fully convolutional network on ResNet-18.

Dive into Deep Learning 14.11; Long et al., 2015; the backbone is He et al., 2015, as in
torchvision's resnet18, or He et al., 2016, as in Gluon's resnet18_v2.
Tensors are NCHW, but for the cells.
"""

from typing import Any

from mxnet import nd
from mxnet.gluon import HybridBlock, nn

from common.config import Config


def _conv(
    in_channels: int, channels: int, kernel: int, stride: int = 1, padding: int = 0, *, prefix: str
) -> nn.Conv2D:
    # differs: (out, in, kh, kw); `padding` is on all four sides. `in_channels` is named, for a
    # block whose shapes are deferred accepts wrong weights without a word.
    return nn.Conv2D(
        channels, kernel, stride, padding, use_bias=False, in_channels=in_channels, prefix=prefix
    )


def _batch_norm(channels: int, config: Config, *, affine: bool = True, prefix: str) -> nn.BatchNorm:
    # differs: `momentum` is the weight of the old value; the running variance is biased (n), which
    # `train.py` corrects; the buffers are updated in backward.
    return nn.BatchNorm(
        momentum=config.bn_decay,
        epsilon=config.bn_eps,
        scale=affine,
        center=affine,
        in_channels=channels,
        prefix=prefix,
    )


class BasicBlock(HybridBlock):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x)))))); the stride is in conv1.

    Returns the output, and a list of that of the inner ReLU.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, config: Config, *, prefix: str
    ) -> None:
        super().__init__(prefix=prefix)
        with self.name_scope():
            self.conv1 = _conv(in_channels, channels, 3, stride, padding=1, prefix="conv1_")
            self.bn1 = _batch_norm(channels, config, prefix="bn1_")
            # differs: keeps the layout in which oneDNN convolves, as the function `relu` does not.
            self.relu = nn.Activation("relu")
            self.conv2 = _conv(channels, channels, 3, padding=1, prefix="conv2_")
            self.bn2 = _batch_norm(channels, config, prefix="bn2_")
            self.downsample = None
            if in_channels != channels:
                self.downsample = nn.HybridSequential(prefix="downsample_")
                with self.downsample.name_scope():
                    self.downsample.add(
                        _conv(in_channels, channels, 1, stride, prefix="0_"),
                        _batch_norm(channels, config, prefix="1_"),
                    )

    def hybrid_forward(self, F: Any, x: Any) -> tuple[Any, list[Any]]:
        shortcut = x if self.downsample is None else self.downsample(x)
        inner = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(inner))
        return self.relu(x + shortcut), [inner]


class PreActBlock(HybridBlock):
    """shortcut + conv2(relu(bn2(conv1(a)))) of a = relu(bn1(x)); the stride is in conv1.

    The shortcut is x itself, or where the channels change a convolution of a. Returns the output,
    and a list of that of the two ReLUs.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, config: Config, *, prefix: str
    ) -> None:
        super().__init__(prefix=prefix)
        with self.name_scope():
            self.bn1 = _batch_norm(in_channels, config, prefix="bn1_")
            self.relu = nn.Activation("relu")
            self.conv1 = _conv(in_channels, channels, 3, stride, padding=1, prefix="conv1_")
            self.bn2 = _batch_norm(channels, config, prefix="bn2_")
            self.conv2 = _conv(channels, channels, 3, padding=1, prefix="conv2_")
            self.downsample = None
            if in_channels != channels:
                self.downsample = _conv(in_channels, channels, 1, stride, prefix="downsample_")

    def hybrid_forward(self, F: Any, x: Any) -> tuple[Any, list[Any]]:
        active = self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        inner = self.relu(self.bn2(self.conv1(active)))
        return self.conv2(inner) + shortcut, [active, inner]


class ResNet18(HybridBlock):
    """The backbone without pooling and classifier: (N, 3, H, W) -> (N, 512, H/32, W/32)."""

    block: type[BasicBlock] | type[PreActBlock] = BasicBlock

    def __init__(self, config: Config, *, prefix: str) -> None:
        super().__init__(prefix=prefix)
        with self.name_scope():
            self.conv1 = _conv(3, 64, 7, stride=2, padding=3, prefix="conv1_")
            self.bn1 = _batch_norm(64, config, prefix="bn1_")
            self.relu = nn.Activation("relu")
            self.layer1 = self._stage(64, 64, 1, config, prefix="layer1_")
            self.layer2 = self._stage(64, 128, 2, config, prefix="layer2_")
            self.layer3 = self._stage(128, 256, 2, config, prefix="layer3_")
            self.layer4 = self._stage(256, 512, 2, config, prefix="layer4_")

    def _stage(
        self, in_channels: int, channels: int, stride: int, config: Config, *, prefix: str
    ) -> nn.HybridSequential:
        stage = nn.HybridSequential(prefix=prefix)
        with stage.name_scope():
            stage.add(self.block(in_channels, channels, stride, config, prefix="0_"))
            stage.add(self.block(channels, channels, 1, config, prefix="1_"))
        return stage

    def stem(self, F: Any, x: Any) -> tuple[Any, Any]:
        inner = self.relu(self.bn1(self.conv1(x)))  # (N, 64, H/2, W/2)
        x = F.Pooling(inner, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
        return x, inner  # (N, 64, H/4, W/4)

    def hybrid_forward(self, F: Any, x: Any) -> tuple[Any, list[Any]]:
        # differs: a cached graph returns a list, not a dict; the order is that of
        # `common.network.tensors.activation_names`.
        x, inner = self.stem(F, x)
        activations = [inner, x]
        stages = [
            self.layer1,  # (N, 64, H/4, W/4)
            self.layer2,  # (N, 128, H/8, W/8)
            self.layer3,  # (N, 256, H/16, W/16)
            self.layer4,  # (N, 512, H/32, W/32)
        ]
        for stage in stages:
            for block in stage:
                x, relus = block(x)
                activations += [*relus, x]
        return x, activations


class ResNet18V2(ResNet18):
    """The same of pre-activation blocks, between two more BatchNorms: of the input and the output.

    The first has neither gamma nor beta; a ReLU follows the last.
    """

    block = PreActBlock

    def __init__(self, config: Config, *, prefix: str) -> None:
        super().__init__(config, prefix=prefix)
        with self.name_scope():
            # differs: gamma and beta are there even so, 1 and 0 for ever.
            self.bn0 = _batch_norm(3, config, affine=False, prefix="bn0_")
            self.bn2 = _batch_norm(512, config, prefix="bn2_")

    def stem(self, F: Any, x: Any) -> tuple[Any, Any]:
        return super().stem(F, self.bn0(x))

    def norm(self, x: Any) -> Any:
        return self.relu(self.bn2(x))

    def hybrid_forward(self, F: Any, x: Any) -> tuple[Any, list[Any]]:
        x, activations = super().hybrid_forward(F, x)
        x = self.norm(x)
        return x, [*activations, x]


class TransposeConv(HybridBlock):
    """Transposed convolution, kernel 64, stride 32, padding 16, as one matrix product.

    (N, C, h, w) -> cells (N * (h + 1) * (w + 1), 32, 32, C). Along one axis,
    output pixel q = 32 i + r of the uncropped result receives x[i] times tap r and x[i - 1] times
    tap r + 32, and no other:

        x[i - 1]   |------- taps 0..31 -------|------ taps 32..63 ------|
        x[i]                                  |------- taps 0..31 ------|------ taps 32..63 ...
        output                                |--- cell i: 32 pixels ---|

    So each of the (h + 1)(w + 1) cells of 32x32 output pixels is a product of the 2x2 input
    pixels that reach it, 4C values, with the kernel permuted to (32 * 32 * C, 4C). The
    result is left in cells, each a picture of its own: the loss is a sum over pixels in any order
    (`common.network.grid.label_cells`), the most likely class is found pixel by pixel, and
    `assemble` puts side by side what is to be seen.
    """

    def __init__(self, channels: int, *, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self.channels = channels
        self.kernel, self.stride, self.padding = 64, 32, 16
        with self.name_scope():
            # differs: (in, out, kh, kw), which is the canonical layout.
            shape = (channels, channels, self.kernel, self.kernel)
            self.weight = self.params.get("weight", shape=shape)
            self.bias = self.params.get("bias", shape=(channels,))

    def hybrid_forward(self, F: Any, x: Any, weight: Any, bias: Any) -> Any:
        # differs: a symbol has no shape. In `reshape`, 0 keeps an axis, -4 splits one, -3 joins
        # two; None in `slice` is an open end. The classes come last, for that is faster to move.
        c, s = self.channels, self.stride
        x = F.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 1, 1))  # (N, C, h+2, w+2)
        reach = [
            F.slice(x, begin=(None, None, 1, 1), end=(None, None, None, None)),
            F.slice(x, begin=(None, None, 1, None), end=(None, None, None, -1)),
            F.slice(x, begin=(None, None, None, 1), end=(None, None, -1, None)),
            F.slice(x, begin=(None, None, None, None), end=(None, None, -1, -1)),
        ]
        patches = F.concat(*reach, dim=1).transpose((0, 2, 3, 1))  # (N, h+1, w+1, 4C)
        taps = weight.reshape((c, c, 2, s, 2, s)).transpose((3, 5, 1, 2, 4, 0))
        taps = taps.reshape((s * s * c, 4 * c))  # rows: s, s, C; columns: 2, 2, C
        bias = F.tile(bias, reps=(s * s,))  # (s*s*C,)
        cells = F.FullyConnected(patches, taps, bias, num_hidden=s * s * c, flatten=False)
        return cells.reshape((-1, s, s, c))

    def textbook(self, x: nd.NDArray) -> nd.NDArray:
        """The same by its definition: (N, C, h, w) -> (N, C, 32h, 32w)."""
        return nd.Deconvolution(
            x,
            self.weight.data(),
            self.bias.data(),
            kernel=(self.kernel, self.kernel),
            stride=(self.stride, self.stride),
            pad=(self.padding, self.padding),
            num_filter=self.channels,
            no_bias=False,
        )


def assemble(cells: nd.NDArray, height: int, width: int) -> nd.NDArray:
    """Cells (N * (h + 1) * (w + 1), 32, 32, C) side by side, cropped by 16 on each side.

    (N, C, height, width), with height = 32h and width = 32w.
    """
    s, c = cells.shape[2:]
    rows, columns = height // s + 1, width // s + 1
    # differs: two swaps of long runs are three times as fast as one transpose of six axes.
    x = cells.reshape((-1, rows, columns, s, s * c)).swapaxes(2, 3)
    x = x.reshape((-1, rows * s, columns * s, c))
    return x[:, s // 2 : -s // 2, s // 2 : -s // 2].transpose((0, 3, 1, 2))


class FCN(HybridBlock):
    """Backbone, 1x1 convolution to the classes, transposed convolution back to the image's size.

    (N, 3, H, W), H and W multiples of 32 -> logits in cells, (M, 32, 32, classes); `assemble`
    makes (N, classes, H, W) of them. While `traced` is true, a list of all activations in the
    order of `common.network.tensors.activation_names`, the cells last.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(prefix="")
        self.architecture, self.num_classes = config.architecture, config.num_classes
        self.traced = False
        with self.name_scope():
            backbones = {"resnet18": ResNet18, "resnet18_v2": ResNet18V2}
            self.backbone = backbones[config.architecture](config, prefix="backbone_")
            self.final_conv = nn.Conv2D(
                config.num_classes, 1, in_channels=512, prefix="final_conv_"
            )
            self.transpose_conv = TransposeConv(config.num_classes, prefix="transpose_conv_")

    def trace(self, traced: bool) -> None:
        """Sets `traced`; the graph is made anew where that changes."""
        # differs: every output of a cached graph has a gradient, zeros that are added if nobody
        # uses it, so the activations are outputs only where they are wanted.
        if traced != self.traced:
            self.traced = traced
            self.hybridize()

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        x, activations = self.backbone(x)  # (N, 512, H/32, W/32)
        x = self.final_conv(x)  # (N, classes, H/32, W/32)
        activations.append(x)
        x = self.transpose_conv(x)  # (N * (H/32 + 1) * (W/32 + 1), 32, 32, classes)
        activations.append(x)
        return activations if self.traced else x

    def layer(self, name: str, x: nd.NDArray) -> nd.NDArray:
        """What one of `common.network.tensors.layer_names` makes of its input."""
        if name == "stem":
            return self.backbone.stem(nd, x)[0]
        if name == "norm":
            return self.backbone.norm(x)
        if name == "final_conv":
            return self.final_conv(x)
        if name == "logits":
            s = self.transpose_conv.stride
            return assemble(self.transpose_conv(x), s * x.shape[2], s * x.shape[3])
        stage, index = name.split(".")
        return getattr(self.backbone, stage)[int(index)](x)[0]


def build_model(config: Config) -> FCN:
    """The network of `config`, its weights yet to be imported, in the run's dtype, hybridized."""
    # differs: parameters have no memory before `initialize`, which `train.py` calls.
    model = FCN(config)
    model.cast(config.dtype.storage)
    model.hybridize()
    return model
