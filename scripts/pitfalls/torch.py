"""PyTorch: each pitfall as a case of a few lines, which returns the values of its quantities.

`catalogue.py` says what is measured. The same functions stand in the same order beside this file,
once a framework.
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
from scripts.pitfalls.catalogue import Values


def _gradient(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The gradient of sum(function(x)) at x."""
    return torch.autograd.grad(function(x.requires_grad_()).sum(), x)[0]


def _or_error(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, or the name of what it raises."""
    try:
        return function(*arguments)
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


def _buffer(momentum: float) -> Any:
    """SGD's momentum buffer after a step at gradient 1; None where there is none."""
    w = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=momentum)
    w.grad = torch.ones(1)
    optimizer.step()
    return optimizer.state[w].get("momentum_buffer")


def _dtype(x: Any) -> str:
    """The NumPy name of a tensor's type."""
    return str(x.dtype).removeprefix("torch.")


def bn_momentum() -> Values:
    x = torch.tensor([[9.0], [11.0]])
    default, nine_tenths = nn.BatchNorm1d(1), nn.BatchNorm1d(1, momentum=0.9)
    default(x), nine_tenths(x)
    return [default.momentum, default.running_mean, nine_tenths.running_mean]


def bn_running_variance() -> Values:
    layer = nn.BatchNorm1d(1, momentum=1.0)
    output = layer(torch.tensor([[1.0], [3.0]]))
    return [layer.running_var, output[1]]


def bn_update() -> Values:
    layer = nn.BatchNorm1d(1, momentum=1.0)
    output = layer(torch.tensor([[1.0], [3.0]]))
    after_forward = layer.running_mean.clone()  # type: ignore
    output.sum().backward()
    return [after_forward, layer.running_mean]


def bn_batch_variance() -> Values:
    x = torch.tensor([[1000.01], [999.99], [1000.01], [999.99]])
    return [nn.BatchNorm1d(1)(x).max()]


def bn_eps() -> Values:
    x, two = torch.tensor([[-0.01], [0.01]]), torch.tensor([2.0])
    layer = nn.BatchNorm1d(1)
    nn.init.constant_(layer.weight, 2.0)
    raw = functional.batch_norm(x, None, None, weight=two, training=True)
    return [layer.eps, layer(x)[1], raw[1]]


def conv_layout() -> Values:
    x = torch.ones(1, 1, 8, 8)
    default, padded = nn.Conv2d(1, 1, 7, 2, bias=False), nn.Conv2d(1, 1, 7, 2, 3, bias=False)
    nn.init.ones_(default.weight), nn.init.ones_(padded.weight)
    shape, y, z = nn.Conv2d(3, 8, 7).weight.shape, default(x), padded(x)
    return [shape, y.shape[2], y[0, 0, 0, 0], z.shape[2], z[0, 0, 0, 0]]


def conv_transpose() -> Values:
    kernel = torch.arange(64.0 * 64).view(1, 1, 64, 64)  # kernel[i, j] = 64 i + j
    x = torch.zeros(1, 1, 2, 2)
    x[0, 0, 0, 0] = 1
    y, z = (functional.conv_transpose2d(x, kernel, stride=32, padding=p) for p in (16, 47))
    return [nn.ConvTranspose2d(2, 3, 64).weight.shape, y.shape[2], z.shape[2], y[0, 0, 0, 0]]


def bilinear_init() -> Values:
    x = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])[None]
    weight = torch.tensor(bilinear_weight(2, 4), dtype=torch.float32)
    return ["none", functional.conv_transpose2d(x, weight, stride=2, padding=1)[0, :, 4, 4]]


def label_255() -> Values:
    logits, labels = torch.tensor([[2.0, 1, 0], [2.0, 1, 0]]), torch.tensor([0, 255])
    return [
        _or_error(functional.cross_entropy, logits[1:], labels[1:]),
        _or_error(functional.cross_entropy, logits, labels),
        functional.cross_entropy(logits, labels, ignore_index=255),
    ]


def label_outside() -> Values:
    logits, labels = torch.tensor([[2.0, 1, 0]]), (torch.tensor([k]) for k in (200, -1))
    return [_or_error(functional.cross_entropy, logits, label) for label in labels]


def sgd_momentum() -> Values:
    falls = [_falls([0.1, rate], 0.0, 1.0, momentum=0.9) for rate in (0.1, 0.01)]
    return [_buffer(0.9), *falls]


