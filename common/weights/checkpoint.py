"""Weights files: canonical safetensors, read with every check and written whole or not at all."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from common.config import IMAGENET_MEAN, IMAGENET_STD, VOID, Architecture, Config, Head
from common.data.voc import VOC_CLASSES
from common.errors import InputError
from common.files import check_file, parse_json, reason_of, shortened, write_whole
from common.network.tensors import ARCHITECTURES, head_of, tensors

Array = NDArray[Any]

FLOAT_TYPES = ("float32", "float64")
"""The value types that weights may have."""

_NUMPY_TYPES = {"BOOL", "U8", "I8", "U16", "I16", "F16", "U32", "I32", "F32", "U64", "I64", "F64"}
"""The value types of safetensors that NumPy has too; bfloat16 and float8 are not among them."""

DIGEST = "content_sha256"
"""Metadata key of a checkpoint: `digest` of all that is in it."""

MOMENTUM = "momentum/"
"""Prefix of SGD's momentum buffers in a checkpoint; a plain weights file has none."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network's weights and what must be known to use them.

    `arrays` holds every tensor of `common.network.tensors.tensors`, float32 or float64. `momentum`
    is empty but in a checkpoint. `extra` is what else a checkpoint says, as strings.
    """

    arrays: dict[str, Array]
    architecture: Architecture
    class_names: tuple[str, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    momentum: dict[str, Array] = dataclasses.field(default_factory=dict)
    extra: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def head(self) -> Head:
        return head_of(self.arrays)

    @property
    def width(self) -> int:
        """The channels of the network's first stage."""
        return width_of(self.arrays)


def unnamed(num_classes: int) -> tuple[str, ...]:
    """What classes of which nothing is known are called: class_0, class_1, ..."""
    return tuple(f"class_{k}" for k in range(num_classes))


def default_class_names(num_classes: int) -> tuple[str, ...]:
    """VOC's names if there are 21 classes, else class_0, class_1, ..."""
    if num_classes == len(VOC_CLASSES):
        return VOC_CLASSES
    return unnamed(num_classes)


_AT_ONCE = 64
"""So many tensors are read while a file is open."""


MAX_DIMENSIONS, MAX_EMPTY = 32, 1 << 24
"""NumPy has no arrays of more dimensions; and so many elements has an empty array without its 0."""


def check_shape(path: Path, name: str, shape: Sequence[int]) -> None:
    """Refuses a shape that no program means, before an array is made of it.

    An array with a 0 in its shape has no bytes that would limit the other numbers.

    Raises:
        InputError: it has too many dimensions, or is huge and empty.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise InputError(f"{path}: {name} has {len(shape)} dimensions, more than {MAX_DIMENSIONS}")
    if 0 in shape and math.prod(n for n in shape if n) > MAX_EMPTY:
        raise InputError(f"{path}: {name} is {tuple(shape)}: huge, and holds nothing")


def _bfloat16(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Tensors of bfloat16 as float32, of which it is the upper half."""
    if not names:
        return {}
    told = dict(safetensors.deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    halves = {name: np.frombuffer(told[name]["data"], "<u2").astype("<u4") for name in names}
    return {n: (half << 16).view("<f4").reshape(told[n]["shape"]) for n, half in halves.items()}


def read_tensors(path: Path, bfloat16: bool = False) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays and the metadata of a safetensors file; of a checkpoint, held to its digest.

    With `bfloat16` tensors of that type are read, as float32.

    Raises:
        InputError: there is no such file, or it is no safetensors file, or is truncated, or a bit
            of a checkpoint flipped, or it holds a value type that NumPy lacks.
    """
    check_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names, halves = list(file.keys()), []
            for name in names:
                told = file.get_slice(name)
                kind = told.get_dtype()
                if kind == "BF16" and bfloat16:
                    halves.append(name)
                elif kind not in _NUMPY_TYPES:
                    kind = {"BF16": "bfloat16"}.get(kind, kind)
                    raise InputError(f"{path}: {name} is {kind}, not float32 or float64")
                check_shape(path, name, told.get_shape())
            metadata = file.metadata() or {}
        arrays = _bfloat16(path, halves)
        names = [name for name in names if name not in arrays]
        for start in range(0, len(names), _AT_ONCE):
            # opened anew: what is read stays in memory as long as the file is open
            with safetensors.safe_open(path, framework="numpy") as file:
                part = names[start : start + _AT_ONCE]
                arrays |= {name: file.get_tensor(name) for name in part}
    except (safetensors.SafetensorError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {reason_of(error)}") from error
    if DIGEST in metadata and metadata[DIGEST] != digest(arrays, metadata):
        raise InputError(f"{path}: damaged: its contents are not those of its {DIGEST}")
    return arrays, metadata


def _sort_metadata(path: Path) -> None:
    """Brings a file's metadata into one order; safetensors writes it in a random one."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def write_tensors(
    path: Path,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str],
    check: Callable[[Path], object] = lambda temporary: None,
    previous: Path | None = None,
) -> None:
    """Writes arrays and metadata as one safetensors file: the same of them, the same bytes.

    `check` and `previous` are those of `write_whole`.

    Raises:
        InputError: the file cannot be written.
    """
    # safetensors writes an array that is not contiguous wrongly, silently
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}

    def write(temporary: Path) -> None:
        safetensors.numpy.save_file(contiguous, temporary, dict(metadata))
        _sort_metadata(temporary)

    write_whole(path, write, check, previous)


