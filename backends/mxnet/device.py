"""MXNet: devices, versions, and the way of an array to the device and back."""

import builtins
import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import Config
from common.errors import InputError
from common.network.grid import image_size, pad_images, scale_and_offset

# MXNet computes with one thread unless this is set before its libraries are loaded.
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

if "DMLC_ROLE" in os.environ:
    # ps-lite would take it for its own; a scheduler or a server listens as soon as it is imported
    os.environ.pop("PORT", None)

if int(np.__version__.split(".")[0]) > 1:
    raise ImportError(
        f"MXNet 1.9.1 needs NumPy 1, here is {np.__version__}; install with: pip install 'numpy<2'"
    )


@contextlib.contextmanager
def _as_it_expects() -> Iterator[None]:
    """While MXNet 1.9.1 is imported: what it reads, and others have taken away since.

    That is numpy.bool, and under `python -OO` the docstrings that it builds its own of. What it
    calls that is deprecated would end it under `python -W error`.
    """
    build_class = builtins.__build_class__

    def documented(*arguments: Any, **keywords: Any) -> Any:
        made = build_class(*arguments, **keywords)
        if made.__module__.startswith("mxnet.") and made.__doc__ is None:
            made.__doc__ = ""
        return made

    lacks_bool = "bool" not in vars(np)
    if lacks_bool:
        vars(np)["bool"] = np.bool_
    builtins.__build_class__ = documented
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        builtins.__build_class__ = build_class
        if lacks_bool:
            del vars(np)["bool"]


with _as_it_expects():
    import mxnet as mx


def prepare() -> None:
    """Turns on what the backend needs of the framework, for the whole process."""
    # differs: MXNet has all its types from the start. What it calls in SciPy is deprecated, which
    # would end it under `python -W error`.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"mxnet\.")


def select_device(name: str, index: int = 0) -> mx.Context:
    """The device for `auto` (a GPU where there is one), `cpu` or `gpu`, the one of this index.

    Raises:
        InputError: `gpu`, and MXNet sees none.
    """
    if name == "gpu" and mx.context.num_gpus() == 0:
        raise InputError("--device gpu: mxnet sees no GPU")
    # differs(tf32): MXNet allows TF32 where the GPU has it.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    on_gpu = name != "cpu" and mx.context.num_gpus() > 0
    return mx.gpu(index) if on_gpu else mx.cpu()


def versions() -> dict[str, str]:
    """The version of each package that takes part in the computation."""
    return {"mxnet": mx.__version__, "numpy": np.__version__}


def threads() -> int:
    """How many threads compute on a CPU; with another number, sums round otherwise."""
    return int(os.environ["OMP_NUM_THREADS"])


def to_device(array: NDArray[Any], device: mx.Context, dtype: str) -> mx.nd.NDArray:
    """A copy of the array on the device, as `dtype` (a NumPy name)."""
    # differs(float64_arrays): without `dtype` MXNet makes float32 of any array, float64 too.
    return mx.nd.array(array, ctx=device, dtype=dtype)


def images_to_device(images: NDArray[Any], device: mx.Context, config: Config) -> mx.nd.NDArray:
    """Images for the network: (N, 3, H, W), normalised, H and W padded to multiples of 32.

    From pictures as decoded, (N, H, W, 3) uint8 RGB, which travel as bytes and are normalised on
    the device; or from images that are normalised already, (N, 3, H, W) of a float type.
    """
    dtype = config.dtype.storage
    padded = pad_images(images)
    if images.dtype != np.uint8:
        return to_device(padded, device, dtype)
    height, width = image_size(images)
    scale, offset = (
        to_device(array, device, dtype).reshape((3, 1, 1)) for array in scale_and_offset(config)
    )
    x = to_device(padded, device, "uint8").transpose((0, 3, 1, 2)).astype(dtype)
    x = x * scale + offset
    x[:, :, height:] = 0
    x[:, :, :, width:] = 0
    return x


def to_numpy(tensor: mx.nd.NDArray) -> NDArray[Any]:
    """A contiguous copy on the host, same dtype."""
    return tensor.asnumpy()
