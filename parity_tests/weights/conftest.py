"""What the tests of weights share: one small network, and the ecosystems' networks of its width."""

import functools
from typing import Any

import numpy as np

from backends import load_backend
from common.config import Architecture, Config
from common.network.architecture import DESIGNS
from common.network.initial import generic_weights, initial_weights
from common.parity.traces import Batches, generic_batches
from common.protocol import Arrays, Trainer
from parity_tests.network.witnesses import import_torchvision

WIDTH, CLASSES = 8, 5
"""A fortieth of the arithmetic of width 64 and 21 classes, by the same code."""
NAMES = tuple("abcde")
FEATURES = 8 * WIDTH
V1, V2 = Architecture.resnet18, Architecture.resnet18_v2
V1_34 = Architecture.resnet34


@functools.cache
def weights(architecture: Architecture = V1) -> Arrays:
    """Generic weights, float64, whose values are float32: both types start from the same."""
    arrays = generic_weights(architecture, CLASSES, 3, WIDTH)
    return {k: v.astype(np.float32).astype(np.float64) for k, v in arrays.items()}


def initial(architecture: Architecture = V1, num_classes: int = CLASSES, seed: int = 0) -> Any:
    """The usual initial weights, float32."""
    return initial_weights(architecture, num_classes, seed, width=WIDTH)


@functools.cache
def batches() -> Batches:
    """Two batches of two 64x96 images with void spread unevenly; float32 values."""
    data = generic_batches(2, 2, 64, 96, CLASSES, seed=4)
    return Batches(data.image.astype(np.float32), data.label)


def config(**changes: Any) -> Config:
    """Of the small network, with weight decay."""
    return Config(num_classes=CLASSES, width=WIDTH, weight_decay=1e-3).replace(**changes)


def new_trainer(name: str, **changes: Any) -> Trainer:
    """A fresh trainer on the generic weights."""
    whole = config(**changes)
    return load_backend(name).Trainer(whole, weights(whole.architecture))


def torchvision_resnet18(width: int = WIDTH, architecture: Architecture = V1) -> Any:
    """Torchvision's resnet18 or resnet34, its own code, with fewer channels."""
    import torch

    models = import_torchvision().models

    class Thin(models.ResNet):  # type: ignore
        def _make_layer(self, block: Any, planes: int, *arguments: Any, **options: Any) -> Any:
            if planes == 64:
                self.inplanes = width
            return super()._make_layer(block, planes * width // 64, *arguments, **options)

    model = Thin(models.resnet.BasicBlock, list(DESIGNS[architecture].blocks))
    model.conv1 = torch.nn.Conv2d(3, width, 7, 2, 3, bias=False)
    model.bn1 = torch.nn.BatchNorm2d(width)
    model.fc = torch.nn.Linear(8 * width, 1000)
    return model


def book_torch(backbone: Any = None) -> Any:
    """The FCN as the book builds it in PyTorch."""
    import torch

    children = list((backbone or torchvision_resnet18()).children())
    net = torch.nn.Sequential(*children[:-2])
    channels = children[-1].in_features
    net.add_module("final_conv", torch.nn.Conv2d(channels, CLASSES, kernel_size=1))
    net.add_module(
        "transpose_conv",
        torch.nn.ConvTranspose2d(CLASSES, CLASSES, kernel_size=64, padding=16, stride=32),
    )
    return net


def zoo(architecture: str, width: int = WIDTH) -> Any:
    """Gluon's own network, its parameters without a value."""
    load_backend("mxnet")  # NumPy's lost alias
    from mxnet.gluon.model_zoo import vision

    if width == 64:
        return vision.get_model(V2 if architecture == V2 else f"{architecture}_v1")
    channels = [width, *(width << k for k in range(4))]
    if architecture != V2:
        blocks = list(DESIGNS[Architecture(architecture)].blocks)
        return vision.ResNetV1(vision.BasicBlockV1, blocks, channels, prefix="resnetv10_")
    return vision.ResNetV2(vision.BasicBlockV2, [2, 2, 2, 2], channels, prefix="resnetv20_")
