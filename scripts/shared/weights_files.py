"""Weights from any file that people have: whose it is and what it holds is read from its content.

A file of safetensors, torch.save, MXNet or Orbax, with the names of any program that
`common.weights.namings` knows; or `imagenet`, the weights that torchvision and Gluon publish.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from backends import load_backend
from common.config import Architecture, Config, Head, UpsampleInit
from common.errors import InputError
from common.files import check_file, naming
from common.network.initial import initial_weights
from common.network.tensors import in_head, tensors
from common.weights.checkpoint import (
    MOMENTUM,
    Weights,
    read_tensors,
    read_weights,
    weights_of,
    width_of,
)
from common.weights.namings import CLASSIFIER, COUNTER, HEAD, Renamed, recognise
from common.weights.params import MAGIC

Array = NDArray[Any]

SAFETENSORS = "safetensors"
TORCH = "torch.save"
MXNET = "MXNet .params"
ORBAX = "Orbax"
FRAMEWORKS = {TORCH: "torch", MXNET: "mxnet", ORBAX: "jax"}
"""Which backend reads and writes a container; safetensors needs none."""

IMAGENET = "imagenet"
PUBLISHERS = {
    Architecture.resnet18: "torch",
    Architecture.resnet34: "torch",
    Architecture.resnet18_v2: "mxnet",
}
"""Which backend has the ImageNet weights of an architecture, whichever trains on them."""

CLASSES = ("num_classes", "class_names")
LEFT_TO_HEAD = (*CLASSES, "head")
"""What a file's metadata says of a head; mean and deviation belong to the backbone too."""

SAFETENSORS_HEADER_LIMIT = 100_000_000
"""In bytes; the library refuses a longer one."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What a file holds, by its own names; of a checkpoint's momentum, only how many tensors."""

    container: str
    arrays: dict[str, Array]
    metadata: dict[str, str]
    momentum: int


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A whole network's weights, where they come from, and a line for each thing to know.

    Without `has_head` the file is a backbone: the head is the seed's initial one, and the last of
    `notes` says so. Momentum is that of a checkpoint of ours, else there is none.
    """

    weights: Weights
    container: str
    naming: str
    has_head: bool
    notes: list[str]


def container_of(path: Path) -> str:
    """Which program's file it is, by its first bytes: its name says nothing.

    Raises:
        InputError: there is no such file, or it is of no kind that is known.
    """
    if path.is_dir():
        return ORBAX
    check_file(path)
    with naming(path), path.open("rb") as file:
        head = file.read(16)
    # safetensors first: the length of its header may begin like a pickle
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= SAFETENSORS_HEADER_LIMIT:
        return SAFETENSORS
    if head.startswith(MAGIC):
        return MXNET
    # a zip archive, or the pickle (protocol 2 and later) of torch.save before version 1.6
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        return TORCH
    begins = f"begins with {head[:8]!r}" if head else "is empty"
    raise InputError(f"{path}: no weights of safetensors, torch.save, MXNet or Orbax: {begins}")


def read_source(path: Path, architecture: Architecture | None = None) -> Source:
    """Every tensor of a file of any known container, or of `imagenet` for an architecture.

    Raises:
        InputError: it is of no known kind, damaged, holds more than tensors, or its framework is
            not installed; or `imagenet` cannot be fetched.
    """
    if path == Path(IMAGENET) and not path.exists():
        architecture = architecture or Config.architecture
        backend = load_backend(PUBLISHERS[architecture])
        return Source(IMAGENET, backend.imagenet_weights(architecture), {}, momentum=0)
    container = container_of(path)
    if container == SAFETENSORS:
        arrays, metadata = read_tensors(path)
    else:
        try:
            backend = load_backend(FRAMEWORKS[container])
        except InputError as error:
            raise InputError(f"{path}: {container} needs a framework: {error}") from error
        arrays, metadata = backend.read_arrays(path)
    weights = {name: array for name, array in arrays.items() if not name.startswith(MOMENTUM)}
    return Source(container, weights, metadata, momentum=len(arrays) - len(weights))


def _head_classes(path: Path, arrays: Mapping[str, Array]) -> int:
    """What most of the head's tensors say; `check_arrays` finds the one that differs."""
    counts = Counter(arrays[name].shape[0] for name in HEAD if name in arrays and arrays[name].ndim)
    count = counts.most_common(1)[0][0] if counts else 0
    if not 1 <= count <= 255:
        raise InputError(f"{path}: the head's number of classes is not from 1 to 255")
    return count


def _whole(path: Path, source: Source, renamed: Renamed) -> Weights:
    """The weights of a file that has a head."""
    same_names = renamed.arrays.keys() == source.arrays.keys()
    if same_names and source.container == SAFETENSORS and "architecture" in source.metadata:
        return read_weights(path)  # ours; it may be a checkpoint
    classes = {"num_classes": str(_head_classes(path, renamed.arrays))}
    metadata = classes | source.metadata | {"architecture": renamed.architecture}
    return weights_of(path, renamed.arrays, metadata)


