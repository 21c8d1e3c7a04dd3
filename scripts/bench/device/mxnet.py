"""MXNet: a matrix product, and what it knows of its device."""

from collections.abc import Callable

import backends.mxnet.device  # noqa: F401  before mxnet, which it makes importable

# isort: split
import mxnet as mx


def product(side: int, dtype: str, device: mx.Context) -> Callable[[], None]:
    """A function that multiplies two (side, side) matrices and waits for the result."""
    a, b = (mx.nd.random.uniform(shape=(side, side), dtype=dtype, ctx=device) for _ in range(2))

    def multiply() -> None:
        mx.nd.dot(a, b).wait_to_read()

    return multiply


def device_name(device: mx.Context) -> str | None:
    """A GPU's name; MXNet knows no other than this."""
    return str(device) if device.device_type == "gpu" else None


def device_peak_mb(device: mx.Context) -> float | None:
    """The megabytes in use on a GPU; MXNet keeps no peak, but it keeps what it has taken."""
    if device.device_type != "gpu":
        return None
    free, total = mx.context.gpu_memory_info(device.device_id)
    return float(total - free) / 2**20
