"""Checkpoints as training programs save them: the network is found in all that is around it."""

import argparse
import importlib
import json
import pathlib
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from backends import load_backend
from common.errors import InputError
from common.network.initial import generic_weights
from common.network.tensors import in_head
from common.weights.checkpoint import Weights, write_weights
from common.weights.namings import rename
from parity_tests.weights.conftest import CLASSES, WIDTH, torchvision_resnet18
from scripts.shared.weights_files import Loaded, load_network, load_weights

Arrays = dict[str, Any]
State = dict[str, torch.Tensor]

ARRAYS: Arrays = {
    n: a.astype("f4") for n, a in generic_weights("resnet18", CLASSES, 0, WIDTH).items()
}
BACKBONE: Arrays = {name: array for name, array in ARRAYS.items() if not in_head(name)}


def state(prefix: str = "", arrays: Arrays = ARRAYS, scale: float = 1.0) -> State:
    return {f"{prefix}{name}": torch.from_numpy(scale * a) for name, a in arrays.items()}


def encoder(prefix: str) -> State:
    """The backbone by torchvision's names."""
    return state(prefix, rename(BACKBONE, "torchvision", "resnet18"))


class Settings(dict):
    """A class of the program's own, which a checkpoint holds."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(settings)
        self.frozen = True


OPTIMIZER = {
    "state": {k: {"momentum_buffer": torch.zeros(3)} for k in range(4)},
    "param_groups": [],
}
HEAD_OF_THEIRS = {"head.bias": torch.zeros(7)}

FORMS: dict[str, tuple[Any, list[str]]] = {
    "state_dict": ({"state_dict": state(), "epoch": 3}, ["unwrapped: state_dict"]),
    "model": (
        {"model": state(), "optimizer": OPTIMIZER, "best": np.float64(0.5)},
        ["unwrapped: model", "left out: optimizer (4 tensors)"],
    ),
    "model_state": ({"model_state": state("module.")}, ["unwrapped: model_state.module"]),
    "Lightning": (
        {
            "epoch": 3,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": state("net.") | {"criterion.weight": torch.ones(5)},
            "optimizer_states": [OPTIMIZER],
            "hyper_parameters": Settings(rate=0.1, root=pathlib.PurePosixPath("data")),
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        },
        [
            "unwrapped: state_dict.net",
            "left out: state_dict.criterion, optimizer_states (4 tensors), callbacks",
        ],
    ),
    "torchvision's reference": (
        {
            "model": state(),
            "optimizer": OPTIMIZER,
            "args": argparse.Namespace(data_path="coco", lr=0.01, weights=None),
        },
        ["unwrapped: model", "left out: optimizer (4 tensors)"],
    ),
    "timm, averaged": (
        {"state_dict": state(scale=2), "state_dict_ema": state(), "args": argparse.Namespace()},
        [
            "unwrapped: state_dict_ema, which is averaged",
            "left out: state_dict (104 tensors)",
        ],
    ),
    "torchvision's reference, averaged": (
        {
            "model": state(scale=2),
            "model_ema": {"n_averaged": torch.tensor(9)} | state("module."),
        },
        [
            "unwrapped: model_ema.module, which is averaged",
            "left out: model (104 tensors), model_ema.n_averaged",
        ],
    ),
    "AveragedModel": (
        {"n_averaged": torch.tensor(9)} | state("module."),
        ["unwrapped: module", "left out: n_averaged"],
    ),
    "BasicSR": (
        {"params": state(scale=2), "params_ema": state()},
        ["unwrapped: params_ema, which is averaged", "left out: params (104 tensors)"],
    ),
    "compiled": (state("_orig_mod."), ["unwrapped: names without _orig_mod"]),
    "compiled inside": (
        {name.replace("backbone.", "backbone._orig_mod."): t for name, t in state().items()},
        ["unwrapped: names without _orig_mod"],
    ),
    "DataParallel of a compiled": (
        state("module._orig_mod."),
        ["unwrapped: module", "unwrapped: names without _orig_mod"],
    ),
    "prefix of three": (state("model.net.fcn."), ["unwrapped: model.net.fcn"]),
}


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def check(loaded: Loaded, expected: Arrays = ARRAYS) -> None:
    """The same values, bit for bit."""
    found = loaded.weights.arrays
    assert [n for n, a in expected.items() if found[n].tobytes() != a.tobytes()] == []


@pytest.mark.parametrize("form", FORMS)
def test_a_wrapped_network_is_found_and_the_rest_is_told(form: str, tmp_path: Path) -> None:
    content, notes = FORMS[form]
    loaded = load_weights(saved(content, tmp_path / "in"))
    check(loaded)
    assert (loaded.notes, loaded.has_head) == (notes, True)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("content", "note"),
    [
        (
            encoder("encoder.") | state("decoder.", {"a.weight": ARRAYS["final_conv.weight"]}),
            "left out: decoder",
        ),
        (encoder("backbone.") | HEAD_OF_THEIRS, "left out: head.bias (7,)"),
        (encoder("") | {"fc.0.bias": torch.zeros(3)}, "left out: fc.0.bias (3,)"),
        (encoder("model.backbone.") | {"model.fc.bias": torch.zeros(3)}, "left out: fc.bias (3,)"),
    ],
    ids=[
        "segmentation_models",
        "their own head",
        "their own classifier",
        "their own head, wrapped",
    ],
)
def test_a_backbone_with_another_head(
    content: State, note: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"in.{suffix}"
    (torch.save if suffix == "pth" else safetensors.torch.save_file)(content, path)
    loaded = load_weights(path, num_classes=3)
    check(loaded, BACKBONE)
    assert (loaded.has_head, loaded.weights.num_classes) == (False, 3)
    assert note in loaded.notes


def test_the_classifier_inside_a_backbone_is_left_out(tmp_path: Path) -> None:
    more = {"backbone.fc.weight": torch.zeros(1000, 64), "backbone.fc.bias": torch.zeros(1000)}
    loaded = load_weights(saved(state() | more, tmp_path / "in"))
    check(loaded)
    assert loaded.notes == ["left out: backbone.fc.weight (1000, 64), backbone.fc.bias (1000,)"]


def test_what_is_evaluated_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, notes = FORMS["timm, averaged"]
    path = saved(content, tmp_path / "in")
    load_network(path)
    assert capsys.readouterr().err == "".join(f"note: {path}: {line}\n" for line in notes)


@pytest.mark.parametrize("names", [("student", "teacher"), ("model_ema", "model_swa")])
def test_two_networks_are_not_chosen_from(names: tuple[str, str], tmp_path: Path) -> None:
    path = saved(dict.fromkeys(names, state()), tmp_path / "in")
    with pytest.raises(InputError, match=f"in: holds 2 networks, {', '.join(names)}: save one of"):
        load_weights(path)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("way", ["whole", "scripted", "traced"])
def test_a_model_saved_with_its_code_is_read_without_it(way: str, tmp_path: Path) -> None:
    model = torchvision_resnet18().eval()
    path = tmp_path / "in"
    if way == "whole":  # a test's own class cannot be pickled
        model.__class__ = model.__class__.__base__
        torch.save({"net": model}, path)
    elif way == "scripted":
        model.__class__ = model.__class__.__base__
        torch.jit.save(torch.jit.script(model), path)
    else:
        torch.jit.save(torch.jit.trace(model, torch.zeros(1, 3, 64, 64)), path)
    loaded = load_weights(path)
    theirs = {f"backbone.{name}": t.numpy() for name, t in model.state_dict().items()}
    check(loaded, {name: theirs[name] for name in BACKBONE})
    assert ("unwrapped: net" in loaded.notes) == (way == "whole")


class Ran:
    """A class that a pickle makes by calling a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.check_call, (["touch", "ran"],)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_runs_and_nothing_is_imported(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("theirs.py").write_text("class Theirs:\n    pass\n")
    theirs = importlib.import_module("theirs")
    content = {
        "state_dict": state(),
        "a": Ran(),
        "b": theirs.Theirs(),
        "c": [OrderedDict(d=Ran, e=eval)],
    }
    path = saved(content, Path("in"), _use_new_zipfile_serialization=zipped)
    del sys.modules["theirs"]
    check(load_weights(path))
    assert "theirs" not in sys.modules
    assert not Path("ran").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_half_precision_is_widened(dtype: str, suffix: str, tmp_path: Path) -> None:
    halves = {name: t.to(getattr(torch, dtype)) for name, t in state().items()}
    path = tmp_path / f"in.{suffix}"
    (torch.save if suffix == "pth" else safetensors.torch.save_file)(halves, path)
    check(load_weights(path), {name: t.float().numpy() for name, t in halves.items()})


def shards(folder: Path) -> dict[str, Any]:
    """The weights in two files, as Hugging Face writes them, and their index."""
    folder.mkdir()
    names = list(ARRAYS)
    index: dict[str, str] = {}
    for k, part in enumerate((names[:50], names[50:]), start=1):
        file = f"model-0000{k}-of-00002.safetensors"
        safetensors.torch.save_file({n: state()[n] for n in part}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    told = {"metadata": {"total_size": 1}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(told))
    return told


def test_sharded_safetensors(tmp_path: Path) -> None:
    shards(tmp_path / "in")
    check(load_weights(tmp_path / "in/model.safetensors.index.json"))
    loaded = load_weights(tmp_path / "in")
    check(loaded)
    assert loaded.notes == ["unwrapped: model.safetensors.index.json"]


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        (None, "index.json: JSON without the weight_map of"),
        ({"a": 3}, "index.json: JSON without the weight_map of"),
        ({"a": "../x"}, "index.json: names files that are not beside it: '../x'"),
        ({"a": "x"}, "in/x: no such file"),
        ({"a": "model.safetensors.index.json"}, "not a readable safetensors file"),
        ({"a": "model-00001-of-00002.safetensors"}, "00001-of-00002.safetensors: lacks 'a'"),
    ],
)
def test_a_bad_index(weight_map: Any, says: str, tmp_path: Path) -> None:
    told = shards(tmp_path / "in") | {"weight_map": weight_map}
    path = tmp_path / "in/model.safetensors.index.json"
    path.write_text(json.dumps(told))
    with pytest.raises(InputError, match=says):
        load_weights(path)


