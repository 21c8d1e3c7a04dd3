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


def relu_names(architecture: str) -> tuple[str, ...]:
    """The activations whose sign is a ReLU's decision, in order of execution.

    Each is what a BatchNorm puts out, which the ReLU behind it takes (`layer1.0.bn1`), or what a
    ReLU puts out itself: a block of resnet18, `norm` of v2.
    """
    names = ["stem.bn1"]
    for block in block_names(architecture):
        if DESIGNS[Architecture(architecture)].pre_activation:
            names += [f"{block}.bn1", f"{block}.bn2"]
        else:
            names += [f"{block}.bn1", block]
    return (*names, *(name for name in layer_names(architecture) if name == "norm"))


def activation_names(architecture: str) -> tuple[str, ...]:
    """The layers, and inside them the activations of `relu_names`, in order of execution."""
    inner = [name for name in relu_names(architecture) if name.split(".")[-1].startswith("bn")]
    return tuple(
        name
        for layer in layer_names(architecture)
        for name in (*(n for n in inner if n.rpartition(".")[0] == layer), layer)
    )


def watched_modules(architecture: str) -> dict[str, tuple[str, str]]:
    """Where each of `activation_names` is seen: a module's canonical name, and its side.

    The side is `input` or `output`. What stands between modules is seen as the next one's input.
    `logits` is not among them: what is seen there are the cells of the upsampling.
    """
    places = {}
    for name in activation_names(architecture):
        if name == "stem":
            places[name] = ("backbone.layer1.0", "input")
        elif name == "norm":
            places[name] = ("final_conv", "input")
        elif name == "final_conv":
            places[name] = (name, "output")
        elif name != "logits":
            places[name] = (f"backbone.{name.removeprefix('stem.')}", "output")
    return places


UPSAMPLE_KERNEL = 2 * OUTPUT_STRIDE
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


def _basic_block(at: str, block: Block, stride: int) -> list[TensorSpec]:
    """A block with the activations behind the convolutions; `stride` is that of its output."""
    in_channels, channels, _ = block
    specs = _conv(f"{at}.conv1", (channels, in_channels, 3, 3), stride)
    specs += _batch_norm(f"{at}.bn1", channels, stride)
    specs += _conv(f"{at}.conv2", (channels, channels, 3, 3), stride)
    specs += _batch_norm(f"{at}.bn2", channels, stride)
    if in_channels != channels:
        specs += _conv(f"{at}.downsample.0", (channels, in_channels, 1, 1), stride)
        specs += _batch_norm(f"{at}.downsample.1", channels, stride)
    return specs


def _pre_act_block(at: str, block: Block, stride: int) -> list[TensorSpec]:
    """A pre-activation block; its first BatchNorm is on the input's grid."""
    in_channels, channels, own_stride = block
    specs = _batch_norm(f"{at}.bn1", in_channels, stride // own_stride)
    specs += _conv(f"{at}.conv1", (channels, in_channels, 3, 3), stride)
    specs += _batch_norm(f"{at}.bn2", channels, stride)
    specs += _conv(f"{at}.conv2", (channels, channels, 3, 3), stride)
    if in_channels != channels:
        specs += _conv(f"{at}.downsample", (channels, in_channels, 1, 1), stride)
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
            block_specs = _pre_act_block if pre_activation else _basic_block
            specs += block_specs(f"backbone.layer{stage}.{k}", block, stride)
    specs += _batch_norm("backbone.bn2", channels, stride) if pre_activation else []
    kernel = (UPSAMPLE_KERNEL, UPSAMPLE_KERNEL)
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
