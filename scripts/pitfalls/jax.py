"""JAX, Flax, Optax: each pitfall as a case of a few lines, which returns its quantities' values.

`catalogue.py` says what is measured. The same functions stand in the same order beside this file,
once a framework.

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
from scripts.pitfalls.catalogue import Values


def _without_x64(function: Callable[[], Any]) -> Any:
    """What a function returns where JAX's 64-bit types are off, as they are by default."""
    home = jax if hasattr(jax, "enable_x64") else jax.experimental  # jax 0.8 and later, or before
    with home.enable_x64(False):
        return function()


def _gradient(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> Any:
    """The gradient of sum(function(x)) at x."""
    return jax.grad(lambda x: function(x).sum())(x)


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


def bn_momentum() -> Values:
    x = jnp.float32([[9], [11]])
    default, nine_tenths = _batch_norm(), _batch_norm(momentum=0.9)
    default(x), nine_tenths(x)
    return [default.momentum, default.mean[...], nine_tenths.mean[...]]


def bn_running_variance() -> Values:
    layer = _batch_norm(momentum=0.0)
    output = layer(jnp.float32([[1], [3]]))
    return [layer.var[...], output[1]]


def bn_update() -> Values:
    layer, x = _batch_norm(momentum=0.0), jnp.float32([[1], [3]])
    structure, state = nnx.split(layer)
    jax.jit(lambda state: nnx.merge(structure, state)(x))(state)
    after_jit = layer.mean[...]
    layer(x)
    after_forward = layer.mean[...]
    nnx.grad(lambda layer: layer(x).sum())(layer)
    return [after_forward, layer.mean[...], after_jit]


def bn_batch_variance() -> Values:
    x = jnp.float32([[1000.01], [999.99], [1000.01], [999.99]])
    return [_batch_norm(**options)(x).max() for options in ({}, {"use_fast_variance": False})]


def bn_eps() -> Values:
    layer = _batch_norm(scale_init=nnx.initializers.constant(2.0))
    return [layer.epsilon, layer(jnp.float32([[-0.01], [0.01]]))[1], "none"]


def conv_layout() -> Values:
    x, ones = jnp.ones((1, 8, 8, 1)), nnx.initializers.ones

    def conv(channels: int, out: int, **options: Any) -> Any:
        return nnx.Conv(channels, out, (7, 7), 2, kernel_init=ones, rngs=nnx.Rngs(0), **options)

    y, z = conv(1, 1)(x), conv(1, 1, padding=((3, 3), (3, 3)))(x)
    return [conv(3, 8).kernel.shape, y.shape[1], y[0, 0, 0, 0], z.shape[1], z[0, 0, 0, 0]]


def conv_transpose() -> Values:
    kernel = jnp.arange(64.0 * 64).reshape(64, 64, 1, 1)  # kernel[i, j] = 64 i + j
    x = jnp.zeros((1, 2, 2, 1)).at[0, 0, 0, 0].set(1)

    def output(padding: int, **options: Any) -> jax.Array:
        both = ((padding, padding), (padding, padding))
        return jax.lax.conv_transpose(x, kernel, (32, 32), both, **options)

    layer = nnx.ConvTranspose(2, 3, (64, 64), transpose_kernel=True, rngs=nnx.Rngs(0))
    y, z, flipped = output(16), output(47), output(47, transpose_kernel=True)
    return [layer.kernel.shape, y.shape[1], z.shape[1], z[0, 0, 0, 0], flipped[0, 0, 0, 0]]


def bilinear_init() -> Values:
    x = jnp.stack([jnp.ones((4, 4)), jnp.zeros((4, 4))], axis=-1)[None]
    kernel = jnp.asarray(bilinear_weight(2, 4)).transpose(2, 3, 1, 0)
    both = ((2, 2), (2, 2))
    output = jax.lax.conv_transpose(x, kernel, (2, 2), both, transpose_kernel=True)
    return ["none", output[0, 4, 4]]


def label_255() -> Values:
    logits, labels = jnp.float32([[2, 1, 0], [2, 1, 0]]), jnp.array([0, 255])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)  # (pixels,)
    one_hot = optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, 3))
    return [
        losses[1],
        losses.mean(),
        one_hot.sum() / (labels != 255).sum(),
        abs(one_hot[1]),  # it is -0
        one_hot.mean(),
    ]


def label_outside() -> Values:
    logits, labels = jnp.float32([[2, 1, 0], [2, 1, 0]]), jnp.array([200, -1])
    return [*optax.softmax_cross_entropy_with_integer_labels(logits, labels)]


def sgd_momentum() -> Values:
    def sgd(*rates: float) -> optax.GradientTransformation:
        return optax.sgd(lambda n: jnp.float64(rates)[n], momentum=0.9)

    _, state = sgd(0.1).update(jnp.float64(1), sgd(0.1).init(jnp.float64(0)))
    return [state[0].trace, _falls(sgd(0.1, 0.1), 0, 1), _falls(sgd(0.1, 0.01), 0, 1)]


