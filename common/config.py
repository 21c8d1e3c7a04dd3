"""Every default of the project, stated once."""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from common.errors import InputError

VOID = 255
"""Label value of pixels that no class owns; the loss and the metrics skip them."""

OUTPUT_STRIDE = 32
"""Height and width of the input are padded to multiples of this; `final_conv` sees 1/32 of it."""

TRIMAP = 5
"""Pixels from another label, along a row, a column or a diagonal, that are still on a border."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""RGB statistics after division by 255 (torchvision's ImageNet recipe)."""


class Architecture(enum.StrEnum):
    """The backbone: the book's ResNet-18 in PyTorch, or that in MXNet, with pre-activation."""

    resnet18 = "resnet18"
    resnet34 = "resnet34"
    resnet18_v2 = "resnet18_v2"


class Head(enum.StrEnum):
    """What makes logits of the backbone's outputs, by the stride of the last upsampling.

    Long et al., 2015, section 4.2: FCN-32s takes the last stage alone, FCN-16s also that of
    stride 16, FCN-8s that of stride 8 too.
    """

    fcn32s = "fcn32s"
    fcn16s = "fcn16s"
    fcn8s = "fcn8s"

    @property
    def stride(self) -> int:
        return int(self.removeprefix("fcn").removesuffix("s"))


class UpsampleInit(enum.StrEnum):
    """How transposed convolutions start: as bilinear interpolation, or at random."""

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


class Freeze(enum.StrEnum):
    """What is not trained: nothing, BatchNorm, or the backbone with its BatchNorms.

    A frozen BatchNorm normalises by its running statistics in training too, and keeps them.
    """

    none = "none"
    batch_norm = "batch_norm"
    backbone = "backbone"


class Void(enum.StrEnum):
    """How labels of 255 are read: ignored, or as class 0 (the book's way)."""

    ignore = "ignore"
    background = "background"


def float32(value: float) -> float:
    """`value` rounded to float32, as a Python float.

    MXNet keeps hyper-parameters in float32 even for float64 arrays. Rounding them here, once,
    lets the three frameworks compute with the same number.
    """
    return float(np.float32(value))


def _shortest(value: float) -> float:
    """The shortest decimal that rounds to the same float32: 0.9, not 0.8999999761581421."""
    return float(str(np.float32(value)))


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    low, high = pair
    if not 0 < low <= high < math.inf:
        raise ValueError(f"{low:g} {high:g}: 0 < MIN <= MAX is wanted")
    return pair


AtLeast0 = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Rounded = AfterValidator(float32)


@dataclass(
    frozen=True,
    config=ConfigDict(extra="forbid", validate_default=True, use_attribute_docstrings=True),
)
class Config:
    """A run: the network, its numbers, its data order. Immutable.

    A field with a docstring is a setting: an option of `train`, whose help is the docstring, and a
    key of a recipe. The others come from the weights and the data, or are fixed.

    `momentum`, `weight_decay`, `bn_eps` and `bn_decay` are rounded to float32 on construction;
    the rate is rounded after scheduling (`common.network.schedule.learning_rate`).

    Raises:
        ValueError: on construction (pydantic's ValidationError), of a value out of its range.
    """

    architecture: Architecture = Architecture.resnet18
    """The backbone: torchvision's, or Gluon's v2."""
    head: Head = Head.fcn32s
    """One upsampling by 32, or with the stages of stride 16, or 16 and 8."""
    upsample_init: UpsampleInit = UpsampleInit.bilinear
    """How transposed convolutions start."""
    num_classes: int = 21
    width: int = 64  # channels of the first stage; the others have 2, 4 and 8 times as many
    dtype: Dtype = Dtype.float32
    """The type of weights and activations."""
    device: Device = Device.auto
    """auto takes a GPU where there is one."""

    learning_rate: AtLeast0 = 0.02
    """The highest learning rate."""
    head_rate: AtLeast0 = 1.0
    """The head's learning rate, as a multiple of the backbone's."""
    momentum: Annotated[Share, Rounded] = 0.9
    """SGD's momentum."""
    weight_decay: Annotated[AtLeast0, Rounded] = 1e-4
    """SGD's weight decay."""
    decay: Decay = Decay.all
    """What decays: all, or the convolutions' kernels alone."""
    freeze: Freeze = Freeze.none
    """What is not trained: nothing, every BatchNorm, or the whole backbone."""
    schedule: Schedule = Schedule.poly
    """The learning rate over the run: constant, or poly's fall."""
    poly_power: AtLeast0 = 0.9
    """The exponent of poly."""
    warmup: Share = 0.0
    """The share of the steps in which the rate rises."""
    bn_eps: Annotated[float, Rounded] = 1e-5
    bn_decay: Annotated[float, Rounded] = 0.9  # running = 0.9 * running + 0.1 * batch

    batch_size: Count = 8
    """Images in a batch, of all processes together."""
    accumulate: Count = 1
    """Parts of a batch computed one after another."""
    processes: Count = 1
    """Processes that share each batch."""
    crop: tuple[Count, Count] = (320, 480)
    """Size of a training crop."""
    flip_probability: Share = 0.5
    """How often an image is mirrored."""
    scale: Annotated[tuple[float, float], AfterValidator(_ascending)] = (1.0, 1.0)
    """Scale each image by a random factor between these, 0.5 2 for instance."""
    jitter: Share = 0.0
    """Vary brightness, contrast and saturation by this share."""
    void: Void = Void.ignore
    """ignore: void counts nowhere; background: it is class 0."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    epochs: Count = 5
    """Passes over the training images."""
    steps: Count | None = None
    """Steps in all, in place of epochs."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the weights and the batches."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read ahead; the batches stay the same."""
    patience: Annotated[float, Field(gt=0)] = 30.0
    """Seconds of silence after which one is given up."""
    save_minutes: AtLeast0 = 5.0
    """Save this often, and at each epoch's end; 0: after every step."""

    @property
    def parts(self) -> int:
        """Micro-batches: a step's batch is cut into so many, and BatchNorm sees one at a time.

        However they are spread over processes, the run is the same.
        """
        return self.accumulate * self.processes

    def replace(self, **changes: Any) -> "Config":
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The values for JSON; rounded ones in their shortest decimal form."""
        values = dataclasses.asdict(self)
        rounded = ("momentum", "weight_decay", "bn_eps", "bn_decay")
        return values | {name: _shortest(values[name]) for name in rounded}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """The inverse of `to_dict`; keys that are no field are ignored."""
        names = [field.name for field in dataclasses.fields(cls) if field.name in values]
        return cls(**{name: values[name] for name in names})


SETTINGS: dict[str, dict[str, Any]] = {
    name: schema
    for name, schema in TypeAdapter(Config).json_schema()["properties"].items()
    if "description" in schema
}
"""The fields of `Config` that options and recipes set: name -> JSON schema, see there."""


MAX_SCALE = 8.0
"""A picture is enlarged by no more before it is predicted."""


@dataclasses.dataclass(frozen=True)
class Inference:
    """How pictures are predicted (`common.evaluation.views`); by default whole, once, as they are.

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
