"""JAX's fast forms against the plain ones beside them: values and gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from backends import load_backend
from backends.jax import layers
from common.parity.compare import relative_l2

Array = NDArray[Any]
load_backend("jax")  # its 64-bit types

# a product of rows sums in another order
TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


def pulled_back(function: Callable[..., Any], gradient: Any, *arrays: Any) -> tuple[Any, list[Any]]:
    """The value, and the gradients by the arrays, of a compiled call."""

    def both(gradient: Any, *arrays: Any) -> tuple[Any, Any]:
        value, pull_back = jax.vjp(function, *arrays)
        return value, pull_back(gradient)

    value, gradients = jax.jit(both)(gradient, *arrays)
    return value, list(gradients)


def random(shape: tuple[int, ...], dtype: str, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(1.5, 2.0, shape), dtype)


def close(ours: Any, plain: Any, dtype: str) -> None:
    assert ours.dtype == plain.dtype == dtype
    assert ours.shape == plain.shape
    assert relative_l2(np.asarray(ours), np.asarray(plain)) < TOLERANCE[dtype]


def normalised(form: Callable[..., Any], dtype: str, shape: tuple[int, ...]) -> list[Array]:
    """What a form of BatchNorm gives on float32's numbers: y, mean, variance, three gradients.

    The gradient goes with x, so that no sum cancels: then float32 has its digits in all of them.
    """
    x, noise, scale, bias = (
        random(size, "float32", seed).astype(dtype)
        for seed, size in enumerate([shape, shape, shape[-1:], shape[-1:]])
    )
    told = (x + noise, jnp.ones_like(bias), jnp.ones_like(bias))  # the last two are constants
    values, gradients = pulled_back(lambda *a: form(*a, 1e-5), told, x, scale, bias)
    assert all(one.dtype == dtype for one in (*values, *gradients))
    return [np.asarray(one) for one in (*values, *gradients)]


@pytest.mark.parametrize("shape", [(2, 6, 10, 5), (1, 2, 8, 3), (3, 32, 48, 4)])
def test_batch_norm_and_its_gradient(shape: tuple[int, ...]) -> None:
    truths = normalised(layers._plain_normalise, "float64", shape)
    for dtype, tolerance in {"float64": 1e-13, "float32": 1e-6}.items():
        ours = normalised(layers._normalise, dtype, shape)
        assert max(map(relative_l2, ours, truths)) < tolerance, dtype


def test_sums_of_channels_keep_float32_s_digits() -> None:
    x = random((2, 320, 480, 3), "float32")
    truth = np.asarray(x, np.float64).sum((0, 1, 2))
    assert relative_l2(np.asarray(jax.jit(layers._channel_sums)(x)), truth) < 1e-6


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("values", [None, 3, 1], ids=["all differ", "ties", "all equal"])
def test_max_pool_and_its_gradient(dtype: str, values: int | None) -> None:
    """To the bit, with the first of equals as the winner, as XLA's own, PyTorch's and MXNet's."""
    random = np.random.default_rng(0)
    shape, half = (2, 12, 16, 5), (2, 6, 8, 5)
    x = (
        random.permutation(np.prod(shape))
        if values is None
        else random.integers(values, size=shape)
    )
    x = jnp.asarray(x.reshape(shape), "float32").astype(dtype) / 7
    gradient = jnp.asarray(random.integers(-8, 8, half), dtype)  # whose sums are exact
    ours, plain = (
        pulled_back(form, gradient, x) for form in (layers._max_pool, layers._plain_max_pool)
    )
    assert jnp.array_equal(ours[0], plain[0])
    assert jnp.array_equal(ours[1][0], plain[1][0])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_max_pool_of_what_xla_may_compute_twice(dtype: str) -> None:
    """Where maximum and winner saw an x each, a rounding apart, a pixel would lose its gradient."""
    x, gradient = random((2, 64, 96, 8), dtype), random((2, 32, 48, 8), dtype, 1)

    def pooled(form: Callable[..., Any], x: Any) -> Any:
        mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
        return form(jax.nn.relu((x - mean) * jax.lax.rsqrt(var + 1e-5) * 1.7 + 0.3))

    (ours,), (plain,) = (
        pulled_back(lambda x, form=form: pooled(form, x), gradient, x)[1]
        for form in (layers._max_pool, layers._plain_max_pool)
    )
    close(ours, plain, dtype)


