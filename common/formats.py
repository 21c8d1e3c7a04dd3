"""The names that other programs give our tensors, both ways.

Only names differ: canonical layouts are torchvision's, and the book's network is made of
torchvision's modules. Three namings are known:

- `canonical`: `backbone.layer1.0.bn1.weight`, `final_conv.bias`, `transpose_conv.weight`;
- `torchvision`: its resnet18, `layer1.0.bn1.weight`; a backbone, with a classifier `fc`;
- `book`: Dive into Deep Learning 14.11 numbers the children of torchvision's resnet18 and adds
  the head by name: `4.0.bn1.weight`, `final_conv.bias`, `transpose_conv.weight`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from common.errors import InputError
from common.names import tensors

Array = NDArray[Any]

NAMINGS = ("canonical", "torchvision", "book")

BACKBONE = "backbone."
HEAD = ("final_conv.weight", "final_conv.bias", "transpose_conv.weight", "transpose_conv.bias")

CLASSIFIER = ("fc.weight", "fc.bias")
"""What torchvision's resnet18 has and the FCN has not."""

COUNTER = "num_batches_tracked"
"""PyTorch's third buffer of a BatchNorm; nothing is computed with it at a fixed momentum."""

PARALLEL = "module."
"""What PyTorch's DataParallel puts before every name."""

_BOOK_CHILDREN = {  # 2 and 3 are the ReLU and the max-pool
    "conv1": "0",
    "bn1": "1",
    "layer1": "4",
    "layer2": "5",
    "layer3": "6",
    "layer4": "7",
}


@dataclass(frozen=True)
class Renamed:
    """A file's tensors under canonical names.

    `arrays` is the backbone, with the head or without, unchecked; `left_out` and `ignored` are
    the file's own names of what the FCN has no use for: the classifier, and BatchNorm's counters.
    """

    naming: str
    arrays: dict[str, Array]
    left_out: dict[str, tuple[int, ...]]
    ignored: tuple[str, ...]

    @property
    def has_head(self) -> bool:
        """Whether any part of the head is there; a part alone is a fault, not a backbone."""
        return any(name in self.arrays for name in HEAD)


def _rename(name: str, naming: str) -> str | None:
    """A canonical name in `naming`; None where that has no such tensor."""
    if naming == "canonical":
        return name
    if not name.startswith(BACKBONE):
        return name if naming == "book" else None
    child, rest = name.removeprefix(BACKBONE).split(".", 1)
    return f"{_BOOK_CHILDREN[child] if naming == 'book' else child}.{rest}"


def names_in(naming: str, architecture: str) -> dict[str, str]:
    """Canonical name -> name in `naming`, in order of execution; no head for `torchvision`."""
    renamed = {name: _rename(name, naming) for name in tensors(architecture, num_classes=1)}
    return {name: other for name, other in renamed.items() if other is not None}


def rename(arrays: Mapping[str, Array], naming: str, architecture: str) -> dict[str, Array]:
    """Canonical arrays under the names of `naming`; what that does not have is left out."""
    return {other: arrays[name] for name, other in names_in(naming, architecture).items()}


def _without_prefix(arrays: Mapping[str, Array]) -> dict[str, Array]:
    if all(name.startswith(PARALLEL) for name in arrays):
        return {name.removeprefix(PARALLEL): array for name, array in arrays.items()}
    return dict(arrays)


def _naming(path: Path, names: Mapping[str, Array], architecture: str) -> str:
    """The naming that most names belong to; a file may lack some and have others besides."""
    found = {}
    for naming in NAMINGS:
        table = names_in(naming, architecture)
        backbone = [other for name, other in table.items() if name.startswith(BACKBONE)]
        found[naming] = sum(other in names for other in backbone) / len(backbone)
    best = max(NAMINGS, key=found.__getitem__)
    if found[best] < 0.5:
        few = ", ".join(list(names)[:3]) or "none at all"
        raise InputError(
            f"{path}: its {len(names)} tensors have neither canonical names nor those of"
            f" torchvision's {architecture} or the book's FCN: {few}"
            + (", ..." if len(names) > 3 else "")
        )
    return best


def recognise(path: Path, arrays: Mapping[str, Array], architecture: str) -> Renamed:
    """A file's arrays under canonical names, whichever of `NAMINGS` it uses.

    Shapes, types and missing tensors are not looked at: see `common.checkpoint.check_arrays`.

    Raises:
        InputError: no naming fits (a few of the names are told), or a tensor is none of the
            network's, by name and shape.
    """
    plain = _without_prefix(arrays)
    naming = _naming(path, plain, architecture)
    canonical = {other: name for name, other in names_in(naming, architecture).items()}
    renamed, left_out, ignored, faults = {}, {}, [], []
    for name, array in plain.items():
        if name in canonical:
            renamed[canonical[name]] = array
        elif name.endswith(COUNTER):
            ignored.append(name)
        elif naming == "torchvision" and name in CLASSIFIER:
            left_out[name] = array.shape
        else:
            faults.append(f"{name} {array.shape}")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        whose = "" if naming == "canonical" else f" with the names of {naming}"
        raise InputError(f"{path}: {architecture}{whose} has no {faults[0]}{more}")
    return Renamed(naming, renamed, left_out, tuple(ignored))
