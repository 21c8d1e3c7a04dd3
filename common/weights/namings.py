"""The names that other programs give our tensors, both ways.

Canonical layouts are torchvision's, which are Gluon's too: only names differ, but for Flax, whose
kernels are (kh, kw, in, out). `NAMINGS` lists what is known:

- `canonical`: `backbone.layer1.0.bn1.weight`, `final_conv.bias`, `transpose_conv.weight`;
- `torchvision`: its resnet18, `layer1.0.bn1.weight`; a backbone, with a classifier `fc`;
- `book`: Dive into Deep Learning 14.11 numbers the children of torchvision's resnet18 and adds
  the head by name: `4.0.bn1.weight`, `final_conv.bias`, `transpose_conv.weight`;
- `gluon`: Gluon's zoo, `features.4.0.body.1.gamma`; a backbone, with a classifier `output`;
- `gluon by prefix`: the same as `export` and `collect_params().save` write it, with the head of
  the book's FCN or without: `resnetv10_stage1_batchnorm0_gamma`, `conv0_weight`;
- `gluoncv`, `gluoncv by prefix`: GluonCV's resnet18_v1b, `layer1.0.bn1.gamma`, with an `fc`;
- `book-mxnet`: the book's FCN in Gluon, all of it numbered: `4.0.body.1.gamma`, `9.bias`;
- `flax`: our own network in JAX, `backbone.layer1_0.bn1.scale`.

Only `canonical` and `flax` have the tensors of FCN-16s and FCN-8s.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import Architecture, Head
from common.errors import InputError
from common.network.architecture import DESIGNS
from common.network.tensors import ARCHITECTURES, TensorSpec, head_of, in_head, tensors

Array = NDArray[Any]

_V1 = (
    *("canonical", "torchvision", "book", "gluon", "gluon by prefix", "gluoncv"),
    *("gluoncv by prefix", "book-mxnet", "flax"),
)
_V2 = ("canonical", "gluon", "gluon by prefix", "book-mxnet", "flax")

NAMINGS = {name: _V2 if design.pre_activation else _V1 for name, design in DESIGNS.items()}
"""Who has each architecture."""

ANY_HEAD = ("canonical", "flax")
"""Who has every head."""

BACKBONE = "backbone."
HEAD = ("final_conv.weight", "final_conv.bias", "transpose_conv.weight", "transpose_conv.bias")
"""What every head has."""

CLASSIFIER = {
    "torchvision": ("fc.weight", "fc.bias"),
    "gluon": ("output.weight", "output.bias"),
    "gluon by prefix": ("resnet_dense0_weight", "resnet_dense0_bias"),
    "gluoncv": ("fc.weight", "fc.bias"),
    "gluoncv by prefix": ("resnet_dense0_weight", "resnet_dense0_bias"),
}
"""What the classification networks have and the FCN has not."""

_INSIDE = ("backbone.fc.weight", "backbone.fc.bias")
"""The classifier of a whole torchvision network that is somebody's `backbone`."""

_OWN_HEADS = ("canonical", "torchvision")
"""Where a head of another kind may stand beside the backbone, under names of its own."""

COUNTER = "num_batches_tracked"
"""PyTorch's third buffer of a BatchNorm; nothing is computed with it at a fixed momentum."""

_STAGES = ("layer1", "layer2", "layer3", "layer4")
_HEAD = ("final_conv", "transpose_conv")
_CHILDREN_V1 = ("conv1", "bn1", "relu", "maxpool", *_STAGES, *_HEAD)
_CHILDREN_V2 = ("bn0", "conv1", "bn1", "relu", "maxpool", *_STAGES, "bn2", "relu", *_HEAD)
"""The network's children in their order, which is how the book and Gluon number them."""

_BODY = {"conv1": "body.0", "bn1": "body.1", "conv2": "body.3", "bn2": "body.4"}
"""Gluon's numbers inside a block of v1; those of v2 have our names."""

_FLAX = {"weight": "kernel", "gamma": "scale", "beta": "bias", "running_mean": "mean"} | {
    "running_var": "var"
}

_FIXED = {"gamma": 1, "beta": 0}
"""What Gluon keeps, and does not train, of the BatchNorm at the input of v2, which has neither."""


@dataclass(frozen=True)
class Renamed:
    """A file's tensors under canonical names.

    `arrays` is the backbone, with the head or without, unchecked; `left_out` and `ignored` are
    the file's own names of what the FCN has no use for: the classifier, or a head of another kind;
    BatchNorm's counters, and a gamma and beta that change nothing.
    """

    architecture: str
    naming: str
    arrays: dict[str, Array]
    left_out: dict[str, tuple[int, ...]]
    ignored: tuple[str, ...]

    @property
    def has_head(self) -> bool:
        """Whether any part of the head is there; a part alone is a fault, not a backbone."""
        return any(map(in_head, self.arrays))


def _pre_activation(architecture: str) -> bool:
    return DESIGNS[Architecture(architecture)].pre_activation