def test_max_pool_tells_of_what_is_no_number() -> None:
    x = jnp.ones((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    value, _ = pulled_back(layers._max_pool, jnp.ones((1, 2, 2, 1)), x)
    assert jnp.isnan(value).all()


SQUARES = [
    (3, 3, 1, 1, (10, 15)),
    (3, 3, 2, 1, (20, 30)),
    (3, 7, 2, 3, (32, 64)),
    (9, 3, 1, 1, (6, 10)),
    (8, 3, 2, 1, (8, 6)),
    (3, 3, 1, 1, (1, 2)),
]
"""Input channels, kernel, stride, padding, size."""


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("images", [1, 2, 3, 8])
@pytest.mark.parametrize("channels, kernel, stride, padding, size", SQUARES)
def test_gradients_by_the_kernel(
    dtype: str,
    images: int,
    channels: int,
    kernel: int,
    stride: int,
    padding: int,
    size: tuple[int, int],
) -> None:
    x = random((images, *size, channels), dtype)
    weight = random((kernel, kernel, channels, 4), dtype, 1)
    value = layers._plain_convolution(x, weight, stride, padding)
    gradient = random(value.shape, dtype, 2)
    plain, strips, products = (
        jax.jit(form, static_argnums=(3, 4))(x, gradient, weight, stride, padding)
        for form in (
            layers._plain_kernel_gradient,
            layers._kernel_gradient_from_strips,
            layers._kernel_gradient_from_products,
        )
    )
    close(strips, plain, dtype)
    close(products, plain, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels, kernel, stride, padding, size", SQUARES)
def test_a_convolution_and_its_gradients(
    dtype: str, channels: int, kernel: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    x = random((2, *size, channels), dtype)
    weight = random((kernel, kernel, channels, 4), dtype, 1)
    gradient = random(layers._plain_convolution(x, weight, stride, padding).shape, dtype, 2)
    ours, plain = (
        pulled_back(lambda x, w, form=form: form(x, w, stride, padding), gradient, x, weight)
        for form in (layers._convolution, layers._plain_convolution)
    )
    for a, b in zip([ours[0], *ours[1]], [plain[0], *plain[1]], strict=True):
        close(a, b, dtype)


def test_a_gpu_has_xla_s_own_gradient() -> None:
    x, weight = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))

    def program(form: Callable[..., Any], platform: str) -> str:
        gradient = jax.grad(lambda w: form(x, w, 1, 1).sum())
        traced = jax.jit(gradient).trace(weight)
        return str(traced.lower(lowering_platforms=(platform,)).as_text())

    def convolutions(form: Callable[..., Any], platform: str) -> list[str]:
        lines = program(form, platform).splitlines()
        return [line.partition("window")[2] for line in lines if "stablehlo.convolution" in line]

    assert convolutions(layers._convolution, "cuda") == convolutions(
        layers._plain_convolution, "cuda"
    )
    assert "stablehlo.concatenate" not in program(layers._convolution, "cuda")


def test_the_form_is_chosen_by_version_and_cpu() -> None:
    chosen = layers._fastest_kernel_gradient
    strips = layers._kernel_gradient_from_strips
    assert chosen((0, 6, 2), ["avx2"]) is chosen((0, 6, 2), ["avx2", "avx512f"]) is strips
    assert chosen((0, 10, 2), ["avx2"]) is layers._kernel_gradient_from_products
    assert chosen((0, 10, 2), ["avx2", "avx512f"]) is layers._plain_kernel_gradient
    assert chosen((0, 10, 2), []) is layers._plain_kernel_gradient  # not measured


def test_newer_versions_give_a_kernel_s_gradient_to_another_library() -> None:
    """Why `_fastest_kernel_gradient` asks for the version: where this fails, measure again."""
    x, weight = jnp.ones((4, 40, 60, 64)), jnp.ones((3, 3, 64, 64))
    compiled = jax.jit(layers._plain_kernel_gradient, static_argnums=(3, 4)).lower(
        x, x, weight, 1, 1
    )
    program = str(compiled.compile().as_text())
    assert ("__ynn_fusion" in program) is (jax.__version_info__ >= (0, 7))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_1x1_convolution_is_a_product(dtype: str, stride: int) -> None:
    x, weight = random((2, 8, 12, 5), dtype), random((1, 1, 5, 7), dtype, 1)
    gradient = random((2, 8 // stride, 12 // stride, 7), dtype, 2)
    ours, plain = (
        pulled_back(lambda x, w, form=form: form(x, w, stride, 0), gradient, x, weight)
        for form in (layers._convolution, layers._plain_convolution)
    )
    for a, b in zip([ours[0], *ours[1]], [plain[0], *plain[1]], strict=True):
        close(a, b, dtype)
