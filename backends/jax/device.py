"""JAX: devices, versions, and the way of an array to the device and back."""

from typing import Any

import flax
import jax
import numpy as np
import optax
from numpy.typing import NDArray

from common.errors import InputError

# JAX has float64 only when this is on, for the whole process. A float32 run is not changed by it,
# since every array in this backend is made with the run's dtype.
jax.config.update("jax_enable_x64", True)


def select_device(name: str) -> jax.Device:
    """The device for `auto` (a GPU where there is one), `cpu` or `gpu`.

    Raises:
        InputError: `gpu`, and JAX sees none.
    """
    if name == "cpu":
        return jax.devices("cpu")[0]
    device = jax.devices()[0]  # the default: a GPU where there is one
    if name == "gpu" and device.platform != "gpu":
        raise InputError("--device gpu: jax sees no GPU")
    # differs: on a GPU, JAX takes TF32 for float32 products and convolutions.
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


def to_device(array: NDArray[Any], device: jax.Device, dtype: str) -> jax.Array:
    """A copy of the array on the device, as `dtype` (a NumPy name)."""
    # differs: without its 64-bit types turned on, above, JAX makes float32 of float64.
    return jax.device_put(np.asarray(array, dtype=dtype), device)


def to_numpy(tensor: jax.Array) -> NDArray[Any]:
    """A contiguous copy on the host, same dtype."""
    return np.array(tensor, order="C")
