"""PyTorch: weights between the canonical names and the model, and PyTorch's own files."""

import hashlib
import importlib
import io
import pickle
import re
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from backends.torch.device import to_numpy
from backends.torch.model import FCN
from common.errors import InputError, listed
from common.files import check_file
from common.text import shorten
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


class _Lenient(dict[Any, Any]):
    """What a pickle sets on an object, as far as it is by name."""

    def update(self, state: Any) -> None:  # type: ignore[override]
        if isinstance(state, dict):
            super().update(state)


class _Inert:
    """Stands for every class and function that a pickle asks for and PyTorch does not allow.

    Made or called, it is an empty OrderedDict, the one kind of object that PyTorch lets a pickle
    give items and attributes, and keeps both. Nothing is imported, and nothing runs.
    """

    def __new__(cls, *_: Any) -> Any:
        inert: OrderedDict[Any, Any] = OrderedDict()
        inert.__dict__ = _Lenient()
        return inert


def _values(path: Path) -> BinaryIO:
    """The file, opened; of TorchScript's a copy without its code.

    Raises:
        ValueError: a zip archive that is compressed, as PyTorch's values never are: it may grow a
            thousandfold.
    """
    if not zipfile.is_zipfile(path):
        return path.open("rb")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        scripted = any(entry.filename.endswith("/constants.pkl") for entry in entries)
        if scripted:
            wanted = re.compile(r"[^/]+/(data\.pkl|version|byteorder|data/\d+)")
            entries = [entry for entry in entries if wanted.fullmatch(entry.filename)]
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("a compressed archive, which torch.save does not write")
        if not scripted:
            return path.open("rb")
        copy = io.BytesIO()
        with zipfile.ZipFile(copy, "w") as values:
            for entry in entries:
                values.writestr(entry.filename, archive.read(entry))
    copy.seek(0)
    return copy


_CLASSES = 100
"""So many a file of before PyTorch 1.6 may ask for, which tells them one at a time."""


def _load_closed(file: BinaryIO, asked: list[str]) -> Any:
    """What is in the file, with an inert object for each of the classes that it asks for.

    Raises:
        Exception: whatever PyTorch makes of a damaged file, or of a class that it lets nobody have.
    """
    for _ in range(_CLASSES):
        file.seek(0)
        with torch.serialization.safe_globals([(_Inert, name) for name in asked]):
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                told = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
                if told is None or told[1] in asked:
                    raise
                asked = [*asked, told[1], f"builtins.{told[1]}"]  # of which it leaves that out
    raise ValueError(f"it asks for more than {_CLASSES} classes")


def _load(path: Path) -> Any:
    """What torch.save or torch.jit.save wrote: tensors, plain containers, and inert objects."""
    check_file(path)
    try:
        with _values(path) as file, warnings.catch_warnings(action="ignore"):  # an old pickle
            asked: list[str] = []
            if zipfile.is_zipfile(path):
                asked = torch.serialization.get_unsafe_globals_in_checkpoint(file)
            return _load_closed(file, asked)
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


_DEPTH, _PARTS, _NAME = 32, 100_000, 1000
"""Levels, things and letters of a name: what is more is a pickle that holds itself."""


def _named(path: Path, loaded: Any) -> dict[str, torch.Tensor]:
    """All tensors in dicts, lists and inert objects, nested names joined by dots."""
    found: dict[str, torch.Tensor] = {}
    ahead: list[tuple[tuple[str, ...], Any]] = [((), loaded)]
    for _ in range(_PARTS):
        if not ahead:
            return found
        at, value = ahead.pop()
        if len(ahead) > _PARTS or len(at) > _DEPTH or sum(map(len, at)) > _NAME:
            break
        if isinstance(value, torch.Tensor):
            found[".".join(at)] = value
            continue
        items = value.items() if isinstance(value, dict) else enumerate(value)
        ahead += [
            ((*at, str(key)), part)
            for key, part in reversed([*getattr(value, "__dict__", {}).items(), *items])
            if isinstance(key, str | int) and isinstance(part, torch.Tensor | dict | list | tuple)
        ]
    raise InputError(f"{path}: nested too deep, or more than {_PARTS} things")


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays that `torch.save` or `torch.jit.save` wrote, by its own names, and no metadata.

    Nested names are joined by dots. Of an object of a class, what it holds is read, and the class
    is not. bfloat16, which NumPy lacks, is made float32.

    Raises:
        InputError: not such a file, damaged, or it holds no tensors by name, or a tensor of a type
            or layout that NumPy lacks.
    """
    loaded = _load(path)
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: not a state dict (tensors by name)")
    state = _named(path, loaded)
    if not state:
        holds = listed([shorten(str(key), 40) for key in loaded]) or "nothing"
        raise InputError(f"{path}: not a state dict (tensors by name); it holds {holds}")
    _check_sizes(path, state)
    arrays = {}
    for name, tensor in state.items():
        wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        try:
            arrays[name] = wide.detach().contiguous().numpy().copy()
        except (TypeError, RuntimeError) as error:  # quantized; sparse, no data
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
