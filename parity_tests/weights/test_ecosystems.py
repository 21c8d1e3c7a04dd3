"""Weights from and to where people have them, held against the ecosystems' own code, float64.

Files are made by PyTorch, torchvision, Gluon, GluonCV, Flax and Orbax, and what those compute is
what our network computes from the file; what we write they open without us, and compute the same.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from backends import load_backend
from common.config import IMAGENET_MEAN, IMAGENET_STD, Architecture, Config, Dtype
from common.errors import InputError
from common.files import sha256
from common.network.initial import generic_weights
from common.parity.compare import relative_l2
from common.weights.checkpoint import Weights, read_weights, write_weights
from common.weights.namings import rename
from parity_tests.network.witnesses import import_gluoncv_resnet, import_torchvision
from parity_tests.weights.conftest import (
    CLASSES,
    V1,
    V1_34,
    V2,
    WIDTH,
    book_torch,
    initial,
    torchvision_resnet18,
    zoo,
)
from scripts.shared.weights_files import Loaded, load_network, load_weights

Array = NDArray[Any]
Run = Callable[..., tuple[int, str, str]]

FEATURES = {V1: "layer4.1", V1_34: "layer4.2", V2: "norm"}
"""The backbone's last activation."""
EXACT = 1e-12
EPS = Config().bn_eps


@pytest.fixture(params=[WIDTH, pytest.param(64, marks=pytest.mark.full)])
def width(request: pytest.FixtureRequest) -> int:
    """That of the tests' network, and that of the published ones."""
    return int(request.param)


IMAGE: Array = np.random.default_rng(0).normal(size=(1, 3, 64, 96))


def generic(name: str, shape: Iterable[int], random: np.random.Generator) -> Array:
    """Values without symmetry; variances positive, activations near 1."""
    shape = tuple(shape)
    if len(shape) == 1:
        low = 0.5 if name.endswith(("var", "gamma", "scale")) else -0.5
        return random.uniform(low, low + 1, shape)
    return random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)


def ours(weights: Any) -> dict[str, Array]:
    """Every activation that our network computes, float64."""
    config = Config(
        architecture=weights.architecture,
        num_classes=weights.num_classes,
        width=weights.width,
        dtype=Dtype.float64,
    )
    backend = load_backend("torch")
    return backend.Probe(backend.Trainer(config, weights.arrays)).activations(IMAGE)


def hold(loaded: Loaded, theirs: Array) -> None:
    """Our network's logits, or features without a head, are theirs."""
    layer = "logits" if loaded.has_head else FEATURES[loaded.weights.architecture]
    assert relative_l2(ours(loaded.weights)[layer], theirs) <= EXACT


# PyTorch


def torch_model(model: torch.nn.Module) -> torch.nn.Module:
    """The model in eval mode and float64, with generic values and our float32 eps."""
    random = np.random.default_rng(1)
    for name, tensor in model.double().state_dict().items():
        if not name.endswith("num_batches_tracked"):
            name = name.replace("weight", "gamma") if tensor.dim() == 1 else name
            tensor.copy_(torch.from_numpy(generic(name, tensor.shape, random)))
    return torch_eps(model)


def torch_eps(model: torch.nn.Module) -> torch.nn.Module:
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = EPS
    return model.eval()


def torch_logits(model: torch.nn.Module) -> Array:
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(IMAGE)))


