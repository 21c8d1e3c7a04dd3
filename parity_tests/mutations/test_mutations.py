"""The fault catalogue: each patch applies, and what it breaks is named where it is."""

import ast
import contextlib
import functools
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from backends import BACKENDS, load_backend
from common.config import Dtype
from common.parity.order import execution_order
from common.protocol import Arrays
from parity_tests.mutations import __main__ as command
from parity_tests.mutations import run
from parity_tests.mutations.apply import Fault, Patch, everywhere, patched, patched_sources
from parity_tests.mutations.catalogue import FAULTS

BY_NAME = {change.name: change for change in FAULTS}


def test_names_are_unique_and_many() -> None:
    assert len(BY_NAME) == len(FAULTS) >= 60


def test_every_patch_applies_and_parses(backend: str) -> None:
    healthy = patched_sources(backend, None)
    for change in FAULTS:
        if backend in change.patches:
            texts = patched_sources(backend, change)
            assert texts != healthy, change.name
            for text in texts.values():
                ast.parse(text)


def test_a_patch_that_does_not_apply_is_an_error() -> None:
    absent = everywhere("absent", "", "eval/stem", Patch("loss", "no such text", ""))
    with pytest.raises(ValueError, match=r"absent: backends/torch/loss.py has .* 0 times, not 1"):
        patched_sources("torch", absent)


def test_a_fault_is_in_each_backend_or_says_why_not() -> None:
    for change in FAULTS:
        assert sorted([*change.patches, *change.without]) == sorted(BACKENDS), change.name
        assert len(change.patches) >= 2, change.name
        assert change.why.endswith("."), change.name
        assert change.setting in run.SETTINGS, change.name


def test_every_expected_place_is_a_name_of_a_trace() -> None:
    names = execution_order("resnet18", run.CLASSES, len(run.RATES))
    for change in FAULTS:
        for pattern in change.expected:
            assert any(run.matches(name, [pattern]) for name in names), (change.name, pattern)


def test_a_backend_is_patched_within_the_block_only(backend: str) -> None:
    load_backend(backend)
    name = f"backends.{backend}.loss"
    before = importlib.import_module(name)
    line = "from common.config import VOID\n"
    change = everywhere("marked", "", "eval/stem", Patch("loss", line, line + "MARK = 1\n"))
    with patched(backend, change) as module:
        assert module is load_backend(backend)
        assert importlib.import_module(name).MARK == 1
    assert importlib.import_module(name) is before
    assert not hasattr(before, "MARK")
    assert load_backend(backend) is sys.modules[f"backends.{backend}"] is not module


@contextlib.contextmanager
def _quick(name: str) -> Iterator[None]:
    """JAX operator by operator, as the command has it: what is compiled serves every fault."""
    with contextlib.ExitStack() as stack:
        if name == "jax":
            import jax

            stack.enter_context(jax.disable_jit())
        yield


@functools.cache
def _truth(name: str) -> Arrays:
    """The healthy trace of one step that a backend's faults are held against here."""
    with patched("mxnet" if name == "torch" else "torch", None) as module:
        return run._trace(module, "generic", Dtype.float64, 1)


@pytest.mark.needs("torch", "mxnet")
def test_a_healthy_backend_is_not_caught(backend: str) -> None:
    with _quick(backend), patched(backend, None) as module:
        arrays = run._trace(module, "generic", Dtype.float64, 1)
    assert not run.judge(arrays, _truth(backend), Dtype.float64, steps=1).caught


@pytest.mark.needs("torch", "mxnet")
@pytest.mark.parametrize(
    "name",
    [
        "kernels_in_and_out_swapped",
        "eval_mode_in_training",
        "loss_mean_of_images",
        "gradient_stopped_in_shortcut",
        "decay_not_on_biases",
        "running_variance_biased",
    ],
)
def test_a_fault_is_caught_where_it_is(backend: str, name: str) -> None:
    change = BY_NAME[name]
    with _quick(backend), patched(backend, change) as module:
        arrays = run._trace(module, "generic", Dtype.float64, 1)
    verdict = run.judge(arrays, _truth(backend), Dtype.float64, steps=1)
    assert verdict.caught
    assert run.matches(verdict.where, change.expected), verdict


def _entry(backend: str, change: Fault, caught: bool) -> dict[str, Any]:
    verdict = {"caught": caught, "gate": "forward", "where": "eval/stem", "located": caught}
    return {
        "name": change.name,
        "backend": backend,
        "why": change.why,
        "expected": [],
        **verdict,
        "setting": "generic",
        "float32": verdict,
        "plain": {"caught": False, "error": 0.0, "generic": False},
        "digest": run.digest(backend, change),
    }


def test_what_a_result_already_has_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str]] = []

    def fake(wanted: list[tuple[str, Fault]], about: dict[str, dict]) -> Iterator[dict]:
        for backend, change in wanted:
            ran.append((backend, change.name))
            yield _entry(backend, change, caught=change.name != "image_bgr")

    def faults(names: list[str]) -> int:
        with pytest.raises(typer.Exit) as exit_:
            command.faults(backend=["torch", "jax"], fault=names, json_file=file)
        return exit_.value.exit_code

    monkeypatch.setattr(run, "run", fake)
    file = tmp_path / "faults.json"
    assert faults(["kernels_flipped"]) == 0
    assert faults(["image_bgr", "kernels_flipped"]) == 1
    assert ran == [(b, n) for n in ("kernels_flipped", "image_bgr") for b in ("torch", "jax")]
    result = json.loads(file.read_text())
    assert [e["name"] for e in result["faults"]] == ["kernels_flipped"] * 2 + ["image_bgr"] * 2
    assert result["caught_share"] == result["located_share"] == 0.5
    assert result["only_float64"] == []
    changed = [{**e, "digest": "of another source"} for e in result["faults"]]
    file.write_text(json.dumps(result | {"faults": changed}))
    ran.clear()
    assert faults(["kernels_flipped"]) == 0
    assert ran == [("torch", "kernels_flipped"), ("jax", "kernels_flipped")]
