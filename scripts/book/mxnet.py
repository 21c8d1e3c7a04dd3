"""MXNet Gluon: the book's network and loop, hybridized, with MXNet's own transposed convolution."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import backends.mxnet.device  # noqa: F401  before mxnet, which it makes importable

# isort: split
import mxnet as mx
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from common.bilinear import bilinear_weight
from common.config import Config

Array = NDArray[Any]


class Trainer:
    """The book's network and its optimizer."""

    def __init__(self, config: Config) -> None:
        mx.random.seed(config.seed)
        classes = config.num_classes
        self.net = nn.HybridSequential()
        # The book's tab takes resnet18_v2; v1 is the network of its other tab, and ours.
        for layer in gluon.model_zoo.vision.resnet18_v1().features[:-1]:
            self.net.add(layer)
        final_conv = nn.Conv2D(classes, 1, in_channels=512)
        upsample = nn.Conv2DTranspose(classes, 64, strides=32, padding=16, in_channels=classes)
        self.net.add(final_conv, upsample)
        self.net.initialize(mx.init.Xavier())
        upsample.weight.set_data(nd.array(bilinear_weight(classes, 64)))
        self.net.hybridize()
        self.loss = gluon.loss.SoftmaxCrossEntropyLoss(axis=1)
        settings = {"learning_rate": config.learning_rate, "wd": config.weight_decay}
        self.optimizer = gluon.Trainer(self.net.collect_params(), "sgd", settings)

    def step(self, images: Array, labels: Array) -> float:
        """One training step on (N, 3, H, W) float32 and (N, H, W) uint8; the loss before it."""
        with autograd.record():
            loss = self.loss(self.net(nd.array(images)), nd.array(labels))  # (N,)
        loss.backward()
        self.optimizer.step(len(images))
        nd.waitall()  # the step is done, not only its loss: what a timer must see
        return float(loss.mean().asscalar())

    def predict(self, images: Array) -> NDArray[np.floating[Any]]:
        """The most likely class of each pixel, (N, H, W)."""
        classes: NDArray[np.float32] = nd.argmax(self.net(nd.array(images)), axis=1).asnumpy()
        return classes
