"""Canonical names: every tensor of the network and every layer of a trace.

Layouts are PyTorch's: convolutions (out, in, kh, kw), the transposed convolution (in, out, kh, kw),
one value a channel for BatchNorm. So are the names, torchvision's; those of v2 are made like them.
"""

from dataclasses import dataclass

from common.config import OUTPUT_STRIDE, Architecture, Config, Decay

ARCHITECTURES = tuple(Architecture)
"""The first is that of files that tell none."""

_BLOCKS = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))


def layer_names(architecture: str) -> tuple[str, ...]:
    """The layers of a trace, in order of execution: what each puts out.

    `norm` is v2's last BatchNorm and its ReLU. But for it the two have the same layers.
    """
    norm = ("norm",) if architecture == "resnet18_v2" else ()
    return ("stem", *_BLOCKS, *norm, "final_conv", "logits")


def relu_names(architecture: str) -> tuple[str, ...]:
    """The activations that a ReLU puts out, in order of execution.

    The stem's, before its max-pool; of a block of resnet18 the inner one and the block's output,
    of one of v2 those before its two convolutions; `norm`.
    """
    if architecture == "resnet18_v2":
        inner = (f"{block}.relu{k}" for block in _BLOCKS for k in (1, 2))
        return ("stem.relu", *inner, "norm")
    return ("stem.relu", *(name for block in _BLOCKS for name in (f"{block}.relu", block)))


def activation_names(architecture: str) -> tuple[str, ...]:
    """The layers and the ReLUs inside them, in order of execution.

    With the max-pool's input among them they hold every decision of a pass.
    """
    relus = relu_names(architecture)
    return tuple(
        name
        for layer in layer_names(architecture)
        for name in (*(relu for relu in relus if relu.startswith(f"{layer}.relu")), layer)
    )


UPSAMPLE_KERNEL = 64
"""The transposed convolution: kernel 64, stride 32, padding 16."""


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor: its canonical shape and what it is.

    `role` is one of `weight`, `bias` (convolutions), `gamma`, `beta`, `running_mean`,
    `running_var` (BatchNorm). `stride` is how many pixels of the image, along one axis, stand for
    one pixel of what the convolution or BatchNorm puts out.
    """

    name: str
    shape: tuple[int, ...]
    role: str
    stride: int

    @property
    def trainable(self) -> bool:
        """Whether SGD updates it; the two BatchNorm buffers are not trained."""
        return not self.role.startswith("running_")

    @property
    def layer(self) -> str:
        """The layer, one of `layer_names`, that the tensor is part of."""
        parts = self.name.split(".")
        if parts[0] != "backbone":
            return "logits" if parts[0] == "transpose_conv" else parts[0]
        if parts[1].startswith("layer"):
            return ".".join(parts[1:3])
        return "norm" if parts[1] == "bn2" else "stem"


def _conv(name: str, shape: tuple[int, ...], stride: int) -> list[TensorSpec]:
    return [TensorSpec(f"{name}.weight", shape, "weight", stride)]


def _buffers(name: str, channels: int, stride: int) -> list[TensorSpec]:
    roles = ("running_mean", "running_var")
    return [TensorSpec(f"{name}.{role}", (channels,), role, stride) for role in roles]


def _batch_norm(name: str, channels: int, stride: int) -> list[TensorSpec]:
    return [
        TensorSpec(f"{name}.weight", (channels,), "gamma", stride),
        TensorSpec(f"{name}.bias", (channels,), "beta", stride),
        *_buffers(name, channels, stride),
    ]


def _basic_block(at: str, in_channels: int, channels: int, stride: int) -> list[TensorSpec]:
    """A block of resnet18; `stride` is that of its output."""
    specs = _conv(f"{at}.conv1", (channels, in_channels, 3, 3), stride)
    specs += _batch_norm(f"{at}.bn1", channels, stride)
    specs += _conv(f"{at}.conv2", (channels, channels, 3, 3), stride)
    specs += _batch_norm(f"{at}.bn2", channels, stride)
    if in_channels != channels:
        specs += _conv(f"{at}.downsample.0", (channels, in_channels, 1, 1), stride)
        specs += _batch_norm(f"{at}.downsample.1", channels, stride)
    return specs


def _pre_act_block(at: str, in_channels: int, channels: int, stride: int) -> list[TensorSpec]:
    """A block of resnet18_v2; its first BatchNorm is on the input's grid."""
    halved = in_channels != channels
    specs = _batch_norm(f"{at}.bn1", in_channels, stride // 2 if halved else stride)
    specs += _conv(f"{at}.conv1", (channels, in_channels, 3, 3), stride)
    specs += _batch_norm(f"{at}.bn2", channels, stride)
    specs += _conv(f"{at}.conv2", (channels, channels, 3, 3), stride)
    if halved:
        specs += _conv(f"{at}.downsample", (channels, in_channels, 1, 1), stride)
    return specs


def tensors(architecture: str, num_classes: int) -> dict[str, TensorSpec]:
    """All tensors of the network by canonical name, in order of execution.

    104 for `resnet18`: 64 trained, 40 BatchNorm buffers; 98 for `resnet18_v2`: 60 and 38.

    Raises:
        ValueError: the architecture is not one of `ARCHITECTURES`.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}: have {', '.join(ARCHITECTURES)}")
    v2 = architecture == "resnet18_v2"
    specs = _buffers("backbone.bn0", 3, stride=1) if v2 else []
    specs += _conv("backbone.conv1", (64, 3, 7, 7), stride=2)
    specs += _batch_norm("backbone.bn1", 64, stride=2)
    in_channels = 64
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            at = f"backbone.layer{stage}.{block}"
            block_specs = _pre_act_block if v2 else _basic_block
            specs += block_specs(at, in_channels, channels, stride=2 ** (stage + 1))
            in_channels = channels
    specs += _batch_norm("backbone.bn2", in_channels, OUTPUT_STRIDE) if v2 else []
    kernel = (UPSAMPLE_KERNEL, UPSAMPLE_KERNEL)
    specs += [
        TensorSpec("final_conv.weight", (num_classes, in_channels, 1, 1), "weight", OUTPUT_STRIDE),
        TensorSpec("final_conv.bias", (num_classes,), "bias", OUTPUT_STRIDE),
        TensorSpec("transpose_conv.weight", (num_classes, num_classes, *kernel), "weight", 1),
        TensorSpec("transpose_conv.bias", (num_classes,), "bias", 1),
    ]
    return {spec.name: spec for spec in specs}


def decayed_tensors(config: Config) -> frozenset[str]:
    """The tensors that weight decay acts on: all that are trained, or `Decay.kernels`."""
    specs = tensors(config.architecture, config.num_classes).values()
    if config.decay == Decay.kernels:
        return frozenset(spec.name for spec in specs if spec.role == "weight")
    return frozenset(spec.name for spec in specs if spec.trainable)
