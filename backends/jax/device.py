"""JAX: devices, versions, and the way of an array to the device and back."""

import os
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from common.config import Config
from common.errors import InputError
from common.network.grid import image_size, pad_images, scale_and_offset


def prepare() -> None:
    """Turns on what the backend needs of the framework, for the whole process."""
    # differs: JAX has float64 only when this is on. A float32 run is not changed by it, since
    # every array in this backend is made with the run's dtype.
    jax.config.update("jax_enable_x64", True)


def select_device(name: str, index: int = 0) -> jax.Device:
    """The device for `auto` (a GPU where there is one), `cpu` or `gpu`, the one of this index.

    Raises:
        InputError: `gpu`, and JAX sees none.
    """
    prepare()
    if name == "cpu":
        return jax.local_devices(backend="cpu")[0]
    # differs: `join` leaves a process that GPU alone which `index` is of.
    device = jax.local_devices()[0]  # the default: a GPU where there is one
    if name == "gpu" and device.platform != "gpu":
        raise InputError("--device gpu: jax sees no GPU")
    # differs(tf32): on a GPU, JAX takes TF32 for float32 products and convolutions.
    jax.config.update("jax_default_matmul_precision", "highest")
    return device


def versions() -> dict[str, str]:
    """The version of each package that takes part in the computation."""
    return {
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "numpy": np.__version__,
    }


def threads() -> int:
    """How many threads compute on a CPU; with another number, sums round otherwise."""
    # XLA takes every core that the process may use.
    return len(os.sched_getaffinity(0))


def to_device(array: NDArray[Any], device: jax.Device, dtype: str) -> jax.Array:
    """A copy of the array on the device, as `dtype` (a NumPy name)."""
    # differs(float64_arrays): without the 64-bit types turned on, JAX makes float32 of it.
    # `device_put` would share the memory of some arrays, by where it happens to lie.
    return jnp.array(array, dtype=dtype, device=device)


@jax.jit
def _normalize(
    images: jax.Array, scale: jax.Array, offset: jax.Array, size: tuple[int, int]
) -> jax.Array:
    # fast: compiled once for each padded size; the picture's own size is data here.
    inside = (jnp.arange(images.shape[1])[:, None] < size[0]) & (
        jnp.arange(images.shape[2]) < size[1]
    )
    return jnp.where(inside[..., None], images * scale + offset, 0)


def images_to_device(images: NDArray[Any], device: jax.Device, config: Config) -> jax.Array:
    """Images for the network: (N, H, W, 3), normalised, H and W padded to multiples of 32.

    From pictures as decoded, (N, H, W, 3) uint8 RGB, which travel as bytes and are normalised on
    the device; or from images that are normalised already, (N, 3, H, W) of a float type.
    """
    dtype = config.dtype.storage
    padded = pad_images(images)
    if images.dtype != np.uint8:
        return to_device(padded.transpose(0, 2, 3, 1), device, dtype)
    scale, offset = (to_device(array, device, dtype) for array in scale_and_offset(config))
    return _normalize(to_device(padded, device, "uint8"), scale, offset, image_size(images))


def to_numpy(tensor: jax.Array) -> NDArray[Any]:
    """A contiguous copy on the host, same dtype; float32 for bfloat16, which NumPy lacks."""
    if tensor.dtype == jnp.bfloat16:
        tensor = tensor.astype(jnp.float32)
    return np.array(tensor, order="C")
