"""MXNet Gluon: the fully convolutional network on a ResNet.

Dive into Deep Learning 14.11; Long et al., 2015; the backbone is He et al., 2015, as in
torchvision's resnet18, or He et al., 2016, as in Gluon's resnet18_v2. Tensors are NCHW.
"""

from typing import Any

from mxnet.gluon import HybridBlock, nn

from backends.mxnet.layers import batch_norm, conv, max_pool
from backends.mxnet.upsampling import TransposeConv
from common.config import Config
from common.network.architecture import DESIGNS, stages


class BasicBlock(HybridBlock):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)); the stride is in conv1."""

    def __init__(self, in_channels: int, channels: int, stride: int, config: Config) -> None:
        super().__init__()
        with self.name_scope():
            self.conv1 = conv(in_channels, channels, 3, stride, padding=1, config=config)
            self.bn1 = batch_norm(channels, config)
            # fast: a layer keeps the layout in which oneDNN convolves; `relu` does not.
            self.relu = nn.Activation("relu")
            self.conv2 = conv(channels, channels, 3, padding=1, config=config)
            self.bn2 = batch_norm(channels, config)
            self.downsample = None
            if in_channels != channels:
                self.downsample = nn.HybridSequential()
                self.downsample.add(
                    conv(in_channels, channels, 1, stride, config=config),
                    batch_norm(channels, config),
                )

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class PreActBlock(HybridBlock):
    """conv2(relu(bn2(conv1(a)))) + shortcut, of a = relu(bn1(x)); the stride is in conv1.

    The shortcut is x itself, or where the channels change a convolution of a.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, config: Config) -> None:
        super().__init__()
        with self.name_scope():
            self.bn1 = batch_norm(in_channels, config)
            self.relu = nn.Activation("relu")
            self.conv1 = conv(in_channels, channels, 3, stride, padding=1, config=config)
            self.bn2 = batch_norm(channels, config)
            self.conv2 = conv(channels, channels, 3, padding=1, config=config)
            self.downsample = None
            if in_channels != channels:
                self.downsample = conv(in_channels, channels, 1, stride, config=config)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        active = self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        x = self.relu(self.bn2(self.conv1(active)))
        return self.conv2(x) + shortcut


class ResNet(HybridBlock):
    """The backbone without pooling and classifier: (N, 3, H, W) -> its stages' outputs in order."""

    block: type[HybridBlock] = BasicBlock

    def __init__(self, config: Config) -> None:
        super().__init__()
        with self.name_scope():
            self.conv1 = conv(3, config.width, 7, stride=2, padding=3, config=config)
            self.bn1 = batch_norm(config.width, config)
            self.relu = nn.Activation("relu")
            self.maxpool = max_pool()
            self.layer1, self.layer2, self.layer3, self.layer4 = (
                nn.HybridSequential() for _ in range(4)
            )
            layers = (self.layer1, self.layer2, self.layer3, self.layer4)
            for layer, stage in zip(layers, stages(config.architecture, config.width), strict=True):
                layer.add(*(self.block(*size, config) for size in stage))

    def stem(self, x: Any) -> Any:
        x = self.relu(self.bn1(self.conv1(x)))  # (N, w, H/2, W/2)
        return self.maxpool(x)  # (N, w, H/4, W/4)

    def norm(self, x: Any) -> Any:
        return x

    def hybrid_forward(self, F: Any, x: Any) -> list[Any]:
        x = self.stem(x)
        # differs: a list, in the order of BACKBONE_OUTPUTS, for a compiled graph
        # returns no dict.
        outputs = []
        outputs.append(x := self.layer1(x))  # (N, w, H/4, W/4)
        outputs.append(x := self.layer2(x))  # (N, 2w, H/8, W/8)
        outputs.append(x := self.layer3(x))  # (N, 4w, H/16, W/16)
        outputs.append(x := self.layer4(x))  # (N, 8w, H/32, W/32)
        outputs.append(self.norm(x))
        return outputs


class PreActResNet(ResNet):
    """The same of pre-activation blocks, between two more BatchNorms: of the input and the output.

    The first has neither gamma nor beta; a ReLU follows the last.
    """

    block = PreActBlock

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        with self.name_scope():
            # Gluon keeps its gamma and beta all the same, as the constants 1 and 0.
            self.bn0 = batch_norm(3, config, affine=False)
            self.bn2 = batch_norm(8 * config.width, config)

    def stem(self, x: Any) -> Any:
        return super().stem(self.bn0(x))

    def norm(self, x: Any) -> Any:
        return self.relu(self.bn2(x))


class FCN(HybridBlock):
    """Backbone, 1x1 convolution to the classes, transposed convolution to the image's size.

    Between the two, FCN-16s and FCN-8s upsample the scores by 2 and add those of finer stages.
    (N, 3, H, W), H and W multiples of 32 -> logits (N, classes, H, W).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.architecture, self.head, self.width = config.architecture, config.head, config.width
        self.num_classes = classes = config.num_classes
        pre_activation = DESIGNS[config.architecture].pre_activation
        stride = config.head.stride
        with self.name_scope():
            self.backbone = PreActResNet(config) if pre_activation else ResNet(config)
            self.final_conv = conv(8 * config.width, classes, 1, bias=True, config=config)
            if stride <= 16:
                self.up_layer4 = TransposeConv(classes, 2, config=config)
                self.score_layer3 = conv(4 * config.width, classes, 1, bias=True, config=config)
            if stride <= 8:
                self.up_layer3 = TransposeConv(classes, 2, config=config)
                self.score_layer2 = conv(2 * config.width, classes, 1, bias=True, config=config)
            self.transpose_conv = TransposeConv(classes, stride, bias=True, config=config)

    def fuse16(self, x: Any, layer3: Any) -> Any:
        return self.up_layer4(x) + self.score_layer3(layer3)  # (N, classes, H/16, W/16)

    def fuse8(self, x: Any, layer2: Any) -> Any:
        return self.up_layer3(x) + self.score_layer2(layer2)  # (N, classes, H/8, W/8)

    def scores(self, x: Any) -> Any:
        _, layer2, layer3, _, out = self.backbone(x)
        x = self.final_conv(out)  # (N, classes, H/32, W/32)
        if self.head.stride <= 16:
            x = self.fuse16(x, layer3)
        if self.head.stride <= 8:
            x = self.fuse8(x, layer2)
        return x

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.transpose_conv(self.scores(x))  # (N, classes, H, W)


def build_model(config: Config) -> FCN:
    """The network of `config`, its weights yet to be imported, in the run's dtype."""
    # Parameters have no memory before `initialize`, which `train.py` calls.
    return FCN(config)
