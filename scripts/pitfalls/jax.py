"""JAX, Flax and Optax: each pitfall as a case of a few lines, which returns what it measures.

The same functions stand in the same order beside this file, once a framework; a quantity that two
frameworks share has one name in both. `catalogue.py` says why they differ and what to write.

JAX's 64-bit types are on, as in `backends.jax`; arrays that should be float32 say so.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.flax import save as save_jax
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from common.network.bilinear import bilinear_weight
from scripts.pitfalls.catalogue import Measured


def _without_x64(function: Callable[[], Any]) -> Any:
    """What a function returns where JAX's 64-bit types are off, as they are by default."""
    if hasattr(jax, "enable_x64"):  # jax 0.8 and later
        context = jax.enable_x64(False)
    else:
        context = jax.experimental.enable_x64(False)
    with context:
        return function()


def _gradient(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> list[float]:
    """The gradient of sum(function(x)) at x, flat."""
    gradients: list[float] = jax.grad(lambda x: function(x).sum())(x).ravel().tolist()
    return gradients


def _batch_norm(**options: Any) -> Any:
    """A layer for one channel."""
    return nnx.BatchNorm(1, rngs=nnx.Rngs(0), **options)


def _falls(
    optimizer: optax.GradientTransformation, weight: float, gradient: float, steps: int = 2
) -> list[float]:
    """What each step of the optimizer takes off a float64 weight, at the same gradient."""
    w, state, falls = jnp.float64(weight), optimizer.init(jnp.float64(weight)), []
    for _ in range(steps):
        update, state = optimizer.update(jnp.float64(gradient), state, w)
        falls.append(float(w - (w + update)))
        w = w + update
    return falls


def _first_row(saved: bytes) -> list[float]:
    """The first row of tensor w in a safetensors file."""
    row: list[float] = load_arrays(saved)["w"][0].tolist()
    return row


def bn_momentum() -> Measured:
    """The running mean, 0 at first, after one batch of mean 10."""
    x = jnp.float32([[9], [11]])
    default, nine_tenths = _batch_norm(), _batch_norm(momentum=0.9)
    default(x), nine_tenths(x)
    return {
        "momentum, default": default.momentum,
        "running mean after a batch of mean 10": default.mean[...].item(),
        "the same, momentum=0.9": nine_tenths.mean[...].item(),
    }


def bn_running_variance() -> Measured:
    """What the batch [1, 3] leaves when nothing of the old value is kept."""
    layer = _batch_norm(momentum=0.0)
    output = layer(jnp.float32([[1], [3]]))
    return {
        "running variance after the batch 1, 3": layer.var[...].item(),
        "output for the 3": output[1].item(),
    }


def bn_update() -> Measured:
    """The running mean, 0 at first, as a batch of mean 2 passes."""
    layer, x = _batch_norm(momentum=0.0), jnp.float32([[1], [3]])
    structure, state = nnx.split(layer)

    def function(state: nnx.State) -> jax.Array:
        output: jax.Array = nnx.merge(structure, state)(x)
        return output

    jax.jit(function)(state)
    after_jit = layer.mean[...].item()
    layer(x)
    after_forward = layer.mean[...].item()
    nnx.grad(lambda layer: layer(x).sum())(layer)
    return {
        "running mean after forward": after_forward,
        "running mean after backward": layer.mean[...].item(),
        "after forward under jit, state not returned": after_jit,
    }


def bn_batch_variance() -> Measured:
    """A float32 batch far from zero: mean 1000, standard deviation 0.01."""
    x = jnp.float32([[1000.01], [999.99], [1000.01], [999.99]])
    return {
        "largest output (exact: 0.9535)": _batch_norm()(x).max().item(),
        "the same, use_fast_variance=False": _batch_norm(use_fast_variance=False)(x).max().item(),
    }


def bn_eps() -> Measured:
    """A batch whose variance is 1e-4, with gamma 2: the layer and the raw operator."""
    x = jnp.float32([[-0.01], [0.01]])
    layer = _batch_norm(scale_init=nnx.initializers.constant(2.0))
    return {
        "eps of the layer, default": layer.epsilon,
        "layer's output (exact: 1.907)": layer(x)[1].item(),
        "raw operator's output, default": "none",
    }


def conv_layout() -> Measured:
    """A 7x7 convolution with stride 2 on 8x8 ones, all weights 1."""
    x, ones = jnp.ones((1, 8, 8, 1)), nnx.initializers.ones

    def conv(channels: int, out: int, **options: Any) -> Any:
        return nnx.Conv(channels, out, (7, 7), 2, kernel_init=ones, rngs=nnx.Rngs(0), **options)

    default, padded = conv(1, 1), conv(1, 1, padding=((3, 3), (3, 3)))
    return {
        "weight, 3 channels to 8": list(conv(3, 8).kernel.shape),
        "output's height, default padding": default(x).shape[1],
        "first output, default padding": default(x)[0, 0, 0, 0].item(),
        "output's height, padding 3": padded(x).shape[1],
        "first output, padding 3": padded(x)[0, 0, 0, 0].item(),
    }


def conv_transpose() -> Measured:
    """Kernel 64, stride 32, padding 16 on 2x2 pixels, of which the first is 1 and the rest 0."""
    kernel = jnp.arange(64.0 * 64).reshape(64, 64, 1, 1)  # kernel[i, j] = 64 i + j
    x = jnp.zeros((1, 2, 2, 1)).at[0, 0, 0, 0].set(1)

    def output(padding: int, **options: Any) -> jax.Array:
        both = ((padding, padding), (padding, padding))
        return jax.lax.conv_transpose(x, kernel, (32, 32), both, **options)

    layer = nnx.ConvTranspose(2, 3, (64, 64), transpose_kernel=True, rngs=nnx.Rngs(0))
    return {
        "weight, 2 channels to 3": list(layer.kernel.shape),
        "output's height, padding=16": output(16).shape[1],
        "output's height, padding=47": output(47).shape[1],
        "first output (tap 16, 16 is 1040)": output(47)[0, 0, 0, 0].item(),
        "the same, transpose_kernel=True": output(47, transpose_kernel=True)[0, 0, 0, 0].item(),
    }


def bilinear_init() -> Measured:
    """Two class maps, all 1 and all 0, upsampled twice: the middle of each."""
    x = jnp.stack([jnp.ones((4, 4)), jnp.zeros((4, 4))], axis=-1)[None]
    kernel = jnp.asarray(bilinear_weight(2, 4)).transpose(2, 3, 1, 0)
    both = ((2, 2), (2, 2))
    output = jax.lax.conv_transpose(x, kernel, (2, 2), both, transpose_kernel=True)
    return {
        "bilinear initializer": "none",
        "common.network.bilinear, class maps 1 and 0": output[0, 4, 4].tolist(),
    }


def label_255() -> Measured:
    """Two pixels, logits 2, 1, 0, labels 0 and 255 (void). One loss alone is 0.4076."""
    logits, labels = jnp.float32([[2, 1, 0], [2, 1, 0]]), jnp.array([0, 255])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)  # (pixels,)
    one_hot = optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, 3))
    return {
        "loss of the pixel labelled 255": losses[1].item(),
        "mean over both, default": losses.mean().item(),
        "mean with void left out (exact: 0.4076)": (one_hot.sum() / (labels != 255).sum()).item(),
        "one-hot: loss of the pixel labelled 255": abs(one_hot[1].item()),  # it is -0
        "one-hot: mean over both": one_hot.mean().item(),
    }