def torchvision_backbone(model: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.Sequential(*list(model.children())[:-2])


@pytest.mark.parametrize("architecture, parallel", [(V1, False), (V1, True), (V1_34, False)])
def test_from_torchvision(
    tmp_path: Path, architecture: Architecture, parallel: bool, width: int
) -> None:
    model = torch_model(torchvision_resnet18(width, architecture))
    saved = torch.nn.DataParallel(model) if parallel else model
    torch.save(saved.state_dict(), tmp_path / "in")
    loaded = load_weights(tmp_path / "in")
    assert (loaded.naming, loaded.container, loaded.has_head) == (
        "torchvision",
        "torch.save",
        False,
    )
    hold(loaded, torch_logits(torchvision_backbone(model)))
    told = "\n".join(loaded.notes)
    unwrapped = "unwrapped: module\n" if parallel else ""
    assert told.startswith(f"{unwrapped}left out: fc.weight (1000, {8 * width}), fc.bias")


@pytest.mark.parametrize("container", ["torch.save", "safetensors"])
def test_from_the_book_in_pytorch(tmp_path: Path, container: str) -> None:
    from safetensors.torch import save_file

    net = torch_model(book_torch())
    save = torch.save if container == "torch.save" else save_file
    save(net.state_dict(), tmp_path / "in")
    loaded = load_weights(tmp_path / "in", class_names=tuple("abcde"))
    assert (loaded.naming, loaded.container, loaded.has_head) == ("book", container, True)
    assert loaded.weights.class_names == tuple("abcde")
    hold(loaded, torch_logits(net))


# Gluon


def book_mxnet(architecture: str) -> Any:
    """The FCN as the book builds it in MXNet; on v1 without the pooling alone."""
    features = zoo(architecture).features
    from mxnet.gluon import nn

    net = nn.HybridSequential()
    for layer in features[:-2] if architecture == V2 else features[:-1]:
        net.add(layer)
    net.add(
        nn.Conv2D(CLASSES, kernel_size=1),
        nn.Conv2DTranspose(CLASSES, kernel_size=64, padding=16, strides=32),
    )
    return net


def gluon_eps(block: Any) -> Any:
    from mxnet.gluon import nn

    if isinstance(block, nn.BatchNorm):
        block._kwargs["eps"] = EPS
    for child in block._children.values():
        gluon_eps(child)
    return block


def gluon_model(model: Any) -> Any:
    """The model in float64, with generic values where it may have any, and our float32 eps."""
    import mxnet as mx

    model.initialize(mx.init.Zero())
    model.cast("float64")
    model(mx.nd.array(IMAGE, dtype="float64"))  # gives deferred parameters a shape
    random = np.random.default_rng(1)
    for name, parameter in model.collect_params().items():
        if parameter.grad_req != "null" or "running" in name:
            value = generic(name, parameter.shape, random)
            parameter.set_data(mx.nd.array(value, dtype="float64"))
    return gluon_eps(model)


def gluon_logits(layers: Iterable[Any]) -> Array:
    import mxnet as mx

    x = mx.nd.array(IMAGE, dtype="float64")
    for layer in layers:
        x = layer(x)
    return np.asarray(x.asnumpy())


def gluoncv_layers(model: Any) -> list[Any]:
    stem = [model.conv1, model.bn1, model.relu, model.maxpool]
    return [*stem, model.layer1, model.layer2, model.layer3, model.layer4]


def save_structural(model: Any, path: Path) -> None:
    model.save_parameters(str(path))


def save_by_prefix(model: Any, path: Path) -> None:
    model.collect_params().save(str(path))


def save_export(model: Any, path: Path) -> None:
    import mxnet as mx

    model.hybridize()
    model(mx.nd.array(IMAGE, dtype="float64"))
    model.export(str(path))
    path.with_name(f"{path.name}-0000.params").rename(path)


SAVES = {
    "save_parameters": (save_structural, ""),
    "collect_params": (save_by_prefix, " by prefix"),
    "export": (save_export, " by prefix"),
}


@pytest.mark.needs("mxnet")
@pytest.mark.parametrize("how", SAVES)
@pytest.mark.parametrize("architecture", [V1, V1_34, V2])
def test_from_gluon(tmp_path: Path, architecture: Architecture, how: str, width: int) -> None:
    save, suffix = SAVES[how]
    model = gluon_model(zoo(architecture, width))
    save(model, tmp_path / "in")
    loaded = load_weights(tmp_path / "in", architecture=architecture)
    assert (loaded.naming, loaded.has_head) == (f"gluon{suffix}", False)
    pools = 2 if architecture == V2 else 1  # v2 flattens after it
    hold(loaded, gluon_logits(model.features[:-pools]))
    assert f"(1000, {8 * width})" in loaded.notes[0]  # the classifier
    fixed = [note for note in loaded.notes if note.endswith("which change nothing")]
    assert len(fixed) == (architecture == V2)


@pytest.mark.needs("mxnet")
@pytest.mark.parametrize("how", ["save_parameters", "collect_params"])
def test_from_gluoncv(tmp_path: Path, how: str) -> None:
    save, suffix = SAVES[how]
    model = gluon_model(import_gluoncv_resnet().resnet18_v1b(pretrained=False))
    save(model, tmp_path / "in")
    loaded = load_weights(tmp_path / "in")
    assert (loaded.naming, loaded.has_head) == (f"gluoncv{suffix}", False)
    hold(loaded, gluon_logits(gluoncv_layers(model)))


@pytest.mark.needs("mxnet")
@pytest.mark.parametrize("how", ["save_parameters", "export"])
@pytest.mark.parametrize("architecture", [V1, V2])
def test_from_the_book_in_mxnet(tmp_path: Path, architecture: str, how: str) -> None:
    save, suffix = SAVES[how]
    net = gluon_model(book_mxnet(architecture))
    save(net, tmp_path / "in")
    loaded = load_weights(tmp_path / "in")
    assert loaded.naming == ("gluon by prefix" if suffix else "book-mxnet")
    assert (loaded.weights.architecture, loaded.has_head) == (architecture, True)
    hold(loaded, gluon_logits([net]))


@pytest.mark.needs("mxnet")
def test_the_input_s_gamma_is_ignored_as_mxnet_does_and_its_beta_refused(tmp_path: Path) -> None:
    import mxnet as mx

    net = gluon_model(book_mxnet(V2))
    norm = net[0]
    norm.gamma.set_data(mx.nd.full(3, 7, dtype="float64"))
    net.save_parameters(str(tmp_path / "in"))
    loaded = load_weights(tmp_path / "in")
    hold(loaded, gluon_logits([net]))
    assert loaded.notes == ["ignored: 0.gamma, 0.beta, which change nothing"]
    norm.beta.set_data(mx.nd.full(3, 1e-3, dtype="float64"))
    net.save_parameters(str(tmp_path / "in"))
    with pytest.raises(InputError, match=r"in: 0\.beta is not 0"):
        load_weights(tmp_path / "in")


# JAX


@pytest.mark.needs("jax")
@pytest.mark.parametrize("architecture", [V1, V2])
def test_from_our_network_s_state_in_orbax(tmp_path: Path, architecture: str) -> None:
    """`nnx.state` of our own model, saved by Orbax as any Flax user would."""
    load_backend("jax")
    import jax
    import orbax.checkpoint
    from flax import nnx

    from backends.jax import FCN, build_model

    config = Config(
        architecture=architecture, num_classes=CLASSES, width=WIDTH, dtype=Dtype.float64
    )
    model: FCN = build_model(config)
    random = np.random.default_rng(1)
    state = nnx.to_pure_dict(nnx.state(model))
    named, structure = jax.tree_util.tree_flatten_with_path(state)
    values = [
        generic(jax.tree_util.keystr(at, simple=True, separator="."), a.shape, random)
        for at, a in named
    ]
    nnx.update(model, jax.tree.unflatten(structure, values))
    model.eval()
    theirs = np.asarray(model(IMAGE.transpose(0, 2, 3, 1)))
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "in", nnx.state(model))
    loaded = load_weights(tmp_path / "in")
    assert (loaded.naming, loaded.container, loaded.has_head) == ("flax", "Orbax", True)
    hold(loaded, theirs)


