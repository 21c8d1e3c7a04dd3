"""JAX: the network's layers. What XLA makes slow has a faster form beside the plain one.

Each fast form computes what the plain one does, and its gradient; docs/speed.md has what it brings.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from common.config import Config, Freeze
from common.machine import cpu_info

_Normalised = tuple[jax.Array, jax.Array, jax.Array]

_VECTOR = 8
"""Numbers that fill XLA's inner loop: images in a convolution's gradient, channels in a product."""


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


def max_pool() -> Callable[[jax.Array], jax.Array]:
    """The largest of 3x3 at stride 2, padding 1: (N, H, W, C) -> (N, H/2, W/2, C), H, W even."""
    return _max_pool


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
        # differs(frozen_norm_takes_the_batch_s_statistics): an attribute beside the mode.
        self.frozen = config.freeze != Freeze.none
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = x.dtype
        mean, var = self.mean[...], self.var[...]
        one, zero = jnp.ones_like(mean), jnp.zeros_like(mean)
        scale, bias = (self.scale[...], self.bias[...]) if self.affine else (one, zero)
        x = x.astype(mean.dtype)  # from bfloat16; otherwise it is that already
        if self.use_running_average or self.frozen:
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
    """(N, H, W, C) -> (N, H/2, W/2, C)."""
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


def _convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """`_plain_convolution` in the form that is fastest on a CPU, with its gradients."""
    if kernel.shape[0] == 1 and padding == 0:
        # fast: a product; strided 1x1 convolutions have slow gradients
        x = lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))
        return jnp.dot(x, kernel[0, 0])
    return _square_convolution(x, kernel, stride, padding)


def _plain_convolution(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int | tuple[int, int]
) -> jax.Array:
    """(N, H, W, in), (k, k, in, out) -> (N, H', W', out); the padding of rows, and of columns."""
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    margins = ((rows, rows), (columns, columns))
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), margins, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _square_convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """`_plain_convolution`, with another form of the gradient by the kernel on a CPU."""
    return _plain_convolution(x, kernel, stride, padding)


def _square_forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain_convolution(x, kernel, stride, padding), (x, kernel)


def _square_backward(
    stride: int, padding: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    by_input = jax.linear_transpose(lambda x: _plain_convolution(x, kernel, stride, padding), x)
    kernel_gradient = lax.platform_dependent(
        *(x, gradient, kernel),
        cpu=functools.partial(_KERNEL_GRADIENT, stride=stride, padding=padding),
        default=functools.partial(_plain_kernel_gradient, stride=stride, padding=padding),
    )
    return by_input(gradient)[0], kernel_gradient


_square_convolution.defvjp(_square_forward, _square_backward)


def _plain_kernel_gradient(
    x: jax.Array,
    gradient: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: int | tuple[int, int],
) -> jax.Array:
    """The gradient of `_plain_convolution` by its kernel, which XLA makes a convolution."""
    by_kernel = jax.linear_transpose(lambda k: _plain_convolution(x, k, stride, padding), kernel)
    return jnp.asarray(by_kernel(gradient)[0])


def _kernel_gradient_from_strips(
    x: jax.Array, gradient: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> jax.Array:
    """`_plain_kernel_gradient` of images cut into strips.

    XLA's convolution has the images for its channels: of few, its inner loop is mostly empty.
    Strips of the images are more of them. A strip's rows of x overlap the next's.
    """
    n, rows = gradient.shape[:2]
    strips = max(s for s in range(1, max(1, _VECTOR // n) + 1) if rows % s == 0)
    height, k = rows // strips, kernel.shape[0]
    x = jnp.pad(x, ((0, 0), (padding, padding), (0, 0), (0, 0)))
    tops = range(0, rows, height)
    pieces = jnp.concatenate([x[:, top * stride : (top + height - 1) * stride + k] for top in tops])
    gradients = jnp.concatenate([gradient[:, top : top + height] for top in tops])
    return _plain_kernel_gradient(pieces, gradients, kernel, stride, (0, padding))


def _kernel_gradient_from_products(
    x: jax.Array, gradient: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> jax.Array:
    """`_plain_kernel_gradient` as a matrix product for each of the kernel's k x k taps.

    Of few channels, the taps of a row stand side by side in one product.
    """
    n, h, w, _ = gradient.shape
    k, _, channels, _ = kernel.shape
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    together = k if channels < _VECTOR else 1

    def product(corner: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Of what the elements (a, b) to (a, b + together - 1) meet, (together * in, out)."""
        a, b = corner
        size = (n, (h - 1) * stride + 1, (w - 1) * stride + 1, channels)
        taps = [lax.dynamic_slice(x, (0, a, b + i, 0), size) for i in range(together)]
        taps = [lax.slice(tap, (0, 0, 0, 0), size, (1, stride, stride, 1)) for tap in taps]
        pixels = ((0, 1, 2), (0, 1, 2))
        return lax.dot_general(jnp.concatenate(taps, axis=-1), gradient, (pixels, ((), ())))

    # One after another, for all together would need k x k times the memory of x.
    corners = jnp.mgrid[:k, :k:together].reshape(2, -1)
    return lax.map(product, tuple(corners)).reshape(kernel.shape)


def _fastest_kernel_gradient(
    version: tuple[int, ...], cpu_flags: Collection[str]
) -> Callable[..., jax.Array]:
    """The form that was measured to be the fastest, by JAX's version and the CPU's instructions.

    Newer versions give the plain form to a library, YNNPACK, which is slow without AVX-512.
    """
    if version < (0, 7):
        return _kernel_gradient_from_strips
    if "avx2" in cpu_flags and "avx512f" not in cpu_flags:
        return _kernel_gradient_from_products
    return _plain_kernel_gradient


# fast: a training step of four images takes 0.9 of its time with strips, 0.5 with products.
_KERNEL_GRADIENT = _fastest_kernel_gradient(
    jax.__version_info__, cpu_info().get("flags", "").split()
)