def label_outside() -> Measured:
    """Labels that are no class: logits 2, 1, 0, whose losses are 0.4076, 1.4076, 2.4076."""

    def loss(label: int) -> float:
        logits = jnp.float32([[2, 1, 0]])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array([label]))
        return float(losses[0])

    return {"loss, label 200": loss(200), "loss, label -1": loss(-1)}


def sgd_momentum() -> Measured:
    """Momentum 0.9, gradient 1 in both steps, from weight 0."""

    def sgd(*rates: float) -> optax.GradientTransformation:
        return optax.sgd(lambda n: jnp.float64(rates)[n], momentum=0.9)

    _, state = sgd(0.1).update(jnp.float64(1), sgd(0.1).init(jnp.float64(0)))
    return {
        "buffer after a step, rate 0.1": float(state[0].trace),
        "w falls by, rates 0.1, 0.1": _falls(sgd(0.1, 0.1), 0, 1),
        "w falls by, rates 0.1, 0.01": _falls(sgd(0.1, 0.01), 0, 1),
    }


def weight_decay() -> Measured:
    """Weight 1, gradient 0, rate 0.1, decay 0.5: what two steps take off."""

    def decayed(momentum: float) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, momentum))

    layer = nnx.state(_batch_norm(), nnx.Param)
    zeros = jax.tree.map(jnp.zeros_like, layer)
    update, _ = decayed(0).update(zeros, decayed(0).init(layer), layer)
    return {
        "w falls by, no momentum": _falls(decayed(0.0), 1, 0),
        "w falls by, momentum 0.9": _falls(decayed(0.9), 1, 0),
        "BatchNorm's gamma, 1, falls by": -update["scale"][...].item(),
        "w falls by, optax.sgd alone": _falls(optax.sgd(0.1), 1, 0),
        "w falls by, decay after sgd": _falls(
            optax.chain(optax.sgd(0.1), optax.add_decayed_weights(0.5)), 1, 0
        ),
    }