def test_a_snapshot_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_weights(tmp_path / "in/model.safetensors", Weights(ARRAYS, "resnet18", tuple("abcde")))
    loaded = load_weights(tmp_path / "in")
    check(loaded)
    assert loaded.weights.class_names == tuple("abcde")


def keras(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"\x89HDF")


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **ARRAYS)


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "HDF5, as Keras saves weights"),
    "keras": (keras, "Keras's .keras"),
    "npz": (npz, "NumPy's npz"),
    "npy": (lambda path: path.write_bytes(b"\x93NUMPY\x01\0"), "one array of NumPy's"),
    "msgpack": (lambda path: path.write_bytes(b"\x82\xa6params\x80"), "msgpack, as flax"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_read_is_told_by_name(kind: str, tmp_path: Path) -> None:
    write, says = OTHERS[kind]
    write(tmp_path / "in")
    with pytest.raises(InputError, match=f"in: {says}.*, which is not read"):
        load_weights(tmp_path / "in")


def itself() -> Any:
    content: dict[str, Any] = {}
    content["a"] = content
    return content


def shared(levels: int) -> Any:
    """So many levels, each of which holds the next twice: 2^levels paths."""
    content: Any = [torch.zeros(3)]
    for _ in range(levels):
        content = {"a": content, "b": content}
    return content


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize(
    "content",
    [itself(), shared(30), {"a" * 2000: {"b": torch.zeros(3)}}],
    ids=["itself", "shared", "long"],
)
def test_what_holds_itself_ends(content: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="in: nested too deep, or more than"):
        load_backend("torch").read_arrays(saved(content, tmp_path / "in"))


def test_the_way_out_of_a_head_of_other_classes(
    tmp_path: Path,
    run_command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the message says is what works."""
    monkeypatch.chdir(tmp_path)
    saved({"state_dict": state()}, Path("in.pth"))
    code, _, err = run_command("convert", "in.pth", "out", "--num-classes", 3)
    assert code == 2
    assert "in.pth: its head has 5 classes, not 3; without it: `convert --to torchvision`" in err
    assert run_command("convert", "in.pth", "bare.pth", "--to", "torchvision")[0] == 0
    code, out, _ = run_command("convert", "bare.pth", "out", "--num-classes", 3)
    assert (code, "initial values of seed 0, 3 classes" in out) == (0, True)


# Flax


def linen() -> dict[str, dict[str, Any]]:
    """The variables of a Linen network with our names: two collections, each a tree of layers."""
    collections: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for name, array in rename(ARRAYS, "flax", "resnet18").items():
        *layers, leaf = name.split(".")
        node = collections["batch_stats" if leaf in ("mean", "var") else "params"]
        for layer in layers:
            node = node.setdefault(layer, {})
        node[leaf] = array
    return collections


def train_state() -> Any:
    """What Flax's own examples save: the network, the optimizer's state and the step."""
    import optax
    from flax.training.train_state import TrainState

    class WithStatistics(TrainState):
        batch_stats: Any

    return WithStatistics.create(apply_fn=None, tx=optax.adamw(0.1), **linen())


JOINED = "unwrapped: params and batch_stats"


@pytest.mark.needs("jax")
@pytest.mark.parametrize(
    ("made", "notes"),
    [
        (linen, [JOINED]),
        (train_state, [JOINED, "left out: opt_state (129 tensors), step"]),
        (lambda: {"state": linen(), "ema_params": linen()["params"]},
         ["unwrapped: state.params and batch_stats", "left out: ema_params (64 tensors)"]),
    ],
    ids=["variables", "TrainState", "nested"],
)  # fmt: skip
def test_a_tree_of_flax_is_joined(
    made: Callable[[], Any], notes: list[str], tmp_path: Path
) -> None:
    load_backend("jax")
    import orbax.checkpoint

    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "in", made())
    loaded = load_weights(tmp_path / "in")
    check(loaded)
    assert loaded.notes == notes


@pytest.mark.needs("jax")
@pytest.mark.parametrize("prefix", [None, "ckpt"])
def test_the_last_step_of_a_checkpoint_manager(
    prefix: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load_backend("jax")
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(step_prefix=prefix, max_to_keep=2)
    with ocp.CheckpointManager(tmp_path / "in", options=options) as manager:
        for step in (9, 10):
            told = linen() | {"step": np.array(step)}
            manager.save(step, args=ocp.args.StandardSave(told))
    capfd.readouterr()
    loaded = load_weights(tmp_path / "in")
    check(loaded)
    name = "10" if prefix is None else "ckpt_10"
    assert loaded.notes == [f"unwrapped: {name}/default", JOINED, "left out: step"]
    check(load_weights(tmp_path / "in" / name.replace("10", "9")))
    assert capfd.readouterr() == ("", "")


@pytest.mark.needs("jax")
def test_a_step_of_several_items(tmp_path: Path) -> None:
    load_backend("jax")
    import orbax.checkpoint as ocp

    items = {name: ocp.args.StandardSave({"a": np.ones(2)}) for name in ("state", "more")}
    with ocp.CheckpointManager(tmp_path / "in") as manager:
        manager.save(3, args=ocp.args.Composite(**items))
    with pytest.raises(InputError, match="in/3: holds more, state: give one of them"):
        load_weights(tmp_path / "in")