def digest(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, types, shapes, values and metadata, but for the key `DIGEST` itself."""
    facts = sorted((key, value) for key, value in metadata.items() if key != DIGEST)
    state = hashlib.sha256(json.dumps(facts).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype.str} {array.shape}".encode())
        state.update(array.data)
    return state.hexdigest()


def width_of(arrays: Mapping[str, Array]) -> int:
    """The channels of the network's first stage, by its first convolution; the default without."""
    first = arrays.get("backbone.conv1.weight")
    return len(first) if first is not None and first.ndim else Config.width


def check_arrays(
    path: Path, arrays: Mapping[str, Array], architecture: str, num_classes: int
) -> None:
    """Holds arrays against the network: names both ways, shapes, float32 or float64.

    Raises:
        InputError: the first thing that does not fit, by name and shape, and how many more.
    """
    head = head_of(arrays)
    specs = tensors(architecture, num_classes, width_of(arrays), head)
    faults = [f"{name} {specs[name].shape} is missing" for name in specs if name not in arrays]
    for name, array in arrays.items():
        if name not in specs:
            faults.append(f"{name} {array.shape} is not part of {architecture}")
        elif array.shape != specs[name].shape:
            faults.append(f"{name} is {array.shape}, not {specs[name].shape}")
        elif array.dtype.name not in FLOAT_TYPES:
            faults.append(f"{name} is {array.dtype}, not float32 or float64")
        elif not np.isfinite(array).all():
            faults.append(f"{name} holds NaN or infinity")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        network = architecture if head == Head.fcn32s else f"{architecture} {head}"
        raise InputError(f"{path}: not {network} with {num_classes} classes: {faults[0]}{more}")


def _list(
    path: Path, metadata: Mapping[str, str], key: str, kind: type, count: int
) -> list[Any] | None:
    """A metadata entry: a JSON list of `count` values of a type; None where it is absent."""
    if key not in metadata:
        return None
    try:
        values = parse_json(metadata[key])
    except ValueError:
        values = None
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise InputError(f"{path}: metadata {key} is not a list: {shortened(metadata[key])}")
    if len(values) != count:
        raise InputError(f"{path}: metadata {key} has {len(values)} entries, not {count}")
    return values


def _statistics(
    path: Path, metadata: Mapping[str, str], key: str, default: tuple[float, float, float]
) -> tuple[float, float, float]:
    red, green, blue = _list(path, metadata, key, float, 3) or default
    return red, green, blue


def class_count(text: str) -> int | None:
    """A number of classes, 1 to 255, in the digits of metadata; None of all else."""
    count = int(text) if re.fullmatch("[0-9]{1,3}", text) else 0
    return count if 1 <= count <= VOID else None


def _num_classes(path: Path, metadata: Mapping[str, str], arrays: Mapping[str, Array]) -> int:
    """What the metadata says; without it, the rows of `final_conv`."""
    if "num_classes" not in metadata:
        return max(1, arrays["final_conv.bias"].size) if "final_conv.bias" in arrays else 1
    text = metadata["num_classes"]
    count = class_count(text)
    if count is None:
        told = shortened(text)
        raise InputError(f"{path}: metadata num_classes is {told}, not a number from 1 to {VOID}")
    return count


def read_weights(path: Path) -> Weights:
    """A canonical weights file or a checkpoint, checked whole before anything uses it.

    Raises:
        InputError: the file, its metadata or a tensor is not what the network needs.
    """
    arrays, metadata = read_tensors(path)
    momentum = {k.removeprefix(MOMENTUM): v for k, v in arrays.items() if k.startswith(MOMENTUM)}
    arrays = {k: v for k, v in arrays.items() if not k.startswith(MOMENTUM)}
    return weights_of(path, arrays, metadata, momentum)


def weights_of(
    path: Path,
    arrays: dict[str, Array],
    metadata: Mapping[str, str],
    momentum: dict[str, Array] | None = None,
) -> Weights:
    """Canonical arrays and the metadata of a file, checked; what it does not say is the default.

    Raises:
        InputError: the metadata or a tensor is not what the network needs.
    """
    architecture = metadata.get("architecture", ARCHITECTURES[0])
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"{path}: architecture {architecture!r} is unknown, have {known}")
    if "head" in metadata and metadata["head"] != head_of(arrays):
        raise InputError(
            f"{path}: metadata head is {metadata['head']!r}, its tensors are of {head_of(arrays)}"
        )
    num_classes = _num_classes(path, metadata, arrays)
    check_arrays(path, arrays, architecture, num_classes)
    names = _list(path, metadata, "class_names", str, num_classes)
    return Weights(
        arrays,
        Architecture(architecture),
        tuple(names or default_class_names(num_classes)),
        _statistics(path, metadata, "mean", IMAGENET_MEAN),
        _statistics(path, metadata, "std", IMAGENET_STD),
        momentum or {},
        dict(metadata),
    )


def metadata_of(weights: Weights) -> dict[str, str]:
    """What a file says of the network, its classes, and the images that it was made for."""
    return {
        "architecture": weights.architecture,
        "head": weights.head,
        "num_classes": str(weights.num_classes),
        "class_names": json.dumps(list(weights.class_names)),
        "channels": "RGB",
        "range": "[0, 1]",
        "mean": json.dumps(list(weights.mean)),
        "std": json.dumps(list(weights.std)),
    }


def write_weights(path: Path, weights: Weights, previous: Path | None = None) -> None:
    """Writes canonical weights; with `momentum`, a checkpoint.

    A checkpoint has `extra` and its digest, and is read again before it takes the name; what had
    the name keeps `previous`.

    Raises:
        InputError: the file cannot be written.
    """
    facts = metadata_of(weights)
    if not weights.momentum:
        write_tensors(path, weights.arrays, facts)
        return
    arrays = weights.arrays | {MOMENTUM + name: a for name, a in weights.momentum.items()}
    facts |= weights.extra
    facts[DIGEST] = digest(arrays, facts)
    write_tensors(path, arrays, facts, read_weights, previous)
