"""Converts weights between canonical safetensors and the formats of other programs."""

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray

from backends import load_backend
from common.checkpoint import (
    MOMENTUM,
    Weights,
    check_arrays,
    default_class_names,
    read_tensors,
    read_weights,
    sha256,
    write_tensors,
    write_weights,
    write_whole,
)
from common.config import Config
from common.errors import InputError
from common.formats import HEAD, Renamed, recognise, rename
from common.initial import initial_weights
from common.names import ARCHITECTURES
from scripts.cli import JsonOption, main, new_app, write_json

Array = NDArray[Any]

SAFETENSORS = "safetensors"
TORCH = "torch.save"
READERS = {TORCH: "torch", "MXNet .params": "mxnet", "Orbax": "jax"}
"""Which backend reads a container; safetensors needs none."""

MXNET_MAGIC = (0x112).to_bytes(8, "little")
SAFETENSORS_HEADER_LIMIT = 100_000_000
"""In bytes; the library refuses a longer one."""

METADATA = ("num_classes", "class_names", "mean", "std")
"""What a canonical file says of its classes and images; it goes over with a whole network."""

app = new_app()


class Naming(enum.StrEnum):
    """The values of `--to`."""

    canonical = "canonical"
    torchvision = "torchvision"
    book = "book"


@dataclass(frozen=True)
class Source:
    """What a file holds, by its own names; of a checkpoint's momentum, only how many tensors."""

    container: str
    arrays: dict[str, Array]
    metadata: dict[str, str]
    momentum: int


def container_of(path: Path) -> str:
    """Which program's file it is, by its first bytes: its name says nothing.

    Raises:
        InputError: there is no such file, or it is of no kind that is known.
    """
    if path.is_dir():
        return "Orbax"
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    # safetensors first: the length of its header may begin like a pickle
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= SAFETENSORS_HEADER_LIMIT:
        return SAFETENSORS
    if head.startswith(MXNET_MAGIC):
        return "MXNet .params"
    # a zip archive, or the pickle (protocol 2 and later) of torch.save before version 1.6
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        return TORCH
    begins = f"begins with {head[:8]!r}" if head else "is empty"
    raise InputError(f"{path}: no weights of safetensors, torch.save, MXNet or Orbax: {begins}")


def read_source(path: Path) -> Source:
    """Every tensor of a file of any known container.

    Raises:
        InputError: it is of no known kind, damaged, holds more than tensors, or its framework is
            not installed.
    """
    container = container_of(path)
    metadata: dict[str, str] = {}
    if container == SAFETENSORS:
        arrays, metadata = read_tensors(path)
    else:
        try:
            backend = load_backend(READERS[container])
        except InputError as error:
            raise InputError(f"{path}: {container} needs a framework: {error}") from error
        arrays = backend.read_arrays(path)
    weights = {name: array for name, array in arrays.items() if not name.startswith(MOMENTUM)}
    return Source(container, weights, metadata, momentum=len(arrays) - len(weights))


def _head_classes(path: Path, arrays: Mapping[str, Array]) -> int:
    """What most of the head's tensors say; `check_arrays` finds the one that differs."""
    counts = Counter(arrays[name].shape[0] for name in HEAD if name in arrays and arrays[name].ndim)
    count = counts.most_common(1)[0][0] if counts else 0
    if not 1 <= count <= 255:
        raise InputError(f"{path}: the head's number of classes is not from 1 to 255")
    return count


def with_head(
    path: Path, renamed: Renamed, architecture: str, num_classes: int | None, seed: int
) -> tuple[dict[str, Array], int]:
    """The network's arrays, checked, and its number of classes; a head that lacks is made.

    Raises:
        InputError: a tensor is missing, has the wrong shape or type or is not finite, or
            `num_classes` is not what the head has.
    """
    arrays = dict(renamed.arrays)
    if renamed.has_head:
        count = _head_classes(path, arrays)
        if num_classes not in (None, count):
            raise InputError(f"--num-classes {num_classes}: the head of {path} has {count} classes")
    else:
        count = num_classes or Config.num_classes
        initial = initial_weights(architecture, count, seed)
        arrays |= {name: initial[name] for name in HEAD}
    check_arrays(path, arrays, architecture, count)
    return arrays, count


