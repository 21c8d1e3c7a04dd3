"""PyTorch: each pitfall as a case of a few lines, which returns what it measures.

The same functions stand in the same order beside this file, once a framework; a quantity that two
frameworks share has one name in both. `catalogue.py` says why they differ and what to write.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors
from torch import nn
from torch.nn import functional

from common.network.bilinear import bilinear_weight
from scripts.pitfalls.catalogue import Measured


def _gradient(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> list[float]:
    """The gradient of sum(function(x)) at x, flat."""
    x.requires_grad_()
    gradients: list[float] = torch.autograd.grad(function(x).sum(), x)[0].flatten().tolist()
    return gradients


def _or_error(function: Callable[[], Any]) -> Any:
    """What a function returns, or the name of what it raises."""
    try:
        return function()
    except Exception as error:  # which one it is, is what is measured
        return type(error).__name__


def _falls(rates: list[float], weight: float, gradient: float, **options: float) -> list[float]:
    """What each step of SGD takes off a float64 weight, at the same gradient every time."""
    w = torch.tensor([weight], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=1.0, **options)  # type: ignore[arg-type]
    falls = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        w.grad = torch.full_like(w, gradient)
        before = w.item()
        optimizer.step()
        falls.append(before - w.item())
    return falls


def _first_row(saved: bytes) -> list[float]:
    """The first row of tensor w in a safetensors file."""
    row: list[float] = load_arrays(saved)["w"][0].tolist()
    return row


def _dtype(x: torch.Tensor) -> str:
    """The NumPy name of a tensor's type."""
    return str(x.dtype).removeprefix("torch.")


def bn_momentum() -> Measured:
    """The running mean, 0 at first, after one batch of mean 10."""
    x = torch.tensor([[9.0], [11.0]])
    default, nine_tenths = nn.BatchNorm1d(1), nn.BatchNorm1d(1, momentum=0.9)
    default(x), nine_tenths(x)
    return {
        "momentum, default": default.momentum,
        "running mean after a batch of mean 10": default.running_mean.item(),  # type: ignore
        "the same, momentum=0.9": nine_tenths.running_mean.item(),  # type: ignore
    }


def bn_running_variance() -> Measured:
    """What the batch [1, 3] leaves when nothing of the old value is kept."""
    layer = nn.BatchNorm1d(1, momentum=1.0)
    output = layer(torch.tensor([[1.0], [3.0]]))
    return {
        "running variance after the batch 1, 3": layer.running_var.item(),  # type: ignore
        "output for the 3": output[1].item(),
    }


def bn_update() -> Measured:
    """The running mean, 0 at first, as a batch of mean 2 passes."""
    layer = nn.BatchNorm1d(1, momentum=1.0)
    output = layer(torch.tensor([[1.0], [3.0]]))
    after_forward = layer.running_mean.item()  # type: ignore
    output.sum().backward()
    return {
        "running mean after forward": after_forward,
        "running mean after backward": layer.running_mean.item(),  # type: ignore
    }


def bn_batch_variance() -> Measured:
    """A float32 batch far from zero: mean 1000, standard deviation 0.01."""
    x = torch.tensor([[1000.01], [999.99], [1000.01], [999.99]])
    output = nn.BatchNorm1d(1)(x)
    return {"largest output (exact: 0.9535)": output.max().item()}


def bn_eps() -> Measured:
    """A batch whose variance is 1e-4, with gamma 2: the layer and the raw operator."""
    x, two = torch.tensor([[-0.01], [0.01]]), torch.tensor([2.0])
    layer = nn.BatchNorm1d(1)
    nn.init.constant_(layer.weight, 2.0)
    raw = functional.batch_norm(x, None, None, weight=two, training=True)
    return {
        "eps of the layer, default": layer.eps,
        "layer's output (exact: 1.907)": layer(x)[1].item(),
        "raw operator's output, default": raw[1].item(),
    }


def conv_layout() -> Measured:
    """A 7x7 convolution with stride 2 on 8x8 ones, all weights 1."""
    x = torch.ones(1, 1, 8, 8)
    default, padded = nn.Conv2d(1, 1, 7, 2, bias=False), nn.Conv2d(1, 1, 7, 2, 3, bias=False)
    nn.init.ones_(default.weight)
    nn.init.ones_(padded.weight)
    return {
        "weight, 3 channels to 8": list(nn.Conv2d(3, 8, 7).weight.shape),
        "output's height, default padding": default(x).shape[2],
        "first output, default padding": default(x)[0, 0, 0, 0].item(),
        "output's height, padding 3": padded(x).shape[2],
        "first output, padding 3": padded(x)[0, 0, 0, 0].item(),
    }


def conv_transpose() -> Measured:
    """Kernel 64, stride 32, padding 16 on 2x2 pixels, of which the first is 1 and the rest 0."""
    kernel = torch.arange(64.0 * 64).view(1, 1, 64, 64)  # kernel[i, j] = 64 i + j
    x = torch.zeros(1, 1, 2, 2)
    x[0, 0, 0, 0] = 1
    output = functional.conv_transpose2d(x, kernel, stride=32, padding=16)
    return {
        "weight, 2 channels to 3": list(nn.ConvTranspose2d(2, 3, 64).weight.shape),
        "output's height, padding=16": output.shape[2],
        "output's height, padding=47": functional.conv_transpose2d(
            x, kernel, stride=32, padding=47
        ).shape[2],
        "first output (tap 16, 16 is 1040)": output[0, 0, 0, 0].item(),
    }


