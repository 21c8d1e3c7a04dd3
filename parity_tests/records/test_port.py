"""The way of a user: the example of `docs/port.md`, and its commands."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from common.parity.compare_records import compare_records
from common.parity.mapping import read_map
from common.parity.records import Record
from parity_tests.records.test_mistakes import eps, momentum
from parity_tests.records.test_record import record

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "port.md").read_text()


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


PORT_RECORD = """
import sys
import numpy as np, torch
from backends.torch import record
from parity_tests.records.torch_net import Net, loss
model = Net()
{change}
reference, map_path, out = sys.argv[1:]
images = torch.from_numpy(np.random.default_rng(7).normal(size=(2, 3, 8, 8)).astype(np.float32))
record(model, images, loss=loss, against=reference, map=map_path, out=out)
"""
"""A user's `port_record.py`."""


def indented(start: str) -> str:
    """The indented block of the text that starts with these words."""
    found = re.search(rf"^    {re.escape(start)}.*\n(    .*\n)*", TEXT, re.MULTILINE)
    assert found
    return textwrap.dedent(found[0])


def run_workflow(folder: Path, port: str) -> list[int]:
    """The exit codes of the steps of the workflow up to the first that fails, but for pip's."""
    yaml: Any = importlib.import_module("yaml")
    job = yaml.safe_load(indented("name: port"))["jobs"]["port"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    (folder / "rosetta").symlink_to(ROOT)
    (folder / "port_record.py").write_text(port)
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **job["env"], "PATH": search}
    codes = []
    for command in commands[1:]:
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, check=False)
        codes.append(done.returncode)
        if done.returncode:
            break
    return codes


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    "change, codes", [("", [0, 0]), ("model.norm.eps = 1e-3", [0, 1]), ("raise SystemExit(3)", [3])]
)
def test_the_workflow(tmp_path: Path, change: str, codes: list[int]) -> None:
    record("torch", tmp_path, generic=0)
    (tmp_path / "torch.safetensors").rename(tmp_path / "reference.safetensors")
    assert run_workflow(tmp_path, PORT_RECORD.format(change=change)) == codes
    assert (tmp_path / "report.html").exists() == (len(codes) == 2)


def test_the_workflow_installs_what_there_is() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    found = re.search(r'pip install "\./rosetta\[(\w+)\]"', indented("name: port"))
    assert found and found[1] in extras


def reported(folder: Path, change: Any) -> dict[str, Any]:
    """The JSON of a network against itself, changed."""
    from parity_tests.records.torch_net import Net

    reference = record("torch", folder, generic=0)
    model = Net()
    change(model)
    port = record("torch", folder, model=model, against=folder / "torch.safetensors")
    report = compare_records([reference, Record("port", port.arrays, port.metadata)], {})
    path = folder / "report.json"
    path.write_text(json.dumps(report.to_dict()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.needs("torch")
def test_the_keys_of_the_json_are_those_described(tmp_path: Path) -> None:
    report = reported(tmp_path, eps)
    section = TEXT.partition("`--json` is for a machine:")[2]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    keys = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert report.keys() == keys
    assert report["schema"] == 1
    words = set(re.findall(r"`(\w+)`", section.partition("A value has ")[2].partition("\n\n")[0]))
    assert {key for row in report["tensors"] for key in row} <= words
    statuses = {row["status"] for row in report["tensors"]}
    assert {"new", "follows", "equal"} <= statuses <= words
    assert {row["stage"] for row in report["tensors"]} <= words


@pytest.mark.needs("torch")
@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize("change, code", [(momentum, 0), (eps, 1)], ids=["buffers", "forward"])
def test_a_known_difference_is_let_pass(tmp_path: Path, change: Any, code: int) -> None:
    assert not reported(tmp_path, change)["passed"]
    done = subprocess.run(indented("jq -e"), shell=True, cwd=tmp_path, check=False)
    assert done.returncode == code