def complete(
    path: Path, source: Source, renamed: Renamed, num_classes: int | None, seed: int
) -> Weights:
    """The whole network's weights, with what a canonical file says of its classes and images.

    Raises:
        InputError: as `with_head`, or the metadata of a canonical file is at fault.
    """
    architecture = ARCHITECTURES[0]
    arrays, count = with_head(path, renamed, architecture, num_classes, seed)
    # by exactly these names, not without the head nor with a prefix
    whole = source.container == SAFETENSORS and set(arrays) == set(source.arrays)
    if whole:
        return read_weights(path)
    return Weights(arrays, architecture, count, default_class_names(count))


def remarks(
    source: Source, renamed: Renamed, weights: Weights, naming: Naming, seed: int
) -> list[str]:
    """What was added, left out and ignored, a line each."""
    lines = []
    if source.momentum:
        lines.append(f"left out: the checkpoint's momentum, {source.momentum} tensors")
    lost = [key for key in METADATA if key in source.metadata and key not in weights.extra]
    if lost:
        lines.append(f"left out: metadata {', '.join(lost)}")
    left_out = [f"{name} {shape}" for name, shape in renamed.left_out.items()]
    if naming == Naming.torchvision and renamed.has_head:
        left_out += [f"{name} {weights.arrays[name].shape}" for name in HEAD]
    if left_out:
        lines.append(f"left out: {', '.join(left_out)}")
    if renamed.ignored:
        lines.append(f"ignored: {len(renamed.ignored)} num_batches_tracked")
    if naming != Naming.torchvision and not renamed.has_head:
        classes = "1 class" if weights.num_classes == 1 else f"{weights.num_classes} classes"
        lines.append(f"final_conv and transpose_conv: initial values of seed {seed}, {classes}")
    return lines


def write_output(out: Path, weights: Weights, naming: Naming) -> tuple[str, int]:
    """Writes the file, whole or not at all; its container and number of tensors.

    Raises:
        InputError: the file cannot be written, or needs PyTorch and there is none.
    """
    arrays = rename(weights.arrays, naming, weights.architecture)
    if naming == Naming.canonical:
        names, mean, std = weights.class_names, weights.mean, weights.std
        write_weights(out, arrays, weights.architecture, names, mean, std)
    elif out.suffix == ".safetensors":
        write_tensors(out, arrays, {"format": "pt"})  # what PyTorch's libraries look for
    else:
        backend = load_backend("torch")
        write_whole(out, lambda temporary: backend.write_arrays(temporary, arrays))
        return TORCH, len(arrays)
    return SAFETENSORS, len(arrays)


def _check_places(source: Path, out: Path, json: Path | None) -> None:
    """Finds what cannot be written before anything is read."""
    for path in (out, json):
        if path is not None and not path.absolute().parent.is_dir():
            raise InputError(f"{path}: no such folder: {path.parent}")
        if path is not None and path.is_dir():
            raise InputError(f"{path}: is a folder")
        if path is not None and path.exists() and source.exists() and path.samefile(source):
            raise InputError(f"{path}: would overwrite the input")
    if json is not None and json.absolute() == out.absolute():
        raise InputError(f"{json}: is the output and --json at once")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Read by content, not by name.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    to: Annotated[Naming, typer.Option(help="Whose names the tensors get.")] = Naming.canonical,
    num_classes: Annotated[
        int | None,
        typer.Option(min=1, max=255, help="Classes of the head that a backbone gets; else 21."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that head.")] = Config.seed,
    json: JsonOption = None,
) -> None:
    """Convert weights between safetensors, torch.save, MXNet .params and Orbax.

    IN may have canonical names, those of torchvision's resnet18 or those of the book's FCN. OUT
    is safetensors for canonical names, else torch.save's, unless it is called .safetensors.
    """
    _check_places(source, out, json)
    found = read_source(source)
    renamed = recognise(source, found.arrays, ARCHITECTURES[0])
    weights = complete(source, found, renamed, num_classes, seed)
    container, count = write_output(out, weights, to)
    notes = remarks(found, renamed, weights, to, seed)
    digest = sha256(out)
    for note in notes:
        print(note)
    print(
        f"{source} ({renamed.naming}, {found.container}) -> {out} ({to}, {container}):"
        f" {count} tensors, sha256 {digest[:12]}"
    )
    result = {
        "input": {"path": str(source), "naming": renamed.naming, "container": found.container},
        "output": {"path": str(out), "naming": to, "container": container, "sha256": digest},
        "tensors": count,
        "num_classes": weights.num_classes,
        "notes": notes,
    }
    write_json(json, result)


if __name__ == "__main__":
    main(app)