def lr_schedule() -> Measured:
    """A schedule 1 - n / 4 over three updates with gradient 1."""
    seen = []

    def schedule(n: jax.Array) -> jax.Array:
        seen.append(int(n))
        return 1 - n / 4

    rates = _falls(optax.sgd(schedule), 0, 1, steps=3)
    return {
        "n in the first update": seen[0],
        "rates of updates 1 to 3": rates,
    }


def float32_hyperparameters() -> Measured:
    """Errors of float64 computations whose hyper-parameters are no float32 numbers."""
    layer = _batch_norm(momentum=0.9, dtype=jnp.float64, param_dtype=jnp.float64)
    layer.mean, layer.var = nnx.BatchStat(jnp.zeros(1)), nnx.BatchStat(jnp.ones(1))  # float64
    layer(jnp.float64([[0], [2]]))
    small = jnp.float64([[-0.01], [0.01]])
    decayed = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1.0))
    exact = 0.01 / math.sqrt(1e-4 + 1e-5)
    return {
        "error of a step, rate 0.1": abs(_falls(optax.sgd(0.1), 0, 1)[0] - 0.1),
        "error of a step, momentum 0.9": abs(_falls(optax.sgd(1.0, 0.9), 0, 1)[1] - 1.9),
        "error of a step, weight decay 0.1": abs(_falls(decayed, 1, 0)[0] - 0.1),
        "error of a running mean, decay 0.9": abs(layer.mean[...].item() - 0.1),
        "error of an output, eps 1e-5": abs(layer(small)[1].item() - exact),
        "error of x * 0.1": abs((jnp.ones(1, jnp.float64) * 0.1).item() - 0.1),
    }


def relu_at_zero() -> Measured:
    """The derivative at 0 of three ways to write max(x, 0)."""
    return {
        "gradient of relu(0)": _gradient(nnx.relu, jnp.zeros(1))[0],
        "gradient of maximum(0, 0)": _gradient(lambda x: jnp.maximum(x, 0), jnp.zeros(1))[0],
        "gradient of clip(0, 0, 6)": _gradient(lambda x: jnp.clip(x, 0, 6), jnp.zeros(1))[0],
    }


def max_pool_ties() -> Measured:
    """Four equal values: which one takes the gradient."""
    x = jnp.ones((1, 2, 2, 1))
    return {
        "gradient of max-pool": _gradient(lambda x: nnx.max_pool(x, (2, 2)), x),
        "gradient of max()": _gradient(jnp.max, x),
    }


def nan() -> Measured:
    """What NaN becomes, in float32."""
    x = jnp.float32([1, math.nan, 2, 3])
    return {
        "activation layer, relu": nnx.relu(x)[1].item(),
        "activation layer, float64": nnx.relu(x.astype(jnp.float64))[1].item(),
        "operator relu": jax.nn.relu(x)[1].item(),
        "max-pool of 1, NaN, 2, 3": nnx.max_pool(x[None, :, None], (4,)).item(),
        "max() of the same": x.max().item(),
    }


