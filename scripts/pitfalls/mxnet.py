"""MXNet: each pitfall as a case of a few lines, which returns the values of its quantities.

`catalogue.py` says what is measured. The same functions stand in the same order beside this file,
once a framework.
"""

import math
import os
from collections.abc import Callable
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, nd
from mxnet.gluon import Trainer, nn
from mxnet.gluon.loss import SoftmaxCrossEntropyLoss
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from common.network.bilinear import bilinear_weight
from scripts.pitfalls.catalogue import Values


def _gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """The gradient of sum(function(x)) at x."""
    x.attach_grad()
    _train(function, x)
    return x.grad.copy()


def _batch_norm(dtype: str = "float32", **options: Any) -> Any:
    """A layer for one channel."""
    layer = nn.BatchNorm(in_channels=1, **options)
    layer.initialize()
    layer.cast(dtype)
    return layer


def _train(function: Callable[[Any], Any], x: Any) -> Any:
    """A function's output in train mode, forward and backward."""
    with autograd.record():
        output = function(x)
    output.backward()
    return output


def _falls(rates: list[float], weight: float, gradient: float, **options: float) -> list[float]:
    """What each step of SGD takes off a float64 weight, at the same gradient every time."""
    w = nd.array([weight], dtype="float64")
    optimizer = mx.optimizer.SGD(learning_rate=1.0, **options)
    state = optimizer.create_state(0, w)
    falls = []
    for rate in rates:
        optimizer.set_learning_rate(rate)
        before = w.asscalar()
        optimizer.update(0, w, nd.full(1, gradient, dtype="float64"), state)
        falls.append(float(before - w.asscalar()))
    return falls


def _dtype(x: Any) -> str:
    """The NumPy name of an array's type."""
    return np.dtype(x.dtype).name


def bn_momentum() -> Values:
    x = nd.array([[9.0], [11.0]])
    default, nine_tenths = _batch_norm(), _batch_norm(momentum=0.9)
    _train(default, x), _train(nine_tenths, x)
    means = (layer.running_mean.data() for layer in (default, nine_tenths))
    return [default._kwargs["momentum"], *means]


def bn_running_variance() -> Values:
    layer = _batch_norm(momentum=0.0)
    output = _train(layer, nd.array([[1.0], [3.0]]))
    return [layer.running_var.data(), output[1]]


def bn_update() -> Values:
    layer = _batch_norm(momentum=0.0)
    with autograd.record():
        output = layer(nd.array([[1.0], [3.0]]))
    after_forward = layer.running_mean.data().copy()
    output.backward()
    return [after_forward, layer.running_mean.data()]


def bn_batch_variance() -> Values:
    x = nd.array([[1000.01], [999.99], [1000.01], [999.99]])
    return [_train(_batch_norm(), x).max()]


def bn_eps() -> Values:
    x, gamma = nd.array([[-0.01], [0.01]]), nd.array([2.0])
    layer = _batch_norm(gamma_initializer=mx.init.Constant(2.0))

    def raw(**options: Any) -> Any:
        with autograd.train_mode():
            return nd.BatchNorm(x, gamma, nd.zeros(1), nd.zeros(1), nd.ones(1), **options)[1]

    told = raw(fix_gamma=False, eps=1e-5)
    return [layer._kwargs["eps"], _train(layer, x)[1], raw(), told, gamma]


def conv_layout() -> Values:
    x, ones = nd.ones((1, 1, 8, 8)), mx.init.One()
    default = nn.Conv2D(1, 7, 2, use_bias=False, in_channels=1, weight_initializer=ones)
    padded = nn.Conv2D(1, 7, 2, 3, use_bias=False, in_channels=1, weight_initializer=ones)
    default.initialize(), padded.initialize()
    shape, y, z = nn.Conv2D(8, 7, in_channels=3).weight.shape, default(x), padded(x)
    return [shape, y.shape[2], y[0, 0, 0, 0], z.shape[2], z[0, 0, 0, 0]]


def conv_transpose() -> Values:
    kernel = nd.arange(64 * 64).reshape((1, 1, 64, 64))  # kernel[i, j] = 64 i + j
    x = nd.zeros((1, 1, 2, 2))
    x[0, 0, 0, 0] = 1
    options: dict[str, Any] = {"kernel": (64, 64), "stride": (32, 32), "num_filter": 1}
    y, z = (nd.Deconvolution(x, kernel, pad=(p, p), **options) for p in (16, 47))
    shape = nn.Conv2DTranspose(3, 64, in_channels=2).weight.shape
    return [shape, y.shape[2], z.shape[2], y[0, 0, 0, 0]]


def bilinear_init() -> Values:
    x = nd.stack(nd.ones((4, 4)), nd.zeros((4, 4))).expand_dims(0)
    options: dict[str, Any] = {"kernel": (4, 4), "stride": (2, 2), "pad": (1, 1), "num_filter": 2}
    own, ours = nd.zeros((2, 2, 4, 4)), nd.array(bilinear_weight(2, 4))
    mx.init.Bilinear()(mx.init.InitDesc("weight"), own)
    outputs = (nd.Deconvolution(x, weight, **options)[0, :, 4, 4] for weight in (ours, own))
    return ["init.Bilinear", *outputs]


def label_255() -> Values:
    logits, labels = nd.array([[2.0, 1, 0], [2.0, 1, 0]]), nd.array([0, 255])
    losses = SoftmaxCrossEntropyLoss()(logits, labels)  # (pixels,)
    valid = labels != 255
    return [losses[1], losses.mean(), (losses * valid).sum() / valid.sum()]


