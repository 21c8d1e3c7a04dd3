"""PyTorch: weights between the canonical names and the model, and PyTorch's own files."""

import hashlib
import importlib
import io
import re
import sys
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.torch.device import to_numpy
from backends.torch.model import FCN
from common.errors import InputError
from common.files import check_file
from common.weights.checkpoint import check_shape

_COUNTER = "num_batches_tracked"
"""PyTorch also counts the batches that a BatchNorm has seen; nothing is computed with it here."""


def find_module(model: FCN, path: str) -> torch.nn.Module:
    """The module of a canonical path: `backbone.layer1.0.bn1`."""
    return model.get_submodule(path)


def named_tensors(model: FCN) -> dict[str, torch.Tensor]:
    """The model's own weights and buffers by canonical name."""
    # differs(gamma_and_beta_swapped): module names are the canonical names.
    return {name: t for name, t in model.state_dict().items() if not name.endswith(_COUNTER)}


def trained_tensors(model: FCN) -> dict[str, torch.nn.Parameter]:
    """The model's own tensors that SGD updates, by canonical name."""
    # differs(buffers_not_loaded): BatchNorm's statistics are buffers, not parameters.
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def freeze_tensors(model: FCN, names: Collection[str]) -> None:
    """Trains these no more, by canonical name: neither gradient nor update."""
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.requires_grad_(False)


def import_weights(model: FCN, weights: Mapping[str, NDArray[Any]]) -> None:
    """Copies canonical arrays, checked by the caller, into the model, cast to its dtype."""
    # differs(conv_layout): names and layouts are the canonical ones.
    tensors = {name: torch.from_numpy(np.ascontiguousarray(weights[name])) for name in weights}
    counters = [name for name in model.state_dict() if name.endswith(_COUNTER)]
    model.load_state_dict(tensors | {name: torch.tensor(0) for name in counters})


def export_weights(model: FCN) -> dict[str, NDArray[Any]]:
    """Every weight and buffer of the model by canonical name, in canonical layout."""
    return {name: to_numpy(tensor) for name, tensor in named_tensors(model).items()}


def _check_stored(path: Path) -> None:
    """Refuses a zip archive that is compressed, as PyTorch's never are: it may grow a thousandfold.

    Raises:
        ValueError: it is.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("a compressed archive, which torch.save does not write")


def _load(path: Path) -> Any:
    """What torch.save wrote, as far as it is tensors and plain containers."""
    check_file(path)
    try:
        _check_stored(path)
        with warnings.catch_warnings(action="ignore"):  # an old pickle, TorchScript: said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        reason = _reason(error)
        raise InputError(f"{path}: not a whole file of tensors by torch.save: {reason}") from error


def _reason(error: Exception) -> str:
    """PyTorch's message without its advice, which is to unpickle whatever is there."""
    text = str(error).strip() or type(error).__name__
    unsafe = re.search(r"GLOBAL (\S+)", text)
    if unsafe:
        return f"it asks for {unsafe[1]}, and nothing but tensors is unpickled"
    detail = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    line = detail[1] if detail else text.split("\n")[0]
    return re.split(r"(?<=\w)\.\s", line)[0]


_REPEATED = 10
"""So many times a file's length its tensors may be: several can share their values."""


def _check_sizes(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Refuses tensors that repeat a few values (a stride of 0) up to gigabytes."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    size = path.stat().st_size
    if total > _REPEATED * size:
        raise InputError(f"{path}: its tensors claim {total} bytes, in a file of {size}")
    for name, tensor in state.items():
        check_shape(path, name, tensor.shape)


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a state dict saved by `torch.save`, by its own names, and no metadata.

    Raises:
        InputError: not such a file, damaged, or it holds more than tensors by name, or a tensor
            of a type or layout that NumPy lacks.
    """
    state = _load(path)
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise InputError(f"{path}: not a state dict (tensors by name)")
    _check_sizes(path, state)
    arrays = {}
    for name, tensor in state.items():
        try:
            # not `to_numpy`: a file of bfloat16 is not one of float32
            arrays[name] = tensor.detach().contiguous().numpy().copy()
        except (TypeError, RuntimeError) as error:  # bfloat16, quantized; sparse, no data
            kind = f"{tensor.dtype} {tensor.layout}".replace("torch.", "")
            raise InputError(f"{path}: {name} is {kind}, which NumPy lacks") from error
    return arrays, {}


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Writes arrays as a state dict, for `torch.load`."""
    # By way of memory: given a path, torch.save puts its name into the file and makes a
    # RuntimeError of a full disk.
    buffer = io.BytesIO()
    torch.save({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}, buffer)
    path.write_bytes(buffer.getbuffer())


_KEPT: list[torch.library.Library] = []
"""What PyTorch forgets when it is collected."""


def _import_torchvision() -> Any:
    """`torchvision`, also beside a PyTorch that its operators were not built for.

    The registry's torchvision is a CUDA build. Beside a CPU build of PyTorch its library of
    operators does not load, and the import fails where Python describes two of them, `nms` and
    `qnms`. Declaring their schemas is enough: no model of ours calls them. With a matching pair
    the first import succeeds and nothing is declared.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
    return importlib.import_module("torchvision")


def imagenet_weights(architecture: str) -> dict[str, NDArray[Any]]:
    """ImageNet weights by torchvision's names, from its cache or else from the network.

    Raises:
        InputError: torchvision has none of this architecture or is not installed, they cannot be
            fetched, or the file is not the one that its name says.
    """
    published = {"resnet18": "ResNet18_Weights", "resnet34": "ResNet34_Weights"}
    if architecture not in published:
        raise InputError(f"imagenet: torchvision has no weights of {architecture}")
    try:
        weights = getattr(_import_torchvision().models, published[architecture]).IMAGENET1K_V1
    except ImportError as error:
        raise InputError("imagenet: needs torchvision: pip install torchvision") from error
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    if path.exists():  # PyTorch checks only what it downloads
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if not digest.startswith(path.stem.rsplit("-", 1)[-1]):
            raise InputError(f"{path}: not torchvision's file: its sha256 is {digest[:12]}...")
    else:
        try:
            weights.get_state_dict(check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"imagenet: {weights.url} cannot be fetched ({error}); put it here: {path}"
            ) from error
    return read_arrays(path)[0]