# What we write


@pytest.fixture(params=[V1, V2])
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return Architecture(request.param)


NAMES, MEAN, STD = tuple("abcde"), (0.5, 0.25, 0.125), (1.0, 0.5, 2.0)


@pytest.fixture
def written(
    tmp_path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Path, dict[str, Array], list[str]]]:
    """Converts generic weights; the file, what our network computes, and the notes."""
    monkeypatch.chdir(tmp_path)

    def convert(
        architecture: str, to: str, width: int = WIDTH
    ) -> tuple[Path, dict[str, Array], list[str]]:
        arrays = generic_weights(architecture, CLASSES, 0, width)
        write_weights(Path("W"), Weights(arrays, architecture, NAMES, MEAN, STD))
        code, _, err = run_command("convert", "W", "out", "--to", to, "--json", "notes")
        assert (code, err) == (0, "")
        return (
            Path("out"),
            ours(read_weights(Path("W"))),
            json.loads(Path("notes").read_text())["notes"],
        )

    return convert


NO_PLACE = "left out: class_names, mean, std, for which {} has no place"
NO_HEAD = (
    "left out: final_conv.weight (5, {}, 1, 1), final_conv.bias (5,),"
    " transpose_conv.weight (5, 5, 64, 64), transpose_conv.bias (5,)"
)


