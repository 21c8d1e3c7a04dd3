"""Orbax folders that nobody's network has written: one line each, and no gigabytes."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import load_backend
from common.errors import InputError

pytestmark = pytest.mark.needs("jax")


def save(folder: Path, **leaves: Any) -> Path:
    load_backend("jax")
    import orbax.checkpoint

    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), leaves)
    return folder


def test_scalars_are_arrays_without_dimensions(tmp_path: Path) -> None:
    path = save(tmp_path / "W", step=3, nested={"rate": 0.5}, layers=[np.ones(2, "f4")])
    arrays, _ = load_backend("jax").read_arrays(path)
    assert {name: array.shape for name, array in arrays.items()} == {
        "step": (),
        "nested.rate": (),
        "layers.0": (2,),
    }


def test_bfloat16_is_widened(tmp_path: Path) -> None:
    load_backend("jax")
    import jax.numpy as jnp

    path = save(tmp_path / "W", a=jnp.full(4, 1.25, jnp.bfloat16))
    arrays, _ = load_backend("jax").read_arrays(path)
    assert (arrays["a"].dtype, arrays["a"].tolist()) == (np.float32, [1.25] * 4)


def test_a_type_that_numpy_lacks(tmp_path: Path) -> None:
    load_backend("jax")
    import jax.numpy as jnp

    path = save(tmp_path / "W", a=jnp.ones(4, jnp.int4), b=np.ones(2, "f4"))
    with pytest.raises(InputError, match="W: a is int4, which NumPy lacks"):
        load_backend("jax").read_arrays(path)


def test_a_text(tmp_path: Path) -> None:
    path = save(tmp_path / "W", a="text", b=np.ones(2, "f4"))
    with pytest.raises(InputError, match=r"W: a is .*, which NumPy lacks"):
        load_backend("jax").read_arrays(path)


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "W", a=np.zeros((100, 250), "f4"), b=np.ones(2, "f4"))
    monkeypatch.setattr("backends.jax.weights._MOST", 100_007)
    monkeypatch.setattr("orbax.checkpoint.PyTreeCheckpointer.restore", lambda *_: pytest.fail())
    with pytest.raises(InputError, match="W: its arrays claim 100008 bytes, and 100007 are the"):
        load_backend("jax").read_arrays(path)


KEY = {"key_metadata": [{"key": "a", "key_type": 99}], "value_metadata": {"value_type": "x"}}


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "3",
        "",
        "{}",
        "[" * 10_000,
        '{"tree_metadata": []}',
        '{"tree_metadata": {"a": 3}}',
        json.dumps({"tree_metadata": {"('a',)": KEY}, "use_ocdbt": True}),
    ],
    ids=lambda text: text[:40],
)
def test_metadata_of_another_form(tmp_path: Path, text: str) -> None:
    path = save(tmp_path / "W", a=np.ones(2, "f4"))
    (path / "_METADATA").write_text(text)
    with pytest.raises(InputError, match=r"W: not an Orbax checkpoint: .") as refused:
        load_backend("jax").read_arrays(path)
    assert "\n" not in str(refused.value)


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize("spoil", [Path.unlink, a_fifo])
@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "d"])
def test_files_missing_or_fifos(tmp_path: Path, name: str, spoil: Callable[[Path], object]) -> None:
    path = save(tmp_path / "W", a=np.ones(2, "f4"))
    spoil(path / name if name != "d" else next((path / "d").iterdir()))
    with pytest.raises(InputError, match=r"W/.*: no file, but a FIFO|W.*: not an Orbax checkpoint"):
        load_backend("jax").read_arrays(path)
