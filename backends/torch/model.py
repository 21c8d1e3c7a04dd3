"""PyTorch: the fully convolutional network on a ResNet.

Dive into Deep Learning 14.11; Long et al., 2015; the backbone is He et al., 2015, as in
torchvision's resnet18, or He et al., 2016, as in Gluon's resnet18_v2. Tensors are NCHW.
"""

import torch
from torch import nn

from backends.torch.layers import batch_norm, conv, max_pool
from backends.torch.upsampling import TransposeConv
from common.config import Config, Freeze
from common.network.architecture import DESIGNS, stages


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)); the stride is in conv1."""

    def __init__(self, in_channels: int, channels: int, stride: int, config: Config) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride, padding=1, config=config)
        self.bn1 = batch_norm(channels, config)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(channels, channels, 3, padding=1, config=config)
        self.bn2 = batch_norm(channels, config)
        self.downsample: nn.Module | None = None
        if in_channels != channels:
            self.downsample = nn.Sequential(
                conv(in_channels, channels, 1, stride, config=config), batch_norm(channels, config)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class PreActBlock(nn.Module):
    """conv2(relu(bn2(conv1(a)))) + shortcut, of a = relu(bn1(x)); the stride is in conv1.

    The shortcut is x itself, or where the channels change a convolution of a.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, config: Config) -> None:
        super().__init__()
        self.bn1 = batch_norm(in_channels, config)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = conv(in_channels, channels, 3, stride, padding=1, config=config)
        self.bn2 = batch_norm(channels, config)
        self.conv2 = conv(channels, channels, 3, padding=1, config=config)
        self.downsample: nn.Module | None = None
        if in_channels != channels:
            self.downsample = conv(in_channels, channels, 1, stride, config=config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        x = self.relu(self.bn2(self.conv1(active)))
        return self.conv2(x) + shortcut


class ResNet(nn.Module):
    """The backbone without pooling and classifier: (N, 3, H, W) -> its stages' outputs by name."""

    block: type[nn.Module] = BasicBlock

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.conv1 = conv(3, config.width, 7, stride=2, padding=3, config=config)
        self.bn1 = batch_norm(config.width, config)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = max_pool()
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*(self.block(*size, config) for size in stage))
            for stage in stages(config.architecture, config.width)
        )

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))  # (N, w, H/2, W/2)
        return self.maxpool(x)  # (N, w, H/4, W/4)

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(x)
        outputs = {}
        outputs["layer1"] = x = self.layer1(x)  # (N, w, H/4, W/4)
        outputs["layer2"] = x = self.layer2(x)  # (N, 2w, H/8, W/8)
        outputs["layer3"] = x = self.layer3(x)  # (N, 4w, H/16, W/16)
        outputs["layer4"] = x = self.layer4(x)  # (N, 8w, H/32, W/32)
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

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        return super().stem(self.bn0(x))

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn2(x))


class FCN(nn.Module):
    """Backbone, 1x1 convolution to the classes, transposed convolution to the image's size.

    Between the two, FCN-16s and FCN-8s upsample the scores by 2 and add those of finer stages.
    (N, 3, H, W), H and W multiples of 32 -> logits (N, classes, H, W).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.architecture, self.head, self.width = config.architecture, config.head, config.width
        self.num_classes = classes = config.num_classes
        self.freeze = config.freeze
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

    def train(self, mode: bool = True) -> "FCN":
        super().train(mode)
        # differs(frozen_norm_takes_the_batch_s_statistics): the mode is each layer's
        # own, so frozen ones are put back into eval mode.
        if self.freeze != Freeze.none:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def fuse16(self, x: torch.Tensor, layer3: torch.Tensor) -> torch.Tensor:
        return self.up_layer4(x) + self.score_layer3(layer3)  # (N, classes, H/16, W/16)

    def fuse8(self, x: torch.Tensor, layer2: torch.Tensor) -> torch.Tensor:
        return self.up_layer3(x) + self.score_layer2(layer2)  # (N, classes, H/8, W/8)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self.backbone(x)
        x = self.final_conv(outputs["out"])  # (N, classes, H/32, W/32)
        if self.head.stride <= 16:
            x = self.fuse16(x, outputs["layer3"])
        if self.head.stride <= 8:
            x = self.fuse8(x, outputs["layer2"])
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.transpose_conv(self.scores(x))  # (N, classes, H, W)


def build_model(config: Config) -> FCN:
    """The network of `config`, its weights yet to be imported, in the run's dtype, on the host."""
    # fast: built on the meta device, so that no random numbers are drawn only to be replaced.
    with torch.device("meta"):
        model = FCN(config)
    return model.to_empty(device="cpu")