def _notes(source: Source, renamed: Renamed, weights: Weights, seed: int) -> list[str]:
    notes = []
    if source.momentum and not weights.momentum:
        notes.append(f"left out: momentum, {source.momentum} tensors")
    lost = [key for key in CLASSES if key in source.metadata and not renamed.has_head]
    if lost:
        notes.append(f"left out: metadata {', '.join(lost)}")
    if renamed.left_out:
        left_out = ", ".join(f"{name} {shape}" for name, shape in renamed.left_out.items())
        notes.append(f"left out: {left_out}")
    counters = sum(name.endswith(COUNTER) for name in renamed.ignored)
    if counters:
        notes.append(f"ignored: {counters} {COUNTER}")
    lacks = [] if renamed.left_out else [*CLASSIFIER.get(renamed.naming, ())]
    lacks += [COUNTER] if renamed.naming == "torchvision" and not counters else []
    if lacks:
        notes.append(f"lacks {', '.join(lacks)}, which the FCN does without")
    fixed = [name for name in renamed.ignored if not name.endswith(COUNTER)]
    if fixed:
        notes.append(f"ignored: {', '.join(fixed)}, which change nothing")
    if not renamed.has_head:
        classes = "1 class" if weights.num_classes == 1 else f"{weights.num_classes} classes"
        layers = dict.fromkeys(name.partition(".")[0] for name in weights.arrays if in_head(name))
        named = " and ".join([", ".join([*layers][:-1]), [*layers][-1]])
        notes.append(f"{named}: initial values of seed {seed}, {classes}")
    return notes


def with_head(
    weights: Weights, head: Head, seed: int, upsample_init: UpsampleInit
) -> tuple[Weights, list[str]]:
    """The network with another head (Long et al., 2015, section 4.2), and what became of each part.

    What both heads have is kept, but for the last kernel, which is of another size. New kernels
    are those of `upsample_init`, new scores 0, so that what is added at first is nothing.
    """
    kind = weights.arrays["final_conv.weight"].dtype
    shape = weights.architecture, weights.num_classes, seed, upsample_init, weights.width
    whole = initial_weights(*shape, head)
    old = {k: a for k, a in weights.arrays.items() if k in whole and a.shape == whole[k].shape}
    new = {k: a.astype(kind) for k, a in whole.items() if k not in old}
    arrays = {name: old[name] if name in old else new[name] for name in whole}
    own = tensors(weights.architecture, weights.num_classes, head=weights.head)
    dropped = [name for name in own if name not in whole]
    kept = [name for name in whole if name in old and in_head(name)]
    parts = {"kept": kept, "new": [*new], "left out": dropped}
    told = "; ".join(f"{part}: {', '.join(names)}" for part, names in parts.items() if names)
    notes = [f"{weights.head} made {head}: {told}"]
    if weights.momentum:
        notes.append(f"left out: the checkpoint's momentum, {len(weights.momentum)} tensors")
    return dataclasses.replace(weights, arrays=arrays, momentum={}, extra={}), notes


def load_weights(
    path: Path,
    *,
    num_classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    seed: int = Config.seed,
    upsample_init: UpsampleInit = Config.upsample_init,
    architecture: Architecture | None = None,
    head: Head | None = None,
) -> Loaded:
    """A whole network from any file or from `imagenet`, checked; a head that lacks is made.

    `num_classes`, `class_names`, `architecture` and `head` are what the caller needs: of a head,
    the number of its classes must agree, one that is made gets it, and another is made of it by
    `with_head`; names are taken where the file has none. None leaves each to the file, or to
    `Config`. What is made is made of `seed` and `upsample_init`.

    Raises:
        InputError: the file cannot be read, is not one of our networks, or another one than the
            caller needs.
    """
    source = read_source(path, architecture)
    renamed = recognise(path, source.arrays)
    if architecture not in (None, renamed.architecture):
        raise InputError(f"{path}: its network is {renamed.architecture}, not {architecture}")
    if renamed.has_head:
        weights = _whole(path, source, renamed)
    else:
        has, arrays, count = renamed.architecture, renamed.arrays, num_classes or Config.num_classes
        initial = initial_weights(
            has, count, seed, upsample_init, width_of(arrays), head or Config.head
        )
        made = {name: array for name, array in initial.items() if in_head(name)}
        metadata = {key: value for key, value in source.metadata.items() if key not in LEFT_TO_HEAD}
        metadata |= {"architecture": has, "num_classes": str(count)}
        weights = weights_of(path, arrays | made, metadata)
    if num_classes not in (None, weights.num_classes):
        raise InputError(f"{path}: its head has {weights.num_classes} classes, not {num_classes}")
    named = renamed.has_head and "class_names" in source.metadata
    if class_names is not None and len(class_names) == weights.num_classes and not named:
        weights = dataclasses.replace(weights, class_names=class_names)
    notes = _notes(source, renamed, weights, seed)
    if head not in (None, weights.head):
        weights, more = with_head(weights, head, seed, upsample_init)
        notes += more
    return Loaded(weights, source.container, renamed.naming, renamed.has_head, notes)


def load_network(path: Path) -> Weights:
    """The weights of a network that has its head, from any file.

    Raises:
        InputError: as `load_weights`, or there is no head in it.
    """
    loaded = load_weights(path)
    if not loaded.has_head:
        raise InputError(f"{path}: a backbone without the head; train one with --weights {path}")
    return loaded.weights
