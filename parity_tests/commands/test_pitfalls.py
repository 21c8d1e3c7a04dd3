"""The pitfalls: every number in every framework, so that a version that changes one is noticed."""

import ast
import functools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import BACKENDS
from common.errors import InputError
from parity_tests.test_structure import modules_after
from scripts.pitfalls.__main__ import measure
from scripts.pitfalls.catalogue import PITFALLS, find

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
NAMES = [pitfall.name for pitfall in PITFALLS]
NAN = math.nan

PINNED: dict[str, dict[str, tuple[Any, ...]]] = {
    "bn_momentum": {
        "momentum, default": (0.1, 0.9, 0.99),
        "running mean after a batch of mean 10": (1.0, 1.0, 0.09999999),
        "the same, momentum=0.9": (9.0, 1.0, 1.0),
    },
    "bn_running_variance": {
        "running variance after the batch 1, 3": (2.0, 1.0, 1.0),
        "output for the 3": (0.999995, 0.999995, 0.999995),
    },
    "bn_update": {
        "running mean after forward": (2.0, 0.0, 2.0),
        "running mean after backward": (2.0, 2.0, 2.0),
        "after forward under jit, state not returned": (None, None, 0.0),
    },
    "bn_batch_variance": {
        "largest output (exact: 0.9535)": (0.9544626, 0.9535471, 3.165366),
        "the same, use_fast_variance=False": (None, None, 0.9535471),
    },
    "bn_eps": {
        "eps of the layer, default": (1e-05, 1e-05, 1e-05),
        "layer's output (exact: 1.907)": (1.906925, 1.906925, 1.906925),
        "raw operator's output, default": (1.906925, 0.3015113, "none"),
        "the same, fix_gamma=False, eps=1e-5": (None, 1.906925, None),
        "gamma after the default (was 2)": (None, 1.0, None),
    },
    "conv_layout": {
        "weight, 3 channels to 8": ([8, 3, 7, 7], [8, 3, 7, 7], [7, 7, 3, 8]),
        "output's height, default padding": (1, 1, 4),
        "first output, default padding": (49.0, 49.0, 25.0),
        "output's height, padding 3": (4, 4, 4),
        "first output, padding 3": (16.0, 16.0, 16.0),
    },
    "conv_transpose": {
        "weight, 2 channels to 3": ([2, 3, 64, 64], [2, 3, 64, 64], [64, 64, 3, 2]),
        "output's height, padding=16": (64, 64, 2),
        "output's height, padding=47": (2, 2, 64),
        "first output (tap 16, 16 is 1040)": (1040.0, 1040.0, 3055.0),
        "the same, transpose_kernel=True": (None, None, 1040.0),
    },
    "bilinear_init": {
        "bilinear initializer": ("none", "init.Bilinear", "none"),
        "common.network.bilinear, class maps 1 and 0": ([1.0, 0.0], [1.0, 0.0], [1.0, 0.0]),
        "its own, class maps 1 and 0": (None, [1.0, 1.0], None),
    },
    "label_255": {
        "loss of the pixel labelled 255": ("IndexError", 2.407604, NAN),
        "mean over both, default": ("IndexError", 1.407604, NAN),
        "mean with void left out (exact: 0.4076)": (0.4076059, 0.4076038, 0.4076059),
        "one-hot: loss of the pixel labelled 255": (None, None, 0.0),
        "one-hot: mean over both": (None, None, 0.203803),
    },
    "label_outside": {
        "loss, label 200": ("IndexError", 2.407604, NAN),
        "loss, label -1": ("IndexError", 0.4076038, 2.407606),
    },
    "sgd_momentum": {
        "buffer after a step, rate 0.1": (1.0, -0.1, 1.0),
        "w falls by, rates 0.1, 0.1": ([0.1, 0.19], [0.1, 0.19], [0.1, 0.19]),
        "w falls by, rates 0.1, 0.01": ([0.1, 0.019], [0.1, 0.1], [0.1, 0.019]),
    },
    "weight_decay": {
        "w falls by, no momentum": ([0.05, 0.0475], [0.05, 0.0475], [0.05, 0.0475]),
        "w falls by, momentum 0.9": ([0.05, 0.0925], [0.05, 0.0925], [0.05, 0.0925]),
        "BatchNorm's gamma, 1, falls by": (0.05000001, 0.05000001, 0.05),
        "w falls by, optax.sgd alone": (None, None, [0.0, 0.0]),
        "w falls by, decay after sgd": (None, None, [-0.5, -0.75]),
    },
    "lr_schedule": {
        "n in the first update": (0, 1, 0),
        "rates of updates 1 to 3": ([1.0, 0.75, 0.5], [0.75, 0.5, 0.25], [1.0, 0.75, 0.5]),
    },
    "float32_hyperparameters": {
        "error of a step, rate 0.1": (0.0, 1.490116e-09, 0.0),
        "error of a step, momentum 0.9": (0.0, 2.384186e-08, 0.0),
        "error of a step, weight decay 0.1": (0.0, 1.490116e-09, 0.0),
        "error of a running mean, decay 0.9": (0.0, 2.384186e-08, 2.775558e-17),
        "error of an output, eps 1e-5": (0.0, 0.0, 0.0),
        "error of x * 0.1": (0.0, 0.0, 0.0),
    },
    "relu_at_zero": {
        "gradient of relu(0)": (0.0, 0.0, 0.0),
        "gradient of maximum(0, 0)": (0.5, 1.0, 0.5),
        "gradient of clip(0, 0, 6)": (1.0, 1.0, 0.5),
    },
    "max_pool_ties": {
        "gradient of max-pool": ([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]),
        "gradient of max()": (
            [0.25, 0.25, 0.25, 0.25],
            [1.0, 1.0, 1.0, 1.0],
            [0.25, 0.25, 0.25, 0.25],
        ),
    },
    "nan": {
        "activation layer, relu": (NAN, 0.0, NAN),
        "activation layer, float64": (NAN, NAN, NAN),
        "operator relu": (NAN, NAN, NAN),
        "max-pool of 1, NaN, 2, 3": (NAN, 3.0, NAN),
        "max() of the same": (NAN, NAN, NAN),
    },
    "float64_arrays": {
        "array of a float64 array": ("float64", "float32", "float32"),
        "array of [0.1]": ("float32", "float32", "float32"),
        "(1 + 1e-9) - 1": (1e-09, 0.0, 0.0),
        "the same, float64 asked for": (1e-09, 1e-09, 1e-09),
        "BatchNorm's buffers, float64 layer": ("float64", "float64", "float32"),
        "x64 on: array of a float64 array": (None, None, "float64"),
        "x64 on: array of [0.1]": (None, None, "float64"),
    },
    "resize": {
        "0, 1 to four pixels, default": (
            [0.0, 0.25, 0.75, 1.0],
            [0.0, 0.3333333, 0.6666667, 1.0],
            [0.0, 0.25, 0.75, 1.0],
        ),
        "0, 1 to four pixels, half-pixel": (
            [0.0, 0.25, 0.75, 1.0],
            [0.0, 0.25, 0.75, 1.0],
            [0.0, 0.25, 0.75, 1.0],
        ),
        "0 to 7 to two pixels, default": ([1.5, 5.5], [0.0, 7.0], [1.892857, 5.107143]),
        "0 to 7 to two, half-pixel, no antialias": ([1.5, 5.5], [1.5, 5.5], [1.5, 5.5]),
    },
    "tf32": {
        "matrix products: switch": (
            "cuda.matmul.allow_tf32",
            "NVIDIA_TF32_OVERRIDE",
            "jax_default_matmul_precision",
        ),
        "matrix products: value": (False, "not set", "None"),
        "convolutions: switch": (
            "cudnn.allow_tf32",
            "NVIDIA_TF32_OVERRIDE",
            "jax_default_matmul_precision",
        ),
        "convolutions: value": (True, "not set", "None"),
    },
    "safetensors_transpose": {
        "w.T as an array: contiguous": (False, True, True),
        "first row read back (exact: 0, 3)": ([0.0, 1.0], [0.0, 3.0], [0.0, 3.0]),
        "the same, ascontiguousarray": ([0.0, 3.0], [0.0, 3.0], [0.0, 3.0]),
        "the same, safetensors' own save": ("ValueError", "none", [0.0, 3.0]),
    },
    "sgd_without_momentum": {
        "buffer, momentum not given": (False, False, False),
        "buffer, momentum=0.0": (False, False, True),
        "buffer, momentum=5e-324": (True, True, True),
    },
    "late_errors": {
        "Poisson(-1) fails": ("in the call", "when read", "never: -1"),
    },
    "channels_last": {
        "shape": ([1, 3, 4, 5], [1, 4, 5, 3], [1, 4, 5, 3]),
        "strides, in elements": ([60, 1, 15, 3], [60, 15, 3, 1], [60, 15, 3, 1]),
        "as an array: contiguous": (False, True, True),
    },
    "argmax_dtype": {
        "type of an index": ("int64", "float32", "int32"),
        "argmax of 3, 3": (0, 0.0, 0),
        "argmax of 1, NaN, 2": (1, 1.0, 1),
        "x64 on: type of an index": (None, None, "int64"),
    },
}
"""What is measured in torch, mxnet and jax; None for a quantity that a framework does not have."""

