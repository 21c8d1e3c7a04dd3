"""The pairs: each side of each is built and recorded here, with what is installed."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends import load_backend
from common.config import Architecture, Config
from common.parity.records import Record
from common.protocol import Array
from parity_tests.network.witnesses import import_gluoncv, import_torchvision
from parity_tests.zoo.huggingface import flax_side, torch_side

Side = Callable[..., Record]
"""Builds a network and records it; its arguments are further ones of `record`."""

ZOO = ".venv-zoo"
"""The environment of Hugging Face's networks, which `scripts/zoo.sh` makes."""

CLASSES = 10


@dataclass(frozen=True)
class Pair:
    """Two sides, and the environment that they are run in.

    `cause`: why the two differ, where they do, checked in the source of both.
    """

    a: Side
    b: Side
    cause: str = ""
    environment: str = ".venv"


def images(size: int) -> Array:
    """Two random images: (2, 3, size, size), float32."""
    return np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)


def _torch(build: Callable[[], Any], size: int) -> Side:
    def side(**options: Any) -> Record:
        framework: Any = load_backend("torch")
        import torch

        given = torch.from_numpy(images(size))
        return framework.record(build(), given, loss=lambda y: y.square().mean(), **options)

    return side


def _mxnet(build: Callable[[], Any], size: int) -> Side:
    def side(**options: Any) -> Record:
        framework: Any = load_backend("mxnet")
        from mxnet import nd

        model, given = build(), nd.array(images(size))
        model.initialize()
        model(given)  # which makes the shapes that Gluon leaves open
        return framework.record(model, given, loss=lambda y: (y**2).mean(), **options)

    return side


def _jax(build: Callable[[], Any], size: int) -> Side:
    def side(**options: Any) -> Record:
        framework: Any = load_backend("jax")
        import jax.numpy as jnp

        given = jnp.asarray(images(size).transpose(0, 2, 3, 1))
        return framework.record(build(), given, loss=lambda y: (y**2).mean(), **options)

    return side


def torchvision(name: str, **settings: Any) -> Any:
    """One of torchvision's networks, a name of `torchvision.models`, of few classes."""
    return getattr(import_torchvision().models, name)(num_classes=CLASSES, **settings)


def _without_pool(name: str, inputs: int) -> Any:
    """One for small images, as Gluon's is: without the pooling in front of its classifier.

    Of the 224 pixels that it was made for, that pooling changes nothing.
    """
    from torch import nn

    model = torchvision(name)
    first = next(k for k, m in enumerate(model.classifier) if isinstance(m, nn.Linear))
    model.avgpool = nn.Identity()
    model.classifier[first] = nn.Linear(inputs, model.classifier[first].out_features)
    return model


def _gluon(name: str) -> Any:
    """One of Gluon's networks, for small images too.

    Into some the size of the grid is written that their last pooling has of 224 pixels; here, as
    there, it pools all of it.
    """
    load_backend("mxnet")
    from mxnet.gluon import nn
    from mxnet.gluon.model_zoo import vision

    def pool_all(block: Any) -> None:
        if isinstance(block, nn.AvgPool2D) and block._kwargs["kernel"][0] > 3:
            block._kwargs["global_pool"] = True

    return getattr(vision, name)(classes=CLASSES).apply(pool_all)


def _gluoncv(module: str, name: str) -> Any:
    return getattr(import_gluoncv(module), name)(classes=CLASSES)


def _torchvision_backbone(name: str) -> Any:
    """Without pooling and classifier, and with our constants, which float32 rounds."""
    from torch import nn

    config = Config()
    norm = functools.partial(nn.BatchNorm2d, eps=config.bn_eps, momentum=1 - config.bn_decay)
    return nn.Sequential(*[*torchvision(name, norm_layer=norm).children()][:-2])


def _gluon_backbone(name: str) -> Any:
    """The same of Gluon."""
    model, config = _gluon(name), Config()
    from mxnet.gluon import nn

    def round_eps(block: Any) -> None:
        if isinstance(block, nn.BatchNorm):
            block._kwargs["eps"] = config.bn_eps

    return model.features[:-2].apply(round_eps)


