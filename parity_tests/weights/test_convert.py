"""`scripts.convert`: other programs' files to canonical weights and back, bit for bit.

Every fault is one line and exit code 2, and leaves no output.
"""

import copy
import functools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray

from backends import load_backend
from common.data.voc import VOC_CLASSES
from common.files import sha256
from common.network.initial import generic_weights
from common.network.tensors import tensors
from common.weights.checkpoint import (
    Weights,
    read_tensors,
    read_weights,
    write_tensors,
    write_weights,
)
from common.weights.namings import CLASSIFIER, HEAD, names_in, recognise, rename
from parity_tests.weights.conftest import WIDTH, book_torch, initial, torchvision_resnet18
from scripts.convert import app
from scripts.shared import cli

Arrays = dict[str, NDArray[Any]]
ROOT = Path(__file__).parents[2]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Runs the command in this process, in `tmp_path`; output is caught below Python."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main(app)
        assert isinstance(stop.value.code, int)
        return Outcome(stop.value.code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """Generic weights of 5 classes, float32."""
    return {n: a.astype(np.float32) for n, a in generic_weights("resnet18", 5, 0, WIDTH).items()}


@functools.cache
def _torchvision_model() -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = torchvision_resnet18()
    for tensor in model.state_dict().values():
        if tensor.dim() == 1:
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def torchvision_model() -> torch.nn.Module:
    """Torchvision's resnet18 with its own initial weights and generic BatchNorm values."""
    return copy.deepcopy(_torchvision_model())


def book_model() -> torch.nn.Module:
    """The FCN as the book builds it."""
    net: torch.nn.Module = book_torch(torchvision_model())
    return net


def zeroed(model: torch.nn.Module) -> torch.nn.Module:
    """The model with nothing left of its values."""
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def same_state(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Bit for bit, but for BatchNorm's counters and torchvision's classifier."""
    names = {n for n in a if not n.endswith("num_batches_tracked")} - set(CLASSIFIER["torchvision"])
    assert names <= set(b)
    assert [n for n in names if not torch.equal(a[n], b[n]) or a[n].dtype != b[n].dtype] == []


def same_arrays(a: Arrays, b: Arrays) -> None:
    assert list(a) and set(a) == set(b)
    assert [n for n in a if a[n].dtype != b[n].dtype or a[n].tobytes() != b[n].tobytes()] == []


# Names


@pytest.mark.parametrize("naming", ["canonical", "torchvision", "book"])
def test_each_naming_is_recognised(arrays: Arrays, naming: str) -> None:
    found = recognise(Path("W"), rename(arrays, naming, "resnet18"))
    assert (found.naming, found.has_head) == (naming, naming != "torchvision")
    expected = {n: a for n, a in arrays.items() if found.has_head or n not in HEAD}
    assert all(found.arrays[name] is array for name, array in expected.items())
    assert len(found.arrays) == len(expected)


def test_names_are_those_of_the_modules() -> None:
    book = book_model().state_dict()
    vision = torchvision_model().state_dict()
    counted = {n for n in book if not n.endswith("num_batches_tracked")}
    assert set(names_in("book", "resnet18").values()) == counted
    counted = {n for n in vision if not n.endswith("num_batches_tracked")} - set(
        CLASSIFIER["torchvision"]
    )
    assert set(names_in("torchvision", "resnet18").values()) == counted
    shapes = {n: spec.shape for n, spec in tensors("resnet18", 5, WIDTH).items()}
    theirs = names_in("book", "resnet18")
    assert {n: tuple(book[theirs[n]].shape) for n in shapes} == shapes


# There and back


@pytest.mark.parametrize("legacy", [False, True])
def test_torchvision_there_and_back(
    convert: Callable[..., Outcome], tmp_path: Path, legacy: bool
) -> None:
    model = torchvision_model()
    torch.save(model.state_dict(), "in.bin", _use_new_zipfile_serialization=not legacy)
    done = convert("in.bin", "w.safetensors", "--json", "result.json")
    assert (done.code, done.err) == (0, "")
    digest = sha256(tmp_path / "w.safetensors")
    assert done.out.splitlines() == [
        "left out: fc.weight (1000, 64), fc.bias (1000,)",
        "ignored: 20 num_batches_tracked",
        "final_conv and transpose_conv: initial values of seed 0, 21 classes",
        "in.bin (torchvision, torch.save) -> w.safetensors (canonical, safetensors):"
        f" 104 tensors, sha256 {digest[:12]}",
    ]
    result = json.loads(Path("result.json").read_text())
    assert (result["tensors"], result["output"]["sha256"]) == (104, digest)
    assert result["notes"] == done.out.splitlines()[:-1]

    weights = read_weights(Path("w.safetensors"))
    assert (weights.num_classes, weights.class_names) == (21, VOC_CLASSES)
    head = initial(num_classes=21)
    same_arrays({n: weights.arrays[n] for n in HEAD}, {n: head[n] for n in HEAD})

    done = convert("w.safetensors", "out.pth", "--to", "torchvision")
    assert done.code == 0
    assert done.out.startswith("left out: final_conv.weight (21, 64, 1, 1), final_conv.bias (21,)")
    state = torch.load("out.pth", weights_only=True)
    other = zeroed(torchvision_model())
    keys = other.load_state_dict(state, strict=False)
    assert (sorted(keys.missing_keys), keys.unexpected_keys) == (["fc.bias", "fc.weight"], [])
    same_state(model.state_dict(), other.state_dict())


def test_book_there_and_back(convert: Callable[..., Outcome]) -> None:
    net = book_model()
    torch.save(net.state_dict(), "in.pth")
    done = convert("in.pth", "w.safetensors")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("ignored: 20 num_batches_tracked\nin.pth (book, torch.save)")
    other = zeroed(book_model())
    for out in ("out.pth", "out.safetensors"):
        assert convert("w.safetensors", out, "--to", "book").code == 0
    state = torch.load("out.pth", weights_only=True)
    assert list(state) == list(names_in("book", "resnet18").values())
    other.load_state_dict(state, strict=True)
    same_state(net.state_dict(), other.state_dict())
    named, metadata = read_tensors(Path("out.safetensors"))
    assert metadata["format"] == "pt"
    same_arrays(named, {n: t.numpy() for n, t in state.items()})


def test_data_parallel_prefix(convert: Callable[..., Outcome]) -> None:
    net = book_model()
    torch.save(torch.nn.DataParallel(net).state_dict(), "in.pth")
    assert convert("in.pth", "out.pth", "--to", "book").code == 0
    same_state(net.state_dict(), torch.load("out.pth", weights_only=True))


@pytest.mark.parametrize("backend", ["torch", "mxnet", "jax"])
def test_each_container(convert: Callable[..., Outcome], arrays: Arrays, backend: str) -> None:
    cast = {n: a.astype("float64") if "bn1" in n else a for n, a in arrays.items()}
    load_backend(backend).write_arrays(Path("in"), cast, {})
    done = convert("in", "w.safetensors")
    assert (done.code, done.err) == (0, "")
    same_arrays(read_weights(Path("w.safetensors")).arrays, cast)


@pytest.mark.needs("jax")
def test_nested_orbax_tree(convert: Callable[..., Outcome], arrays: Arrays) -> None:
    import jax.numpy as jnp
    import orbax.checkpoint

    load_backend("jax")
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        at = tree
        *path, leaf = name.split(".")
        for key in path:
            at = at.setdefault(key, {})
        at[leaf] = jnp.asarray(array)
    orbax.checkpoint.PyTreeCheckpointer().save(Path("in").absolute(), tree)
    done = convert("in", "w.safetensors")
    assert (done.code, done.err) == (0, "")  # Orbax has a warning for arrays of JAX
    same_arrays(read_weights(Path("w.safetensors")).arrays, arrays)


def test_checkpoint_of_a_run(convert: Callable[..., Outcome], arrays: Arrays) -> None:
    names, mean, std = list("abcde"), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)
    momentum = {n: arrays[n] for n, spec in tensors("resnet18", 5, WIDTH).items() if spec.trainable}
    write_weights(
        Path("last"), Weights(arrays, "resnet18", names, mean, std, momentum, {"step": "7"})
    )
    done = convert("last", "w.safetensors")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("left out: the checkpoint's momentum, 64 tensors\n")
    weights = read_weights(Path("w.safetensors"))
    same_arrays(weights.arrays, arrays)
    assert (weights.class_names, weights.mean, weights.std) == (tuple(names), mean, std)
    assert (weights.momentum, "step" in weights.extra) == ({}, False)


def test_same_input_same_bytes(convert: Callable[..., Outcome], arrays: Arrays) -> None:
    write_weights(Path("w"), Weights(arrays, "resnet18", list("abcde")))
    for out in ("a.pth", "b.pth"):
        assert convert("w", out, "--to", "book").code == 0
    assert sha256(Path("a.pth")) == sha256(Path("b.pth"))


# The head


def test_seed_and_number_of_classes_of_a_new_head(
    convert: Callable[..., Outcome], arrays: Arrays
) -> None:
    write_tensors(Path("backbone"), rename(arrays, "torchvision", "resnet18"), {})
    done = convert("backbone", "w.safetensors", "--num-classes", 3, "--seed", 8)
    assert "final_conv and transpose_conv: initial values of seed 8, 3 classes\n" in done.out
    weights = read_weights(Path("w.safetensors"))
    head = initial(num_classes=3, seed=8)
    same_arrays({n: weights.arrays[n] for n in HEAD}, {n: head[n] for n in HEAD})
    backbone = set(arrays) - set(HEAD)
    same_arrays({n: weights.arrays[n] for n in backbone}, {n: arrays[n] for n in backbone})


def test_a_backbone_to_torchvision_gets_no_head(
    convert: Callable[..., Outcome], arrays: Arrays
) -> None:
    backbone = rename(arrays, "torchvision", "resnet18")
    write_tensors(Path("backbone"), backbone, {})
    done = convert("backbone", "out.safetensors", "--to", "torchvision")
    assert done.out.startswith("lacks fc.weight, fc.bias, num_batches_tracked, which")
    assert len(done.out.splitlines()) == 2
    same_arrays(read_tensors(Path("out.safetensors"))[0], backbone)


def test_a_backbone_keeps_its_mean_and_says_what_is_left_out(
    convert: Callable[..., Outcome], arrays: Arrays
) -> None:
    backbone = {name: array for name, array in arrays.items() if name not in HEAD}
    metadata = {"mean": "[0.5, 0.25, 0.125]", "num_classes": "5", "class_names": '["a"]'}
    write_tensors(Path("w"), backbone, metadata)
    done = convert("w", "out", "--num-classes", 3)
    assert "left out: metadata num_classes, class_names\n" in done.out
    weights = read_weights(Path("out"))
    assert weights.mean == (0.5, 0.25, 0.125)
    assert weights.class_names == ("class_0", "class_1", "class_2")


# Faults


def change(name: str, **arguments: Any) -> Callable[[Arrays], Arrays]:
    """A change to one tensor: `np.resize`d to `shape`, cast to `dtype` or with a NaN."""

    def changed(arrays: Arrays) -> Arrays:
        array = arrays[name].copy()
        if "shape" in arguments:
            array = np.resize(array, arguments["shape"])
        if "value" in arguments:
            array.flat[0] = arguments["value"]
        return arrays | {name: array.astype(arguments.get("dtype", array.dtype))}

    return changed


def without(*names: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: a for name, a in arrays.items() if name not in names}


BAD_ARRAYS: list[tuple[Callable[[Arrays], Arrays], str]] = [
    (without("7.1.bn2.bias"), "backbone.layer4.1.bn2.bias (64,) is missing"),
    (without("final_conv.bias"), "final_conv.bias (5,) is missing"),
    (without("final_conv.weight", "final_conv.bias"), "final_conv.weight (5, 64, 1, 1) is"),
    (lambda a: a | {"8.weight": np.zeros(3, "f")}, "has no 8.weight (3,)"),
    (lambda a: a | {"fc.bias": np.zeros(3, "f"), "x": a["0.weight"]}, "fc.bias (3,) (and 1 more)"),
    (lambda a: a | {"backbone.conv1.weight": a["0.weight"]}, "no backbone.conv1.weight (8, 3"),
    (change("0.weight", shape=(8, 1, 7, 7)), "conv1.weight is (8, 1, 7, 7), not (8, 3, 7, 7)"),
    (change("final_conv.weight", shape=(6, 64, 1, 1)), "final_conv.weight is (6, 64, 1, 1)"),
    (change("final_conv.bias", shape=()), "final_conv.bias is (), not (5,)"),
    (change("1.bias", dtype="int64"), "backbone.bn1.bias is int64, not float32 or float64"),
    (change("1.running_var", value=np.nan), "backbone.bn1.running_var holds NaN or infinity"),
    (lambda a: {f"{name}.x": array for name, array in a.items()}, "0.weight.x, 1.weight.x, "),
    (lambda a: {"0.weight": a["0.weight"]}, "its 1 tensors have neither canonical names nor"),
    (lambda _: {}, "its 0 tensors"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_ARRAYS, ids=[m for _, m in BAD_ARRAYS])
def test_arrays_that_do_not_fit(
    convert: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    arrays: Arrays,
    spoil: Callable[[Arrays], Arrays],
    message: str,
) -> None:
    spoiled = spoil(rename(arrays, "book", "resnet18"))
    Path("in").write_bytes(bytes(8) + b"{")  # in place of a file for each case
    monkeypatch.setattr(
        "scripts.shared.weights_files.read_tensors", lambda path, bfloat16: (spoiled, {})
    )
    refused(convert("in", "out"), message)


def refused(done: Outcome, message: str) -> None:
    """One line on standard error that holds `message`; no output, no leftovers."""
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert message in done.err
    assert len(done.err) < 400
    assert [p.name for p in Path().iterdir() if p.name.startswith((".", "out"))] == []


class Payload:
    """What a pickle may do to whoever loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("out.executed",)


def _cut(data: bytes, path: Path) -> None:
    path.write_bytes(data[: len(data) // 2])


def _torch_file(path: Path, value: Any, **options: Any) -> bytes:
    torch.save(value, path, **options)
    return path.read_bytes()


def _mxnet_file(path: Path) -> bytes:
    load_backend("mxnet").write_arrays(path, {"0.weight": np.zeros((50, 50), "f")}, {})
    return path.read_bytes()


def _orbax_without_its_metadata(path: Path) -> None:
    load_backend("jax").write_arrays(path, {"0.weight": np.zeros(3, "f")}, {})
    (path / "_METADATA").unlink()


def _write_npz(path: Path) -> None:
    with path.open("wb") as file:  # by name, NumPy would add .npz
        np.savez(file, a=np.zeros(3))


SMALL = {"0.weight": torch.zeros(50, 50)}
OLD = {"_use_new_zipfile_serialization": False}

BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: None, "no such file"),
    "empty": (lambda p: p.touch(), "is empty"),
    "text": (lambda p: p.write_text("learning rate 0.1\n"), "begins with b'learning'"),
    "one byte": (lambda p: p.write_bytes(b"\x80"), "torch.save"),
    "pickle": (
        lambda p: p.write_bytes(pickle.dumps({"a": Payload()}, protocol=2)),
        "it asks for posix.mkdir",
    ),
    "pickle 0": (lambda p: p.write_bytes(pickle.dumps(Payload(), protocol=0)), "begins with"),
    "pickle 5": (lambda p: p.write_bytes(pickle.dumps(Payload(), protocol=5)), "torch.save"),
    "payload": (lambda p: _torch_file(p, SMALL | {"a": Payload()}), "it asks for posix.mkdir"),
    "old payload": (lambda p: _torch_file(p, {"a": Payload()}, **OLD), "it asks for posix.mkdir"),
    "whole model": (
        lambda p: _torch_file(p, torch.nn.ReLU()),
        "not a state dict (tensors by name)",
    ),
    "nested": (lambda p: _torch_file(p, {"model": SMALL}), "neither canonical names nor"),
    "no tensors": (lambda p: _torch_file(p, {"epoch": 3, "lr": 0.1}), "it holds epoch, lr"),
    "list": (lambda p: _torch_file(p, [torch.zeros(3)]), "not a state dict (tensors by name)"),
    "sparse": (
        lambda p: _torch_file(p, {"0.weight": torch.eye(3).to_sparse()}),
        "0.weight is float32 sparse_coo",
    ),
    "no data": (lambda p: _torch_file(p, {"0.weight": torch.zeros(3, device="meta")}), "0.weight"),
    "truncated zip": (lambda p: _cut(_torch_file(p, SMALL), p), "not a whole file of tensors"),
    "truncated old": (
        lambda p: _cut(_torch_file(p, SMALL, **OLD), p),
        "not a whole file of tensors by",
    ),
    "npz": (_write_npz, "NumPy's npz, which is not read"),
    "truncated params": (lambda p: _cut(_mxnet_file(p), p), "not a file of arrays by mx.nd.save"),
    "params magic": (lambda p: p.write_bytes(b"\x12\x01" + b"\0" * 6), "mx.nd.save"),
    "folder": (lambda p: (p / "sub").mkdir(parents=True), "not an Orbax checkpoint"),
    "damaged folder": (_orbax_without_its_metadata, "not an Orbax checkpoint"),
}

NEEDS = {
    "truncated params": "mxnet",
    "params magic": "mxnet",
    "folder": "jax",
    "damaged folder": "jax",
}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[pytest.mark.needs(NEEDS[fault])] if fault in NEEDS else [])
        for fault in BAD_FILES
    ],
)
def test_files_that_cannot_be_read(convert: Callable[..., Outcome], fault: str) -> None:
    make, message = BAD_FILES[fault]
    make(Path("in"))
    refused(convert("in", "out"), message)


