"""PyTorch: weights between the canonical names and the model, and PyTorch's own files."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.torch.device import to_numpy
from backends.torch.model import FCN
from common.errors import InputError


def named_tensors(model: FCN) -> dict[str, torch.Tensor]:
    """The model's own weights and buffers by canonical name."""
    # differs: module names are the canonical names; PyTorch also counts the batches it has seen.
    state = model.state_dict()
    return {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}


def trained_tensors(model: FCN) -> dict[str, torch.nn.Parameter]:
    """The model's own tensors that SGD updates, by canonical name."""
    # differs: BatchNorm's statistics are buffers, not parameters.
    return dict(model.named_parameters())


def import_weights(model: FCN, weights: Mapping[str, NDArray[Any]]) -> None:
    """Copies canonical arrays, checked by the caller, into the model, cast to its dtype."""
    # differs: names and layouts are the canonical ones; nothing is renamed or permuted.
    for name, tensor in named_tensors(model).items():
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))


def export_weights(model: FCN) -> dict[str, NDArray[Any]]:
    """Every weight and buffer of the model by canonical name, in canonical layout."""
    return {name: to_numpy(tensor) for name, tensor in named_tensors(model).items()}


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a state dict saved by `torch.save`, by its own names.

    Raises:
        InputError: not such a file, damaged, or it holds more than tensors by name.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{path}: not a file of tensors by torch.save: {reason}") from error
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise InputError(f"{path}: not a state dict (tensors by name)")
    return {name: to_numpy(tensor) for name, tensor in state.items()}


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays as a state dict, for `torch.load`."""
    torch.save({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}, path)
