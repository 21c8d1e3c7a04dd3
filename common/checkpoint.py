"""Weights files: canonical safetensors, read with every check and written whole or not at all."""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from common.config import IMAGENET_MEAN, IMAGENET_STD
from common.errors import InputError
from common.names import ARCHITECTURES, tensors
from common.voc import VOC_CLASSES

Array = NDArray[Any]

FLOAT_TYPES = {"F32": "float32", "F64": "float64"}
"""The value types that weights may have, by safetensors' name."""

MOMENTUM = "momentum/"
"""Prefix of SGD's v in a checkpoint; a plain weights file has none."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network's weights and what must be known to use them.

    `arrays` holds every tensor of `common.names.tensors`, float32 or float64. `momentum` is empty
    but in a checkpoint. `extra` is what else a checkpoint says, as strings.
    """

    arrays: dict[str, Array]
    architecture: str
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    momentum: dict[str, Array] = dataclasses.field(default_factory=dict)
    extra: dict[str, str] = dataclasses.field(default_factory=dict)


def default_class_names(num_classes: int) -> tuple[str, ...]:
    """VOC's names if there are 21 classes, else class_0, class_1, ..."""
    if num_classes == len(VOC_CLASSES):
        return VOC_CLASSES
    return tuple(f"class_{k}" for k in range(num_classes))


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays and the metadata of a safetensors file.

    Raises:
        InputError: there is no such file, or it is no safetensors file, or is truncated, or
            holds a value type that NumPy lacks.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (safetensors.SafetensorError, TypeError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable safetensors file: {reason}") from error


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` on a temporary file beside `path`, then moves it there: whole or not at all.

    The file is flushed to the disk before it takes the name, and the folder after.

    Raises:
        InputError: the folder cannot be written to, or the disk is full; `path` is untouched.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o644)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{path}: cannot be written: {reason}") from error


def write_tensors(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Writes arrays and metadata as one safetensors file.

    Raises:
        InputError: the file cannot be written.
    """
    # safetensors writes an array that is not contiguous wrongly, without a word
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_whole(path, lambda p: safetensors.numpy.save_file(contiguous, p, dict(metadata)))


def check_arrays(
    path: Path, arrays: Mapping[str, Array], architecture: str, num_classes: int
) -> None:
    """Holds arrays against the network: names both ways, shapes, float32 or float64.

    Raises:
        InputError: the first thing that does not fit, by name and shape, and how many more.
    """
    specs = tensors(architecture, num_classes)
    faults = [f"{name} {specs[name].shape} is missing" for name in specs if name not in arrays]
    for name, array in arrays.items():
        if name not in specs:
            faults.append(f"{name} {array.shape} is not part of {architecture}")
        elif array.shape != specs[name].shape:
            faults.append(f"{name} is {array.shape}, not {specs[name].shape}")
        elif array.dtype.name not in FLOAT_TYPES.values():
            faults.append(f"{name} is {array.dtype}, not float32 or float64")
        elif not np.isfinite(array).all():
            faults.append(f"{name} holds NaN or infinity")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(
            f"{path}: not {architecture} with {num_classes} classes: {faults[0]}{more}"
        )


def _json(path: Path, metadata: Mapping[str, str], key: str) -> Any:
    if key not in metadata:
        return None
    try:
        return json.loads(metadata[key])
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: metadata {key} is not JSON: {metadata[key]!r}") from error


def _statistics(
    path: Path, metadata: Mapping[str, str], key: str, default: tuple[float, float, float]
) -> tuple[float, float, float]:
    values = _json(path, metadata, key)
    if values is None:
        return default
    if not isinstance(values, list) or len(values) != 3:
        raise InputError(f"{path}: metadata {key} is not a list of three numbers: {values!r}")
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _num_classes(path: Path, metadata: Mapping[str, str], arrays: Mapping[str, Array]) -> int:
    """What the metadata says; without it, the rows of `final_conv`."""
    if "num_classes" not in metadata:
        return len(arrays["final_conv.bias"]) if "final_conv.bias" in arrays else len(VOC_CLASSES)
    text = metadata["num_classes"]
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 255:
        raise InputError(f"{path}: metadata num_classes is {text!r}, not a number from 1 to 255")
    return int(text)


def read_weights(path: Path) -> Weights:
    """A canonical weights file or a checkpoint, checked whole before anything uses it.

    Raises:
        InputError: the file, its metadata or a tensor is not what the network needs.
    """
    arrays, metadata = read_tensors(path)
    momentum = {k.removeprefix(MOMENTUM): v for k, v in arrays.items() if k.startswith(MOMENTUM)}
    arrays = {k: v for k, v in arrays.items() if not k.startswith(MOMENTUM)}
    architecture = metadata.get("architecture", ARCHITECTURES[0])
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"{path}: architecture {architecture!r} is unknown, have {known}")
    num_classes = _num_classes(path, metadata, arrays)
    check_arrays(path, arrays, architecture, num_classes)
    names = _json(path, metadata, "class_names") or list(default_class_names(num_classes))
    if len(names) != num_classes:
        raise InputError(f"{path}: {len(names)} class_names for {num_classes} classes")
    return Weights(
        arrays,
        architecture,
        num_classes,
        tuple(str(name) for name in names),
        _statistics(path, metadata, "mean", IMAGENET_MEAN),
        _statistics(path, metadata, "std", IMAGENET_STD),
        momentum,
        dict(metadata),
    )


def write_weights(
    path: Path,
    arrays: Mapping[str, Array],
    architecture: str,
    class_names: Sequence[str],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    momentum: Mapping[str, Array] | None = None,
    **extra: str,
) -> None:
    """Writes canonical weights; with `momentum` and `extra`, a checkpoint.

    Raises:
        InputError: the file cannot be written.
    """
    metadata = {
        "architecture": architecture,
        "num_classes": str(len(class_names)),
        "class_names": json.dumps(list(class_names)),
        "mean": json.dumps(list(mean)),
        "std": json.dumps(list(std)),
    }
    velocity = {MOMENTUM + name: array for name, array in (momentum or {}).items()}
    write_tensors(path, {**arrays, **velocity}, metadata | extra)
