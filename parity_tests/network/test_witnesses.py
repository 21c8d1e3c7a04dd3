"""Networks that are not ours compute what our backbones compute from the same weights."""

from typing import Any

import numpy as np
import pytest

from backends import load_backend
from common.config import Config, Dtype
from common.network.tensors import TensorSpec, tensors
from common.parity.compare import relative_l2
from common.protocol import Arrays
from common.weights.namings import names_in
from parity_tests.conftest import NUM_CLASSES, V1, V2, WHOLE, WIDTH, batches, trace, weights
from parity_tests.network.witnesses import import_gluoncv_resnet, import_torchvision
from parity_tests.weights.conftest import V1_34, torchvision_resnet18, zoo

SPECS, SPECS_34, SPECS_V2 = (
    {k: s for k, s in tensors(a, NUM_CLASSES, WIDTH).items() if k.startswith("backbone.")}
    for a in (V1, V1_34, V2)
)

SPECS_WHOLE = {k: s for k, s in tensors(V1, 1).items() if k.startswith("backbone.")}
THREE = pytest.mark.parametrize(
    "name", ["torch", "mxnet", pytest.param("jax", marks=pytest.mark.full)]
)
"""JAX, which compiles a deep network for half a minute, in the full suite alone."""

CHANNELS = [WIDTH, WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
"""Of Gluon's networks, which can be as thin as ours."""


@pytest.fixture(scope="module")
def torchvision_features() -> dict[str, np.ndarray]:
    """The last feature map of torchvision's own resnet18, float64, our weights and eps."""
    import torch

    names = names_in("torchvision", "resnet18")
    model = import_torchvision().models.resnet18(weights=None).double()
    state = {names[k]: torch.from_numpy(weights(width=WHOLE)[k]) for k in SPECS}
    left = model.load_state_dict(state, strict=False)
    assert all("num_batches_tracked" in k or k.startswith("fc.") for k in left.missing_keys)
    assert not left.unexpected_keys
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = Config().bn_eps
    backbone = torch.nn.Sequential(*list(model.children())[:-2])
    image = torch.from_numpy(batches(WHOLE).image[0]).double()
    with torch.no_grad():  # eval first: a pass in train mode changes the buffers
        return {mode: backbone.train(mode == "train")(image).numpy() for mode in ("eval", "train")}


# torchvision builds no thin network, so ours is whole, too
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    "name", ["torch", *(pytest.param(n, marks=pytest.mark.full) for n in ("mxnet", "jax"))]
)
def test_torchvision_resnet18(
    torchvision_features: dict[str, np.ndarray], name: str, mode: str
) -> None:
    ours = trace(name, Dtype.float64, width=WHOLE)[f"{mode}/layer4.1"]
    assert relative_l2(ours, torchvision_features[mode]) < 1e-13


def gluon_parameters(model: Any) -> list[Any]:
    """Those of a Gluon ResNet that we have too; they stand in the same order as ours.

    Gluon lists a block's `downsample` after its body, as we do, and each BatchNorm as gamma, beta,
    running_mean, running_var. The first of v2 has gamma and beta, which it never reads or trains.
    """
    parameters = [p for n, p in model.collect_params().items() if "dense" not in n]
    parameters = [p for p in parameters if not (p.name.endswith("bias") and "conv" in p.name)]
    unused = (p for p in parameters if p.grad_req == "null" and p.name.endswith(("gamma", "beta")))
    unused = {parameter.name for parameter in unused}
    return [parameter for parameter in parameters if parameter.name not in unused]


def gluon_arrays(model: Any, arrays: Arrays, specs: dict[str, TensorSpec]) -> None:
    """Fills a Gluon ResNet with our weights and eps."""
    from mxnet import nd

    for parameter, (name, spec) in zip(gluon_parameters(model), specs.items(), strict=True):
        assert tuple(parameter.shape) == spec.shape, (parameter.name, name)
        parameter.set_data(nd.array(arrays[name], dtype="float64"))
    set_eps(model)


def set_eps(block: Any) -> None:
    from mxnet.gluon import nn

    if isinstance(block, nn.BatchNorm):
        block._kwargs["eps"] = Config().bn_eps
    for child in block._children.values():
        set_eps(child)


