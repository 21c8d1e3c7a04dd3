"""Weights from any file that people have: whose it is and what it holds is read from its content.

A file of safetensors, torch.save, MXNet or Orbax, with the names of any program that
`common.weights.namings` knows; or `imagenet`, the weights that torchvision and Gluon publish.
"""

import dataclasses
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends import load_backend
from common.config import Architecture, Config, Head, UpsampleInit
from common.errors import InputError, listed
from common.files import JSON_LIMIT, check_file, naming, parse_json, read_bytes, shortened
from common.network.initial import initial_weights
from common.network.tensors import in_head, tensors
from common.weights.checkpoint import (
    MOMENTUM,
    Weights,
    read_tensors,
    weights_of,
    width_of,
)
from common.weights.namings import CLASSIFIER, COUNTER, HEAD, Renamed, recognise
from common.weights.params import MAGIC
from common.weights.wrapping import unwrapped
from scripts.shared.cli import note

Array = NDArray[Any]

SAFETENSORS = "safetensors"
INDEX = "an index of safetensors"
TORCH = "torch.save"
MXNET = "MXNet .params"
ORBAX = "Orbax"
FRAMEWORKS = {TORCH: "torch", MXNET: "mxnet", ORBAX: "jax"}
"""Which backend reads and writes a container; safetensors and its index need none."""

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
    """What a file holds: one network's tensors, by its own names; a line for each thing to know.

    `momentum` is that of a checkpoint of ours.
    """

    container: str
    arrays: dict[str, Array]
    metadata: dict[str, str]
    momentum: dict[str, Array]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A whole network's weights, where they come from, and a line for each thing to know.

    `unwrapped` are those of `notes` that tell what of a file was taken as the network. Without
    `has_head` the file is a backbone: the head is the seed's initial one, and the last of
    `notes` says so. Momentum is that of a checkpoint of ours, else there is none.
    """

    weights: Weights
    container: str
    naming: str
    has_head: bool
    unwrapped: list[str]
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
    if head.startswith(b"{"):
        return INDEX
    # a zip archive, or the pickle (protocol 2 and later) of torch.save before version 1.6
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        if other := _other_archive(path):
            raise InputError(f"{path}: {other}, which is not read")
        return TORCH
    other = next((told for start, told in _OTHERS.items() if re.match(start, head)), None)
    if other:
        raise InputError(f"{path}: {other}, which is not read")
    begins = f"begins with {head[:8]!r}" if head else "is empty"
    raise InputError(f"{path}: no weights of safetensors, torch.save, MXNet or Orbax: {begins}")


_OTHERS = {
    rb"\x89HDF": "HDF5, as Keras saves weights",
    rb"\x93NUMPY": "one array of NumPy's",
    rb"[\x81-\x8f][\xa1-\xbf]": "msgpack, as flax.serialization writes it",  # a map, a text
}
"""How files begin that people try, and what they are."""


def _other_archive(path: Path) -> str | None:
    """What a zip archive is, where it is none of PyTorch's that is known."""
    if not zipfile.is_zipfile(path):
        return None
    with naming(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if "model.weights.h5" in names:
        return "Keras's .keras"
    if names and all(name.endswith(".npy") for name in names):
        return "NumPy's npz"
    return None


def _one_file(path: Path) -> Path:
    """The file or the folder of arrays, in a folder that a program has put them into.

    That is Hugging Face's snapshot, or the folder of an Orbax CheckpointManager, of which the last
    step is taken.

    Raises:
        InputError: a step holds several items.
    """
    if not path.is_dir() or (path / "_METADATA").exists():
        return path
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (path / name).exists():
            return path / name
    steps = {
        int(match[1]): step
        for step in path.iterdir()
        if (match := re.fullmatch(r"(?:\w*_)?([0-9]{1,18})", step.name)) and step.is_dir()
    }
    step = steps[max(steps)] if steps else path
    items = [item for item in [step, *sorted(step.iterdir())] if (item / "_METADATA").exists()]
    if len(items) > 1:
        raise InputError(f"{step}: holds {listed([item.name for item in items])}: give one of them")
    return items[0] if items else path


def _read_shards(path: Path) -> dict[str, Array]:
    """The tensors that an index of safetensors files names, all beside it.

    Raises:
        InputError: it is no such index, or a file or a tensor is missing.
    """
    with naming(path):
        told = parse_json(read_bytes(path, JSON_LIMIT))
    files = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise InputError(f"{path}: JSON without the weight_map of a sharded safetensors file")
    if outside := [name for name in files.values() if Path(name).name != name]:
        raise InputError(f"{path}: names files that are not beside it: {shortened(outside[0])}")
    arrays: dict[str, Array] = {}
    for file in dict.fromkeys(files.values()):
        arrays |= read_tensors(path.with_name(file), bfloat16=True)[0]
    for name, file in files.items():
        if name not in arrays:
            raise InputError(f"{path.with_name(file)}: lacks {shortened(name)}")
    return arrays


def _read_file(path: Path) -> tuple[str, dict[str, Array], dict[str, str]]:
    """The container, the arrays and the metadata."""
    container = container_of(path)
    if container == INDEX:
        return container, _read_shards(path), {}
    if container == SAFETENSORS:
        return container, *read_tensors(path, bfloat16=True)
    try:
        backend = load_backend(FRAMEWORKS[container])
    except InputError as error:
        raise InputError(f"{path}: {container} needs a framework: {error}") from error
    return container, *backend.read_arrays(path)


def read_source(path: Path, architecture: Architecture | None = None) -> Source:
    """One network's tensors from a file of any known container, or `imagenet`.

    Half precision is made float32, which holds the same values.

    Raises:
        InputError: it is of no known kind, damaged, holds more networks than one, or its framework
            is not installed; or `imagenet` cannot be fetched.
    """
    if path == Path(IMAGENET) and not path.exists():
        architecture = architecture or Config.architecture
        backend = load_backend(PUBLISHERS[architecture])
        return Source(IMAGENET, backend.imagenet_weights(architecture), {}, {}, [])
    one = _one_file(path)
    container, arrays, metadata = _read_file(one)
    momentum = {n.removeprefix(MOMENTUM): a for n, a in arrays.items() if n.startswith(MOMENTUM)}
    arrays = {name: array for name, array in arrays.items() if not name.startswith(MOMENTUM)}
    arrays, notes = unwrapped(one, arrays)
    halves = [name for name, array in arrays.items() if array.dtype == np.float16]
    if halves:
        notes.append(f"float16 made float32: {len(halves)} tensors")
    arrays |= {name: arrays[name].astype(np.float32) for name in halves}
    if one != path:
        notes.insert(0, f"unwrapped: {one.relative_to(path)}")
    return Source(container, arrays, metadata, momentum, notes)


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
        return weights_of(path, source.arrays, source.metadata, source.momentum)  # ours
    classes = {"num_classes": str(_head_classes(path, renamed.arrays))}
    metadata = classes | source.metadata | {"architecture": renamed.architecture}
    return weights_of(path, renamed.arrays, metadata)


def _notes(source: Source, renamed: Renamed, weights: Weights, seed: int) -> list[str]:
    notes = [*source.notes]
    if source.momentum and not weights.momentum:
        notes.append(f"left out: momentum, {len(source.momentum)} tensors")
    lost = [key for key in CLASSES if key in source.metadata and not renamed.has_head]
    if lost:
        notes.append(f"left out: metadata {', '.join(lost)}")
    if renamed.left_out:
        left_out = [f"{name} {shape}" for name, shape in renamed.left_out.items()]
        notes.append(f"left out: {listed(left_out)}")
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
        bare = "gluon" if weights.architecture == Architecture.resnet18_v2 else "torchvision"
        raise InputError(
            f"{path}: its head has {weights.num_classes} classes, not {num_classes};"
            f" without it: `convert --to {bare}`, and train with what that writes"
        )
    named = renamed.has_head and "class_names" in source.metadata
    if class_names is not None and len(class_names) == weights.num_classes and not named:
        weights = dataclasses.replace(weights, class_names=class_names)
    notes = _notes(source, renamed, weights, seed)
    if head not in (None, weights.head):
        weights, more = with_head(weights, head, seed, upsample_init)
        notes += more
    return Loaded(weights, source.container, renamed.naming, renamed.has_head, source.notes, notes)


def load_network(path: Path) -> Weights:
    """The weights of a network that has its head, from any file; what was unwrapped is noted.

    Raises:
        InputError: as `load_weights`, or there is no head in it.
    """
    loaded = load_weights(path)
    if not loaded.has_head:
        raise InputError(f"{path}: a backbone without the head; train one with --weights {path}")
    for line in loaded.unwrapped:
        note(f"{path}: {line}")
    return loaded.weights
