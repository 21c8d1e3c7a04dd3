"""Canonical names: every tensor of the network and every layer of a trace.

Layouts are PyTorch's: convolutions (out, in, kh, kw), the transposed convolution (in, out, kh, kw),
one value a channel for BatchNorm. So are the names, torchvision's; those of v2 are made like them.
"""

from dataclasses import dataclass

from common.config import OUTPUT_STRIDE, Architecture, Config, Decay
from common.network.architecture import DESIGNS, Block, stages

ARCHITECTURES = tuple(Architecture)
"""The first is that of files that do not say."""


def block_names(architecture: str) -> tuple[str, ...]:
    """`layer1.0`, `layer1.1`, ..., in order of execution."""
    counts = DESIGNS[Architecture(architecture)].blocks
    return tuple(f"layer{s}.{k}" for s, count in enumerate(counts, start=1) for k in range(count))


def layer_names(architecture: str) -> tuple[str, ...]:
    """The layers of a trace, in order of execution: what each puts out.

    `norm` is v2's last BatchNorm and its ReLU; resnet18 has none.
    """
    norm = ("norm",) if DESIGNS[Architecture(architecture)].pre_activation else ()
    return ("stem", *block_names(architecture), *norm, "final_conv", "logits")


def activation_names(architecture: str) -> tuple[str, ...]:
    """The layers, and before each the BatchNorms in it whose output a ReLU takes, in order."""
    pre_activation = DESIGNS[Architecture(architecture)].pre_activation
    inner = dict.fromkeys(block_names(architecture), ("bn1", "bn2") if pre_activation else ("bn1",))
    inner["stem"] = ("bn1",)
    return tuple(
        name
        for layer in layer_names(architecture)
        for name in (*(f"{layer}.{norm}" for norm in inner.get(layer, ())), layer)
    )


def relu_names(architecture: str) -> tuple[str, ...]:
    """The activations whose sign is a ReLU's decision, in order of execution.

    Each is what a BatchNorm puts out, which the ReLU behind it takes (`layer1.0.bn1`), or what a
    ReLU puts out itself: a block of resnet18, `norm` of v2.
    """
    pre_activation = DESIGNS[Architecture(architecture)].pre_activation
    outputs = {"norm"} if pre_activation else {*block_names(architecture)}
    return tuple(n for n in activation_names(architecture) if ".bn" in n or n in outputs)


def watched_modules(architecture: str) -> dict[str, tuple[str, str]]:
    """Where each of `activation_names` is seen: a module's canonical name, and its side.

    The side is `input` or `output`. What stands between modules is seen as the next one's input.
    `logits` is not among them: what is seen there are the cells of the upsampling.
    """
    elsewhere = {
        "stem": ("backbone.layer1.0", "input"),
        "norm": ("final_conv", "input"),
        "final_conv": ("final_conv", "output"),
    }
    return {
        name: elsewhere.get(name, (f"backbone.{name.removeprefix('stem.')}", "output"))
        for name in activation_names(architecture)
        if name != "logits"
    }


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


def _block(at: str, block: Block, stride: int, pre_activation: bool) -> list[TensorSpec]:
    """A block; `stride` is that of its output."""
    in_channels, channels, own_stride = block
    conv1 = _conv(f"{at}.conv1", (channels, in_channels, 3, 3), stride)
    conv2 = _conv(f"{at}.conv2", (channels, channels, 3, 3), stride)
    bn2 = _batch_norm(f"{at}.bn2", channels, stride)
    if pre_activation:  # the first BatchNorm is on the input's grid
        bn1 = _batch_norm(f"{at}.bn1", in_channels, stride // own_stride)
        specs, shortcut = [*bn1, *conv1, *bn2, *conv2], f"{at}.downsample"
    else:
        bn1 = _batch_norm(f"{at}.bn1", channels, stride)
        specs, shortcut = [*conv1, *bn1, *conv2, *bn2], f"{at}.downsample.0"
    if in_channels != channels:
        specs += _conv(shortcut, (channels, in_channels, 1, 1), stride)
        specs += [] if pre_activation else _batch_norm(f"{at}.downsample.1", channels, stride)
    return specs


def tensors(
    architecture: str, num_classes: int, width: int = Config.width
) -> dict[str, TensorSpec]:
    """All tensors of the network by canonical name, in order of execution.

    104 for `resnet18`: 64 trained, 40 BatchNorm buffers; 98 for `resnet18_v2`: 60 and 38. `width`
    is the number of channels of the first stage.

    Raises:
        ValueError: the architecture is not one of `ARCHITECTURES`.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}: have {', '.join(ARCHITECTURES)}")
    pre_activation = DESIGNS[Architecture(architecture)].pre_activation
    specs = _buffers("backbone.bn0", 3, stride=1) if pre_activation else []
    specs += _conv("backbone.conv1", (width, 3, 7, 7), stride=2)
    specs += _batch_norm("backbone.bn1", width, stride=2)
    stride, channels = 4, width
    for stage, blocks in enumerate(stages(Architecture(architecture), width), start=1):
        for k, block in enumerate(blocks):
            stride, channels = stride * block.stride, block.channels
            specs += _block(f"backbone.layer{stage}.{k}", block, stride, pre_activation)
    specs += _batch_norm("backbone.bn2", channels, stride) if pre_activation else []
    kernel = (2 * OUTPUT_STRIDE, 2 * OUTPUT_STRIDE)  # its stride is 32, its padding 16
    specs += [
        TensorSpec("final_conv.weight", (num_classes, channels, 1, 1), "weight", stride),
        TensorSpec("final_conv.bias", (num_classes,), "bias", stride),
        TensorSpec("transpose_conv.weight", (num_classes, num_classes, *kernel), "weight", 1),
        TensorSpec("transpose_conv.bias", (num_classes,), "bias", 1),
    ]
    return {spec.name: spec for spec in specs}


def config_tensors(config: Config) -> dict[str, TensorSpec]:
    """`tensors` of the network that a configuration describes."""
    return tensors(config.architecture, config.num_classes, config.width)


def decayed_tensors(config: Config) -> frozenset[str]:
    """The tensors that weight decay acts on: all that are trained, or `Decay.kernels`."""
    specs = config_tensors(config).values()
    if config.decay == Decay.kernels:
        return frozenset(spec.name for spec in specs if spec.role == "weight")
    return frozenset(spec.name for spec in specs if spec.trainable)