def bilinear_init() -> Measured:
    """Two class maps, all 1 and all 0, upsampled twice: the middle of each."""
    x = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])[None]
    weight = torch.tensor(bilinear_weight(2, 4), dtype=torch.float32)
    output = functional.conv_transpose2d(x, weight, stride=2, padding=1)
    return {
        "bilinear initializer": "none",
        "common.network.bilinear, class maps 1 and 0": output[0, :, 4, 4].tolist(),
    }


def label_255() -> Measured:
    """Two pixels, logits 2, 1, 0, labels 0 and 255 (void). One loss alone is 0.4076."""
    logits, labels = torch.tensor([[2.0, 1, 0], [2.0, 1, 0]]), torch.tensor([0, 255])
    void_out = functional.cross_entropy(logits, labels, ignore_index=255)
    return {
        "loss of the pixel labelled 255": _or_error(
            lambda: functional.cross_entropy(logits[1:], labels[1:]).item()
        ),
        "mean over both, default": _or_error(
            lambda: functional.cross_entropy(logits, labels).item()
        ),
        "mean with void left out (exact: 0.4076)": void_out.item(),
    }


def label_outside() -> Measured:
    """Labels that are no class: logits 2, 1, 0, whose losses are 0.4076, 1.4076, 2.4076."""

    def loss(label: int) -> Any:
        logits, labels = torch.tensor([[2.0, 1, 0]]), torch.tensor([label])
        return _or_error(lambda: functional.cross_entropy(logits, labels).item())

    return {"loss, label 200": loss(200), "loss, label -1": loss(-1)}


def sgd_momentum() -> Measured:
    """Momentum 0.9, gradient 1 in both steps, from weight 0."""
    w = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    w.grad = torch.ones(1)
    optimizer.step()
    return {
        "buffer after a step, rate 0.1": optimizer.state[w]["momentum_buffer"].item(),
        "w falls by, rates 0.1, 0.1": _falls([0.1, 0.1], 0.0, 1.0, momentum=0.9),
        "w falls by, rates 0.1, 0.01": _falls([0.1, 0.01], 0.0, 1.0, momentum=0.9),
    }


def weight_decay() -> Measured:
    """Weight 1, gradient 0, rate 0.1, decay 0.5: what two steps take off."""
    layer = nn.BatchNorm1d(1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.5)
    layer.weight.grad, layer.bias.grad = torch.zeros(1), torch.zeros(1)
    optimizer.step()
    return {
        "w falls by, no momentum": _falls([0.1, 0.1], 1.0, 0.0, weight_decay=0.5),
        "w falls by, momentum 0.9": _falls([0.1, 0.1], 1.0, 0.0, momentum=0.9, weight_decay=0.5),
        "BatchNorm's gamma, 1, falls by": 1 - layer.weight.item(),
    }


def lr_schedule() -> Measured:
    """A schedule 1 - n / 4 over three updates with gradient 1."""
    seen = []

    def schedule(n: int) -> float:
        seen.append(n)
        return 1 - n / 4

    w = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    path = [0.0]
    for _ in range(3):
        w.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        path.append(w.item())
    return {
        "n in the first update": seen[0],
        "rates of updates 1 to 3": (-np.diff(path)).tolist(),
    }


def float32_hyperparameters() -> Measured:
    """Errors of float64 computations whose hyper-parameters are no float32 numbers."""
    layer = nn.BatchNorm1d(1, momentum=0.1, dtype=torch.float64)
    layer(torch.tensor([[0.0], [2.0]], dtype=torch.float64))
    small = torch.tensor([[-0.01], [0.01]], dtype=torch.float64)
    exact = 0.01 / math.sqrt(1e-4 + 1e-5)
    return {
        "error of a step, rate 0.1": abs(_falls([0.1], 0.0, 1.0)[0] - 0.1),
        "error of a step, momentum 0.9": abs(_falls([1, 1], 0.0, 1.0, momentum=0.9)[1] - 1.9),
        "error of a step, weight decay 0.1": abs(_falls([1], 1.0, 0.0, weight_decay=0.1)[0] - 0.1),
        "error of a running mean, decay 0.9": abs(layer.running_mean.item() - 0.1),  # type: ignore
        "error of an output, eps 1e-5": abs(layer(small)[1].item() - exact),
        "error of x * 0.1": abs((torch.ones(1, dtype=torch.float64) * 0.1).item() - 0.1),
    }


def relu_at_zero() -> Measured:
    """The derivative at 0 of three ways to write max(x, 0)."""
    return {
        "gradient of relu(0)": _gradient(functional.relu, torch.zeros(1))[0],
        "gradient of maximum(0, 0)": _gradient(
            lambda x: torch.maximum(x, torch.zeros(1)), torch.zeros(1)
        )[0],
        "gradient of clip(0, 0, 6)": _gradient(lambda x: x.clamp(0, 6), torch.zeros(1))[0],
    }