def test_torchvision_opens_it(written: Any, width: int) -> None:
    path, expected, notes = written(V1, "torchvision", width)
    model = torch_eps(torchvision_resnet18(width).double())
    left = model.load_state_dict(torch.load(path), strict=False)
    assert left.unexpected_keys == []
    assert sorted(left.missing_keys) == ["fc.bias", "fc.weight"]
    assert relative_l2(torch_logits(torchvision_backbone(model)), expected["layer4.1"]) <= EXACT
    assert notes == [NO_HEAD.format(8 * width), NO_PLACE.format("torch.save")]


def test_the_book_s_network_in_pytorch_opens_it(written: Any) -> None:
    path, expected, notes = written(V1, "book")
    net = book_torch().double()
    net.load_state_dict(torch.load(path))
    assert relative_l2(torch_logits(torch_eps(net)), expected["logits"]) <= EXACT
    assert notes == [NO_PLACE.format("torch.save")]


@pytest.mark.needs("mxnet")
def test_gluon_s_zoo_opens_it(written: Any, architecture: Architecture, width: int) -> None:
    path, expected, notes = written(architecture, "gluon", width)
    net = zoo(architecture, width)
    net.cast("float64")
    net.load_parameters(str(path), allow_missing=True)
    layers = gluon_eps(net).features[: -2 if architecture == V2 else -1]
    assert relative_l2(gluon_logits(layers), expected[FEATURES[architecture]]) <= EXACT
    assert notes == [NO_HEAD.format(8 * width), NO_PLACE.format("MXNet .params")]


@pytest.mark.needs("mxnet")
def test_gluoncv_opens_it(written: Any) -> None:
    path, expected, _ = written(V1, "gluoncv", width=64)  # GluonCV has no other
    net = import_gluoncv_resnet().resnet18_v1b(pretrained=False)
    net.cast("float64")
    net.load_parameters(str(path), allow_missing=True)
    found = gluon_logits(gluoncv_layers(gluon_eps(net)))
    assert relative_l2(found, expected["layer4.1"]) <= EXACT


@pytest.mark.needs("mxnet")
def test_the_book_s_network_in_mxnet_opens_it(written: Any, architecture: Architecture) -> None:
    path, expected, notes = written(architecture, "book-mxnet")
    net = book_mxnet(architecture)
    net.cast("float64")
    net.load_parameters(str(path))
    assert relative_l2(gluon_logits([gluon_eps(net)]), expected["logits"]) <= EXACT
    assert notes == [NO_PLACE.format("MXNet .params")]


