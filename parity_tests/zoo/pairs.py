"""The pairs: each side of each is built here, with random weights, from what is installed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends import load_backend
from common.parity.records import Record
from parity_tests.network.witnesses import import_gluoncv, import_torchvision


def _torchvision(name: str, **settings: Any) -> Callable[[], Any]:
    return lambda: getattr(import_torchvision().models, name)(weights=None, **settings)


def _gluon(name: str, **settings: Any) -> Callable[[], Any]:
    def build() -> Any:
        load_backend("mxnet")
        from mxnet.gluon.model_zoo import vision

        return getattr(vision, name)(**settings)

    return build


def _gluoncv(module: str, name: str, **settings: Any) -> Callable[[], Any]:
    return lambda: getattr(import_gluoncv(module), name)(**settings)


@dataclass(frozen=True)
class Pair:
    """Two builders: of a PyTorch or Gluon network, and of its counterpart.

    `cause`: why the two differ, where they do, checked in the source of both.
    """

    a: tuple[str, Callable[[], Any]]
    b: tuple[str, Callable[[], Any]]
    size: int = 64
    cause: str = ""


def _vision(name: str, gluon: str, size: int = 64, cause: str = "", **settings: Any) -> Pair:
    return Pair(("torch", _torchvision(name, **settings)), ("mxnet", _gluon(gluon)), size, cause)


def _v1b(name: str) -> Pair:
    gluoncv = _gluoncv("resnetv1b", f"{name}_v1b")
    return Pair(("torch", _torchvision(name)), ("mxnet", gluoncv))


STRIDE = "Gluon's v1 has the stride of a bottleneck in its first 1x1, torchvision's in the 3x3"
EXPANSION = "Gluon expands in the first bottleneck too, by a 1x1 convolution that torchvision lacks"

PAIRS = {
    "AlexNet, torchvision and Gluon": _vision("alexnet", "alexnet", 224),
    "SqueezeNet 1.0, torchvision and Gluon": _vision("squeezenet1_0", "squeezenet1_0", 224),
    "SqueezeNet 1.1, torchvision and Gluon": _vision("squeezenet1_1", "squeezenet1_1", 224),
    "VGG11-BN, torchvision and Gluon": _vision("vgg11_bn", "vgg11_bn", 224),
    "DenseNet121, torchvision and Gluon": _vision("densenet121", "densenet121", 224),
    "MobileNet v2, torchvision and Gluon": _vision(
        "mobilenet_v2", "mobilenet_v2_1_0", cause=EXPANSION
    ),
    "Inception v3, torchvision and Gluon": _vision(
        "inception_v3", "inception_v3", 299, aux_logits=False, init_weights=False
    ),
    "ResNet18 v1, torchvision and Gluon": _vision("resnet18", "resnet18_v1"),
    "ResNet34 v1, torchvision and Gluon": _vision("resnet34", "resnet34_v1"),
    "ResNet50 v1, torchvision and Gluon": _vision("resnet50", "resnet50_v1", cause=STRIDE),
    "ResNet18 v1b, torchvision and GluonCV": _v1b("resnet18"),
    "ResNet34 v1b, torchvision and GluonCV": _v1b("resnet34"),
    "ResNet50 v1b, torchvision and GluonCV": _v1b("resnet50"),
    "ResNet18 v2, Gluon and GluonCV": Pair(
        ("mxnet", _gluon("resnet18_v2")), ("mxnet", _gluoncv("resnet", "resnet18_v2"))
    ),
}


def record_side(
    side: tuple[str, Callable[[], Any]], size: int, out: Path, **options: Any
) -> Record:
    """Records one network of a pair on two random images."""
    backend, build = side
    framework: Any = load_backend(backend)
    images = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    model = build()
    if backend == "torch":
        import torch

        given, loss = torch.from_numpy(images), lambda y: y.square().mean()
    else:
        from mxnet import nd

        given, loss = nd.array(images), lambda y: (y**2).mean()
        model.initialize()
        model(given)
    record: Record = framework.record(model, given, loss=loss, out=out, **options)
    return record
