"""MXNet's .params files, read by our own parser: what MXNet writes, and nothing worse."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backends import load_backend
from common.errors import InputError
from common.weights.params import MAGIC, read_params

TYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool")


@pytest.mark.needs("mxnet")
@pytest.mark.parametrize("numpy_shapes", [False, True])
def test_what_mxnet_writes(tmp_path: Path, numpy_shapes: bool) -> None:
    load_backend("mxnet")
    import mxnet as mx

    arrays = {
        f"{kind}{shape}": np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape).astype(kind)
        for kind in TYPES
        for shape in ((3,), (2, 1, 3), (1, 2, 3, 4, 5, 1), *([()] if numpy_shapes else []))
    }
    with mx.util.np_shape(numpy_shapes):
        mx.nd.save(
            str(tmp_path / "W.params"),
            {f"arg:{k}": mx.nd.array(v, dtype=v.dtype) for k, v in arrays.items()},
        )
    found = read_params(tmp_path / "W.params")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.needs("mxnet")
def test_sparse_arrays_are_refused(tmp_path: Path) -> None:
    load_backend("mxnet")
    import mxnet as mx

    sparse = mx.nd.sparse.csr_matrix(np.eye(3))
    mx.nd.save(str(tmp_path / "W.params"), {"a": sparse})
    with pytest.raises(InputError, match="a sparse array"):
        read_params(tmp_path / "W.params")


VALUES = np.arange(6, dtype="<f4")
SHAPE = struct.pack("<i2q", 2, 2, 3)
REST = struct.pack("<3i", 1, 0, 0) + VALUES.tobytes()
V1, V2, V3 = (struct.pack("<I", 0xF993FAC8 + k) for k in range(3))
DENSE = struct.pack("<i", 0)
ARRAYS = {
    "before versions": struct.pack("<3I", 2, 2, 3) + REST,
    "1": V1 + SHAPE + REST,
    "2": V2 + DENSE + SHAPE + REST,
    "3": V3 + DENSE + SHAPE + REST,
}


def file_of(array: bytes, name: bytes = b"a") -> bytes:
    names = struct.pack("<2Q", 1, len(name)) + name
    return MAGIC + struct.pack("<2Q", 0, 1) + array + names


@pytest.mark.parametrize("version", ARRAYS)
def test_every_version(tmp_path: Path, version: str) -> None:
    path = tmp_path / "W.params"
    path.write_bytes(file_of(ARRAYS[version]))
    np.testing.assert_equal(read_params(path), {"a": VALUES.reshape(2, 3)})


@pytest.mark.parametrize(("number", "kind"), [*enumerate(TYPES)], ids=TYPES)
def test_every_type(tmp_path: Path, number: int, kind: str) -> None:
    values = np.array([[1, 0, 5], [77, 2, 100]]).astype(kind)
    array = V2 + DENSE + SHAPE + struct.pack("<3i", 1, 0, number) + values.tobytes()
    (tmp_path / "W.params").write_bytes(file_of(array, b"aux:a"))
    (found,) = read_params(tmp_path / "W.params").items()
    assert (found[0], found[1].dtype) == ("a", values.dtype)
    np.testing.assert_array_equal(found[1], values)


def test_as_many_dimensions_as_numpy_has_and_none(tmp_path: Path) -> None:
    path = tmp_path / "W.params"
    for ndim in (0, 32):
        shape = struct.pack(f"<i{ndim}q", ndim, *[1] * ndim)
        value = struct.pack("<3if", 1, 0, 0, 7)
        path.write_bytes(file_of(V3 + DENSE + shape + value))
        np.testing.assert_array_equal(read_params(path)["a"], np.full([1] * ndim, 7.0))
    shape = struct.pack("<i33q", 33, *[1] * 33)
    path.write_bytes(file_of(V3 + DENSE + shape + value))
    with pytest.raises(InputError, match="an array of 33 dimensions"):
        read_params(path)


def dense(ndim: int, *sizes: int) -> bytes:
    return file_of(V2 + DENSE + struct.pack(f"<i{len(sizes)}q", ndim, *sizes) + REST)


GOOD = file_of(ARRAYS["2"])
HOSTILE = {
    "values that are not there": (dense(2, 2, 4), "cut short"),
    "values of an exabyte": (dense(2, 2**31, 2**31), "cut short"),
    "a product that overflows": (dense(3, 2**32, 2**32, 2**32), "cut short"),
    "a size of 0": (dense(2, 0, 2**40), r"an array of shape \(0, "),
    "a negative size": (dense(2, -2, -3), r"an array of shape \(-2, -3\)"),
    "a million dimensions": (dense(10**6), "an array of 1000000 dimensions"),
    "dimensions below 0": (dense(-1), "an array of -1 dimensions"),
    "no shape": (dense(0), "an array without values"),
    "a sparse array": (file_of(V2 + struct.pack("<i", 2) + SHAPE + REST), "a sparse array"),
    "the type after the last": (
        file_of(V2 + DENSE + SHAPE + struct.pack("<3i", 1, 0, len(TYPES))),
        "of type 8",
    ),
    "no such type": (file_of(V2 + DENSE + SHAPE + struct.pack("<3i", 1, 0, 99)), "of type 99"),
    "2^60 arrays": (GOOD.replace(struct.pack("<2Q", 0, 1), struct.pack("<2Q", 0, 2**60)), "cut"),
    "a name of 2^60 letters": (GOOD[:-9] + struct.pack("<Q", 2**60) + b"a", "cut short"),
    "a name that is no text": (file_of(ARRAYS["2"], b"\xff"), "utf-8"),
    "no names": (GOOD[:-17] + struct.pack("<Q", 0), "0 names for 1 arrays"),
    "more than its end": (GOOD + b"a", "1 bytes after its end"),
}


@pytest.mark.parametrize(("data", "says"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "W.params"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"not a file of arrays by mx.nd.save: .*{says}"):
        read_params(path)


def spoiled(random: np.random.Generator) -> Iterator[bytes]:
    for _ in range(2000):
        data = bytearray(GOOD)
        for at in random.integers(0, len(data), random.integers(1, 4)):
            data[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.integers(256)])
        yield bytes(data[: random.integers(1, len(data) + 1)] if random.random() < 0.2 else data)


def test_spoiled_bytes_are_read_or_refused(tmp_path: Path) -> None:
    path, refused = tmp_path / "W.params", 0
    for data in spoiled(np.random.default_rng(0)):
        path.write_bytes(data)
        try:
            arrays = read_params(path)
        except InputError:
            refused += 1
        else:
            assert sum(array.nbytes for array in arrays.values()) <= len(data)
    assert refused > 1000
