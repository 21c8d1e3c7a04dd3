"""The order in which a run makes the values of a trace, and which of them are made from which."""

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.config import Config, Head
from common.network.tensors import ARCHITECTURES, layer_names, tensors

_MADE_FROM = {
    "eval": {"eval"},
    "train": {"eval", "train"},
    "loss": {"train", "loss", "grad", "update", "buffer"},
    "grad": {"train", "loss", "grad"},
    "buffer": {"train"},
    "momentum": {"train", "loss", "grad", "update", "buffer"},
    "final": {"train", "loss", "grad", "update", "buffer", "momentum"},
    "after": {"eval", "train", "loss", "grad", "update", "buffer", "momentum", "final"},
}
"""From which groups a difference comes down to a group. An update is not here: what its own
gradient explains of it can be taken away exactly (`common.parity.compare`)."""


AFTER = ("after/logits", "after/mask")
"""What a trace may have of an evaluation after the last step."""


@dataclass(frozen=True)
class Place:
    """Where a value is made: in words, and by which module, or between which two.

    The empty path is the network itself, whose input and output are outside all others.
    """

    words: str = ""
    modules: tuple[str, ...] = ()


class Order(Protocol):
    """The values of traces of one network, in the order in which they are made."""

    @property
    def values(self) -> Sequence[str]: ...

    def stage_of(self, name: str) -> str:
        """A key of the tolerances of `common.parity.tolerances`."""

    def layer_of(self, name: str) -> str | None:
        """The layer that a value belongs to; None for a loss and unknown names."""

    def inherits(self, name: str, parted: Sequence[str]) -> bool:
        """Whether a difference in `name` may come from one of the earlier values that `parted`."""

    def healed(self, parted: Mapping[str, bool]) -> set[str]:
        """Of values that parted, or did not, in order: those that make no difference later on."""

    def place_of(self, name: str, present: Collection[str]) -> Place:
        """What makes a value, between which of those that are `present`, where that is known."""


def execution_order(
    architecture: str, num_classes: int, steps: int, head: str = Config.head
) -> list[str]:
    """Every value of a trace in the order it is made.

    Forward in eval mode and in train mode, layer by layer; the loss; the gradients, backward; the
    updates; the buffers; later steps; an evaluation after them, of a trace that has one. `loss` is
    taken apart: `loss[0]`, `loss[1]`, ...
    """
    specs, layers = tensors(architecture, num_classes, head=head), layer_names(architecture, head)
    trained = [name for name, spec in specs.items() if spec.trainable]
    return [
        *(f"eval/{layer}" for layer in layers),
        "eval/mask",
        *(f"train/{layer}" for layer in layers),
        "loss[0]",
        *(f"grad/{name}" for name in reversed(trained)),
        *(f"update/{name}" for name in trained),
        *(f"buffer/{name}" for name, spec in specs.items() if not spec.trainable),
        *(f"loss[{step}]" for step in range(1, steps)),
        *(f"momentum/{name}" for name in trained),
        *(f"final/{name}" for name in specs),
        *AFTER,
    ]


@functools.cache  # asked of each pair of a thousand values
def group_of(name: str) -> str:
    """`eval` of `eval/stem`, `loss` of `loss[3]`."""
    return re.split(r"[/\[]", name, maxsplit=1)[0]


def stage_of(name: str) -> str:
    """The stage of a value, a key of the tolerances of `common.parity.tolerances`."""
    if name == "loss[0]":
        return "forward"
    stages = {"eval": "forward", "train": "forward", "grad": "gradient"}
    stages |= {"update": "update", "buffer": "buffer"}
    return stages.get(group_of(name), "steps")


@functools.cache
def _every_layer() -> tuple[str, ...]:
    """All layers that there are, in order of execution."""
    own = {layer for a in ARCHITECTURES for layer in layer_names(a, Head.fcn8s)}
    blocks = sorted(layer for layer in own if layer.startswith("layer"))
    rest = ("norm", "final_conv", "fuse16", "fuse8", "logits")
    return ("stem", *blocks, *rest)


@functools.cache
def _layers() -> dict[str, str]:
    """The layer of each name after the slash."""
    specs = (tensors(architecture, 1, head=Head.fcn8s) for architecture in ARCHITECTURES)
    own = {name: spec.layer for found in specs for name, spec in found.items()}
    return own | {layer: layer for layer in _every_layer()} | {"mask": "logits"}


def layer_of(name: str) -> str | None:
    """The layer that a value belongs to; None for a loss and unknown names."""
    return _layers().get(name.partition("/")[2])


def place_of(layer: str | None) -> int:
    """Where a layer stands among all that there are, in order of execution; None: at the end."""
    every = _every_layer()
    return every.index(layer or every[-1])


def inherits(name: str, parted: Sequence[str]) -> bool:
    """Whether a difference in `name` may come from one of the earlier values that `parted`.

    A layer is made from the layers before it, a buffer from the layers up to its own, a gradient
    from the forward pass and from the gradients behind it; what comes later, from all of it.
    """
    group = group_of(name)
    forward = group in ("eval", "train", "buffer")
    place = place_of(layer_of(name))
    return any(
        group_of(other) in _MADE_FROM[group] and (not forward or place_of(layer_of(other)) <= place)
        for other in parted
    )


class NetworkOrder:
    """The order of our own networks: see `Order`."""

    def __init__(self, architecture: str, num_classes: int, steps: int, head: str) -> None:
        self.values = execution_order(architecture, num_classes, steps, head)

    def stage_of(self, name: str) -> str:
        return stage_of(name)

    def layer_of(self, name: str) -> str | None:
        return layer_of(name)

    def inherits(self, name: str, parted: Sequence[str]) -> bool:
        return inherits(name, parted)

    def healed(self, parted: Mapping[str, bool]) -> set[str]:
        return set()

    def place_of(self, name: str, present: Collection[str]) -> Place:
        return Place()
