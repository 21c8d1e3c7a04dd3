"""PyTorch: a matrix product, and what it knows of its device."""

from collections.abc import Callable

import torch


def product(side: int, dtype: str, device: torch.device) -> Callable[[], None]:
    """A function that multiplies two (side, side) matrices and waits for the result."""
    a, b = torch.rand(2, side, side, dtype=torch.float32, device=device).to(getattr(torch, dtype))

    def multiply() -> None:
        torch.matmul(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return multiply


def device_name(device: torch.device) -> str | None:
    """A GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def device_peak_mb(device: torch.device) -> float | None:
    """The most megabytes that tensors have held on a GPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