def flax_logits(tree: Any, architecture: str) -> Array:
    """The network of Flax's own layers, each given a branch of the tree as its parameters."""
    import flax.linen as nn
    import jax

    def conv(branch: Any, x: Any, stride: int, padding: int) -> Any:
        kernel = branch["kernel"]
        layer = nn.Conv(
            kernel.shape[-1],
            kernel.shape[:2],
            stride,
            padding,
            use_bias="bias" in branch,
            param_dtype="float64",
        )
        return layer.apply({"params": branch}, x)

    def norm(branch: Any, x: Any) -> Any:
        affine = "scale" in branch
        layer = nn.BatchNorm(
            True, epsilon=EPS, use_bias=affine, use_scale=affine, param_dtype="float64"
        )
        statistics = {name: branch[name] for name in ("mean", "var")}
        rest = {name: branch[name] for name in ("scale", "bias") if affine}
        return layer.apply({"params": rest, "batch_stats": statistics}, x)

    v2, backbone = architecture == V2, tree["backbone"]
    x = IMAGE.transpose(0, 2, 3, 1)
    x = norm(backbone["bn0"], x) if v2 else x
    x = jax.nn.relu(norm(backbone["bn1"], conv(backbone["conv1"], x, 2, 3)))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for stage in (1, 2, 3, 4):
        for number in (0, 1):
            block = backbone[f"layer{stage}_{number}"]
            stride = 2 if stage > 1 and number == 0 else 1
            shortcut, inner = x, x
            if v2:
                inner = jax.nn.relu(norm(block["bn1"], x))
                if "downsample" in block:
                    shortcut = conv(block["downsample"], inner, stride, 0)
                inner = jax.nn.relu(norm(block["bn2"], conv(block["conv1"], inner, stride, 1)))
                x = conv(block["conv2"], inner, 1, 1) + shortcut
                continue
            if "downsample_0" in block:
                shortcut = norm(block["downsample_1"], conv(block["downsample_0"], x, stride, 0))
            inner = jax.nn.relu(norm(block["bn1"], conv(block["conv1"], x, stride, 1)))
            x = jax.nn.relu(norm(block["bn2"], conv(block["conv2"], inner, 1, 1)) + shortcut)
    x = jax.nn.relu(norm(backbone["bn2"], x)) if v2 else x
    x = conv(tree["final_conv"], x, 1, 0)
    head = {  # (in, out, kh, kw), as PyTorch's and MXNet's
        "kernel": tree["transpose_conv"]["weight"].transpose(2, 3, 1, 0),
        "bias": tree["transpose_conv"]["bias"],
    }
    up = nn.ConvTranspose(
        CLASSES,
        (64, 64),
        (32, 32),
        ((47, 47), (47, 47)),
        transpose_kernel=True,
        param_dtype="float64",
    )
    return np.asarray(up.apply({"params": head}, x)).transpose(0, 3, 1, 2)


@pytest.mark.needs("jax")
@pytest.mark.filterwarnings("ignore:Sharding info:UserWarning")
def test_orbax_and_flax_open_it(written: Any, architecture: Architecture) -> None:
    path, expected, notes = written(architecture, "orbax")
    import orbax.checkpoint

    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(path.absolute())
        told = checkpointer.metadata(path.absolute()).custom_metadata
    assert relative_l2(flax_logits(tree, architecture), expected["logits"]) <= EXACT
    assert json.loads(told["class_names"]) == list(NAMES)
    assert (json.loads(told["mean"]), json.loads(told["std"])) == (list(MEAN), list(STD))
    assert (told["channels"], told["range"]) == ("RGB", "[0, 1]")
    assert notes == []
    back = load_weights(path)  # and we do, with all that it says
    assert (back.weights.class_names, back.weights.mean, back.weights.std) == (NAMES, MEAN, STD)