def float64_arrays() -> Measured:
    """What becomes of NumPy's float64 and of Python's floats."""
    array = np.array([1 + 1e-9])
    layer = _batch_norm(dtype=jnp.float64, param_dtype=jnp.float64)
    return {
        "array of a float64 array": _without_x64(lambda: jnp.asarray(array).dtype.name),
        "array of [0.1]": _without_x64(lambda: jnp.asarray([0.1]).dtype.name),
        "(1 + 1e-9) - 1": _without_x64(lambda: (jnp.asarray(array) - 1).item()),
        "the same, float64 asked for": (jnp.asarray(array, jnp.float64) - 1).item(),
        "BatchNorm's buffers, float64 layer": layer.mean[...].dtype.name,
        "x64 on: array of a float64 array": jnp.asarray(array).dtype.name,
        "x64 on: array of [0.1]": jnp.asarray([0.1]).dtype.name,
    }


def resize() -> Measured:
    """Bilinear resizing of one row of pixels."""

    def resized(row: list[float], width: int, **options: Any) -> list[float]:
        y = jax.image.resize(jnp.float32(row), (width,), "bilinear", **options)
        numbers: list[float] = y.tolist()
        return numbers

    ramp = [0.0, 1, 2, 3, 4, 5, 6, 7]
    return {
        "0, 1 to four pixels, default": resized([0.0, 1.0], 4),
        "0, 1 to four pixels, half-pixel": resized([0.0, 1.0], 4),
        "0 to 7 to two pixels, default": resized(ramp, 2),
        "0 to 7 to two, half-pixel, no antialias": resized(ramp, 2, antialias=False),
    }


def tf32() -> Measured:
    """The switches as they stand when the framework has been imported."""
    value = str(jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]
    return {
        "matrix products: switch": "jax_default_matmul_precision",
        "matrix products: value": value,
        "convolutions: switch": "jax_default_matmul_precision",
        "convolutions: value": value,
    }


def safetensors_transpose() -> Measured:
    """The transpose of [[0, 1, 2], [3, 4, 5]], saved and read back."""
    w = jnp.arange(6.0).reshape(2, 3).T
    array = np.asarray(w)
    return {
        "w.T as an array: contiguous": array.flags.c_contiguous,
        "first row read back (exact: 0, 3)": _first_row(save_arrays({"w": array})),
        "the same, ascontiguousarray": _first_row(save_arrays({"w": np.ascontiguousarray(array)})),
        "the same, safetensors' own save": _first_row(save_jax({"w": w})),
    }


def sgd_without_momentum() -> Measured:
    """Whether there is a momentum buffer after a step."""

    def has_buffer(**options: float) -> bool:
        return bool(jax.tree.leaves(optax.sgd(0.1, **options).init(jnp.zeros(1))))

    return {
        "buffer, momentum not given": has_buffer(),
        "buffer, momentum=0.0": has_buffer(momentum=0.0),
        "buffer, momentum=5e-324": has_buffer(momentum=math.ulp(0.0)),
    }


def late_errors() -> Measured:
    """When a draw from a Poisson distribution with rate -1 fails."""
    draw = jax.random.poisson(jax.random.key(0), -1.0)
    return {"Poisson(-1) fails": f"never: {draw.item()}"}


def channels_last() -> Measured:
    """A 1x3x4x5 image, channels last."""
    x = jnp.zeros((1, 3, 4, 5)).transpose(0, 2, 3, 1)
    array = np.asarray(x)
    return {
        "shape": list(x.shape),
        "strides, in elements": [step // array.itemsize for step in array.strides],
        "as an array: contiguous": array.flags.c_contiguous,
    }


def argmax_dtype() -> Measured:
    """The type of an index, the index of a tie and of NaN."""
    x = jnp.float32([1, 3, 2])
    return {
        "type of an index": _without_x64(lambda: jnp.argmax(x).dtype.name),
        "argmax of 3, 3": jnp.argmax(jnp.float32([3, 3])).item(),
        "argmax of 1, NaN, 2": jnp.argmax(jnp.float32([1, math.nan, 2])).item(),
        "x64 on: type of an index": jnp.argmax(x).dtype.name,
    }
