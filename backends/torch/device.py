"""PyTorch: devices, versions, and the way of an array to the device and back."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.config import Config
from common.errors import InputError
from common.network.grid import image_size, pad_images, scale_and_offset


def prepare() -> None:
    """Turns on what the backend needs of the framework, for the whole process."""
    # differs: PyTorch has all its types from the start.


def select_device(name: str, index: int = 0) -> torch.device:
    """The device for `auto` (a GPU where there is one), `cpu` or `gpu`, the one of this index.

    Raises:
        InputError: `gpu`, and PyTorch sees none.
    """
    if name == "gpu" and not torch.cuda.is_available():
        raise InputError("--device gpu: torch sees no GPU")
    # differs(tf32): PyTorch turns TF32 on for convolutions and leaves it off for matrix products.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    on_gpu = name != "cpu" and torch.cuda.is_available()
    return torch.device(f"cuda:{index}" if on_gpu and index else "cuda" if on_gpu else "cpu")


def versions() -> dict[str, str]:
    """The version of each package that takes part in the computation."""
    return {"torch": torch.__version__, "numpy": np.__version__}


def threads() -> int:
    """How many threads compute on a CPU; with another number, sums round otherwise."""
    return torch.get_num_threads()


def to_device(array: NDArray[Any], device: torch.device, dtype: str) -> torch.Tensor:
    """A copy of the array on the device, as `dtype` (a NumPy name)."""
    # differs(float64_arrays): float64 stays float64 unless `dtype` says otherwise.
    return torch.tensor(array, dtype=getattr(torch, dtype), device=device)


def images_to_device(images: NDArray[Any], device: torch.device, config: Config) -> torch.Tensor:
    """Images for the network: (N, 3, H, W), normalised, H and W padded to multiples of 32.

    From pictures as decoded, (N, H, W, 3) uint8 RGB, which travel as bytes and are normalised on
    the device; or from images that are normalised already, (N, 3, H, W) of a float type.
    """
    dtype = config.dtype.storage
    padded = pad_images(images)
    if images.dtype != np.uint8:
        return to_device(padded, device, dtype).contiguous(memory_format=torch.channels_last)
    height, width = image_size(images)
    scale, offset = (to_device(a, device, dtype).view(3, 1, 1) for a in scale_and_offset(config))
    # fast: a view of NHWC in memory as NCHW is what PyTorch calls channels_last.
    x = torch.from_numpy(padded).to(device).permute(0, 3, 1, 2) * scale + offset
    x[:, :, height:] = 0
    x[:, :, :, width:] = 0
    return x


def to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """A contiguous copy on the host, same dtype; float32 for bfloat16, which NumPy lacks."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.detach().cpu().contiguous().numpy().copy()