def test_onnx_runtime_opens_it(written: Any, architecture: Architecture) -> None:
    path, expected, notes = written(architecture, "onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": IMAGE.astype(np.float32)})
    assert relative_l2(logits, expected["logits"]) <= 1e-5
    told = session.get_modelmeta().custom_metadata_map
    assert (told["architecture"], told["channels"]) == (architecture, "RGB")
    assert json.loads(told["mean"]) == list(MEAN)
    assert notes == ["rounded to float32"]


@pytest.mark.parametrize("to", ["torchvision", "book", "gluoncv"])
def test_v2_is_refused_where_nobody_has_it(
    tmp_path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_weights(Path("W"), Weights(initial(V2, 1), V2, ["a"]))
    code, out, err = run_command("convert", "W", "out", "--to", to)
    assert (code, out) == (2, "")
    assert err == f"error: W: its network is resnet18_v2, and --to {to} is of another\n"
    assert [path.name for path in Path().iterdir()] == ["W"]


# Faults


@pytest.mark.needs("jax")
def test_an_orbax_folder_with_a_file_missing(tmp_path: Path) -> None:
    arrays = initial(V1, 1)
    load_backend("jax").write_arrays(tmp_path / "in", arrays, {})
    files = sorted(path for path in (tmp_path / "in").rglob("*") if path.is_file())
    refused = []
    for path in files:
        kept = path.read_bytes()
        path.unlink()
        try:
            loaded = load_weights(tmp_path / "in")
        except InputError as error:
            assert re.fullmatch(rf"{tmp_path}/in: not an Orbax checkpoint: .+", str(error))
            refused.append(path)
        else:  # what is not needed for the values
            assert all(np.array_equal(a, arrays[n]) for n, a in loaded.weights.arrays.items())
        path.write_bytes(kept)
    assert any("/d/" in str(path) for path in refused)


@pytest.mark.needs("mxnet")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.0.bias": (8,)}, "resnet18 with the names of gluon has no features.0.bias"),
        ({"features.0.weight": (8, 1, 7, 7)}, "backbone.conv1.weight is (8, 1, 7, 7), not"),
        ({"features.4.1.body.1.gamma": None}, "backbone.layer1.1.bn1.weight (8,) is missing"),
        ({"0.weight": (3,)}, "has no 0.weight (3,)"),
        (
            {f"features.{k}.{b}.body.6.weight": (8, 8, 1, 1) for k in (4, 5, 6, 7) for b in (0, 1)}
            | {f"features.{k}.{b}.body.7.gamma": (8,) for k in (4, 5, 6, 7) for b in (0, 1)},
            "is none of resnet18, resnet34, resnet18_v2; the nearest, resnet18 with the names of"
            " gluon has no features.4.0.body.6.weight (8, 8, 1, 1) (and 15 more)",
        ),
    ],
)
def test_gluon_s_arrays_that_do_not_fit(
    tmp_path: Path, change: dict[str, tuple[int, ...] | None], message: str
) -> None:
    arrays: dict[str, Array] = dict(rename(initial(V1, 1), "gluon", V1))
    for name, shape in change.items():
        arrays.pop(name, None)
        if shape is not None:
            arrays[name] = np.zeros(shape, np.float32)
    load_backend("mxnet").write_arrays(tmp_path / "in", arrays, {})
    with pytest.raises(InputError, match=re.escape(message)):
        load_weights(tmp_path / "in")


def test_another_architecture_than_the_one_asked_for(tmp_path: Path) -> None:
    write_weights(tmp_path / "in", Weights(initial(V1, 1), V1, ["a"]))
    with pytest.raises(InputError, match="in: its network is resnet18, not resnet18_v2"):
        load_weights(tmp_path / "in", architecture=V2)


