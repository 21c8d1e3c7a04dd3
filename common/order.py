"""The order in which a run makes the values of a trace, and which of them are made from which."""

import re
from collections.abc import Sequence

from common.names import LAYERS, tensors

GROUPS = ("eval", "train", "loss", "grad", "update", "buffer", "momentum", "final")
"""What a trace's names begin with, in order of execution."""

_MADE_FROM = {
    "eval": {"eval"},
    "train": {"eval", "train"},
    "loss": {"train", "loss", "grad", "update", "buffer"},
    "grad": {"train", "loss", "grad"},
    "buffer": {"train"},
    "momentum": {"train", "loss", "grad", "update", "buffer"},
    "final": {"train", "loss", "grad", "update", "buffer", "momentum"},
}
"""From which groups a difference comes down to a group. An update is not here: what its own
gradient explains of it can be taken away exactly (`common.compare`)."""


def execution_order(architecture: str, num_classes: int, steps: int) -> list[str]:
    """Every value of a trace in the order it is made.

    Forward in eval mode and in train mode, layer by layer; the loss; the gradients, backward; the
    updates; the buffers; later steps. `loss` is taken apart: `loss[0]`, `loss[1]`, ...
    """
    specs = tensors(architecture, num_classes)
    trained = [name for name, spec in specs.items() if spec.trainable]
    return [
        *(f"eval/{layer}" for layer in LAYERS),
        "eval/mask",
        *(f"train/{layer}" for layer in LAYERS),
        "loss[0]",
        *(f"grad/{name}" for name in reversed(trained)),
        *(f"update/{name}" for name in trained),
        *(f"buffer/{name}" for name, spec in specs.items() if not spec.trainable),
        *(f"loss[{step}]" for step in range(1, steps)),
        *(f"momentum/{name}" for name in trained),
        *(f"final/{name}" for name in specs),
    ]


def group_of(name: str) -> str:
    """`eval` of `eval/stem`, `loss` of `loss[3]`."""
    return re.split(r"[/\[]", name, maxsplit=1)[0]


def stage_of(name: str) -> str:
    """The stage of a value, a key of the gates of `common.gates`."""
    if name == "loss[0]":
        return "forward"
    stages = {"eval": "forward", "train": "forward", "grad": "gradient"}
    stages |= {"update": "update", "buffer": "buffer"}
    return stages.get(group_of(name), "steps")


def layer_of(name: str, architecture: str = "resnet18", num_classes: int = 21) -> str | None:
    """The layer that a value belongs to, one of `LAYERS`; None for a loss and unknown names."""
    local = name.partition("/")[2]
    if local == "mask":
        return "logits"
    specs = tensors(architecture, num_classes)
    if local in specs:
        return specs[local].layer
    return local if local in LAYERS else None


def inherits(name: str, parted: Sequence[str]) -> bool:
    """Whether a difference in `name` may come from one of the earlier values that `parted`.

    A layer is made from the layers before it, a buffer from the layers up to its own, a gradient
    from the forward pass and from the gradients behind it; what comes later, from all of it.
    """
    group = group_of(name)
    place = LAYERS.index(layer_of(name) or "logits")
    for other in parted:
        if group_of(other) not in _MADE_FROM[group]:
            continue
        if group in ("eval", "train", "buffer"):
            if LAYERS.index(layer_of(other) or "logits") <= place:
                return True
        else:
            return True
    return False
