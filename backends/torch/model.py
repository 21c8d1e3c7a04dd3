"""PyTorch: the fully convolutional network on ResNet-18.

Dive into Deep Learning 14.11; Long et al., 2015; the backbone is He et al., 2015, as in
torchvision's resnet18, or He et al., 2016, as in Gluon's resnet18_v2.
Tensors are NCHW.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from common.config import Config
from common.network.tensors import activation_names


def _conv(
    in_channels: int, channels: int, kernel: int, stride: int = 1, padding: int = 0
) -> nn.Conv2d:
    # differs: (out, in, kh, kw); `padding` is on all four sides.
    return nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=False)


def _batch_norm(channels: int, config: Config, *, affine: bool = True) -> nn.BatchNorm2d:
    # differs: `momentum` is the weight of the new value; the running variance is unbiased (n - 1);
    # the buffers are updated in forward.
    return nn.BatchNorm2d(channels, config.bn_eps, momentum=1 - config.bn_decay, affine=affine)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x)))))); the stride is in conv1."""

    def __init__(self, in_channels: int, channels: int, stride: int, config: Config) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 3, stride, padding=1)
        self.bn1 = _batch_norm(channels, config)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(channels, channels, 3, padding=1)
        self.bn2 = _batch_norm(channels, config)
        self.downsample = None
        if in_channels != channels:
            self.downsample = nn.Sequential(
                _conv(in_channels, channels, 1, stride), _batch_norm(channels, config)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return functional.relu(x + shortcut)


class PreActBlock(nn.Module):
    """shortcut + conv2(relu(bn2(conv1(a)))) of a = relu(bn1(x)); the stride is in conv1.

    The shortcut is x itself, or where the channels change a convolution of a.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, config: Config) -> None:
        super().__init__()
        self.bn1 = _batch_norm(in_channels, config)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = _conv(in_channels, channels, 3, stride, padding=1)
        self.bn2 = _batch_norm(channels, config)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = _conv(channels, channels, 3, padding=1)
        self.downsample = None
        if in_channels != channels:
            self.downsample = _conv(in_channels, channels, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.relu1(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        x = self.relu2(self.bn2(self.conv1(active)))
        return self.conv2(x) + shortcut


class ResNet18(nn.Module):
    """The backbone without pooling and classifier: (N, 3, H, W) -> (N, 512, H/32, W/32)."""

    block: type[BasicBlock] | type[PreActBlock] = BasicBlock

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 7, stride=2, padding=3)
        self.bn1 = _batch_norm(64, config)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        block = self.block
        self.layer1 = nn.Sequential(block(64, 64, 1, config), block(64, 64, 1, config))
        self.layer2 = nn.Sequential(block(64, 128, 2, config), block(128, 128, 1, config))
        self.layer3 = nn.Sequential(block(128, 256, 2, config), block(256, 256, 1, config))
        self.layer4 = nn.Sequential(block(256, 512, 2, config), block(512, 512, 1, config))

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))  # (N, 64, H/2, W/2)
        return self.maxpool(x)  # (N, 64, H/4, W/4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)  # (N, 64, H/4, W/4)
        x = self.layer1(x)  # (N, 64, H/4, W/4)
        x = self.layer2(x)  # (N, 128, H/8, W/8)
        x = self.layer3(x)  # (N, 256, H/16, W/16)
        return self.layer4(x)  # (N, 512, H/32, W/32)


class ResNet18V2(ResNet18):
    """The same of pre-activation blocks, between two more BatchNorms: of the input and the output.

    The first has neither gamma nor beta; a ReLU follows the last.
    """

    block = PreActBlock

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.bn0 = _batch_norm(3, config, affine=False)
        self.bn2 = _batch_norm(512, config)
        self.relu2 = nn.ReLU(inplace=True)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        return super().stem(self.bn0(x))

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu2(self.bn2(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(x))


class TransposeConv(nn.Module):
    """Transposed convolution, kernel 64, stride 32, padding 16, as one matrix product.

    (N, C, h, w) -> cells (N * (h + 1) * (w + 1), C, 32, 32). Along one axis,
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

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = 64, 32, 16
        # differs: (in, out, kh, kw), which is the canonical layout.
        self.weight = nn.Parameter(torch.empty(channels, channels, self.kernel, self.kernel))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c, s = x.shape[1], self.stride
        x = functional.pad(x, (1, 1, 1, 1))  # (N, C, h+2, w+2)
        reach = [x[:, :, 1:, 1:], x[:, :, 1:, :-1], x[:, :, :-1, 1:], x[:, :, :-1, :-1]]
        patches = torch.cat(reach, dim=1).permute(0, 2, 3, 1)  # (N, h+1, w+1, 4C)
        taps = self.weight.view(c, c, 2, s, 2, s).permute(2, 4, 0, 1, 3, 5)  # (2, 2, C, C, s, s)
        bias = self.bias.repeat_interleave(s * s)  # (C*s*s,)
        cells = torch.addmm(bias, patches.reshape(-1, 4 * c), taps.reshape(4 * c, -1))
        return cells.view(-1, c, s, s)

    def textbook(self, x: torch.Tensor) -> torch.Tensor:
        """The same by its definition: (N, C, h, w) -> (N, C, 32h, 32w)."""
        return functional.conv_transpose2d(x, self.weight, self.bias, self.stride, self.padding)


def assemble(cells: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cells (N * (h + 1) * (w + 1), C, 32, 32) side by side, cropped by 16 on each side.

    (N, C, height, width), with height = 32h and width = 32w.
    """
    c, s = cells.shape[1:3]
    rows, columns = height // s + 1, width // s + 1
    x = cells.view(-1, rows, columns, c, s, s).permute(0, 3, 1, 4, 2, 5)
    x = x.reshape(-1, c, rows * s, columns * s)
    return x[:, :, s // 2 : -s // 2, s // 2 : -s // 2]


class FCN(nn.Module):
    """Backbone, 1x1 convolution to the classes, transposed convolution back to the image's size.

    (N, 3, H, W), H and W multiples of 32 -> logits in cells, (M, classes, 32, 32); `assemble`
    makes (N, classes, H, W) of them.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.architecture = config.architecture
        backbones = {"resnet18": ResNet18, "resnet18_v2": ResNet18V2}
        self.backbone = backbones[config.architecture](config)
        self.final_conv = nn.Conv2d(512, config.num_classes, 1)
        self.transpose_conv = TransposeConv(config.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.backbone(x)  # (N, 512, H/32, W/32)
        x = self.final_conv(x)  # (N, classes, H/32, W/32)
        return self.transpose_conv(x)  # (N * (H/32 + 1) * (W/32 + 1), classes, 32, 32)

    def layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """What one of `common.network.tensors.layer_names` makes of its input."""
        if name == "logits":
            s = self.transpose_conv.stride
            return assemble(self.transpose_conv(x), s * x.shape[2], s * x.shape[3])
        own = getattr(self.backbone, name) if name in ("stem", "norm") else self._module(name)
        return own(x)

    def _module(self, name: str) -> nn.Module:
        """The module whose output is one of `common.network.tensors.activation_names`."""
        own = {"stem.relu": "backbone.relu", "stem": "backbone.maxpool", "norm": "backbone.relu2"}
        own |= {"final_conv": "final_conv", "logits": "transpose_conv"}
        return self.get_submodule(own.get(name, f"backbone.{name}"))

    @contextlib.contextmanager
    def trace(self) -> Iterator[dict[str, torch.Tensor]]:
        """While it is entered, every pass puts `common.network.tensors.activation_names` into the dict."""
        # differs: a hook on a module sees its output, and the network need not know.
        activations: dict[str, torch.Tensor] = {}
        hooks = [
            self._module(name).register_forward_hook(
                lambda module, inputs, output, name=name: activations.update({name: output})
            )
            for name in activation_names(self.architecture)
        ]
        try:
            yield activations
        finally:
            for hook in hooks:
                hook.remove()


def build_model(config: Config) -> FCN:
    """The network of `config`, its weights yet to be imported, in the run's dtype, on the host."""
    # differs: built on the meta device, so that no random numbers are drawn only to be replaced.
    with torch.device("meta"):
        model = FCN(config)
    return model.to(getattr(torch, config.dtype.storage)).to_empty(device="cpu")