def test_a_backbone_is_no_network_to_evaluate_or_predict_with(
    tmp_path: Path, run_command: Run
) -> None:
    torch.save(torchvision_resnet18().state_dict(), tmp_path / "in")
    with pytest.raises(InputError, match="in: a backbone without the head"):
        load_network(tmp_path / "in")
    for command in (("evaluate", "--data", "d"), ("predict", "--out", "d", "image.jpg")):
        weights = ("--backend", "torch", "--weights", tmp_path / "in")
        code, _, err = run_command(command[0], *weights, *command[1:])
        assert (code, err.count("\n")) == (2, 1)
        assert "a backbone without the head" in err


def test_a_book_s_file_is_a_network_to_predict_with(tmp_path: Path) -> None:
    torch.save(torch_model(book_torch()).state_dict(), tmp_path / "in")
    weights = load_network(tmp_path / "in")
    assert (weights.num_classes, weights.mean, weights.std) == (5, IMAGENET_MEAN, IMAGENET_STD)


# ImageNet


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Where each library keeps its file, in empty caches; a download fails as without network."""
    load_backend("mxnet")
    from mxnet.gluon.model_zoo import model_store

    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "mxnet"))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setattr(model_store, "download", no_network)
    return {
        V1: tmp_path / "torch/hub/checkpoints/resnet18-f37072fd.pth",
        V2: tmp_path / "mxnet/models/resnet18_v2-a81db45f.params",
    }


@pytest.mark.needs("mxnet")
def test_imagenet_without_network_says_where_the_file_goes(
    published: dict[str, Path], architecture: Architecture
) -> None:
    with pytest.raises(InputError) as error:
        load_weights(Path("imagenet"), architecture=architecture)
    reason = {V1: "no network", V2: "OSError"}[architecture]
    assert f"cannot be fetched ({reason})" in str(error.value)
    assert str(error.value).endswith(f"put it here: {published[architecture]}")


@pytest.mark.needs("mxnet")
def test_imagenet_with_a_cached_file_of_another_digest(
    published: dict[str, Path], architecture: Architecture
) -> None:
    path = published[architecture]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not it")
    with pytest.raises(InputError, match=rf"^{path}: not (torchvision|Gluon)'s file"):
        load_weights(Path("imagenet"), architecture=architecture)
    assert path.read_bytes() == b"not it"


@pytest.mark.needs("mxnet")
def test_imagenet_from_the_cache(
    published: dict[str, Path], architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generic values in the published file's place, under the digest that they have."""
    from mxnet.gluon.model_zoo import model_store

    path = published[architecture]
    path.parent.mkdir(parents=True)
    if architecture == V1:
        vision = import_torchvision()
        model = torch_model(torchvision_resnet18())
        torch.save(model.state_dict(), "file")
        weights = vision.models.ResNet18_Weights.IMAGENET1K_V1
        url = f"https://host/resnet18-{sha256(Path('file'))[:8]}.pth"
        monkeypatch.setattr(weights, "_value_", dataclasses.replace(weights.value, url=url))
        Path("file").rename(path.with_name(Path(url).name))
        expected = torch_logits(torchvision_backbone(model))
    else:
        model = gluon_model(zoo(V2))
        model.save_parameters(str(path))
        digest = hashlib.sha1(path.read_bytes()).hexdigest()
        monkeypatch.setitem(model_store._model_sha1, V2, digest)
        path.rename(path.with_name(f"{V2}-{digest[:8]}.params"))
        expected = gluon_logits(model.features[:-2])
    loaded = load_weights(Path("imagenet"), architecture=architecture)
    assert (loaded.container, loaded.has_head) == ("imagenet", False)
    hold(loaded, expected)


def test_a_file_called_imagenet_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_weights(Path("imagenet"), Weights(initial(V1, 1), V1, ["a"]))
    assert load_weights(Path("imagenet")).has_head


def test_each_backend_has_the_weights_of_one_architecture(backend: str) -> None:
    foreign = {"torch": V2, "mxnet": V1, "jax": V1}[backend]
    with pytest.raises(InputError, match=f"^imagenet: .*{foreign}$"):
        load_backend(backend).imagenet_weights(foreign)
