"""JAX: the network's layers. What XLA makes slow has a faster form beside the plain one.

Each fast form computes what the plain one does, and its gradient; docs/speed.md has what it brings.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from common.config import Config

_Normalised = tuple[jax.Array, jax.Array, jax.Array]

_LAYOUT = ("NHWC", "HWIO", "NHWC")

_VECTOR = 8
"""Images that fill XLA's inner loop in a weight gradient."""

# fast: newer versions give a weight gradient to another library, which strips do not help.
_IN_STRIPS = jax.__version_info__ < (0, 7)


def conv(
    in_channels: int,
    channels: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    *,
    bias: bool = False,
    config: Config,
) -> nnx.Conv:
    """A convolution: (N, H, W, in) -> (N, H', W', channels)."""
    # differs(conv_layout): (kh, kw, in, out); the default SAME is not symmetric at stride 2.
    return nnx.Conv(
        in_channels,
        channels,
        (kernel, kernel),
        strides=stride,
        padding=((padding, padding), (padding, padding)),
        use_bias=bias,
        dtype=config.dtype,
        param_dtype=config.dtype.storage,
        conv_general_dilated=_conv_general_dilated,
        rngs=nnx.Rngs(0),
    )


def batch_norm(channels: int, config: Config, *, affine: bool = True) -> nnx.Module:
    """Batch normalisation: (N, H, W, channels) -> the same."""
    return _BatchNorm(channels, config, affine=affine)


