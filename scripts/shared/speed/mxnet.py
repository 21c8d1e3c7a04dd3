"""MXNet Gluon: the book's network and loop, hybridized, with MXNet's own transposed convolution."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.mxnet.device import select_device  # before mxnet, which it makes importable

# isort: split
import mxnet as mx
from mxnet import autograd, gluon, nd
from mxnet.gluon import HybridBlock, nn

from backends.mxnet.processes import Group
from backends.mxnet.upsampling import TransposeConv
from common.config import Config
from common.machine import keep_pages
from common.network.bilinear import bilinear_weight
from common.network.tensors import gradient_shapes
from scripts.shared.speed.chain import POOLED, follow, starting_arrays

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


class _Chain(HybridBlock):  # type: ignore[misc]  # MXNet has no types
    """(images, what stands for their pooled features) -> what no convolution takes, cells last."""

    def __init__(self, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.config, self.shapes = config, shapes
        with self.name_scope():
            self.transpose_conv = TransposeConv(
                config.num_classes, config.head.stride, config=config
            )
            for name, shape in shapes.items():
                # As an attribute: under that name `hybrid_forward` is given it.
                setattr(self, name, self.params.get(name, shape=shape))

    def hybrid_forward(self, F: Any, images: Any, pooled: Any, **weights: Any) -> list[Any]:
        def convolve(x: Any, name: str, stride: int, padding: int) -> Any:
            channels, _, *kernel = self.shapes[name]
            return F.Convolution(
                *(x, weights[name]),
                num_filter=channels,
                kernel=kernel,
                stride=(stride, stride),
                pad=(padding, padding),
                no_bias=True,
            )

        *outputs, scores = follow(self.config, convolve, images, pooled)
        return [*outputs, self.transpose_conv.cells(scores)]


class Convolutions:
    """Our network's convolutions and its last product alone, hybridized."""

    def __init__(self, config: Config) -> None:
        keep_pages()  # as ours
        self.config, self.device = config, select_device(config.device)
        images, arrays = starting_arrays(config)
        self.images, self.pooled = self._to_device(images), self._to_device(arrays.pop(POOLED))
        self.pooled.attach_grad()
        head = "transpose_conv.weight"
        shapes = {name: array.shape for name, array in arrays.items() if name != head}
        self.net = _Chain(config, shapes)
        self.parameters = {name: getattr(self.net, name) for name in shapes}
        self.parameters[head] = self.net.transpose_conv.weight
        self.net.cast(config.dtype)
        self.net.initialize(mx.init.Zero(), ctx=self.device)
        for name, parameter in self.parameters.items():
            parameter.set_data(self._to_device(arrays[name]))
        self.net.hybridize()

    def forward(self) -> list[nd.NDArray]:
        """What no convolution takes, the cells last."""
        outputs: list[nd.NDArray] = self.net(self.images, self.pooled)
        nd.waitall()
        return outputs

    def gradients(self) -> dict[str, nd.NDArray]:
        """Those of half the sum of the outputs' squares: what comes back is what came out."""
        with autograd.record():
            outputs = self.net(self.images, self.pooled)
        autograd.backward(outputs, [output.detach() for output in outputs])
        nd.waitall()
        found = {name: parameter.grad() for name, parameter in self.parameters.items()}
        return {POOLED: self.pooled.grad} | found

    def _to_device(self, array: Array) -> nd.NDArray:
        return nd.array(array, ctx=self.device, dtype=self.config.dtype)


def product(side: int, dtype: str, device: mx.Context) -> Callable[[], object]:
    """A function that multiplies two (side, side) matrices and waits for the result."""
    a, b = (mx.nd.random.uniform(shape=(side, side), dtype=dtype, ctx=device) for _ in range(2))
    return lambda: mx.nd.dot(a, b).wait_to_read()


def gradient_sum(config: Config, group: Group) -> Callable[[], None]:
    """A function that sums as many numbers as there are gradients over the processes."""
    device = select_device(config.device, group.local_rank)
    arrays = {
        name: nd.zeros(shape, ctx=device, dtype=config.dtype.storage)
        for name, shape in gradient_shapes(config).items()
    }

    def add_up() -> None:
        group.reduce(arrays)
        nd.waitall()

    return add_up


def gpu(device: mx.Context) -> tuple[str, float]:
    """A GPU, of which MXNet knows no name, and the megabytes in use: MXNet keeps what it takes."""
    free, total = mx.context.gpu_memory_info(device.device_id)
    return str(device), (total - free) / 2**20