def _ours(backend: str, architecture: Architecture) -> Any:
    """Our backbone, as a network that returns its last output."""
    load_backend(backend)
    config = Config(architecture=architecture)
    if backend == "torch":
        from torch import nn

        from backends.torch.model import build_model as build_torch

        class Torch(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.backbone = build_torch(config).backbone

            def forward(self, x: Any) -> Any:
                return self.backbone(x)["out"]

        return Torch()
    if backend == "mxnet":
        from mxnet.gluon import Block

        from backends.mxnet.model import build_model as build_mxnet

        class MXNet(Block):
            def __init__(self) -> None:
                super().__init__()
                self.backbone = build_mxnet(config).backbone

            def forward(self, x: Any) -> Any:
                return self.backbone(x)[-1]

        return MXNet()
    from flax import nnx

    from backends.jax.model import build_model as build_jax

    class Jax(nnx.Module):
        def __init__(self) -> None:
            self.backbone = build_jax(config).backbone

        def __call__(self, x: Any) -> Any:
            return self.backbone(x)["out"]

    return Jax()


def _vision(name: str, gluon: str, size: int = 64, cause: str = "", **settings: Any) -> Pair:
    build = functools.partial(torchvision, name, **settings)
    return Pair(_torch(build, size), _mxnet(lambda: _gluon(gluon), size), cause)


def _dense(name: str, inputs: int) -> Pair:
    """Of networks with dense layers behind the grid, which has `inputs` values here."""
    small = functools.partial(_without_pool, name, inputs)
    return Pair(_torch(small, 64), _mxnet(lambda: _gluon(name), 64))


def _v1b(name: str) -> Pair:
    gluoncv = functools.partial(_gluoncv, "resnetv1b", f"{name}_v1b")
    return Pair(_torch(lambda: torchvision(name), 64), _mxnet(gluoncv, 64))


_SIDES = {"torch": _torch, "mxnet": _mxnet, "jax": _jax}


def _with_ours(architecture: Architecture, backend: str) -> Pair:
    if architecture is Architecture.resnet18_v2:
        theirs = _mxnet(lambda: _gluon_backbone(architecture), 64)
    else:
        theirs = _torch(lambda: _torchvision_backbone(architecture), 64)
    return Pair(theirs, _SIDES[backend](lambda: _ours(backend, architecture), 64))


def _huggingface(name: str, cause: str = "") -> Pair:
    sides = [functools.partial(side, name) for side in (torch_side, flax_side)]
    return Pair(sides[0], sides[1], cause, ZOO)


EXPANSION = (
    "Gluon's first bottleneck begins with a 1x1 convolution too, which torchvision's lacks, and"
    " its classifier has no bias"
)
PADDING = (
    "the table of words has padding_idx=0 in PyTorch, whose row gets no gradient; in Flax it does"
)
STRIDE = "Gluon's v1 has the stride of a bottleneck in its first 1x1, torchvision's in the 3x3"

PAIRS = {
    "AlexNet, torchvision and Gluon": _dense("alexnet", 256),
    "SqueezeNet 1.0, torchvision and Gluon": _vision("squeezenet1_0", "squeezenet1_0"),
    "SqueezeNet 1.1, torchvision and Gluon": _vision("squeezenet1_1", "squeezenet1_1"),
    "VGG11-BN, torchvision and Gluon": _dense("vgg11_bn", 2048),
    "DenseNet121, torchvision and Gluon": _vision("densenet121", "densenet121"),
    "MobileNet v2, torchvision and Gluon": _vision(
        "mobilenet_v2", "mobilenet_v2_1_0", cause=EXPANSION
    ),
    "Inception v3, torchvision and Gluon": _vision(
        "inception_v3", "inception_v3", 107, aux_logits=False, init_weights=False
    ),
    "ResNet18 v1, torchvision and Gluon": _vision("resnet18", "resnet18_v1"),
    "ResNet34 v1, torchvision and Gluon": _vision("resnet34", "resnet34_v1"),
    "ResNet50 v1, torchvision and Gluon": _vision("resnet50", "resnet50_v1", cause=STRIDE),
    "ResNet18 v1b, torchvision and GluonCV": _v1b("resnet18"),
    "ResNet34 v1b, torchvision and GluonCV": _v1b("resnet34"),
    "ResNet50 v1b, torchvision and GluonCV": _v1b("resnet50"),
    "ResNet18 v2, Gluon and GluonCV": Pair(
        _mxnet(lambda: _gluon("resnet18_v2"), 64),
        _mxnet(lambda: _gluoncv("resnet", "resnet18_v2"), 64),
    ),
    "ResNet18, torchvision and ours in PyTorch": _with_ours(Architecture.resnet18, "torch"),
    "ResNet18, torchvision and ours in MXNet": _with_ours(Architecture.resnet18, "mxnet"),
    "ResNet18, torchvision and ours in JAX": _with_ours(Architecture.resnet18, "jax"),
    "ResNet34, torchvision and ours in PyTorch": _with_ours(Architecture.resnet34, "torch"),
    "ResNet18 v2, Gluon and ours in PyTorch": _with_ours(Architecture.resnet18_v2, "torch"),
    "ResNet18 v2, Gluon and ours in MXNet": _with_ours(Architecture.resnet18_v2, "mxnet"),
    "ResNet18 v2, Gluon and ours in JAX": _with_ours(Architecture.resnet18_v2, "jax"),
    "ResNet18, Hugging Face's PyTorch and Flax": _huggingface("ResNetBasic"),
    "ResNet of bottlenecks, Hugging Face's PyTorch and Flax": _huggingface("ResNetBottleneck"),
    "ViT, Hugging Face's PyTorch and Flax": _huggingface("ViT"),
    "BERT, Hugging Face's PyTorch and Flax": _huggingface("Bert", PADDING),
}
