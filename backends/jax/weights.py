"""JAX: weights between the canonical names and the model, and Orbax checkpoints."""

import contextlib
import functools
import logging
import math
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from backends.jax.device import to_numpy
from backends.jax.model import FCN
from common.errors import InputError
from common.files import JSON_LIMIT, check_folder, parse_json, read_bytes
from common.network.tensors import tensors
from common.weights.checkpoint import check_shape

TreePath = tuple[str | int, ...]

_LEAVES = {
    "weight": "kernel",
    "bias": "bias",
    "gamma": "scale",
    "beta": "bias",
    "running_mean": "mean",
    "running_var": "var",
}


def _module_path(path: str) -> TreePath:
    """`layer1.0.bn1` -> `layer1`, `layers`, 0, `bn1`: an nnx.Sequential keeps a list."""
    parts: list[str | int] = []
    for name in path.split("."):
        parts += ["layers", int(name)] if name.isdigit() else [name]
    return tuple(parts)


def _find(model: FCN, path: TreePath) -> Any:
    found: Any = model
    for part in path:
        found = found[part] if isinstance(part, int) else getattr(found, part)
    return found


def find_module(model: FCN, path: str) -> Any:
    """The module of a canonical path: `backbone.layer1.0.bn1`."""
    return _find(model, _module_path(path))


def _variable_paths(model: FCN) -> dict[str, TreePath]:
    """Where the model keeps each weight and buffer, by canonical name."""
    # differs(gamma_and_beta_swapped): Flax says kernel, scale, mean and var.
    paths = {}
    specs = tensors(model.architecture, model.num_classes, model.width, model.head)
    for name, spec in specs.items():
        layer, leaf = name.rsplit(".", 1)
        leaf = leaf if spec.transposed else _LEAVES[spec.role]
        paths[name] = (*_module_path(layer), leaf)
    return paths


def named_tensors(model: FCN) -> dict[str, nnx.Variable]:
    """The model's own weights and buffers by canonical name."""
    return {name: _find(model, path) for name, path in _variable_paths(model).items()}


def trained_tensors(model: FCN) -> dict[str, nnx.Param]:
    """The model's own tensors that SGD updates, by canonical name."""
    # differs(buffers_not_loaded): BatchNorm's statistics are of another type, BatchStat.
    return {name: v for name, v in named_tensors(model).items() if isinstance(v, nnx.Param)}


class _Frozen(nnx.Variable):
    """A weight that is none of the parameters."""


def freeze_tensors(model: FCN, names: Collection[str]) -> None:
    """Trains these no more, by canonical name: neither gradient nor update."""
    for name, path in _variable_paths(model).items():
        if name in names:
            setattr(_find(model, path[:-1]), str(path[-1]), _Frozen(_find(model, path)[...]))


def import_weights(model: FCN, weights: Mapping[str, NDArray[Any]]) -> None:
    """Copies canonical arrays, checked by the caller, into the model, cast to its dtype."""
    # differs(conv_layout): a convolution's (out, in, kh, kw) becomes (kh, kw, in, out).
    for name, path in _variable_paths(model).items():
        array, variable = weights[name], _find(model, path)
        if path[-1] == "kernel":
            array = array.transpose(2, 3, 1, 0)
        variable[...] = jnp.array(array, variable.dtype)


def export_weights(model: FCN) -> dict[str, NDArray[Any]]:
    """Every weight and buffer of the model by canonical name, in canonical layout."""
    arrays = {}
    for name, path in _variable_paths(model).items():
        array = to_numpy(_find(model, path)[...])
        if path[-1] == "kernel":
            array = array.transpose(3, 2, 0, 1)
        arrays[name] = np.ascontiguousarray(array)
    return arrays


def _read_once(path: Path) -> None:
    """Reads every value of a checkpoint that is one database.

    Orbax asks for all at once; if one fails, the others find their event loop closed and each
    complains of it on standard error.

    Raises:
        ValueError: a value is missing or damaged.
        OSError: the folder is no checkpoint.
    """
    import tensorstore

    if not (path / "_METADATA").exists():
        raise ValueError("it has no _METADATA")
    told = parse_json(read_bytes(path / "_METADATA", JSON_LIMIT))
    if not isinstance(told, dict):
        raise ValueError("its _METADATA is no object of JSON")
    if not told.get("use_ocdbt"):
        return
    base = {"driver": "file", "path": f"{path.absolute()}/"}
    context = tensorstore.Context()  # and its cache: what is in memory is not read
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}, context=context).result()
    keys = store.list().result()
    if not keys:
        raise ValueError("it holds no arrays")
    for key in keys:
        if not store.read(key).result().value:  # its file is missing
            raise ValueError(f"{key.decode()} has no value")


_MOST = 1 << 32
"""Bytes of all arrays. What is compressed says nothing of its size by that of its files."""


def _check_sizes(path: Path, tree: Any) -> None:
    """Refuses arrays that nobody's network has, before memory is taken for them."""
    total = 0
    for at, leaf in jax.tree_util.tree_leaves_with_path(tree):
        shape = getattr(leaf, "shape", None) or ()  # a string has none
        check_shape(path, _name(at), shape)
        total += math.prod(shape) * getattr(leaf.dtype, "itemsize", 1) if shape else 0
    if total > _MOST:
        raise InputError(f"{path}: its arrays claim {total} bytes, and {_MOST} are the limit")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what Orbax warns of: that no sharding is asked for, that a step has no metadata."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _name(at: Any) -> str:
    """`backbone.conv1.kernel`, of a path in a tree."""
    return jax.tree_util.keystr(at, simple=True, separator=".")


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of an Orbax checkpoint (a folder), nested names joined by dots, and its metadata.

    bfloat16, which NumPy lacks, is made float32.

    Raises:
        InputError: not such a folder, or damaged, or it holds something else than arrays of a type
            that NumPy has, or gigabytes.
    """
    import orbax.checkpoint

    check_folder(path)
    try:
        with _quiet(), orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
            _read_once(path)
            told = checkpointer.metadata(path.absolute())
            if told.item_metadata is not None:  # else `restore` says why
                _check_sizes(path, told.item_metadata.tree)
            tree = checkpointer.restore(path.absolute())
    except InputError:
        raise
    except Exception as error:  # Orbax and TensorStore believe what a folder says
        reason = str(error).strip().split("\n")[0].split(" [tensorstore_spec")[0]
        raise InputError(f"{path}: not an Orbax checkpoint: {reason}") from error
    arrays = {
        _name(at): np.asarray(array) for at, array in jax.tree_util.tree_leaves_with_path(tree)
    }
    for name, array in arrays.items():
        if array.dtype == jnp.bfloat16:
            arrays[name] = array.astype(np.float32)
        elif array.dtype.kind not in "biuf":  # a text, int4
            raise InputError(f"{path}: {name} is {array.dtype}, which NumPy lacks")
    return arrays, {key: str(value) for key, value in (told.custom_metadata or {}).items()}


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Writes arrays as an Orbax checkpoint, a new folder: a tree by the dots of their names."""
    import orbax.checkpoint

    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, leaf = name.split(".")
        node = functools.reduce(lambda at, key: at.setdefault(key, {}), parents, tree)
        node[leaf] = np.ascontiguousarray(array)
    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree, custom_metadata=dict(metadata))


def imagenet_weights(architecture: str) -> dict[str, NDArray[Any]]:
    """ImageNet weights from Flax, which has none.

    Raises:
        InputError: always.
    """
    raise InputError(f"imagenet: Flax has no weights of {architecture}")
