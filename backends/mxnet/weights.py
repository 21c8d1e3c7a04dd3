"""MXNet: weights between the canonical names and the model, and MXNet's own files."""

import contextlib
import io
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import mxnet as mx
from mxnet.gluon import HybridBlock, Parameter
from mxnet.gluon.model_zoo import model_store
from mxnet.gluon.utils import check_sha1
from numpy.typing import NDArray

from backends.mxnet.device import to_numpy
from backends.mxnet.model import FCN
from common.errors import InputError
from common.network.tensors import tensors
from common.weights.params import read_params


def find_module(model: FCN, path: str) -> HybridBlock:
    """The block of a canonical path: `backbone.layer1.0.bn1`."""
    block = model
    for name in path.split("."):
        block = block[int(name)] if name.isdigit() else getattr(block, name)
    return block


def named_tensors(model: FCN) -> dict[str, Parameter]:
    """The model's own weights and buffers by canonical name."""
    # differs(gamma_and_beta_swapped): Gluon calls BatchNorm's weight and bias gamma and beta.
    specs = tensors(model.architecture, model.num_classes, model.width, model.head)
    return {
        name: getattr(find_module(model, name.rpartition(".")[0]), spec.role)
        for name, spec in specs.items()
    }


def trained_tensors(model: FCN) -> dict[str, Parameter]:
    """The model's own tensors that SGD updates, by canonical name."""
    # differs(buffers_not_loaded): BatchNorm's statistics are parameters without a gradient.
    return {name: p for name, p in named_tensors(model).items() if p.grad_req != "null"}


def freeze_tensors(model: FCN, names: Collection[str]) -> None:
    """Trains these no more, by canonical name: neither gradient nor update."""
    for name, parameter in named_tensors(model).items():
        if name in names:
            parameter.grad_req = "null"


def import_weights(model: FCN, weights: Mapping[str, NDArray[Any]]) -> None:
    """Copies canonical arrays, checked by the caller, into the model, cast to its dtype."""
    # differs(conv_layout): layouts are the canonical ones.
    for name, parameter in named_tensors(model).items():
        parameter.set_data(mx.nd.array(weights[name], dtype=parameter.dtype))


def export_weights(model: FCN) -> dict[str, NDArray[Any]]:
    """Every weight and buffer of the model by canonical name, in canonical layout."""
    return {name: to_numpy(parameter.data()) for name, parameter in named_tensors(model).items()}


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a .params file saved by `mx.nd.save`, by its own names, and no metadata.

    Raises:
        InputError: not such a file, damaged, or it holds arrays that are sparse or without names.
    """
    # not MXNet's own parser, which writes outside its memory where the file says so
    return read_params(path), {}


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Writes arrays as a .params file, for `mx.nd.load`."""
    mx.nd.save(str(path), {k: mx.nd.array(v, dtype=v.dtype) for k, v in arrays.items()})


def imagenet_weights(architecture: str) -> dict[str, NDArray[Any]]:
    """ImageNet weights by the names of Gluon's zoo, from its cache or else from the network.

    Raises:
        InputError: we take none of this architecture from Gluon, they cannot be fetched, or the
            file is not the one that its name says.
    """
    if architecture != "resnet18_v2":
        raise InputError(f"imagenet: Gluon's weights are not those of {architecture}")
    folder = Path(mx.base.data_dir()) / "models"
    path = folder / f"{architecture}-{model_store.short_hash(architecture)}.params"
    if path.exists():  # MXNet would fetch another in its place
        if not check_sha1(path, model_store._model_sha1[architecture]):
            raise InputError(f"{path}: not Gluon's file: its sha1 is another")
    else:
        print(f"Downloading: {path.name} of Gluon to {path}", file=sys.stderr)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # a paragraph for each of its attempts
                model_store.get_model_file(architecture, root=os.fspath(folder))
        except (OSError, RuntimeError, ValueError) as error:
            reason = type(error).__name__  # its text is a paragraph, too
            raise InputError(
                f"imagenet: {path.name} of Gluon cannot be fetched ({reason}); put it here: {path}"
            ) from error
    return read_arrays(path)[0]
