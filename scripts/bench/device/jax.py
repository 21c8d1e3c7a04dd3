"""JAX: a matrix product, and what it knows of its device."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def product(side: int, dtype: str, device: jax.Device) -> Callable[[], None]:
    """A function that multiplies two (side, side) matrices and waits for the result."""
    halves = jax.random.uniform(jax.random.key(0), (2, side, side), jnp.float32).astype(dtype)
    a, b = jax.device_put(halves, device)
    matmul = jax.jit(jnp.matmul)

    def multiply() -> None:
        matmul(a, b).block_until_ready()

    return multiply


def device_name(device: jax.Device) -> str | None:
    """A GPU's name."""
    return device.device_kind if device.platform == "gpu" else None


def device_peak_mb(device: jax.Device) -> float | None:
    """The most megabytes that arrays have held on a GPU."""
    if device.platform != "gpu":
        return None
    return float(device.memory_stats()["peak_bytes_in_use"]) / 2**20
