"""MXNet: each pitfall as a case of a few lines, which returns what it measures.

The same functions stand in the same order beside this file, once a framework; a quantity that two
frameworks share has one name in both. `catalogue.py` says why they differ and what to write.
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
from scripts.pitfalls.catalogue import Measured


def _gradient(function: Callable[[Any], Any], x: Any) -> list[float]:
    """The gradient of sum(function(x)) at x, flat."""
    x.attach_grad()
    with autograd.record():
        y = function(x).sum()
    y.backward()
    gradients: list[float] = x.grad.asnumpy().ravel().tolist()
    return gradients


def _batch_norm(dtype: str = "float32", **options: Any) -> Any:
    """A layer for one channel."""
    layer = nn.BatchNorm(in_channels=1, **options)
    layer.initialize()
    layer.cast(dtype)
    return layer


def _raw_batch_norm(x: Any, gamma: Any, **options: Any) -> float:
    """The raw operator's second output in train mode."""
    with autograd.record():
        output = nd.BatchNorm(x, gamma, nd.zeros(1), nd.zeros(1), nd.ones(1), **options)
    return float(output[1].asscalar())


def _train(layer: Any, x: Any) -> Any:
    """A layer's output in train mode, forward and backward."""
    with autograd.record():
        output = layer(x)
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


def _first_row(saved: bytes) -> list[float]:
    """The first row of tensor w in a safetensors file."""
    row: list[float] = load_arrays(saved)["w"][0].tolist()
    return row


def bn_momentum() -> Measured:
    """The running mean, 0 at first, after one batch of mean 10."""
    x = nd.array([[9.0], [11.0]])
    default, nine_tenths = _batch_norm(), _batch_norm(momentum=0.9)
    _train(default, x), _train(nine_tenths, x)
    return {
        "momentum, default": default._kwargs["momentum"],
        "running mean after a batch of mean 10": float(default.running_mean.data().asscalar()),
        "the same, momentum=0.9": float(nine_tenths.running_mean.data().asscalar()),
    }


def bn_running_variance() -> Measured:
    """What the batch [1, 3] leaves when nothing of the old value is kept."""
    layer = _batch_norm(momentum=0.0)
    output = _train(layer, nd.array([[1.0], [3.0]]))
    return {
        "running variance after the batch 1, 3": float(layer.running_var.data().asscalar()),
        "output for the 3": float(output[1].asscalar()),
    }


def bn_update() -> Measured:
    """The running mean, 0 at first, as a batch of mean 2 passes."""
    layer = _batch_norm(momentum=0.0)
    with autograd.record():
        output = layer(nd.array([[1.0], [3.0]]))
    after_forward = float(layer.running_mean.data().asscalar())
    output.backward()
    return {
        "running mean after forward": after_forward,
        "running mean after backward": float(layer.running_mean.data().asscalar()),
    }


def bn_batch_variance() -> Measured:
    """A float32 batch far from zero: mean 1000, standard deviation 0.01."""
    x = nd.array([[1000.01], [999.99], [1000.01], [999.99]])
    output = _train(_batch_norm(), x)
    return {"largest output (exact: 0.9535)": float(output.max().asscalar())}


def bn_eps() -> Measured:
    """A batch whose variance is 1e-4, with gamma 2: the layer and the raw operator."""
    x, gamma = nd.array([[-0.01], [0.01]]), nd.array([2.0])
    layer = _batch_norm(gamma_initializer=mx.init.Constant(2.0))
    told = _raw_batch_norm(x, gamma, fix_gamma=False, eps=1e-5)
    default = _raw_batch_norm(x, gamma)
    return {
        "eps of the layer, default": layer._kwargs["eps"],
        "layer's output (exact: 1.907)": float(_train(layer, x)[1].asscalar()),
        "raw operator's output, default": default,
        "the same, fix_gamma=False, eps=1e-5": told,
        "gamma after the default (was 2)": float(gamma.asscalar()),
    }


