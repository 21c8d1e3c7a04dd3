"""What is done to weights."""

import io
import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.weights.checkpoint import (
    Weights,
    read_tensors,
    read_weights,
    write_tensors,
    write_weights,
)
from parity_tests.bad_input.files import (
    NESTED,
    as_it_is,
    empty,
    fifo,
    flipped,
    half,
    html,
    missing,
    rewrite,
    several,
)
from parity_tests.bad_input.trial import WEIGHTS, WIDTH, Row, more_classes, table
from scripts.shared.weights_files import load_network

CONV1, BIAS = "backbone.conv1.weight", "final_conv.bias"
LAST_BETA = "backbone.layer4.1.bn2.bias"
USE = "train evaluate predict convert"
"""The commands that read weights."""
Arrays = dict[str, Any]


def network(path: Path = WEIGHTS) -> object:
    """The weights, as every command that takes any file reads them."""
    return load_network(path).arrays


def tensors(change: Callable[[Arrays], Arrays] = dict, **metadata: str) -> Callable[[], None]:
    """Changes the arrays of the weights file, and entries of its metadata."""

    def spoil() -> None:
        arrays, told = read_tensors(WEIGHTS)
        write_tensors(WEIGHTS, change(arrays), told | metadata)

    return spoil


def cast(dtype: str, *names: str) -> Callable[[Arrays], Arrays]:
    """Arrays of another type, all if none is named."""
    return lambda arrays: arrays | {name: arrays[name].astype(dtype) for name in names or arrays}


def last(name: str, value: float) -> Callable[[Arrays], Arrays]:
    """The last value of a vector is another."""
    return lambda arrays: arrays | {name: np.append(arrays[name][:-1], np.float32(value))}