def label_outside() -> Values:
    logits = nd.array([[2.0, 1, 0]])
    return [SoftmaxCrossEntropyLoss()(logits, nd.array([label])) for label in (200, -1)]


def sgd_momentum() -> Values:
    w = nd.zeros(1)
    optimizer = mx.optimizer.SGD(learning_rate=0.1, momentum=0.9)
    state = optimizer.create_state(0, w)
    optimizer.update(0, w, nd.ones(1), state)
    return [state, *(_falls([0.1, rate], 0.0, 1.0, momentum=0.9) for rate in (0.1, 0.01))]


def weight_decay() -> Values:
    layer = _batch_norm()
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.1, "wd": 0.5})
    _train(lambda x: 0 * layer(x), nd.array([[1.0], [3.0]]))
    trainer.step(1)
    plain = _falls([0.1, 0.1], 1.0, 0.0, wd=0.5)
    with_momentum = _falls([0.1, 0.1], 1.0, 0.0, momentum=0.9, wd=0.5)
    return [plain, with_momentum, 1 - layer.gamma.data()]


def lr_schedule() -> Values:
    seen = []

    def schedule(n: int) -> float:
        seen.append(n)
        return 1 - n / 4

    w, path = nd.zeros(1), [0.0]
    optimizer = mx.optimizer.SGD(lr_scheduler=schedule)
    for _ in range(3):
        optimizer.update(0, w, nd.ones(1), None)
        path.append(float(w.asscalar()))
    return [seen[0], -np.diff(path)]


def float32_hyperparameters() -> Values:
    layer = _batch_norm("float64", momentum=0.9)
    _train(layer, nd.array([[0.0], [2.0]], dtype="float64"))
    small = nd.array([[-0.01], [0.01]], dtype="float64")
    return [
        abs(_falls([0.1], 0.0, 1.0)[0] - 0.1),
        abs(_falls([1, 1], 0.0, 1.0, momentum=0.9)[1] - 1.9),
        abs(_falls([1], 1.0, 0.0, wd=0.1)[0] - 0.1),
        abs(layer.running_mean.data() - 0.1),
        abs(_train(layer, small)[1] - 0.01 / math.sqrt(1e-4 + 1e-5)),
        abs(nd.ones(1, dtype="float64") * 0.1 - 0.1),
    ]


def relu_at_zero() -> Values:
    functions = (nd.relu, lambda x: nd.maximum(x, nd.zeros(1)), lambda x: x.clip(0, 6))
    return [_gradient(function, nd.zeros(1)) for function in functions]


def max_pool_ties() -> Values:
    x = nd.ones((1, 1, 2, 2))
    return [_gradient(nn.MaxPool2D(2), x), _gradient(nd.max, x)]


def nan() -> Values:
    x = nd.array([1.0, math.nan, 2.0, 3.0])
    relu, pooled = nn.Activation("relu"), nn.MaxPool1D(4)(x.reshape((1, 1, 4)))
    return [relu(x)[1], relu(x.astype("float64"))[1], nd.relu(x)[1], pooled, x.max()]


def float64_arrays() -> Values:
    array = np.array([1 + 1e-9])
    return [
        _dtype(nd.array(array)),
        _dtype(nd.array([0.1])),
        nd.array(array) - 1,
        nd.array(array, dtype="float64") - 1,
        _dtype(_batch_norm("float64").running_mean.data()),
    ]


def resize() -> Values:
    def resized(row: list[float], width: int, **options: Any) -> Any:
        x = nd.array(row).reshape((1, 1, 1, -1))
        return nd.contrib.BilinearResize2D(x, height=1, width=width, **options)

    pair, ramp = [0.0, 1], [0.0, 1, 2, 3, 4, 5, 6, 7]
    return [
        resized(pair, 4),
        resized(pair, 4, align_corners=False),
        resized(ramp, 2),
        resized(ramp, 2, align_corners=False),
    ]


def tf32() -> Values:
    return ["NVIDIA_TF32_OVERRIDE", os.environ.get("NVIDIA_TF32_OVERRIDE", "not set")] * 2


def safetensors_transpose() -> Values:
    array = nd.arange(6).reshape((2, 3)).T.asnumpy()
    files = [save_arrays({"w": a}) for a in (array, np.ascontiguousarray(array))]
    rows = [load_arrays(file)["w"][0] for file in files]
    return [array.flags.c_contiguous, *rows, "none"]


def sgd_without_momentum() -> Values:
    choices: list[dict[str, float]] = [{}, {"momentum": 0.0}, {"momentum": math.ulp(0.0)}]
    states = (mx.optimizer.SGD(**options).create_state(0, nd.zeros(1)) for options in choices)
    return [state is not None for state in states]


def late_errors() -> Values:
    try:
        draw = nd.random.poisson(-1.0)
    except mx.MXNetError:
        return ["in the call"]
    try:
        return [f"never: {draw.asscalar()}"]
    except mx.MXNetError:
        return ["when read"]


def channels_last() -> Values:
    array = nd.zeros((1, 3, 4, 5)).transpose((0, 2, 3, 1)).asnumpy()
    strides = [step // array.itemsize for step in array.strides]
    return [array.shape, strides, array.flags.c_contiguous]


def argmax_dtype() -> Values:
    index = nd.array([[1.0, 3, 2], [3, 3, 0], [1, math.nan, 2]]).argmax(axis=1)
    return [_dtype(index), index[1], index[2]]