def conv_layout() -> Measured:
    """A 7x7 convolution with stride 2 on 8x8 ones, all weights 1."""
    x, ones = nd.ones((1, 1, 8, 8)), mx.init.One()
    default = nn.Conv2D(1, 7, 2, use_bias=False, in_channels=1, weight_initializer=ones)
    padded = nn.Conv2D(1, 7, 2, 3, use_bias=False, in_channels=1, weight_initializer=ones)
    default.initialize(), padded.initialize()
    return {
        "weight, 3 channels to 8": list(nn.Conv2D(8, 7, in_channels=3).weight.shape),
        "output's height, default padding": default(x).shape[2],
        "first output, default padding": float(default(x)[0, 0, 0, 0].asscalar()),
        "output's height, padding 3": padded(x).shape[2],
        "first output, padding 3": float(padded(x)[0, 0, 0, 0].asscalar()),
    }


def conv_transpose() -> Measured:
    """Kernel 64, stride 32, padding 16 on 2x2 pixels, of which the first is 1 and the rest 0."""
    kernel = nd.arange(64 * 64).reshape((1, 1, 64, 64))  # kernel[i, j] = 64 i + j
    x = nd.zeros((1, 1, 2, 2))
    x[0, 0, 0, 0] = 1

    def output(padding: int) -> Any:
        return nd.Deconvolution(
            x, kernel, kernel=(64, 64), stride=(32, 32), pad=(padding, padding), num_filter=1
        )

    return {
        "weight, 2 channels to 3": list(nn.Conv2DTranspose(3, 64, in_channels=2).weight.shape),
        "output's height, padding=16": output(16).shape[2],
        "output's height, padding=47": output(47).shape[2],
        "first output (tap 16, 16 is 1040)": float(output(16)[0, 0, 0, 0].asscalar()),
    }


def bilinear_init() -> Measured:
    """Two class maps, all 1 and all 0, upsampled twice: the middle of each."""
    x = nd.stack(nd.ones((4, 4)), nd.zeros((4, 4))).expand_dims(0)
    options: dict[str, Any] = {"kernel": (4, 4), "stride": (2, 2), "pad": (1, 1), "num_filter": 2}
    own, ours = nd.zeros((2, 2, 4, 4)), nd.array(bilinear_weight(2, 4))
    mx.init.Bilinear()(mx.init.InitDesc("weight"), own)
    return {
        "bilinear initializer": "init.Bilinear",
        "common.network.bilinear, class maps 1 and 0": nd.Deconvolution(x, ours, **options)[
            0, :, 4, 4
        ]
        .asnumpy()
        .tolist(),
        "its own, class maps 1 and 0": nd.Deconvolution(x, own, **options)[0, :, 4, 4]
        .asnumpy()
        .tolist(),
    }


def label_255() -> Measured:
    """Two pixels, logits 2, 1, 0, labels 0 and 255 (void). One loss alone is 0.4076."""
    logits, labels = nd.array([[2.0, 1, 0], [2.0, 1, 0]]), nd.array([0, 255])
    losses = SoftmaxCrossEntropyLoss()(logits, labels)  # (pixels,)
    valid = labels != 255
    return {
        "loss of the pixel labelled 255": float(losses[1].asscalar()),
        "mean over both, default": float(losses.mean().asscalar()),
        "mean with void left out (exact: 0.4076)": float(
            ((losses * valid).sum() / valid.sum()).asscalar()
        ),
    }


def label_outside() -> Measured:
    """Labels that are no class: logits 2, 1, 0, whose losses are 0.4076, 1.4076, 2.4076."""

    def loss(label: int) -> float:
        logits = nd.array([[2.0, 1, 0]])
        return float(SoftmaxCrossEntropyLoss()(logits, nd.array([label])).asscalar())

    return {"loss, label 200": loss(200), "loss, label -1": loss(-1)}


def sgd_momentum() -> Measured:
    """Momentum 0.9, gradient 1 in both steps, from weight 0."""
    w = nd.zeros(1)
    optimizer = mx.optimizer.SGD(learning_rate=0.1, momentum=0.9)
    state = optimizer.create_state(0, w)
    optimizer.update(0, w, nd.ones(1), state)
    return {
        "buffer after a step, rate 0.1": float(state.asscalar()),
        "w falls by, rates 0.1, 0.1": _falls([0.1, 0.1], 0.0, 1.0, momentum=0.9),
        "w falls by, rates 0.1, 0.01": _falls([0.1, 0.01], 0.0, 1.0, momentum=0.9),
    }


