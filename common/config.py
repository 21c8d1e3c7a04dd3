"""Every default of the project, stated once."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.errors import InputError

VOID = 255
"""Label value of pixels that no class owns; the loss and the metrics skip them."""

OUTPUT_STRIDE = 32
"""Height and width of the input are padded to multiples of this; `final_conv` sees 1/32 of it."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""RGB statistics after division by 255 (torchvision's ImageNet recipe)."""


class Architecture(enum.StrEnum):
    """The backbone: the book's ResNet-18 in PyTorch, or that in MXNet, with pre-activation."""

    resnet18 = "resnet18"
    resnet18_v2 = "resnet18_v2"


class UpsampleInit(enum.StrEnum):
    """How the transposed convolution starts: as bilinear interpolation, or at random."""

    bilinear = "bilinear"
    xavier = "xavier"


class Dtype(enum.StrEnum):
    """The type of weights and activations; bfloat16: of products and activations, see `storage`."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"

    @property
    def storage(self) -> str:
        """The type of weights, buffers, statistics, logits, loss and SGD: float32 for bfloat16."""
        return "float32" if self is Dtype.bfloat16 else self.value


class Device(enum.StrEnum):
    """Where to compute; auto takes a GPU where there is one."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class Schedule(enum.StrEnum):
    """The learning rate over the run."""

    constant = "constant"
    poly = "poly"


class Decay(enum.StrEnum):
    """What weight decay pulls to 0: every trained tensor, or the convolutions' kernels alone."""

    all = "all"
    kernels = "kernels"


class Void(enum.StrEnum):
    """How labels of 255 are read: ignored, or as class 0 (the book's way)."""

    ignore = "ignore"
    background = "background"


_ENUMS = {
    "architecture": Architecture,
    "upsample_init": UpsampleInit,
    "dtype": Dtype,
    "device": Device,
    "schedule": Schedule,
    "decay": Decay,
    "void": Void,
}
_ROUNDED = ("momentum", "weight_decay", "bn_eps", "bn_decay")


def float32(value: float) -> float:
    """`value` rounded to float32, as a Python float.

    MXNet keeps hyper-parameters in float32 even for float64 arrays. Rounding them here, once,
    lets the three frameworks compute with the same number.
    """
    return float(np.float32(value))


def _shortest(value: float) -> float:
    """The shortest decimal that rounds to the same float32: 0.9, not 0.8999999761581421."""
    return float(str(np.float32(value)))


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: the network, its numbers, its data order. Immutable.

    `momentum`, `weight_decay`, `bn_eps` and `bn_decay` are rounded to float32 on construction;
    the rate is rounded after scheduling (`common.network.schedule.learning_rate`).
    """

    architecture: Architecture = Architecture.resnet18
    upsample_init: UpsampleInit = UpsampleInit.bilinear
    num_classes: int = 21
    width: int = 64
    """Channels of the first stage; the others have twice, four and eight times as many."""
    dtype: Dtype = Dtype.float32
    device: Device = Device.auto

    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay: Decay = Decay.all
    schedule: Schedule = Schedule.poly
    poly_power: float = 0.9
    warmup: float = 0.0
    """The rate rises in proportion to the step over this share of the run."""
    bn_eps: float = 1e-5
    bn_decay: float = 0.9
    """running = bn_decay * running + (1 - bn_decay) * batch"""

    batch_size: int = 8
    crop: tuple[int, int] = (320, 480)
    """Height and width of a training crop."""
    flip_probability: float = 0.5
    scale: tuple[float, float] = (1.0, 1.0)
    """A training image is scaled by a factor between these before it is cropped."""
    jitter: float = 0.0
    """Brightness, contrast and saturation vary by a factor within 1 +- jitter."""
    void: Void = Void.ignore
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    epochs: int = 5
    steps: int | None = None
    """Training steps in all; None: `epochs` whole epochs."""
    seed: int = 0
    workers: int = 2
    """Processes that read ahead; 0: none, the batches are made where they are asked for."""
    save_minutes: float = 5.0
    """A checkpoint is written when so much time has passed since the last, besides that at the end
    of each epoch; 0: after every step."""

    def __post_init__(self) -> None:
        for name, kind in _ENUMS.items():
            object.__setattr__(self, name, kind(getattr(self, name)))
        for name in _ROUNDED:
            object.__setattr__(self, name, float32(getattr(self, name)))

    def replace(self, **changes: Any) -> "Config":
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The values for JSON; rounded ones in their shortest decimal form."""
        values = dataclasses.asdict(self)
        return values | {name: _shortest(values[name]) for name in _ROUNDED}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """The inverse of `to_dict`; keys that are no field are ignored."""
        names = [field.name for field in dataclasses.fields(cls) if field.name in values]
        tuples = {name: tuple(values[name]) for name in names if isinstance(values[name], list)}
        changes: dict[str, Any] = {name: values[name] for name in names}
        return cls(**(changes | tuples))


MAX_SCALE = 8.0
"""A picture is enlarged by no more before it is predicted."""


@dataclasses.dataclass(frozen=True)
class Inference:
    """How pictures are predicted, see `common.evaluation.views`; by default whole, once, as they are.

    Raises:
        InputError: on construction, of values that make no sense.
    """

    flip: bool = False
    """Each view is also seen mirrored."""
    scales: tuple[float, ...] = (1.0,)
    """A picture is seen in each of these times its own size."""
    tile: tuple[int, int] | None = None
    """Height and width of the tiles that a view is cut into, multiples of 32; None: it is not."""
    overlap: int = 192
    """So many pixels, at least, neighbouring tiles share."""

    def __post_init__(self) -> None:
        for scale in self.scales:
            if not 0 < scale <= MAX_SCALE:
                raise InputError(f"--scales {scale:g}: above 0 and at most {MAX_SCALE:g} is wanted")
        if self.tile is None:
            if self.overlap != Inference.overlap:
                raise InputError(f"--overlap {self.overlap}: is for --tile")
            return
        tile = f"--tile {self.tile[0]} {self.tile[1]}"
        if any(size < OUTPUT_STRIDE or size % OUTPUT_STRIDE for size in self.tile):
            raise InputError(f"{tile}: multiples of {OUTPUT_STRIDE} are wanted")
        if not 0 <= self.overlap <= min(self.tile) - OUTPUT_STRIDE:
            raise InputError(
                f"--overlap {self.overlap}: from 0 to {min(self.tile) - OUTPUT_STRIDE} is wanted"
                f" with {tile}"
            )
