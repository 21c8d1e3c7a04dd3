"""MXNet's .params files, read without MXNet: its own parser believes whatever a file says.

What `mx.nd.save` writes, all numbers little-endian: 0x112 and 0 as uint64; the number of arrays,
and each array; the number of names, and each name's length and bytes. An array of today is a magic
uint32, its storage type as int32 (0: dense), its shape, its device, its type as int32 and its
values in C order. A shape is the number of dimensions as int32, and each as int64.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.files import check_file, naming
from common.weights.checkpoint import MAX_DIMENSIONS

MAGIC = (0x112).to_bytes(8, "little")
"""What a file begins with."""

_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
"""An array with a shape of int64; with a storage type, too; and where () is a shape of its own."""

_DENSE = 0
_DEVICE = 8
"""Bytes that tell the device: two int32."""

_TYPES = ("f4", "f8", "f2", "u1", "i4", "i1", "i8", "?")
"""NumPy's name of each type, by MXNet's number."""


class _Reader:
    """The bytes of a file, taken one thing after the other.

    Raises:
        ValueError: any method, of what does not fit into the file.
    """

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        if count > len(self._data):
            raise ValueError(f"cut short: {count} bytes are said to follow, {len(self._data)} do")
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def number(self, dtype: str) -> int:
        """The next number."""
        return int(np.frombuffer(self.take(np.dtype(dtype).itemsize), dtype)[0])

    def count(self, least: int) -> int:
        """How many things follow, each of at least so many bytes."""
        count = self.number("<u8")
        if count * least > len(self._data):
            raise ValueError(f"cut short: {count} things are said to follow")
        return count

    def end(self) -> None:
        """Nothing may follow."""
        if self._data:
            raise ValueError(f"{len(self._data)} bytes after its end")


def _shape(file: _Reader, ndim: int, dtype: str) -> tuple[int, ...]:
    if not 0 <= ndim <= MAX_DIMENSIONS:
        raise ValueError(f"an array of {ndim} dimensions")
    shape = tuple(file.number(dtype) for _ in range(ndim))
    if any(size < 1 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    return shape


def _array(file: _Reader) -> NDArray[Any]:
    magic = file.number("<u4")
    if magic in (_V2, _V3) and (storage := file.number("<i4")) != _DENSE:
        raise ValueError(f"a sparse array (storage type {storage}), where dense ones are wanted")
    if magic in (_V1, _V2, _V3):
        shape = _shape(file, file.number("<i4"), "<i8")
    else:  # before all versions: what stands there is the number of dimensions
        shape = _shape(file, magic, "<u4")
    if not shape and magic != _V3:
        raise ValueError("an array without values")
    file.take(_DEVICE)
    kind = file.number("<i4")
    if not 0 <= kind < len(_TYPES):
        raise ValueError(f"an array of type {kind}, which is none of MXNet's")
    dtype = np.dtype(_TYPES[kind]).newbyteorder("<")
    values = file.take(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(values, dtype).reshape(shape).copy()


def _parse(data: bytes) -> Mapping[str, NDArray[Any]]:
    file = _Reader(data)
    if file.take(len(MAGIC)) != MAGIC or file.number("<u8") != 0:
        raise ValueError("it begins otherwise")
    arrays = [_array(file) for _ in range(file.count(least=4))]
    names = [bytes(file.take(file.count(least=1))).decode() for _ in range(file.count(least=8))]
    file.end()
    if len(names) != len(arrays) or len(set(names)) != len(names):
        raise ValueError(f"{len(set(names))} names for {len(arrays)} arrays")
    return dict(zip(names, arrays, strict=True))


def read_params(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file by `mx.nd.save`, by name; none is larger than the file.

    Raises:
        InputError: there is no such file, it is no such file, damaged, or holds arrays that are
            sparse, empty or without names.
    """
    check_file(path)
    with naming(path):
        data = path.read_bytes()
    try:
        arrays = _parse(data)
    except ValueError as error:
        raise InputError(f"{path}: not a file of arrays by mx.nd.save: {error}") from error
    # A symbol's file says which arrays are weights and which are buffers.
    return {name.removeprefix("arg:").removeprefix("aux:"): a for name, a in arrays.items()}