def test_truncated_safetensors(convert: Callable[..., Outcome], arrays: Arrays) -> None:
    safetensors.numpy.save_file(arrays, "whole")
    data = Path("whole").read_bytes()
    for length in (9, 1000, len(data) // 2, len(data) - 1):
        Path("in").write_bytes(data[:length])
        refused(convert("in", "out"), "in: not a readable safetensors file")


def test_another_number_of_classes_than_the_head(
    convert: Callable[..., Outcome], arrays: Arrays
) -> None:
    write_weights(Path("in"), Weights(arrays, "resnet18", list("abcde")))
    refused(convert("in", "out", "--num-classes", 21), "in: its head has 5 classes, not 21")
    refused(convert("in", "out", "--num-classes", 0), "'--num-classes'")
    refused(convert("in", "out", "--to", "caffe"), "'--to'")
    assert convert("in", "out", "--num-classes", 5).code == 0


def test_metadata_of_a_canonical_file_is_held_to_it(
    convert: Callable[..., Outcome], arrays: Arrays
) -> None:
    for metadata in ({"num_classes": "7"}, {"architecture": "vgg"}, {"class_names": '["a"]'}):
        write_tensors(Path("in"), arrays, metadata)
        refused(convert("in", "out"), "in: ")


def test_places_that_cannot_be_written(convert: Callable[..., Outcome], arrays: Arrays) -> None:
    write_weights(Path("in"), Weights(arrays, "resnet18", list("abcde")))
    before = sha256(Path("in"))
    Path("link").symlink_to("in")
    Path("folder").mkdir()
    for out in ("in", "link", "../" + Path.cwd().name + "/in"):
        refused(convert("in", out), "would overwrite the input")
    refused(convert("in", "nowhere/out"), "nowhere/out: no such folder")
    refused(convert("in", "folder"), "folder: is a folder")
    refused(convert("in", "out", "--json", "nowhere/r.json"), "nowhere/r.json: no such folder")
    refused(convert("in", "out", "--json", "in"), "would overwrite the input")
    assert sha256(Path("in")) == before


def test_a_full_disk_leaves_the_old_file(convert: Callable[..., Outcome], arrays: Arrays) -> None:
    import resource
    import signal

    write_weights(Path("in"), Weights(arrays, "resnet18", list("abcde")))
    old = Weights(arrays, "resnet18", list("vwxyz"))
    write_weights(Path("old"), old)
    before = Path("old").read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        for naming in ("canonical", "torchvision"):
            refused(convert("in", "old", "--to", naming, "--force"), "old: cannot be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert Path("old").read_bytes() == before


@pytest.mark.needs("jax")
def test_no_room_for_a_folder(
    convert: Callable[..., Outcome], arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before Orbax begins, which prints a traceback for each array."""
    write_weights(Path("in"), Weights(arrays, "resnet18", list("abcde")))
    size = sum(array.nbytes for array in arrays.values())
    for free, code in ((size - 1, 2), (size, 0)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr("shutil.disk_usage", lambda path, usage=usage: usage)
        done = convert("in", "out", "--to", "orbax")
        assert done.code == code
        if code:
            refused(done, "out: cannot be written: No space left on device")


def test_as_a_program_without_a_framework(tmp_path: Path, arrays: Arrays) -> None:
    """Safetensors to safetensors imports no framework; a fault is one line and exit code 2."""
    write_weights(tmp_path / "in", Weights(arrays, "resnet18", list("abcde")))
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('torch', 'mxnet', 'jax'):\n    sys.modules[name] = None\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scripts.convert", str(tmp_path / "in"), *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    done = run(str(tmp_path / "out.safetensors"), "--to", "book")
    assert (done.returncode, done.stderr) == (0, "")
    assert "104 tensors" in done.stdout
    done = run(str(tmp_path / "in"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