class _BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy, 2015).

    Flax's own adds the biased variance to the running one, and takes it from one pass.
    """

    def __init__(self, channels: int, config: Config, *, affine: bool = True) -> None:
        self.affine = affine
        if affine:
            self.scale = nnx.Param(jnp.ones(channels, config.dtype.storage))
            self.bias = nnx.Param(jnp.zeros(channels, config.dtype.storage))
        self.mean = nnx.BatchStat(jnp.zeros(channels, config.dtype.storage))
        self.var = nnx.BatchStat(jnp.ones(channels, config.dtype.storage))
        # differs(bn_momentum): `decay` is the weight of the old value.
        self.eps, self.decay = config.bn_eps, config.bn_decay
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = x.dtype
        mean, var = self.mean[...], self.var[...]
        one, zero = jnp.ones_like(mean), jnp.zeros_like(mean)
        scale, bias = (self.scale[...], self.bias[...]) if self.affine else (one, zero)
        x = x.astype(mean.dtype)  # from bfloat16; otherwise it is that already
        if self.use_running_average:
            y = (x - mean) * (lax.rsqrt(var + self.eps) * scale) + bias
        else:
            n = x.size // x.shape[-1]
            y, new_mean, new_var = _normalise(x, scale, bias, self.eps)
            # differs(bn_running_variance): the running variance is unbiased (n - 1), written out.
            # differs(bn_update): the buffers change in the call, and a compiled step returns them.
            self.mean[...] = self.decay * mean + (1 - self.decay) * new_mean
            self.var[...] = self.decay * var + (1 - self.decay) * new_var * (n / (n - 1))
        return y.astype(dtype)


def _plain_normalise(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> _Normalised:
    """The normalised x (N, H, W, C), and its mean and biased variance (C,), which are constants."""
    mean, var = jnp.mean(x, axis=(0, 1, 2)), jnp.var(x, axis=(0, 1, 2))
    y = (x - mean) * (lax.rsqrt(var + eps) * scale) + bias
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> _Normalised:
    """`_plain_normalise`, which keeps x alone for its gradient, where JAX keeps each step."""
    return _normalise_forward(x, scale, bias, eps)[0]


def _channel_sums(x: jax.Array) -> jax.Array:
    """The sum of (N, H, W, C) over all but the channels, (C,)."""
    # fast: a row at a time as a product with ones, since XLA sums columns slowly. One product over
    # all rows would be as fast, and in float32 lose three digits.
    rows = lax.dot_general(jnp.ones(x.shape[:3], x.dtype), x, (((2,), (2,)), ((0, 1), (0, 1))))
    return jnp.sum(rows, axis=(0, 1))


def _normalise_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> tuple[_Normalised, tuple[jax.Array, ...]]:
    n = x.size // x.shape[-1]
    mean = _channel_sums(x) / n
    var = _channel_sums(jnp.square(x - mean)) / n
    root = lax.rsqrt(var + eps)
    y = (x - mean) * (root * scale) + bias
    return (y, mean, var), (x, mean, root, scale)


def _normalise_backward(
    eps: float, kept: tuple[jax.Array, ...], gradients: _Normalised
) -> tuple[jax.Array, ...]:
    x, mean, root, scale = kept
    gradient = gradients[0]  # mean and variance are constants
    n = x.size // x.shape[-1]
    bias_gradient = _channel_sums(gradient)
    scale_gradient = _channel_sums(gradient * (x - mean)) * root
    through_mean, through_var = bias_gradient / n, (x - mean) * (root * scale_gradient / n)
    x_gradient = (scale * root) * (gradient - through_mean - through_var)
    return x_gradient, scale_gradient, bias_gradient


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _plain_max_pool(x: jax.Array) -> jax.Array:
    """The largest of 3x3 at stride 2, padding 1: (N, H, W, C) -> (N, H/2, W/2, C), H, W even."""
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


@jax.custom_vjp
def _max_pool(x: jax.Array) -> jax.Array:
    """`_plain_max_pool`, whose gradient goes by the winner's index, not by a search for it."""
    return _plain_max_pool(x)


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maxima and where they were, 0 to 8 in the order of rows: the first of equals."""
    # XLA may compute x anew for each that asks, a rounding apart: maximum and index see one x.
    x = lax.optimization_barrier(x)
    n, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    largest = jnp.full((n, h // 2, w // 2, c), -jnp.inf, x.dtype)
    winner = jnp.zeros(largest.shape, jnp.uint8)
    for index in range(9):
        a, b = divmod(index, 3)
        # fast: indexing with a step would be a gather
        tap = lax.slice(padded, (0, a, b, 0), (n, a + h - 1, b + w - 1, c), (1, 2, 2, 1))
        larger = (tap > largest) | jnp.isnan(tap)
        largest = jnp.where(larger, tap, largest)
        winner = jnp.where(larger, jnp.uint8(index), winner)
    return largest, winner


def _max_pool_backward(winner: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    """Pixels of even and odd rows and columns are reached by 1, 2, 2 and 4 windows."""
    n, h, w, c = gradient.shape

    def won(index: int) -> jax.Array:
        return jnp.where(winner == index, gradient, 0)

    def left(x: jax.Array) -> jax.Array:
        return jnp.pad(x[:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))

    def up(x: jax.Array) -> jax.Array:
        return jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))

    def side_by_side(even: jax.Array, odd: jax.Array) -> jax.Array:
        return jnp.stack([even, odd], axis=3).reshape(n, h, 2 * w, c)

    even = side_by_side(won(4), won(5) + left(won(3)))
    odd = side_by_side(won(7) + up(won(1)), won(8) + left(won(6)) + up(won(2)) + up(left(won(0))))
    return (jnp.stack([even, odd], axis=2).reshape(n, 2 * h, 2 * w, c),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _conv_general_dilated(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Any, **_: Any
) -> jax.Array:
    """`lax.conv_general_dilated` as `nnx.Conv` calls it, for squares alone."""
    return _convolution(x, kernel, strides[0], padding[0][0])


def _plain_convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """(N, H, W, in), (k, k, in, out) -> (N, H', W', out)."""
    margin = (padding, padding)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), (margin, margin), dimension_numbers=_LAYOUT
    )


def _convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """`_plain_convolution` in the form that is fastest on a CPU, with its gradients."""
    if kernel.shape[0] == 1 and padding == 0:
        # fast: a product; strided 1x1 convolutions have slow gradients
        x = lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))
        return jnp.dot(x, kernel[0, 0])
    form = _strip_convolution if _IN_STRIPS else _plain_convolution
    return form(x, kernel, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _strip_convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """`_plain_convolution`, with another form of the gradient by the kernel."""
    return _plain_convolution(x, kernel, stride, padding)


def _strip_forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain_convolution(x, kernel, stride, padding), (x, kernel)


def _strip_backward(
    stride: int, padding: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    by_input = jax.linear_transpose(lambda x: _plain_convolution(x, kernel, stride, padding), x)
    (x_gradient,) = by_input(gradient)
    return x_gradient, _kernel_gradient(x, gradient, kernel, stride, padding)


def _kernel_gradient(
    x: jax.Array, gradient: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> jax.Array:
    """The gradient by the kernel, from images cut into strips.

    XLA computes it as a convolution whose channels are the images: of few, its inner loop is
    mostly empty. Strips of the images are more of them. A strip's rows of x overlap the next's.
    """
    n, rows = gradient.shape[:2]
    strips = max(s for s in range(1, max(1, _VECTOR // n) + 1) if rows % s == 0)
    height, k = rows // strips, kernel.shape[0]
    x = jnp.pad(x, ((0, 0), (padding, padding), (0, 0), (0, 0)))
    tops = range(0, rows, height)
    pieces = jnp.concatenate([x[:, top * stride : (top + height - 1) * stride + k] for top in tops])
    gradients = jnp.concatenate([gradient[:, top : top + height] for top in tops])

    def convolve(kernel: jax.Array) -> jax.Array:
        margins = ((0, 0), (padding, padding))
        return lax.conv_general_dilated(
            pieces, kernel, (stride, stride), margins, dimension_numbers=_LAYOUT
        )

    (kernel_gradient,) = jax.linear_transpose(convolve, kernel)(gradients)
    return jnp.asarray(kernel_gradient)


_strip_convolution.defvjp(_strip_forward, _strip_backward)