def weight_decay() -> Values:
    sgd, decay = optax.sgd(0.1), optax.add_decayed_weights(0.5)
    decayed = optax.chain(decay, sgd)
    layer = nnx.state(_batch_norm(), nnx.Param)
    zeros = jax.tree.map(jnp.zeros_like, layer)
    update, _ = decayed.update(zeros, decayed.init(layer), layer)
    return [
        _falls(decayed, 1, 0),
        _falls(optax.chain(decay, optax.sgd(0.1, 0.9)), 1, 0),
        -update["scale"][...],
        _falls(sgd, 1, 0),
        _falls(optax.chain(sgd, decay), 1, 0),
    ]


def lr_schedule() -> Values:
    seen = []

    def schedule(n: jax.Array) -> jax.Array:
        seen.append(int(n))
        return 1 - n / 4

    falls = _falls(optax.sgd(schedule), 0, 1, steps=3)
    return [seen[0], falls]


def float32_hyperparameters() -> Values:
    layer = _batch_norm(momentum=0.9, dtype=jnp.float64, param_dtype=jnp.float64)
    layer.mean, layer.var = nnx.BatchStat(jnp.zeros(1)), nnx.BatchStat(jnp.ones(1))  # float64
    layer(jnp.float64([[0], [2]]))
    small = jnp.float64([[-0.01], [0.01]])
    decayed = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1.0))
    return [
        abs(_falls(optax.sgd(0.1), 0, 1)[0] - 0.1),
        abs(_falls(optax.sgd(1.0, 0.9), 0, 1)[1] - 1.9),
        abs(_falls(decayed, 1, 0)[0] - 0.1),
        abs(layer.mean[...] - 0.1),
        abs(layer(small)[1] - 0.01 / math.sqrt(1e-4 + 1e-5)),
        abs(jnp.ones(1, jnp.float64) * 0.1 - 0.1),
    ]


def relu_at_zero() -> Values:
    functions = (nnx.relu, lambda x: jnp.maximum(x, 0), lambda x: jnp.clip(x, 0, 6))
    return [_gradient(function, jnp.zeros(1)) for function in functions]


def max_pool_ties() -> Values:
    x = jnp.ones((1, 2, 2, 1))
    return [_gradient(lambda x: nnx.max_pool(x, (2, 2)), x), _gradient(jnp.max, x)]


def nan() -> Values:
    x = jnp.float32([1, math.nan, 2, 3])
    pooled, double = nnx.max_pool(x[None, :, None], (4,)), x.astype(jnp.float64)
    return [nnx.relu(x)[1], nnx.relu(double)[1], jax.nn.relu(x)[1], pooled, x.max()]


def float64_arrays() -> Values:
    array = np.array([1 + 1e-9])
    layer = _batch_norm(dtype=jnp.float64, param_dtype=jnp.float64)

    def dtypes() -> list[str]:
        return [jnp.asarray(array).dtype.name, jnp.asarray([0.1]).dtype.name]

    return [
        *_without_x64(dtypes),
        _without_x64(lambda: jnp.asarray(array) - 1),
        jnp.asarray(array, jnp.float64) - 1,
        layer.mean[...].dtype.name,
        *dtypes(),
    ]


def resize() -> Values:
    def resized(row: list[float], width: int, **options: Any) -> Any:
        return jax.image.resize(jnp.float32(row), (width,), "bilinear", **options)

    pair, ramp = [0.0, 1], [0.0, 1, 2, 3, 4, 5, 6, 7]
    return [resized(pair, 4), resized(pair, 4), resized(ramp, 2), resized(ramp, 2, antialias=False)]


def tf32() -> Values:
    value = str(jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]
    return ["jax_default_matmul_precision", value] * 2


def safetensors_transpose() -> Values:
    w = jnp.arange(6.0).reshape(2, 3).T
    array = np.asarray(w)
    files = [save_arrays({"w": a}) for a in (array, np.ascontiguousarray(array))]
    rows = [load_arrays(file)["w"][0] for file in files]
    return [array.flags.c_contiguous, *rows, load_arrays(save_jax({"w": w}))["w"][0]]


def sgd_without_momentum() -> Values:
    states = (
        optax.sgd(0.1, momentum).init(jnp.zeros(1)) for momentum in (None, 0.0, math.ulp(0.0))
    )
    return [bool(jax.tree.leaves(state)) for state in states]


def late_errors() -> Values:
    return [f"never: {jax.random.poisson(jax.random.key(0), -1.0).item()}"]


def channels_last() -> Values:
    array = np.asarray(jnp.zeros((1, 3, 4, 5)).transpose(0, 2, 3, 1))
    strides = [step // array.itemsize for step in array.strides]
    return [array.shape, strides, array.flags.c_contiguous]


def argmax_dtype() -> Values:
    rows = jnp.float32([[1, 3, 2], [3, 3, 0], [1, math.nan, 2]])
    index = rows.argmax(1)
    narrow = _without_x64(lambda: rows.argmax(1))
    return [narrow.dtype.name, index[1], index[2], index.dtype.name]
