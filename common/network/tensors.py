"""Canonical names: every tensor of the network and every layer of a trace.

Layouts are PyTorch's: convolutions (out, in, kh, kw), the transposed convolution (in, out, kh, kw),
one value a channel for BatchNorm. So are the names, torchvision's; those of v2 are made like them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from common.config import OUTPUT_STRIDE, Architecture, Config, Decay, Freeze, Head
from common.network.architecture import DESIGNS, SKIPS, Block, skips, stages

ARCHITECTURES = tuple(Architecture)
"""The first is that of files that do not say."""


def block_names(architecture: str) -> tuple[str, ...]:
    """`layer1.0`, `layer1.1`, ..., in order of execution."""
    counts = DESIGNS[Architecture(architecture)].blocks
    return tuple(f"layer{s}.{k}" for s, count in enumerate(counts, start=1) for k in range(count))


def layer_sources(architecture: str, head: str = Config.head) -> dict[str, tuple[str, ...]]:
    """The layers of a trace, in order of execution, and of which others' outputs each is made.

    The stem is made of the image. `norm` is v2's last BatchNorm and its ReLU; the others have none.
    `fuse16` and `fuse8` are a head's sums of scores, of what is behind them and of a stage.
    """
    norm = ("norm",) if DESIGNS[Architecture(architecture)].pre_activation else ()
    blocks = block_names(architecture)
    stages = {block.partition(".")[0]: block for block in blocks}  # the last of each
    made_of_stages = {skip.fuse: (stages[skip.stage],) for skip in skips(Head(head))}
    layers = ("stem", *blocks, *norm, "final_conv", *made_of_stages, "logits")
    before = ("image", *layers)
    return {
        layer: (source, *made_of_stages.get(layer, ()))
        for layer, source in zip(layers, before, strict=False)
    }


def layer_names(architecture: str, head: str = Config.head) -> tuple[str, ...]:
    """The layers of a trace, in order of execution: what each puts out."""
    return tuple(layer_sources(architecture, head))


def activation_names(architecture: str, head: str = Config.head) -> tuple[str, ...]:
    """The layers, and before each the BatchNorms in it whose output a ReLU takes, in order."""
    pre_activation = DESIGNS[Architecture(architecture)].pre_activation
    inner = dict.fromkeys(block_names(architecture), ("bn1", "bn2") if pre_activation else ("bn1",))
    inner["stem"] = ("bn1",)
    return tuple(
        name
        for layer in layer_names(architecture, head)
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


def watched_modules(architecture: str, head: str = Config.head) -> dict[str, tuple[str, str]]:
    """Where each of `activation_names` is seen: a module's canonical name, and its side.

    The side is `in` or `out`. What stands between modules is seen as what goes into the next one.
    The last, `logits`, is seen as the cells of the upsampling.
    """
    elsewhere = {
        "stem": ("backbone.layer1.0", "in"),
        "norm": ("final_conv", "in"),
        "final_conv": ("final_conv", "out"),
        "logits": ("transpose_conv", "out"),
    }
    fused = skips(Head(head))
    takers = [*(skip.up for skip in fused[1:]), "transpose_conv"]
    elsewhere |= {skip.fuse: (taker, "in") for skip, taker in zip(fused, takers, strict=False)}
    return {
        name: elsewhere.get(name, (f"backbone.{name.removeprefix('stem.')}", "out"))
        for name in activation_names(architecture, head)
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
    def transposed(self) -> bool:
        """Whether it is a transposed convolution's kernel, (in, out, k, k), of stride k / 2."""
        return self.role == "weight" and self.name.startswith(("transpose_conv.", "up_"))

    @property
    def layer(self) -> str:
        """The layer, one of `layer_names`, that the tensor is part of."""
        parts = self.name.split(".")
        if parts[0] != "backbone":
            fused = {part: skip.fuse for skip in SKIPS for part in (skip.up, skip.score)}
            return (fused | {"transpose_conv": "logits"}).get(parts[0], parts[0])
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


def _head(head: Head, num_classes: int, width: int) -> list[TensorSpec]:
    def kernel(size: int) -> tuple[int, ...]:
        return num_classes, num_classes, size, size

    def score(name: str, channels: int, stride: int) -> list[TensorSpec]:
        shape = (num_classes, channels, 1, 1)
        bias = TensorSpec(f"{name}.bias", (num_classes,), "bias", stride)
        return [*_conv(name, shape, stride), bias]

    specs = score("final_conv", 8 * width, OUTPUT_STRIDE)
    for skip in skips(head):
        specs += _conv(skip.up, kernel(4), skip.stride)
        specs += score(skip.score, width * skip.stride // 4, skip.stride)
    bias = TensorSpec("transpose_conv.bias", (num_classes,), "bias", 1)
    return [*specs, *_conv("transpose_conv", kernel(2 * head.stride), 1), bias]


def head_of(names: Iterable[str]) -> Head:
    """The head whose tensors are among these canonical names."""
    layers = {name.partition(".")[0] for name in names}
    strides = [skip.stride for skip in SKIPS if layers & {skip.up, skip.score}]
    return Head(f"fcn{min(strides, default=OUTPUT_STRIDE)}s")


def tensors(
    architecture: str, num_classes: int, width: int = Config.width, head: str = Config.head
) -> dict[str, TensorSpec]:
    """All tensors of the network by canonical name, in order of execution.

    104 for `resnet18` with the head `fcn32s`: 64 trained, 40 BatchNorm buffers; 98 for
    `resnet18_v2`: 60 and 38. `width` is the number of channels of the first stage.

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
    specs += _head(Head(head), num_classes, width)
    return {spec.name: spec for spec in specs}


def config_tensors(config: Config) -> dict[str, TensorSpec]:
    """`tensors` of the network that a configuration describes."""
    return tensors(config.architecture, config.num_classes, config.width, config.head)


def in_head(name: str) -> bool:
    """Whether a tensor is the head's, whose learning rate is its own."""
    return not name.startswith("backbone.")


def is_trained(spec: TensorSpec, freeze: Freeze) -> bool:
    """Whether SGD updates a tensor when this is frozen."""
    match freeze:
        case Freeze.backbone:
            return in_head(spec.name)
        case Freeze.batch_norm:
            return spec.trainable and spec.role not in ("gamma", "beta")
    return spec.trainable


def frozen_tensors(config: Config) -> frozenset[str]:
    """The weights that keep their values, but are trained where nothing is frozen."""
    specs = config_tensors(config).values()
    return frozenset(s.name for s in specs if s.trainable and not is_trained(s, config.freeze))


def gradient_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The shape of each gradient of a step, by canonical name, in the network's order."""
    specs = config_tensors(config).values()
    return {spec.name: spec.shape for spec in specs if is_trained(spec, config.freeze)}


def decayed_tensors(config: Config) -> frozenset[str]:
    """The tensors that weight decay acts on: all that are trained, or of them `Decay.kernels`."""
    trained = [s for s in config_tensors(config).values() if is_trained(s, config.freeze)]
    if config.decay == Decay.kernels:
        return frozenset(spec.name for spec in trained if spec.role == "weight")
    return frozenset(spec.name for spec in trained)