def gluon_features(layers: Any, x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


@pytest.fixture(scope="module")
def gluon_zoo() -> dict[str, np.ndarray]:
    """The last feature map of Gluon's own resnet18_v1, thin, and of GluonCV's resnet18_v1b."""
    load_backend("mxnet")  # NumPy's lost alias
    import mxnet as mx
    from mxnet.gluon import nn
    from mxnet.gluon.model_zoo import vision

    v1 = vision.ResNetV1(vision.BasicBlockV1, [2, 2, 2, 2], CHANNELS)
    v1b = import_gluoncv_resnet().resnet18_v1b(pretrained=False)
    found = {}
    for name, model in (("resnet18_v1", v1), ("resnet18_v1b", v1b)):
        model.initialize(mx.init.Zero())
        model.cast("float64")
        model(mx.nd.zeros((1, 3, 32, 32), dtype="float64"))  # gives deferred parameters a shape
        width = WIDTH if name == "resnet18_v1" else WHOLE
        gluon_arrays(model, weights(width=width), SPECS if width == WIDTH else SPECS_WHOLE)
        if name == "resnet18_v1":
            layers = [
                layer for layer in model.features if not isinstance(layer, nn.GlobalAvgPool2D)
            ]
        else:
            stem = [model.conv1, model.bn1, model.relu, model.maxpool]
            layers = [*stem, model.layer1, model.layer2, model.layer3, model.layer4]
        x = mx.nd.array(batches(width).image[0], dtype="float64")
        found[name] = gluon_features(layers, x).asnumpy()
    return found


@pytest.mark.needs("mxnet")
def test_gluon(gluon_zoo: dict[str, np.ndarray], backend: str) -> None:
    ours = trace(backend, Dtype.float64)["eval/layer4.1"]
    assert relative_l2(ours, gluon_zoo["resnet18_v1"]) < 1e-13


# GluonCV builds no thin network, so ours is whole, too
@pytest.mark.needs("mxnet")
@pytest.mark.parametrize(
    "name", ["torch", *(pytest.param(n, marks=pytest.mark.full) for n in ("mxnet", "jax"))]
)
def test_gluoncv(gluon_zoo: dict[str, np.ndarray], name: str) -> None:
    ours = trace(name, Dtype.float64, width=WHOLE)["eval/layer4.1"]
    assert relative_l2(ours, gluon_zoo["resnet18_v1b"]) < 1e-13


@pytest.fixture(scope="module")
def gluon_v2() -> Arrays:
    """What Gluon's own resnet18_v2 makes: the book's `features[:-2]`, and its first buffers."""
    load_backend("mxnet")  # NumPy's lost alias
    import mxnet as mx
    from mxnet.gluon.model_zoo import vision

    model = vision.ResNetV2(vision.BasicBlockV2, [2, 2, 2, 2], CHANNELS)
    model.initialize()
    model.cast("float64")
    model(mx.nd.zeros((1, 3, 32, 32), dtype="float64"))  # gives deferred parameters a shape
    gluon_arrays(model, weights(V2), SPECS_V2)
    x = mx.nd.array(batches().image[0], dtype="float64")
    layers = [model.features[k] for k in range(len(model.features) - 2)]
    # without it MXNet never updates the buffers of the BatchNorm that takes the images
    x.attach_grad()
    found = {"eval": gluon_features(layers, x).asnumpy()}
    with mx.autograd.record():
        features = gluon_features(layers, x)
    features.backward()
    found["train"] = features.asnumpy()
    parameters = zip(gluon_parameters(model), SPECS_V2, strict=True)
    return found | {k: p.data().asnumpy() for p, k in parameters if "running" in k}


@pytest.mark.needs("mxnet")
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_gluon_v2(gluon_v2: Arrays, backend: str, mode: str) -> None:
    ours = trace(backend, Dtype.float64, V2)[f"{mode}/norm"]
    assert relative_l2(ours, gluon_v2[mode]) < 1e-13


@pytest.mark.needs("mxnet")
def test_gluon_v2_buffers(gluon_v2: Arrays, backend: str) -> None:
    """After one step; in Gluon's the variance of n values, in ours of n - 1."""
    n, d = batches().image[0, :, 0].size, Config().bn_decay
    for name, spec in SPECS_V2.items():
        if spec.role not in ("running_mean", "running_var"):
            continue
        ours, theirs = trace(backend, Dtype.float64, V2)[f"buffer/{name}"], gluon_v2[name]
        before, count = weights(V2)[name], n // spec.stride**2
        assert relative_l2(theirs, before) > 1e-3, name
        if spec.role == "running_var":
            theirs = d * before + (theirs - d * before) * count / (count - 1)
        assert relative_l2(ours, theirs) < 1e-13, name


@pytest.fixture(scope="module")
def torchvision_resnet34() -> Arrays:
    """What torchvision's own resnet34, thin, makes of our weights, and its buffers later."""
    import torch

    names = names_in("torchvision", V1_34)
    model = torchvision_resnet18(WIDTH, V1_34).double()
    state = {names[k]: torch.from_numpy(weights(V1_34)[k]) for k in SPECS_34}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps, module.momentum = Config().bn_eps, 1 - Config().bn_decay
    backbone = torch.nn.Sequential(*list(model.children())[:-2])
    image = torch.from_numpy(batches().image[0]).double()
    with torch.no_grad():
        found = {mode: backbone.train(mode == "train")(image).numpy() for mode in ("eval", "train")}
    buffers = {k: s for k, s in SPECS_34.items() if not s.trainable}
    return found | {k: model.state_dict()[names[k]].numpy() for k in buffers}


@THREE
def test_torchvision_resnet34(torchvision_resnet34: Arrays, name: str) -> None:
    found = trace(name, Dtype.float64, V1_34)
    for key, theirs in torchvision_resnet34.items():
        ours = found[f"{key}/layer4.2" if key in ("eval", "train") else f"buffer/{key}"]
        assert relative_l2(ours, theirs) < 1e-13, key


@pytest.mark.needs("mxnet")
@THREE
def test_gluon_resnet34(name: str) -> None:
    load_backend("mxnet")  # NumPy's lost alias
    import mxnet as mx

    model = zoo(V1_34)
    model.initialize()
    model.cast("float64")
    model(mx.nd.zeros((1, 3, 32, 32), dtype="float64"))  # gives deferred parameters a shape
    gluon_arrays(model, weights(V1_34), SPECS_34)
    x = mx.nd.array(batches().image[0], dtype="float64")
    theirs = gluon_features(model.features[:-1], x).asnumpy()
    assert relative_l2(trace(name, Dtype.float64, V1_34)["eval/layer4.2"], theirs) < 1e-13
