"""Converts weights between canonical safetensors and the formats of other programs."""

import enum
import errno
import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from backends import load_backend
from common.config import IMAGENET_MEAN, IMAGENET_STD, Architecture, Config, Dtype, Head
from common.errors import InputError
from common.files import sha256, write_folder, write_whole
from common.network.tensors import in_head
from common.weights.checkpoint import Weights, default_class_names, metadata_of, write_tensors
from common.weights.namings import ANY_HEAD, HEAD, NAMINGS, names_in, rename
from scripts.shared.cli import ForceOption, JsonOption, main, new_app, say, write_json
from scripts.shared.outputs import JSON, ONNX, check_places
from scripts.shared.weights_files import (
    FRAMEWORKS,
    MXNET,
    ORBAX,
    SAFETENSORS,
    TORCH,
    Loaded,
    load_weights,
)

HELP = """
Convert weights between safetensors, torch.save, MXNet .params and Orbax; write ONNX.

IN has the names of torchvision, Gluon, GluonCV, the book's FCN in PyTorch or MXNet, or ours;
`imagenet` is what torchvision (resnet18) or Gluon (resnet18_v2) publishes. OUT, with --to:

\b
canonical    safetensors, for every command here
torchvision  models.resnet18().load_state_dict(torch.load(OUT), strict=False)
book         the book's network: net.load_state_dict(torch.load(OUT))
gluon        vision.resnet18_v1().load_parameters(OUT, allow_missing=True), or _v2
gluoncv      resnet18_v1b().load_parameters(OUT, allow_missing=True)
book-mxnet   the book's network on v1 or v2: net.load_parameters(OUT)
orbax        our JAX network: PyTreeCheckpointer().restore(OUT); Flax's names
onnx         InferenceSession(OUT); `image` in, `logits` out, sides multiples of 32

torchvision, gluon and gluoncv hold the backbone alone, to go on with as a feature extractor. What
is for PyTorch is safetensors if OUT is called .safetensors.
"""

app = new_app()


class To(enum.StrEnum):
    """The values of `--to`."""

    canonical = "canonical"
    torchvision = "torchvision"
    book = "book"
    gluon = "gluon"
    gluoncv = "gluoncv"
    book_mxnet = "book-mxnet"
    orbax = "orbax"
    onnx = "onnx"

    @property
    def naming(self) -> str:
        """One of `common.weights.namings.NAMINGS`; in an ONNX graph weights may have any name."""
        return {To.orbax: "flax", To.onnx: "canonical"}.get(self, self.value)


CONTAINERS = {
    To.canonical: SAFETENSORS,
    To.torchvision: TORCH,
    To.book: TORCH,
    To.gluon: MXNET,
    To.gluoncv: MXNET,
    To.book_mxnet: MXNET,
    To.orbax: ORBAX,
    To.onnx: ONNX,
}


def _container(to: To, out: Path) -> str:
    """What kind of file is written; PyTorch's libraries read safetensors too."""
    suffixed = CONTAINERS[to] == TORCH and out.suffix == ".safetensors"
    return SAFETENSORS if suffixed else CONTAINERS[to]


def remarks(loaded: Loaded, to: To, container: str) -> list[str]:
    """What was added, left out and ignored on the way, a line each."""
    weights, held = loaded.weights, names_in(to.naming, loaded.weights.architecture)
    notes = list(loaded.notes)
    if HEAD[0] not in held and not loaded.has_head:
        notes.pop()  # of the head that was made for nothing
    elif HEAD[0] not in held:
        head = [
            f"{name} {weights.arrays[name].shape}"
            for name in names_in("canonical", weights.architecture, weights.head)
            if in_head(name)
        ]
        notes.append(f"left out: {', '.join(head)}")
    if weights.momentum:
        notes.append(f"left out: the checkpoint's momentum, {len(weights.momentum)} tensors")
    special = {
        "class_names": weights.class_names != default_class_names(weights.num_classes),
        "mean": weights.mean != IMAGENET_MEAN,
        "std": weights.std != IMAGENET_STD,
    }
    lost = [key for key, value in special.items() if value]
    if container in (TORCH, MXNET) and lost:
        notes.append(f"left out: {', '.join(lost)}, for which {container} has no place")
    if to == To.onnx and any(array.dtype != Dtype.float32 for array in weights.arrays.values()):
        notes.append("rounded to float32")
    return notes