COARSE = {("bn_batch_variance", "torch"): 4e-3}
"""Absolute tolerances: PyTorch's x * a + b near 1e5 is rounded as the processor's units have it."""


@functools.cache
def fresh_switches(backend: str) -> Any:
    """TF32's switches in a process where no other test has moved them."""
    path = {k: v for k, v in os.environ.items() if k != "NVIDIA_TF32_OVERRIDE"}
    code = (
        "import json; from scripts.pitfalls.__main__ import measure;"
        f" print(json.dumps(measure('tf32', {backend!r})))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=path, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


SWITCHES = ["torch", *(pytest.param(name, marks=pytest.mark.full) for name in ("mxnet", "jax"))]
"""A process of its own for each: the others, whose switch is a variable, in full."""


def equal(measured: Any, expected: Any, tolerance: float) -> bool:
    """Whether two values have the same type and, in the case of floats, are close."""
    if isinstance(expected, list):
        return len(measured) == len(expected) and all(
            equal(a, b, tolerance) for a, b in zip(measured, expected, strict=True)
        )
    if type(measured) is not type(expected):
        return False
    if isinstance(expected, float):
        return bool(np.isclose(measured, expected, rtol=3e-6, atol=tolerance, equal_nan=True))
    return bool(measured == expected)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "tf32"])