def weight_decay() -> Values:
    layer = nn.BatchNorm1d(1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.5)
    layer.weight.grad, layer.bias.grad = torch.zeros(1), torch.zeros(1)
    optimizer.step()
    plain = _falls([0.1, 0.1], 1.0, 0.0, weight_decay=0.5)
    return [plain, _falls([0.1, 0.1], 1.0, 0.0, momentum=0.9, weight_decay=0.5), 1 - layer.weight]


def lr_schedule() -> Values:
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
    return [seen[0], -np.diff(path)]


def float32_hyperparameters() -> Values:
    layer = nn.BatchNorm1d(1, momentum=0.1, dtype=torch.float64)
    layer(torch.tensor([[0.0], [2.0]], dtype=torch.float64))
    small = torch.tensor([[-0.01], [0.01]], dtype=torch.float64)
    return [
        abs(_falls([0.1], 0.0, 1.0)[0] - 0.1),
        abs(_falls([1, 1], 0.0, 1.0, momentum=0.9)[1] - 1.9),
        abs(_falls([1], 1.0, 0.0, weight_decay=0.1)[0] - 0.1),
        abs(layer.running_mean - 0.1),  # type: ignore
        abs(layer(small)[1] - 0.01 / math.sqrt(1e-4 + 1e-5)),
        abs(torch.ones(1, dtype=torch.float64) * 0.1 - 0.1),
    ]


def relu_at_zero() -> Values:
    zero = torch.zeros(1)
    functions = (functional.relu, lambda x: torch.maximum(x, zero), lambda x: x.clamp(0, 6))
    return [_gradient(function, torch.zeros(1)) for function in functions]


def max_pool_ties() -> Values:
    x = torch.ones(1, 1, 2, 2)
    return [_gradient(lambda x: functional.max_pool2d(x, 2), x), _gradient(torch.max, x)]


def nan() -> Values:
    x = torch.tensor([1.0, math.nan, 2.0, 3.0])
    pooled, relu = functional.max_pool1d(x[None], 4), nn.ReLU()
    return [relu(x)[1], relu(x.double())[1], torch.relu(x)[1], pooled, x.max()]


def float64_arrays() -> Values:
    array = np.array([1 + 1e-9])
    return [
        _dtype(torch.tensor(array)),
        _dtype(torch.tensor([0.1])),
        torch.tensor(array) - 1,
        torch.tensor(array, dtype=torch.float64) - 1,
        _dtype(nn.BatchNorm1d(1, dtype=torch.float64).running_mean),
    ]


def resize() -> Values:
    def resized(row: list[float], width: int, **options: Any) -> torch.Tensor:
        x = torch.tensor(row).view(1, 1, 1, -1)
        return functional.interpolate(x, size=(1, width), mode="bilinear", **options)

    pair, ramp = [0.0, 1], [0.0, 1, 2, 3, 4, 5, 6, 7]
    return [
        resized(pair, 4),
        resized(pair, 4, align_corners=False),
        resized(ramp, 2),
        resized(ramp, 2, antialias=False),
    ]


def tf32() -> Values:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    switches = ("cuda.matmul.allow_tf32", "cudnn.allow_tf32")
    return [switches[0], products.allow_tf32, switches[1], convolutions.allow_tf32]


def safetensors_transpose() -> Values:
    w = torch.arange(6.0).view(2, 3).T
    array = w.numpy()
    files = [save_arrays({"w": a}) for a in (array, np.ascontiguousarray(array))]
    rows = [load_arrays(file)["w"][0] for file in files]
    own = _or_error(lambda: load_arrays(save_tensors({"w": w}))["w"][0])
    return [array.flags.c_contiguous, *rows, own]


def sgd_without_momentum() -> Values:
    return [_buffer(m) is not None for m in (0, 0.0, math.ulp(0.0))]  # 0 is the default


def late_errors() -> Values:
    try:
        return [f"never: {torch.poisson(torch.tensor([-1.0])).item()}"]
    except RuntimeError:
        return ["in the call"]


def channels_last() -> Values:
    x = torch.zeros(1, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    return [x.shape, x.stride(), x.numpy().flags.c_contiguous]


def argmax_dtype() -> Values:
    rows = torch.tensor([[1.0, 3, 2], [3, 3, 0], [1, math.nan, 2]])
    _, tie, not_a_number = rows.argmax(1)
    return [_dtype(rows.argmax(1)), tie, not_a_number]