def _numbered(layer: str, architecture: str) -> str:
    """`layer2.0.conv1` -> `5.0.conv1`."""
    child, *rest = layer.split(".", 1)
    children = _CHILDREN_V2 if _pre_activation(architecture) else _CHILDREN_V1
    return ".".join([str(children.index(child)), *rest])


def _gluon(layer: str, architecture: str) -> str:
    """`layer2.0.conv1` -> `5.0.body.0`."""
    layer = _numbered(layer, architecture)
    inner = layer.rsplit(".", 1)[-1]
    if inner in _BODY and not _pre_activation(architecture):
        return layer.removesuffix(inner) + _BODY[inner]
    return layer


def _by_prefix(layer: str, naming: str, counts: Counter[str]) -> str:
    """`layer2.0.conv1` -> `resnet_stage2_conv0`: a scope's convolutions and norms are counted."""
    scope, stage = "", re.match(r"layer(\d)\.\d\.", layer)
    if stage and naming == "gluon by prefix":
        scope = f"stage{stage[1]}_"
    elif stage:
        scope = f"down{stage[1]}_" if "downsample" in layer else f"layers{stage[1]}_"
    inner = layer.rsplit(".", 1)[-1]
    # of a downsample, the one of v2 or the first of v1 is the convolution
    norm = inner.startswith("bn") or inner == "1"
    kind = f"{scope}{'batchnorm' if norm else 'conv'}"
    counts[kind] += 1
    return f"resnet_{kind}{counts[kind] - 1}"


def _layer(layer: str, naming: str, architecture: str, counts: Counter[str]) -> str | None:
    """A canonical layer in `naming`; None where that has no such layer."""
    if naming == "canonical":
        return layer
    if naming == "flax":
        return re.sub(r"\.(\d)", r"_\1", layer)
    if in_head(layer):
        if layer not in _HEAD:
            return None
        if naming == "book-mxnet":
            return _numbered(layer, architecture)
        return layer if naming in ("book", "gluon by prefix") else None
    layer = layer.removeprefix(BACKBONE)
    match naming:
        case "torchvision" | "gluoncv":
            return layer
        case "book":
            return _numbered(layer, architecture)
        case "book-mxnet":
            return _gluon(layer, architecture)
        case "gluon":
            return f"features.{_gluon(layer, architecture)}"
    return _by_prefix(layer, naming, counts)


def _leaf(spec: TensorSpec, naming: str) -> str:
    if naming in ("canonical", "torchvision", "book"):
        return "." + spec.name.rsplit(".", 1)[1]
    if naming == "flax" and not spec.transposed:  # which are kept as they are
        return "." + _FLAX.get(spec.role, spec.role)
    return ("_" if "prefix" in naming else ".") + spec.role  # the roles have Gluon's names


def names_in(naming: str, architecture: str, head: Head = Head.fcn32s) -> dict[str, str]:
    """Canonical name -> name in `naming`, in order of execution; a backbone's without the head.

    What `naming` has no name for is left out.

    By prefix: with `resnet_` in place of Gluon's own, and the head's layers by our names.
    """
    layers: dict[str, str | None] = {}
    names, counts = {}, Counter[str]()
    for name, spec in tensors(architecture, num_classes=1, head=head).items():
        layer = name.rsplit(".", 1)[0]
        if layer not in layers:
            layers[layer] = _layer(layer, naming, architecture, counts)
        if layers[layer] is not None:
            names[name] = f"{layers[layer]}{_leaf(spec, naming)}"
    return names


def fixed_in(naming: str, architecture: str) -> dict[str, int]:
    """The names and values of what the network in `naming` has besides, and does not train."""
    theirs = names_in(naming, architecture).get("backbone.bn0.running_mean", "")
    if theirs.endswith("running_mean") and naming != "canonical":
        return {theirs.removesuffix("running_mean") + leaf: v for leaf, v in _FIXED.items()}
    return {}


def _turned(name: str, array: Array, *axes: int) -> Array:
    """The array with its axes in another order if it is one of Flax's kernels."""
    return array.transpose(axes) if array.ndim == 4 and name.endswith("kernel") else array


def rename(arrays: Mapping[str, Array], naming: str, architecture: str) -> dict[str, Array]:
    """Canonical arrays under the names of `naming`; what that does not have is left out."""
    names = names_in(naming, architecture, head_of(arrays))
    renamed = {other: arrays[name] for name, other in names.items()}
    if naming == "flax":
        return {name: _turned(name, array, 2, 3, 1, 0) for name, array in renamed.items()}
    fixed = fixed_in(naming, architecture)
    return {
        name: np.full_like(arrays["backbone.bn0.running_mean"], value)
        for name, value in fixed.items()
    } | renamed