def test_every_number(backend: str, name: str) -> None:
    check(name, backend, measure(name, backend))


@pytest.mark.parametrize("backend", SWITCHES)
def test_tf32_s_switches(backend: str) -> None:
    check("tf32", backend, fresh_switches(backend))


def check(name: str, backend: str, measured: Any) -> None:
    column = BACKENDS.index(backend)
    rows = {row: values[column] for row, values in PINNED[name].items()}
    expected = {row: value for row, value in rows.items() if value is not None}
    assert measured is not None
    assert list(measured) == list(expected)
    tolerance = COARSE.get((name, backend), 1e-15)
    wrong = {
        r: (measured[r], v) for r, v in expected.items() if not equal(measured[r], v, tolerance)
    }
    assert not wrong, f"(measured, expected): {wrong}"


def test_the_catalogue_and_the_backends_have_the_same_pitfalls_in_the_same_order(
    backend: str,
) -> None:
    tree = ast.parse((ROOT / "scripts" / "pitfalls" / f"{backend}.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    public = [node for node in functions if not node.name.startswith("_")]
    assert [node.name for node in public] == NAMES == list(PINNED)
    assert {ast.unparse(node.args) for node in public} == {""}
    assert {ast.unparse(node.returns) for node in public if node.returns} == {"Values"}


def test_every_pitfall_says_what_to_write_in_every_framework() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for pitfall in PITFALLS:
        assert pitfall.title and pitfall.why and pitfall.case
        assert all(getattr(pitfall, backend) for backend in BACKENDS)
        assert pitfall.rows == tuple(PINNED[pitfall.name])


def test_importing_the_pitfalls_imports_no_framework() -> None:
    assert modules_after("import scripts.pitfalls, scripts.pitfalls.catalogue") == set()


def test_one_pitfall_prints_numbers_why_and_what_to_write(
    backend: str, tmp_path: Path, run_command: Command
) -> None:
    path = tmp_path / "result.json"
    code, out, err = run_command("pitfalls", "sgd_momentum", "--backends", backend, "--json", path)
    pitfall, column = find("sgd_momentum"), BACKENDS.index(backend)
    assert (code, err) == (0, "")
    assert f"sgd_momentum: {pitfall.title}" in out
    assert " ".join(pitfall.why.split()[:5]) in out
    assert getattr(pitfall, backend) in out
    second = ("0.1, 0.019", "0.1, 0.1", "0.1, 0.019")[column]
    assert f"w falls by, rates 0.1, 0.01 {second}" in " ".join(out.split())

    result = json.loads(path.read_text())
    assert list(result["versions"]) == [backend]
    assert [p["name"] for p in result["pitfalls"]] == ["sgd_momentum"]
    rows = result["pitfalls"][0]["measured"][backend]
    assert list(rows) == list(PINNED["sgd_momentum"])
    assert f"{backend} {result['versions'][backend]}" in out


def test_nan_in_json_is_a_word(backend: str, tmp_path: Path, run_command: Command) -> None:
    path = tmp_path / "result.json"
    assert run_command("pitfalls", "nan", "--backend", backend, "--json", path)[0] == 0

    def no_constant(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    result = json.loads(path.read_text(), parse_constant=no_constant)
    rows = result["pitfalls"][0]["measured"][backend]
    assert rows["max() of the same"] == "NaN"


def test_a_framework_that_is_not_installed_has_a_column_that_says_so(
    tmp_path: Path, run_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.pitfalls.__main__.missing_packages", lambda backend: [backend])
    path = tmp_path / "result.json"
    code, out, err = run_command("pitfalls", "resize", "--json", path)
    assert (code, err) == (0, "")
    assert out.count("not installed") == len(BACKENDS)
    result = json.loads(path.read_text())
    assert result["versions"] == dict.fromkeys(BACKENDS, "not installed")
    assert result["pitfalls"][0]["measured"] == dict.fromkeys(BACKENDS)


def test_an_unknown_pitfall_is_one_line_that_lists_the_names(run_command: Command) -> None:
    code, out, err = run_command("pitfalls", "resise")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: resise: no such pitfall, have bn_momentum, ")
    assert all(name in err for name in NAMES)
    with pytest.raises(InputError):
        find("")
