"""Networks that are not ours compute what our backbones compute from the same weights."""

from typing import Any

import numpy as np
import pytest

from backends import load_backend
from common.compare import relative_l2
from common.config import Config, Dtype
from common.formats import names_in
from common.names import tensors
from parity_tests.conftest import NUM_CLASSES, batches, trace, weights
from parity_tests.witnesses import import_gluoncv_resnet, import_torchvision

SPECS = {k: s for k, s in tensors("resnet18", NUM_CLASSES).items() if k.startswith("backbone.")}


@pytest.fixture(scope="module")
def torchvision_features() -> dict[str, np.ndarray]:
    """The last feature map of torchvision's own resnet18, float64, our weights and eps."""
    import torch

    names = names_in("torchvision", "resnet18")
    model = import_torchvision().models.resnet18(weights=None).double()
    state = {names[k]: torch.from_numpy(weights()[k]) for k in SPECS}
    left = model.load_state_dict(state, strict=False)
    assert all("num_batches_tracked" in k or k.startswith("fc.") for k in left.missing_keys)
    assert not left.unexpected_keys
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = Config().bn_eps
    backbone = torch.nn.Sequential(*list(model.children())[:-2])
    image = torch.from_numpy(batches().image[0]).double()
    with torch.no_grad():  # eval first: a pass in train mode changes the buffers
        return {mode: backbone.train(mode == "train")(image).numpy() for mode in ("eval", "train")}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_torchvision_resnet18(
    torchvision_features: dict[str, np.ndarray], backend: str, mode: str
) -> None:
    ours = trace(backend, Dtype.float64)[f"{mode}/layer4.1"]
    assert relative_l2(ours, torchvision_features[mode]) < 1e-13


def gluon_arrays(model: Any) -> None:
    """Fills a Gluon ResNet, whose parameters stand in the same order, with our weights and eps.

    Gluon lists a block's `downsample` after its body, as we do, and each BatchNorm as gamma, beta,
    running_mean, running_var.
    """
    from mxnet import nd

    parameters = [p for n, p in model.collect_params().items() if "dense" not in n]
    parameters = [p for p in parameters if not (p.name.endswith("bias") and "conv" in p.name)]
    assert len(parameters) == len(SPECS) == 100
    for parameter, (name, spec) in zip(parameters, SPECS.items(), strict=True):
        assert tuple(parameter.shape) == spec.shape, (parameter.name, name)
        parameter.set_data(nd.array(weights()[name], dtype="float64"))


def set_eps(block: Any) -> None:
    from mxnet.gluon import nn

    if isinstance(block, nn.BatchNorm):
        block._kwargs["eps"] = Config().bn_eps
    for child in block._children.values():
        set_eps(child)


def gluon_features(model: Any) -> np.ndarray:
    from mxnet import nd

    x = nd.array(batches().image[0], dtype="float64")
    for layer in model:
        x = layer(x)
    return x.asnumpy()


@pytest.fixture(scope="module")
def gluon_zoo() -> dict[str, np.ndarray]:
    """The last feature map of Gluon's own resnet18_v1 and of GluonCV's resnet18_v1b."""
    load_backend("mxnet")  # NumPy's lost alias
    import mxnet as mx
    from mxnet.gluon import nn
    from mxnet.gluon.model_zoo import vision

    v1 = vision.resnet18_v1(pretrained=False)
    v1b = import_gluoncv_resnet().resnet18_v1b(pretrained=False)
    found = {}
    for name, model in (("resnet18_v1", v1), ("resnet18_v1b", v1b)):
        model.initialize(mx.init.Zero())
        model.cast("float64")
        model(mx.nd.zeros((1, 3, 32, 32), dtype="float64"))  # gives deferred parameters a shape
        gluon_arrays(model)
        set_eps(model)
        if name == "resnet18_v1":
            layers = [
                layer for layer in model.features if not isinstance(layer, nn.GlobalAvgPool2D)
            ]
        else:
            stem = [model.conv1, model.bn1, model.relu, model.maxpool]
            layers = [*stem, model.layer1, model.layer2, model.layer3, model.layer4]
        found[name] = gluon_features(layers)
    return found


@pytest.mark.needs("mxnet")
@pytest.mark.parametrize("network", ["resnet18_v1", "resnet18_v1b"])
def test_gluon_and_gluoncv(gluon_zoo: dict[str, np.ndarray], backend: str, network: str) -> None:
    ours = trace(backend, Dtype.float64)["eval/layer4.1"]
    assert relative_l2(ours, gluon_zoo[network]) < 1e-13