def prefixed(prefix: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {f"{prefix}{name}": array for name, array in arrays.items()}


def header(length: int, content: bytes = b"{}") -> Callable[[bytes], bytes]:
    """A safetensors file that says its header is `length` bytes long."""
    return lambda data: struct.pack("<Q", length) + content


def shaped(shape: list[int]) -> Callable[[bytes], bytes]:
    """A safetensors file of one array, of a shape that is made up."""
    size = 4 * math.prod(shape)
    told = json.dumps({CONV1: {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}})
    return header(len(told), told.encode() + bytes(size))


def as_checkpoint() -> None:
    """The weights with a momentum, as a run saves them."""
    found = read_weights(WEIGHTS)
    momentum = {"final_conv.bias": found.arrays["final_conv.bias"]}
    names = found.class_names
    write_weights(WEIGHTS, Weights(found.arrays, "resnet18", names, momentum=momentum))


class Payload:
    """What a pickle may do to whoever loads it: here, make a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


PTH, STATES, PARAMS = Path("W.pth"), Path("W.states"), Path("W.params")


def state_dict(change: Callable[[bytes], bytes] = bytes, **more: Any) -> Callable[[], None]:
    """The weights as PyTorch's state dict, W.pth, and `more` in it."""

    def spoil() -> None:
        arrays, _ = read_tensors(WEIGHTS)
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        file = io.BytesIO()
        torch.save(state | more, file)
        PTH.write_bytes(change(file.getvalue()))

    return spoil


def big_endian(data: bytes) -> bytes:
    """A state dict of float32 as a big-endian machine saves it."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("/byteorder"):
                content = b"big"
            elif "/data/" in name:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(name, content)
    return file.getvalue()


def compressed(data: bytes) -> bytes:
    """A state dict whose archive a program has packed again."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return file.getvalue()


NO_FILE = "not a readable safetensors file"
UNREADABLE = f"({NO_FILE}|no weights of safetensors, torch.save)"
BY, BY_PTH = (network,), (partial(network, PTH),)

# fmt: off
ROWS = [
    *table(
        ("weights cut short", half, UNREADABLE),
        ("weights short by a byte", lambda data: data[:-1], UNREADABLE),
        ("empty weights", empty, UNREADABLE),
        ("HTML as weights", html, UNREADABLE),
        ("header of 2^62 bytes", header(2**62), UNREADABLE),
        ("header of 99 MB in a file of 10 bytes", header(99_000_000), UNREADABLE),
        ("header that claims more than there is", lambda d: d[:20_000] + d[-1000:], UNREADABLE),
        ("1,000 dimensions", shaped([1] * 1000), f"{CONV1} has 1000 dimensions, more than 32"),
        ("a huge shape that is empty", shaped([0, 2**62]), ".* is .*: huge, and holds nothing"),
        how=rewrite, at=WEIGHTS, by=BY, refuses=USE,
    ),
    *table(
        ("a bit of a checkpoint flipped", several(as_checkpoint, rewrite(WEIGHTS, flipped)),
         "damaged: its contents are not those of its"),
        ("no such weights", missing(WEIGHTS), "no such file"),
        ("another architecture", tensors(architecture="resnet50"),
         ".*architecture 'resnet50' is unknown"),
        ("metadata of another number of classes", tensors(num_classes="7"),
         r".*not resnet18 with 7 classes: final_conv.(bias|weight) is \(6,"),
        *((f"metadata of {told[:9]} classes", tensors(num_classes=told), "metadata num_classes is")
          for told in ("\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT SIX}", "9" * 10, "9" * 5000)),
        ("class names nested 10,000 deep", tensors(class_names=NESTED.decode()),
         "metadata class_names is not a list"),
        ("FIFO as weights", fifo(WEIGHTS), "no file, but a FIFO"),
        ("a tensor missing", tensors(lambda a: {k: a[k] for k in a if k != LAST_BETA}),
         rf".*{LAST_BETA} \({8 * WIDTH},\) is missing"),
        ("a tensor too many", tensors(lambda a: a | {"fc.weight": np.zeros((2, 3), "f")}),
         r".*fc.weight \(2, 3\)"),
        ("a tensor of another shape", tensors(lambda a: a | {CONV1: a[CONV1][:, :, :3, :3]}),
         rf".*{CONV1} is \({WIDTH}, 3, 3, 3\), not \({WIDTH}, 3, 7, 7\)"),
        ("integers", tensors(cast("i8", BIAS)), f".*{BIAS} is int64, not"),
        ("NaN", tensors(last("backbone.bn1.running_var", np.nan)), ".*_var holds NaN"),
        ("infinity", tensors(last(BIAS, np.inf)), f".*{BIAS} holds NaN or infinity"),
        at=WEIGHTS, by=BY, refuses=USE,
    ),
    *(Row(f"names that begin with {prefix}", tensors(prefixed(prefix)),
          rf"{WEIGHTS}: unwrapped: {prefix[:-1]}", by=BY, notes="evaluate predict",
          accepts="convert", like=as_it_is)
      for prefix in ("module.", "net.")),
    Row("float16", tensors(cast("f2")), f"{WEIGHTS}: float16 made float32: 104 tensors", by=BY,
        notes="evaluate predict", accepts="convert"),
    Row("float64", tensors(cast("f8")), by=BY, accepts="evaluate predict", like=as_it_is),
    Row("7 classes, the data has 6", partial(more_classes, tuple("abcdefg")),
        f"{WEIGHTS}: .*7 classes, (data has|not) 6", refuses="train evaluate"),
    *(Row(f"{what} with a payload as {path.suffix}", spoil, f"{path}: .*({UNREADABLE}|{says})",
          by=(partial(network, path),), refuses=USE, weights=path)
      for what, path, spoil, says in (
          ("pickle", PTH, state_dict(a=Payload()),
           "it asks for posix.mkdir, and nothing but tensors is unpickled"),
          ("pickle", STATES, lambda: STATES.write_bytes(pickle.dumps({0: Payload()})),
           "not a whole file of tensors by torch.save"),
          ("old pickle", PARAMS, lambda: PARAMS.write_bytes(pickle.dumps(Payload(), protocol=0)),
           NO_FILE),
      )),
    *table(
        ("FIFO as .pth", fifo(PTH), "no file, but a FIFO"),
        (".pth that is compressed", state_dict(compressed), ".*a compressed archive, which torch"),
        (".pth of a value repeated to a terabyte",
         state_dict(a=torch.zeros(1).expand(2**19, 2**19)), "its tensors claim 10995.* bytes, in"),
        (".pth of 60 dimensions", state_dict(a=torch.zeros((1,) * 60)), "a has 60 dimensions"),
        at=PTH, by=BY_PTH, refuses="convert", weights=PTH,
    ),
    Row(".pth cut short", state_dict(half), f"{PTH}: not a whole file of tensors by torch.save",
        by=BY_PTH, refuses="convert", weights=PTH),
    Row(".pth of a big-endian machine", state_dict(big_endian), by=BY_PTH, accepts="convert",
        like=state_dict(), weights=PTH),
]
# fmt: on
