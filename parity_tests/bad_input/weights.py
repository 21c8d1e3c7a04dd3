"""What is done to weights."""

import io
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

from common.weights.checkpoint import read_tensors, read_weights, write_tensors, write_weights
from parity_tests.bad_input.files import (
    as_it_is,
    empty,
    flipped,
    half,
    html,
    missing,
    rewrite,
    several,
)
from parity_tests.bad_input.trial import USE, WEIGHTS, WIDTH, Row, more_classes, table
from scripts.shared.weights_files import load_network

CONV1 = "backbone.conv1.weight"
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


def cast(name: str, dtype: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: arrays[name].astype(dtype)}


def with_value(name: str, value: float) -> Callable[[Arrays], Arrays]:
    """The last value of an array is another."""

    def change(arrays: Arrays) -> Arrays:
        array = arrays[name].copy()
        array.flat[-1] = value
        return arrays | {name: array}

    return change


def prefixed(prefix: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {f"{prefix}{name}": array for name, array in arrays.items()}


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {n: array for n, array in arrays.items() if n != name}


def header(length: int, content: bytes = b"{}") -> Callable[[bytes], bytes]:
    """A safetensors file that says its header is `length` bytes long."""
    return lambda data: struct.pack("<Q", length) + content


def as_checkpoint() -> None:
    """The weights with a momentum, as a run saves them."""
    found = read_weights(WEIGHTS)
    momentum = {"final_conv.bias": found.arrays["final_conv.bias"]}
    names = found.class_names
    write_weights(WEIGHTS, found.arrays, "resnet18", names, momentum=momentum)


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


NO_FILE = "not a readable safetensors file"
UNREADABLE = f"{NO_FILE}|no weights of safetensors, torch.save"
BY = (network,)

ROWS = [
    *table(
        *(
            (what, rewrite(WEIGHTS, change), f"{WEIGHTS}: ({UNREADABLE})")
            for what, change in (
                ("weights cut short", half),
                ("weights short by a byte", lambda data: data[:-1]),
                ("empty weights", empty),
                ("HTML as weights", html),
                ("header of 2^62 bytes", header(2**62)),
                ("header of 99 MB in a file of 10 bytes", header(99_000_000)),
                ("header that claims more than there is", lambda data: data[:20_000] + data[-999:]),
            )
        ),
        (
            "a bit of a checkpoint flipped",
            several(as_checkpoint, rewrite(WEIGHTS, flipped)),
            f"{WEIGHTS}: damaged: its contents are not those of its",
        ),
        ("no such weights", missing(WEIGHTS), f"{WEIGHTS}: no such file"),
        *(
            (what, tensors(change), f"{WEIGHTS}: .*{says}")
            for what, change, says in (
                (
                    "a tensor missing",
                    without("backbone.layer4.1.bn2.bias"),
                    rf"backbone.layer4.1.bn2.bias \({8 * WIDTH},\) is missing",
                ),
                (
                    "a tensor too many",
                    lambda arrays: arrays | {"fc.weight": np.zeros((2, 3), "f")},
                    r"fc.weight \(2, 3\)",
                ),
                (
                    "a tensor of another shape",
                    lambda arrays: arrays | {CONV1: np.zeros((WIDTH, 3, 3, 3), "f")},
                    rf"{CONV1} is \({WIDTH}, 3, 3, 3\), not \({WIDTH}, 3, 7, 7\)",
                ),
                ("float16", cast("final_conv.bias", "f2"), "final_conv.bias is float16, not"),
                ("integers", cast("final_conv.bias", "i8"), "final_conv.bias is int64, not"),
                ("NaN", with_value("backbone.bn1.running_var", np.nan), "running_var holds NaN"),
                ("infinity", with_value("final_conv.bias", np.inf), "bias holds NaN or infinity"),
                (
                    "names that begin with net.",
                    prefixed("net."),
                    f"({CONV1} .* is missing|net.backbone.bn1.bias)",
                ),
            )
        ),
        (
            "another architecture",
            tensors(architecture="resnet50"),
            f"{WEIGHTS}: .*architecture 'resnet50' is unknown",
        ),
        (
            "metadata of another number of classes",
            tensors(num_classes="7"),
            f"{WEIGHTS}: .*not resnet18 with 7 classes: final_conv.(bias|weight) is .6,",
        ),
        by=BY,
        refuses=USE,
    ),
    Row(
        "names that begin with module.",
        tensors(prefixed("module.")),
        by=BY,
        accepts="evaluate predict convert",
        like=as_it_is,
    ),
    Row(
        "7 classes, the data has 6",
        partial(more_classes, tuple("abcdefg")),
        f"{WEIGHTS}: .*7 classes, (data has|not) 6",
        refuses="train evaluate",
    ),
    Row(
        "float64",
        tensors(lambda arrays: {name: array.astype("f8") for name, array in arrays.items()}),
        by=BY,
        accepts="evaluate predict",
        like=as_it_is,
    ),
    *(
        Row(
            f"{kind} with a payload as {path.suffix}",
            spoil,
            f"{path}: .*({UNREADABLE}|{says})",
            by=(partial(network, path),),
            refuses=USE,
            weights=path,
        )
        for kind, path, spoil, says in (
            (
                "pickle",
                PTH,
                state_dict(a=Payload()),
                "it asks for posix.mkdir, and nothing but tensors is unpickled",
            ),
            (
                "pickle",
                STATES,
                lambda: STATES.write_bytes(pickle.dumps({0: Payload()})),
                "not a whole file of tensors by torch.save",
            ),
            (
                "old pickle",
                PARAMS,
                lambda: PARAMS.write_bytes(pickle.dumps(Payload(), protocol=0)),
                NO_FILE,
            ),
        )
    ),
    Row(
        ".pth cut short",
        state_dict(half),
        f"{PTH}: not a whole file of tensors by torch.save",
        by=(partial(network, PTH),),
        refuses="convert",
        weights=PTH,
    ),
    Row(
        ".pth of a big-endian machine",
        state_dict(big_endian),
        by=(partial(network, PTH),),
        accepts="convert",
        like=state_dict(),
        weights=PTH,
    ),
]
