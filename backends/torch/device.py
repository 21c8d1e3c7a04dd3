"""PyTorch: devices, versions, and the way of an array to the device and back."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import InputError


def select_device(name: str) -> torch.device:
    """The device for `auto` (a GPU where there is one), `cpu` or `gpu`.

    Raises:
        InputError: `gpu`, and PyTorch sees none.
    """
    if name == "gpu" and not torch.cuda.is_available():
        raise InputError("--device gpu: torch sees no GPU")
    # differs: PyTorch turns TF32 on for convolutions and leaves it off for matrix products.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    on_gpu = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def versions() -> dict[str, str]:
    """The version of each package that takes part in the computation."""
    return {"torch": torch.__version__, "numpy": np.__version__}


def to_device(array: NDArray[Any], device: torch.device, dtype: str) -> torch.Tensor:
    """A copy of the array on the device, as `dtype` (a NumPy name)."""
    # differs: float64 stays float64 on the way in; it is cast where `dtype` says so.
    return torch.tensor(array, dtype=getattr(torch, dtype), device=device)


def to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """A contiguous copy on the host, same dtype."""
    return tensor.detach().cpu().contiguous().numpy().copy()