def _write_onnx(path: Path, weights: Weights, metadata: dict[str, str]) -> None:
    try:
        from scripts.shared.onnx import export_onnx
    except ImportError as error:
        raise InputError(
            f"--to onnx: {error.name} is not installed;"
            " install with: pip install '.[torch]' onnx onnxruntime"
        ) from error
    config = Config(
        architecture=weights.architecture,
        head=weights.head,
        num_classes=weights.num_classes,
        width=weights.width,
    )
    export_onnx(path, weights.arrays, config, metadata)


def write_output(out: Path, weights: Weights, to: To, container: str) -> int:
    """Writes the file, whole or not at all; the number of its tensors.

    Raises:
        InputError: the file cannot be written, or needs a framework that is not installed.
    """
    arrays = rename(weights.arrays, to.naming, weights.architecture)
    metadata = metadata_of(weights)
    if container == SAFETENSORS:
        # what PyTorch's libraries look for
        more = {} if to == To.canonical else {"format": "pt"}
        write_tensors(out, arrays, metadata | more)
    elif container == ONNX:
        _write_onnx(out, weights, metadata)
    else:
        backend = load_backend(FRAMEWORKS[container])

        def write(temporary: Path) -> None:
            size = sum(array.nbytes for array in arrays.values())
            if container == ORBAX and shutil.disk_usage(temporary.parent).free < size:
                # in the middle, Orbax would print a traceback for each array
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            try:
                backend.write_arrays(temporary, arrays, metadata)
            except ValueError as error:  # Orbax makes one of a full disk
                raise OSError(str(error)) from error

        (write_folder if container == ORBAX else write_whole)(out, write)
    return len(arrays)


@app.command(help=HELP)
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Read by content, not by name; or `imagenet`.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; orbax: a folder.")],
    to: Annotated[To, typer.Option(help="For which program.")] = To.canonical,
    num_classes: Annotated[
        int | None,
        typer.Option(min=1, max=255, help="Classes of the head that a backbone gets; else 21."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that head.")] = Config.seed,
    architecture: Annotated[
        Architecture | None, typer.Option(help="What IN must be; of `imagenet`, else resnet18.")
    ] = None,
    head: Annotated[
        Head | None,
        typer.Option(help="Make the head another; of a backbone, which it gets, else fcn32s."),
    ] = None,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Writes one program's weights for another; the options are described by `HELP`."""
    container = _container(to, out)
    if container == ORBAX and out.exists():
        raise InputError(f"{out}: is there already; an Orbax checkpoint is a new folder")
    check_places((out, container), (json, JSON), reads=[source], force=force)
    loaded = load_weights(
        source, num_classes=num_classes, seed=seed, architecture=architecture, head=head
    )
    has = loaded.weights.architecture
    if to.naming not in NAMINGS[has]:
        raise InputError(f"{source}: its network is {has}, and --to {to} is of another")
    made, held = loaded.weights.head, names_in(to.naming, has)
    if HEAD[0] in held and to.naming not in ANY_HEAD and made != Head.fcn32s:
        raise InputError(f"{source}: its head is {made}, and --to {to} knows {Head.fcn32s} alone")
    notes = remarks(loaded, to, container)
    count = write_output(out, loaded.weights, to, container)
    digest = None if out.is_dir() else sha256(out)
    for note in notes:
        say(note)
    say(
        f"{source} ({loaded.naming}, {loaded.container}) -> {out} ({to}, {container}):"
        f" {count} tensors" + (f", sha256 {digest[:12]}" if digest else "")
    )
    result = {
        "input": {"path": str(source), "naming": loaded.naming, "container": loaded.container},
        "output": {"path": str(out), "naming": to, "container": container, "sha256": digest},
        "architecture": has,
        "head": made,
        "tensors": count,
        "num_classes": loaded.weights.num_classes,
        "notes": notes,
    }
    write_json(json, result)


if __name__ == "__main__":
    main(app)