def weight_decay() -> Measured:
    """Weight 1, gradient 0, rate 0.1, decay 0.5: what two steps take off."""
    layer = _batch_norm()
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.1, "wd": 0.5})
    _train(lambda x: 0 * layer(x), nd.array([[1.0], [3.0]]))
    trainer.step(1)
    return {
        "w falls by, no momentum": _falls([0.1, 0.1], 1.0, 0.0, wd=0.5),
        "w falls by, momentum 0.9": _falls([0.1, 0.1], 1.0, 0.0, momentum=0.9, wd=0.5),
        "BatchNorm's gamma, 1, falls by": float(1 - layer.gamma.data().asscalar()),
    }


def lr_schedule() -> Measured:
    """A schedule 1 - n / 4 over three updates with gradient 1."""
    seen = []

    class Schedule(mx.lr_scheduler.LRScheduler):  # type: ignore[misc]  # MXNet has no types
        def __call__(self, n: int) -> float:
            seen.append(n)
            return 1 - n / 4

    w, path = nd.zeros(1), [0.0]
    optimizer = mx.optimizer.SGD(lr_scheduler=Schedule())
    for _ in range(3):
        optimizer.update(0, w, nd.ones(1), None)
        path.append(float(w.asscalar()))
    return {
        "n in the first update": seen[0],
        "rates of updates 1 to 3": (-np.diff(path)).tolist(),
    }


def float32_hyperparameters() -> Measured:
    """Errors of float64 computations whose hyper-parameters are no float32 numbers."""
    layer = _batch_norm("float64", momentum=0.9)
    _train(layer, nd.array([[0.0], [2.0]], dtype="float64"))
    small = nd.array([[-0.01], [0.01]], dtype="float64")
    exact = 0.01 / math.sqrt(1e-4 + 1e-5)
    return {
        "error of a step, rate 0.1": abs(_falls([0.1], 0.0, 1.0)[0] - 0.1),
        "error of a step, momentum 0.9": abs(_falls([1, 1], 0.0, 1.0, momentum=0.9)[1] - 1.9),
        "error of a step, weight decay 0.1": abs(_falls([1], 1.0, 0.0, wd=0.1)[0] - 0.1),
        "error of a running mean, decay 0.9": abs(
            float(layer.running_mean.data().asscalar()) - 0.1
        ),
        "error of an output, eps 1e-5": abs(float(_train(layer, small)[1].asscalar()) - exact),
        "error of x * 0.1": abs(float((nd.ones(1, dtype="float64") * 0.1).asscalar()) - 0.1),
    }


def relu_at_zero() -> Measured:
    """The derivative at 0 of three ways to write max(x, 0)."""
    return {
        "gradient of relu(0)": _gradient(nd.relu, nd.zeros(1))[0],
        "gradient of maximum(0, 0)": _gradient(lambda x: nd.maximum(x, nd.zeros(1)), nd.zeros(1))[
            0
        ],
        "gradient of clip(0, 0, 6)": _gradient(lambda x: x.clip(0, 6), nd.zeros(1))[0],
    }


def max_pool_ties() -> Measured:
    """Four equal values: which one takes the gradient."""
    x = nd.ones((1, 1, 2, 2))
    return {
        "gradient of max-pool": _gradient(nn.MaxPool2D(2), x),
        "gradient of max()": _gradient(lambda x: x.max(), x),
    }


def nan() -> Measured:
    """What NaN becomes, in float32."""
    x = nd.array([1.0, math.nan, 2.0, 3.0])
    relu, pooled = nn.Activation("relu"), nn.MaxPool1D(4)(x.reshape((1, 1, 4)))
    return {
        "activation layer, relu": float(relu(x)[1].asscalar()),
        "activation layer, float64": float(relu(x.astype("float64"))[1].asscalar()),
        "operator relu": float(nd.relu(x)[1].asscalar()),
        "max-pool of 1, NaN, 2, 3": float(pooled[0, 0].asscalar()),
        "max() of the same": float(x.max().asscalar()),
    }