def _plain(names: Iterable[str]) -> dict[str, str]:
    """The file's names without what depends on how it was saved, as `names_in` has them.

    That is `.value` of Flax's variables after every name, the list `layers` of its Sequential
    inside it, and the prefix and the counters that Gluon makes up: `resnetv13_conv0_weight`,
    `conv7_bias`.
    """
    names = list(names)
    plain = {name: name for name in names}
    if all(name.endswith(".value") for name in names):
        plain = {name: name.removesuffix(".value") for name in names}
    plain = {name: re.sub(r"\.layers\.(\d)", r"_\1", other) for name, other in plain.items()}
    found = (re.fullmatch(r"(.*?)(stage|layers)1_conv0_weight", name) for name in names)
    prefix = next((match[1] for match in found if match), None)
    if prefix is None:
        return plain
    others = [name for name in names if not name.startswith(prefix)]
    head = [re.fullmatch(r"(?:.*_)?conv(\d+)_(weight|bias)", name) for name in others]
    numbers = sorted({int(match[1]) for match in head if match})
    layers = dict(zip(numbers, ("final_conv", "transpose_conv"), strict=False))
    for match in head:
        if match and len(numbers) == 2:
            plain[match[0]] = f"{layers[int(match[1])]}_{match[2]}"
    inside = {n: "resnet_" + n.removeprefix(prefix) for n in names if n.startswith(prefix)}
    return plain | inside


@functools.cache
def _backbones() -> dict[tuple[str, str], frozenset[str]]:
    """The names of each backbone, by architecture and naming."""
    return {
        (architecture, naming): frozenset(
            other
            for name, other in names_in(naming, architecture).items()
            if name.startswith(BACKBONE)
        )
        for architecture in ARCHITECTURES
        for naming in NAMINGS[architecture]
    }


def backbone_of(names: Iterable[str]) -> tuple[float, frozenset[str]]:
    """How much of some known backbone is among the names, from 0 to 1, and which they are."""
    plain = {other: name for name, other in _plain(names).items()}
    found = {key: backbone & plain.keys() for key, backbone in _backbones().items()}
    best = max(found, key=lambda key: len(found[key]) / len(_backbones()[key]))
    share = len(found[best]) / len(_backbones()[best])
    return share, frozenset(plain[other] for other in found[best])


def _naming(path: Path, names: Mapping[str, str]) -> tuple[str, str]:
    """The architecture and naming whose names are most of the file's, and the file's most of.

    A file may lack some and have others besides.
    """
    found, shared = {}, {}
    plain = set(names.values())
    for whose, backbone in _backbones().items():
        found[whose] = len(backbone & plain) / len(backbone | plain)
        shared[whose] = len(backbone & plain) / len(backbone)
    best = max(found, key=found.__getitem__)
    if shared[best] < 0.5:
        few = ", ".join(list(names)[:3]) or "none at all"
        raise InputError(
            f"{path}: its {len(names)} tensors have neither canonical names nor those of"
            f" torchvision, Gluon, GluonCV, Flax or the book's FCN for"
            f" {' or '.join(ARCHITECTURES)}: {few}" + (", ..." if len(names) > 3 else "")
        )
    return best


def recognise(path: Path, arrays: Mapping[str, Array]) -> Renamed:
    """A file's arrays under canonical names, whichever architecture and naming it has.

    Shapes, types and missing tensors are not looked at: see
    `common.weights.checkpoint.check_arrays`.

    Raises:
        InputError: no naming fits (a few of the names are told), or a tensor is none of the
            network's, by name and shape, or one that must be fixed is not.
    """
    plain = _plain(arrays)
    architecture, naming = _naming(path, plain)
    names = names_in(naming, architecture, Head.fcn8s)  # and those of every other head
    canonical = {other: name for name, other in names.items()}
    fixed = fixed_in(naming, architecture)
    classifier = _INSIDE if naming == "canonical" else CLASSIFIER.get(naming, ())
    renamed, left_out, strange, ignored = {}, {}, {}, []
    for name, array in arrays.items():
        other = plain[name]
        if other in canonical:
            flax = naming == "flax"
            renamed[canonical[other]] = _turned(other, array, 3, 2, 0, 1) if flax else array
        elif other.endswith(COUNTER):
            ignored.append(name)
        elif other in fixed:
            # MXNet takes such a gamma for 1, whatever it is, and adds beta
            if other.endswith("beta") and np.any(array != fixed[other]):
                raise InputError(f"{path}: {name} is not 0: the network adds none at its input")
            ignored.append(name)
        elif other in classifier:
            left_out[name] = array.shape
        else:
            strange[name] = array.shape
    if naming in _OWN_HEADS and not any(map(in_head, renamed)):
        parts = {other.partition(".")[0] for n, other in names.items() if n.startswith(BACKBONE)}
        left_out |= {n: shape for n, shape in strange.items() if n.partition(".")[0] not in parts}
    faults = [f"{name} {shape}" for name, shape in strange.items() if name not in left_out]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        whose = "" if naming == "canonical" else f" with the names of {naming}"
        nearest = f"{architecture}{whose} has no {faults[0]}{more}"
        if len(faults) > len(renamed) / 10:
            nearest = f"is none of {', '.join(ARCHITECTURES)}; the nearest, {nearest}"
        raise InputError(f"{path}: {nearest}")
    return Renamed(architecture, naming, renamed, left_out, tuple(ignored))
