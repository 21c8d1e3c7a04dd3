"""MXNet Gluon: the book's network and loop, hybridized, with MXNet's own transposed convolution."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.mxnet.device import select_device  # before mxnet, which it makes importable

# isort: split
import mxnet as mx
from mxnet import autograd, gluon, nd
from mxnet.gluon import HybridBlock, nn

from common.config import Config
from common.network.bilinear import bilinear_weight

Array = NDArray[Any]


def _upsample(classes: int, bilinear: bool) -> HybridBlock:
    """(N, classes, h, w) -> (N, classes, 32h, 32w)."""
    if bilinear:
        scale = {"scale_height": 32, "scale_width": 32, "align_corners": False}
        return nn.HybridLambda(lambda F, x: F.contrib.BilinearResize2D(x, **scale))
    kernel = mx.init.Constant(nd.array(bilinear_weight(classes, 64)))
    return nn.Conv2DTranspose(
        classes, 64, strides=32, padding=16, in_channels=classes, weight_initializer=kernel
    )


class Trainer:
    """The book's network and its optimizer."""

    def __init__(self, config: Config, bilinear: bool = False) -> None:
        mx.random.seed(config.seed)
        self.device = select_device(config.device)
        classes = config.num_classes
        self.net = nn.HybridSequential()
        # The book's tab takes resnet18_v2; v1 is the network of its other tab, and ours.
        for layer in gluon.model_zoo.vision.resnet18_v1().features[:-1]:
            self.net.add(layer)
        final_conv = nn.Conv2D(classes, 1, in_channels=512)
        self.net.add(final_conv, _upsample(classes, bilinear))
        self.net.initialize(mx.init.Xavier(), ctx=self.device)
        self.net.hybridize()
        self.loss = gluon.loss.SoftmaxCrossEntropyLoss(axis=1)
        settings = {"learning_rate": config.learning_rate, "wd": config.weight_decay}
        self.optimizer = gluon.Trainer(self.net.collect_params(), "sgd", settings)

    def step(self, images: Array, labels: Array) -> float:
        """One training step on (N, 3, H, W) float32 and (N, H, W) uint8; the loss before it."""
        with autograd.record():
            logits = self.net(self._to_device(images))
            loss = self.loss(logits, self._to_device(labels))  # (N,)
        loss.backward()
        self.optimizer.step(len(images))
        nd.waitall()  # the step is done, not only its loss: what a timer must see
        return float(loss.mean().asscalar())

    def logits(self, images: Array) -> nd.NDArray:
        """The scores (N, classes, H, W) in eval mode."""
        logits = self.net(self._to_device(images))
        nd.waitall()
        return logits

    def predict(self, images: Array) -> NDArray[np.floating[Any]]:
        """The most likely class of each pixel, (N, H, W)."""
        logits = self.net(self._to_device(images))
        classes: NDArray[np.float32] = nd.argmax(logits, axis=1).asnumpy()
        return classes

    def _to_device(self, array: Array) -> nd.NDArray:
        return nd.array(array, ctx=self.device)


def product(side: int, dtype: str, device: mx.Context) -> Callable[[], object]:
    """A function that multiplies two (side, side) matrices and waits for the result."""
    a, b = (mx.nd.random.uniform(shape=(side, side), dtype=dtype, ctx=device) for _ in range(2))
    return lambda: mx.nd.dot(a, b).wait_to_read()


def gpu(device: mx.Context) -> tuple[str, float]:
    """A GPU, of which MXNet knows no name, and the megabytes in use: MXNet keeps what it takes."""
    free, total = mx.context.gpu_memory_info(device.device_id)
    return str(device), (total - free) / 2**20