def max_pool_ties() -> Measured:
    """Four equal values: which one takes the gradient."""
    x = torch.ones(1, 1, 2, 2)
    return {
        "gradient of max-pool": _gradient(lambda x: functional.max_pool2d(x, 2), x),
        "gradient of max()": _gradient(lambda x: x.max(), x),
    }


def nan() -> Measured:
    """What NaN becomes, in float32."""
    x = torch.tensor([1.0, math.nan, 2.0, 3.0])
    return {
        "activation layer, relu": nn.ReLU()(x)[1].item(),
        "activation layer, float64": nn.ReLU()(x.double())[1].item(),
        "operator relu": torch.relu(x)[1].item(),
        "max-pool of 1, NaN, 2, 3": functional.max_pool1d(x[None], 4).item(),
        "max() of the same": x.max().item(),
    }


def float64_arrays() -> Measured:
    """What becomes of NumPy's float64 and of Python's floats."""
    array = np.array([1 + 1e-9])
    layer = nn.BatchNorm1d(1, dtype=torch.float64)
    return {
        "array of a float64 array": _dtype(torch.tensor(array)),
        "array of [0.1]": _dtype(torch.tensor([0.1])),
        "(1 + 1e-9) - 1": (torch.tensor(array) - 1).item(),
        "the same, float64 asked for": (torch.tensor(array, dtype=torch.float64) - 1).item(),
        "BatchNorm's buffers, float64 layer": _dtype(layer.running_mean),  # type: ignore
    }


def resize() -> Measured:
    """Bilinear resizing of one row of pixels."""

    def resized(row: list[float], width: int, **options: Any) -> list[float]:
        x = torch.tensor(row).view(1, 1, 1, -1)
        y = functional.interpolate(x, size=(1, width), mode="bilinear", **options)
        numbers: list[float] = y.flatten().tolist()
        return numbers

    ramp = [0.0, 1, 2, 3, 4, 5, 6, 7]
    return {
        "0, 1 to four pixels, default": resized([0.0, 1.0], 4),
        "0, 1 to four pixels, half-pixel": resized([0.0, 1.0], 4, align_corners=False),
        "0 to 7 to two pixels, default": resized(ramp, 2),
        "0 to 7 to two, half-pixel, no antialias": resized(ramp, 2, antialias=False),
    }


def tf32() -> Measured:
    """The switches of torch.backends as they stand when PyTorch has been imported."""
    return {
        "matrix products: switch": "cuda.matmul.allow_tf32",
        "matrix products: value": torch.backends.cuda.matmul.allow_tf32,
        "convolutions: switch": "cudnn.allow_tf32",
        "convolutions: value": torch.backends.cudnn.allow_tf32,
    }


def safetensors_transpose() -> Measured:
    """The transpose of [[0, 1, 2], [3, 4, 5]], saved and read back."""
    w = torch.arange(6.0).view(2, 3).T
    array = w.numpy()
    return {
        "w.T as an array: contiguous": array.flags.c_contiguous,
        "first row read back (exact: 0, 3)": _first_row(save_arrays({"w": array})),
        "the same, ascontiguousarray": _first_row(save_arrays({"w": np.ascontiguousarray(array)})),
        "the same, safetensors' own save": _or_error(lambda: _first_row(save_tensors({"w": w}))),
    }


def sgd_without_momentum() -> Measured:
    """Whether there is a momentum buffer after a step."""

    def has_buffer(momentum: float) -> bool:
        w = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.1, momentum=momentum)
        w.grad = torch.ones(1)
        optimizer.step()
        return optimizer.state[w].get("momentum_buffer") is not None

    return {
        "buffer, momentum not given": has_buffer(0),  # 0 is the default
        "buffer, momentum=0.0": has_buffer(0.0),
        "buffer, momentum=5e-324": has_buffer(math.ulp(0.0)),
    }


def late_errors() -> Measured:
    """When a draw from a Poisson distribution with rate -1 fails."""
    try:
        draw = torch.poisson(torch.tensor([-1.0]))
    except RuntimeError:
        return {"Poisson(-1) fails": "in the call"}
    return {"Poisson(-1) fails": f"never: {draw.item()}"}


def channels_last() -> Measured:
    """A 1x3x4x5 image, channels last."""
    x = torch.zeros(1, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    array = x.numpy()
    return {
        "shape": list(x.shape),
        "strides, in elements": [step // array.itemsize for step in array.strides],
        "as an array: contiguous": array.flags.c_contiguous,
    }


def argmax_dtype() -> Measured:
    """The type of an index, the index of a tie and of NaN."""
    index = torch.tensor([1.0, 3.0, 2.0]).argmax()
    return {
        "type of an index": _dtype(index),
        "argmax of 3, 3": torch.tensor([3.0, 3.0]).argmax().item(),
        "argmax of 1, NaN, 2": torch.tensor([1.0, math.nan, 2.0]).argmax().item(),
    }
