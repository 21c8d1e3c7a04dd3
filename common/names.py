"""Canonical names: every tensor of the network and every layer of a trace.

Names and layouts are torchvision's: convolutions (out, in, kh, kw), the transposed convolution
(in, out, kh, kw), one value a channel for BatchNorm.
"""

from dataclasses import dataclass

from common.config import Config, Decay

ARCHITECTURES = ("resnet18",)

LAYERS = (
    "stem",
    *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)),
    "final_conv",
    "logits",
)
"""The layers of a trace, in order of execution: what each puts out."""

RELUS = tuple(f"{layer}.relu" for layer in LAYERS[:-2])
"""The ReLU inside each layer but the head's: the stem's, before its max-pool, and the first of each
block. With the layers themselves, which end in the others, they hold every decision taken."""

ACTIVATIONS = tuple(
    name for layer in LAYERS for name in (f"{layer}.relu", layer) if name in {*LAYERS, *RELUS}
)
"""`LAYERS` and `RELUS`, in order of execution."""

OUTPUT_STRIDE = 32
"""Height and width of the input are padded to multiples of this; `final_conv` sees 1/32 of it."""

UPSAMPLE_KERNEL = 64
"""The transposed convolution: kernel 64, stride 32, padding 16."""


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor: its canonical shape and what it is.

    `role` is one of `weight`, `bias` (convolutions), `gamma`, `beta`, `running_mean`,
    `running_var` (BatchNorm). `stride` is how many input pixels, along one axis, stand for one
    pixel of the tensor's layer output.
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
        """The layer, one of `LAYERS`, that the tensor is part of."""
        parts = self.name.split(".")
        if parts[0] != "backbone":
            return "logits" if parts[0] == "transpose_conv" else parts[0]
        return ".".join(parts[1:3]) if parts[1].startswith("layer") else "stem"


def _conv_bn(conv: str, bn: str, shape: tuple[int, ...], stride: int) -> list[TensorSpec]:
    channels = (shape[0],)
    return [
        TensorSpec(f"{conv}.weight", shape, "weight", stride),
        TensorSpec(f"{bn}.weight", channels, "gamma", stride),
        TensorSpec(f"{bn}.bias", channels, "beta", stride),
        TensorSpec(f"{bn}.running_mean", channels, "running_mean", stride),
        TensorSpec(f"{bn}.running_var", channels, "running_var", stride),
    ]


def tensors(architecture: str, num_classes: int) -> dict[str, TensorSpec]:
    """All tensors of the network by canonical name, in order of execution.

    104 for `resnet18`: 64 trained, 40 BatchNorm buffers.

    Raises:
        ValueError: the architecture is not one of `ARCHITECTURES`.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}: have {', '.join(ARCHITECTURES)}")
    specs = _conv_bn("backbone.conv1", "backbone.bn1", (64, 3, 7, 7), stride=2)
    in_channels = 64
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        stride = 2 ** (stage + 1)
        for block in (0, 1):
            at = f"backbone.layer{stage}.{block}"
            specs += _conv_bn(f"{at}.conv1", f"{at}.bn1", (channels, in_channels, 3, 3), stride)
            specs += _conv_bn(f"{at}.conv2", f"{at}.bn2", (channels, channels, 3, 3), stride)
            if in_channels != channels:
                shape = (channels, in_channels, 1, 1)
                specs += _conv_bn(f"{at}.downsample.0", f"{at}.downsample.1", shape, stride)
            in_channels = channels
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