def float64_arrays() -> Measured:
    """What becomes of NumPy's float64 and of Python's floats."""
    array, layer = np.array([1 + 1e-9]), _batch_norm("float64")
    return {
        "array of a float64 array": np.dtype(nd.array(array).dtype).name,
        "array of [0.1]": np.dtype(nd.array([0.1]).dtype).name,
        "(1 + 1e-9) - 1": float((nd.array(array) - 1).asscalar()),
        "the same, float64 asked for": float((nd.array(array, dtype="float64") - 1).asscalar()),
        "BatchNorm's buffers, float64 layer": np.dtype(layer.running_mean.data().dtype).name,
    }


def resize() -> Measured:
    """Bilinear resizing of one row of pixels."""

    def resized(row: list[float], width: int, **options: Any) -> list[float]:
        x = nd.array(row).reshape((1, 1, 1, -1))
        y = nd.contrib.BilinearResize2D(x, height=1, width=width, **options)
        numbers: list[float] = y.asnumpy().ravel().tolist()
        return numbers

    ramp = [0.0, 1, 2, 3, 4, 5, 6, 7]
    return {
        "0, 1 to four pixels, default": resized([0.0, 1.0], 4),
        "0, 1 to four pixels, half-pixel": resized([0.0, 1.0], 4, align_corners=False),
        "0 to 7 to two pixels, default": resized(ramp, 2),
        "0 to 7 to two, half-pixel, no antialias": resized(ramp, 2, align_corners=False),
    }


def tf32() -> Measured:
    """The switches as they stand when the framework has been imported."""
    value = os.environ.get("NVIDIA_TF32_OVERRIDE", "not set")
    return {
        "matrix products: switch": "NVIDIA_TF32_OVERRIDE",
        "matrix products: value": value,
        "convolutions: switch": "NVIDIA_TF32_OVERRIDE",
        "convolutions: value": value,
    }


def safetensors_transpose() -> Measured:
    """The transpose of [[0, 1, 2], [3, 4, 5]], saved and read back."""
    array = nd.arange(6).reshape((2, 3)).T.asnumpy()
    return {
        "w.T as an array: contiguous": array.flags.c_contiguous,
        "first row read back (exact: 0, 3)": _first_row(save_arrays({"w": array})),
        "the same, ascontiguousarray": _first_row(save_arrays({"w": np.ascontiguousarray(array)})),
        "the same, safetensors' own save": "none",
    }


def sgd_without_momentum() -> Measured:
    """Whether there is a momentum buffer after a step."""

    def has_buffer(**options: float) -> bool:
        return mx.optimizer.SGD(**options).create_state(0, nd.zeros(1)) is not None

    return {
        "buffer, momentum not given": has_buffer(),
        "buffer, momentum=0.0": has_buffer(momentum=0.0),
        "buffer, momentum=5e-324": has_buffer(momentum=math.ulp(0.0)),
    }


def late_errors() -> Measured:
    """When a draw from a Poisson distribution with rate -1 fails."""
    try:
        draw = nd.random.poisson(-1.0)
    except mx.MXNetError:
        return {"Poisson(-1) fails": "in the call"}
    try:
        return {"Poisson(-1) fails": f"never: {draw.asscalar()}"}
    except mx.MXNetError:
        return {"Poisson(-1) fails": "when read"}


def channels_last() -> Measured:
    """A 1x3x4x5 image, channels last."""
    x = nd.zeros((1, 3, 4, 5)).transpose((0, 2, 3, 1))
    array = x.asnumpy()
    return {
        "shape": list(x.shape),
        "strides, in elements": [step // array.itemsize for step in array.strides],
        "as an array: contiguous": array.flags.c_contiguous,
    }


def argmax_dtype() -> Measured:
    """The type of an index, the index of a tie and of NaN."""
    index = nd.argmax(nd.array([1.0, 3.0, 2.0]), axis=0)
    return {
        "type of an index": np.dtype(index.dtype).name,
        "argmax of 3, 3": float(nd.argmax(nd.array([3.0, 3.0]), axis=0).asscalar()),
        "argmax of 1, NaN, 2": float(nd.argmax(nd.array([1.0, math.nan, 2.0]), axis=0).asscalar()),
    }
