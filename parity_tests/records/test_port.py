"""The way of a user: the example of `docs/port.md`, and its commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.parity.mapping import read_map
from parity_tests.records.test_record import record

ROOT = Path(__file__).parents[2]


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.full
@pytest.mark.needs("torch", "jax")
def test_the_example(tmp_path: Path) -> None:
    example = ROOT / "docs" / "port"
    files = ["torch.safetensors", "map.toml", "jax.safetensors"]
    for command in ([example / "unet_torch.py", files[0]], [example / "unet_jax.py", *files]):
        done = python(tmp_path, *map(str, command))
        assert done.returncode == 0, done.stderr
    done = python(tmp_path, "-m", "scripts.compare", files[0], files[2], "--json", "r.json")
    assert done.returncode == 1
    report = json.loads((tmp_path / "r.json").read_text())
    new = {row["name"] for row in report["tensors"] if row["status"] == "new"}
    norms = {f"local/eval/{block}.norm2:out" for block in ("down1", "down2", "mid", "up1")}
    assert new == norms | {"local/eval/attention:out", "local/eval/up1.conv1:in"}
    assert len(read_map(tmp_path / "map.toml").entries) == 46


@pytest.mark.needs("torch")
def test_match_and_compare(tmp_path: Path) -> None:
    record("torch", tmp_path, generic=0)
    (tmp_path / "torch.safetensors").rename(tmp_path / "a.safetensors")
    record("torch", tmp_path, against=tmp_path / "a.safetensors")
    (tmp_path / "torch.safetensors").rename(tmp_path / "b.safetensors")
    matched = python(
        tmp_path, "-m", "scripts.match", "a.safetensors", "b.safetensors", "--out", "map.toml"
    )
    assert matched.returncode == 0
    assert "map.toml: 19 tensors matched" in matched.stdout
    done = python(
        *(tmp_path, "-m", "scripts.compare", "a.safetensors", "b.safetensors"),
        *("--map", "map.toml", "--html", "report.html"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED b equals a to the last bit" in done.stdout
    assert "each layer alone" in (tmp_path / "report.html").read_text()
    done = python(tmp_path, "-m", "scripts.compare", *["a.safetensors"] * 2, "--map", "nothing")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.needs("jax")
def test_the_64_bit_switch_of_jax_is_the_user_s(tmp_path: Path) -> None:
    code = """
import jax, jax.numpy as jnp
from flax import nnx
from backends.jax import record
layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
found = record(layer, jnp.ones((4, 3)), loss=jnp.sum, out="x.safetensors")
print(found.arrays["grad/kernel"].dtype, jnp.ones(1).dtype, jax.config.jax_enable_x64)
"""
    done = python(tmp_path, "-c", code)
    assert done.stdout == "float64 float32 False\n", done.stderr
