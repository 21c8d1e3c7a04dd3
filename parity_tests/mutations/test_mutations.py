"""The mutations: each patch applies, and what it breaks is named where it is."""

import ast
import contextlib
import dataclasses
import functools
import importlib
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from backends import BACKENDS, load_backend
from common.config import Dtype
from common.parity.settings import SETTINGS
from parity_tests.mutations import __main__ as command
from parity_tests.mutations import run
from parity_tests.mutations.apply import Mutation, Patch, parse, patched, patched_trees
from parity_tests.mutations.catalogue import MUTATIONS
from parity_tests.mutations.report import markdown
from scripts.shared.cli import BackendName

BY_NAME = {change.name: change for change in MUTATIONS}


# --- the engine, on a source of its own

SOURCE = '''
class Net:
    def __call__(self, x):
        """Not a statement."""
        x = self.pool(
            x, (3, 3),  # told
            mode='max', stride=2)
        if x:
            x = relu(self.bn(x) + shortcut)
        return x
'''


def _applied(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    path = tmp_path / "model.py"
    path.write_text(SOURCE)
    monkeypatch.setattr("parity_tests.mutations.apply.source_files", lambda _: {"model": path})
    (change,) = parse(f"it: This.\n    {text}")
    return ast.unparse(patched_trees("torch", change)["model"])


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ("model: 'max' -> 'avg'", "mode='avg', stride=2)"),
        ("model.Net.forward: self.pool(..., mode=__) -> f(...)", "f(x, (3, 3), stride=2)"),
        ("model.Net: __f(self.bn(x) + __y) -> __f(__y)", "relu(shortcut)"),
        ("torch: model.Net.forward: x = relu(__) -> pass", "if x:\n            pass"),
        (
            "model.Net: x = __f(__y) -> \n        a\n        b",
            "if x:\n            a\n            b",
        ),
        ("model.Net x 6: x -> y", "y = relu(self.bn(y) + shortcut)\n        return y"),
        ("model.Net.forward: -> a", '"""Not a statement."""\n        a\n'),
        ("model: -> a = 1", "a = 1\n\nclass Net:"),
    ],
)
def test_a_patch_is_applied_at_its_seam(
    patch: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert expected in _applied(patch, monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("patch", "fault"),
    [
        ("model.Net: absent -> a", ": 'absent' stands 0 times, not 1"),
        ("model.Net: __f(..., stride=3) -> a", ": .* stands 0 times, not 1"),
        ("model.Net x 2: __f(__x) -> a", ": .* stands 1 times, not 2"),
        ("model.Net.absent: -> a", ".absent: there is no absent"),
    ],
)
def test_a_patch_that_does_not_apply_names_mutation_file_and_seam(
    patch: str, fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"it: backends/torch/model.py, model.Net.*{fault}"):
        _applied(patch, monkeypatch, tmp_path)


def test_the_catalogue_is_parsed() -> None:
    text = """
    at eval/stem or loss[0]
    a: Why: so.
        torch, jax: model: x -> y
        jax: model.Net x 2: x ->
            y
            z
        mxnet: without: it cannot
        setting: large_mean
    """
    patches = {
        "torch": (Patch("model", "x", "y"),),
        "jax": (Patch("model", "x", "y"), Patch("model.Net", "x", "y\nz", 2)),
    }
    expected = ("eval/stem", "loss[0]")
    without = {"mxnet": "it cannot"}
    assert parse(textwrap.dedent(text)) == [
        Mutation("a", "Why: so.", expected, patches, without, "large_mean")
    ]
    with pytest.raises(ValueError, match="no patch: 'model: x'"):
        parse("a: Why.\n    model: x")


# --- the catalogue


def test_names_are_unique_and_many() -> None:
    assert len(BY_NAME) == len(MUTATIONS) >= 60


def test_every_mutation_applies_and_compiles(backend: str) -> None:
    for change in MUTATIONS:
        if backend in change.patches:
            assert change.patches[backend], change.name
            trees = patched_trees(backend, change)
            for name in {patch.file for patch in change.patches[backend]}:
                compile(trees[name], f"{name}.py", "exec")


def test_a_mutation_is_in_each_backend_or_says_why_not() -> None:
    for change in MUTATIONS:
        assert sorted([*change.patches, *change.without]) == sorted(BACKENDS), change.name
        assert change.patches, change.name
        assert change.why.endswith("."), change.name
        assert change.setting in SETTINGS, change.name


def test_every_expected_place_is_a_name_of_a_trace() -> None:
    for change in MUTATIONS:
        for pattern in change.expected:
            assert any(run.matches(name, [pattern]) for name in run.ORDER), (change.name, pattern)


def test_a_backend_is_mutated_within_the_block_only(backend: str) -> None:
    load_backend(backend)
    name = f"backends.{backend}.loss"
    earlier = importlib.import_module(name)
    (change,) = parse("marked: Only this.\n    loss: -> MARK = 1")
    with patched(backend, change) as module:
        assert module is load_backend(backend)
        assert importlib.import_module(name).MARK == 1
    assert importlib.import_module(name) is earlier
    assert not hasattr(earlier, "MARK")
    assert load_backend(backend) is sys.modules[f"backends.{backend}"] is not module


# --- the judgement


@contextlib.contextmanager
def _quick(name: str) -> Iterator[None]:
    """JAX operator by operator, as the command has it: what is compiled serves every mutation."""
    with contextlib.ExitStack() as stack:
        if name == "jax":
            import jax

            stack.enter_context(jax.disable_jit())
        yield


@functools.cache
def _held(name: str) -> run.Held:
    """Another framework's healthy trace of one step."""
    with patched(run.reference_of(name), None) as module:
        return run.Held({"generic": run.trace(module, "generic", Dtype.float64, 1)})


def _verdict(backend: str, change: Mutation | None, held: run.Held) -> run.Verdict:
    with _quick(backend), patched(backend, change) as module:
        arrays = run.trace(module, "generic", Dtype.float64, 1)
    return run.judge(arrays, held, "generic", Dtype.float64, steps=1)


@pytest.mark.needs("torch", "mxnet")
def test_a_healthy_backend_is_not_caught(backend: str) -> None:
    assert not _verdict(backend, None, _held(backend)).caught


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
def test_a_mutation_is_caught_where_it_is(backend: str, name: str) -> None:
    verdict = _verdict(backend, BY_NAME[name], _held(backend))
    assert verdict.caught
    assert run.matches(verdict.where, BY_NAME[name].expected), verdict


@pytest.mark.needs("torch", "mxnet")
def test_a_mutation_that_changes_no_value_is_dead_and_a_small_one_missed() -> None:
    held = _held("torch")
    with patched("torch", None) as module:
        own = {"generic": run.trace(module, "generic", Dtype.float64, 1)}
    held = dataclasses.replace(held, own=own)
    for factor, dead in (("1.0", True), ("(1 + 1e-13)", False)):
        (change,) = parse(f"it: This.\n    loss.cross_entropy: -> logits = logits * {factor}")
        verdict = _verdict("torch", change, held)
        assert (verdict.caught, verdict.dead) == (False, dead)


@pytest.mark.full
@pytest.mark.needs("torch", "mxnet")
def test_all_are_caught_where_they_are(backend: str) -> None:
    wanted = [(backend, change) for change in MUTATIONS if backend in change.patches]
    entries = list(run.run(wanted, {"versions": {}, "float32_gates": {}}))
    assert len(entries) == len(wanted)
    assert not [(e["name"], told) for e in entries if (told := run.failed(e))]


# --- the command


def _entry(backend: str, change: Mutation, caught: bool) -> dict[str, Any]:
    found = run.Verdict(caught, "forward", change.expected[0] if caught else None)
    plain = {"caught": False, "error": 0.0, "generic": False}
    return run.entry(backend, change, found, found, plain)


def test_what_a_result_already_has_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str]] = []

    def fake(wanted: list[tuple[str, Mutation]], about: object) -> Iterator[dict[str, Any]]:
        for backend, change in wanted:
            ran.append((backend, change.name))
            yield _entry(backend, change, caught=change.name != "image_bgr")

    def mutations(names: list[str]) -> int:
        with pytest.raises(typer.Exit) as exit_:
            command.mutations(
                backend=[BackendName("torch"), BackendName("jax")], mutation=names, json_file=file
            )
        return int(exit_.value.exit_code)

    monkeypatch.setattr(run, "run", fake)
    file = tmp_path / "mutations.json"
    assert mutations(["kernels_flipped"]) == 0
    assert mutations(["image_bgr", "kernels_flipped"]) == 1
    assert ran == [(b, n) for n in ("kernels_flipped", "image_bgr") for b in ("torch", "jax")]
    result = json.loads(file.read_text())
    assert [e["name"] for e in result["faults"]] == ["kernels_flipped"] * 2 + ["image_bgr"] * 2
    assert result["caught_share"] == result["located_share"] == 0.5
    assert result["only_float64"] == []
    changed = [{**e, "digest": "of another source"} for e in result["faults"]]
    file.write_text(json.dumps(result | {"faults": changed}))
    ran.clear()
    assert mutations(["kernels_flipped"]) == 0
    assert ran == [("torch", "kernels_flipped"), ("jax", "kernels_flipped")]


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"dead": True, "caught": False}, "dead"),
        ({"dead": False, "caught": False}, "missed"),
        ({"caught": True, "located": False, "where": "loss[0]"}, "first at loss"),
        ({"caught": True, "located": True, "setting": "loud"}, "first seen in loud, expected in"),
        ({"caught": True, "located": True}, None),
    ],
)
def test_dead_missed_and_misplaced_are_told_apart(result: dict[str, Any], told: str | None) -> None:
    places = {"expected": ["eval/stem"], "setting": "ties", "declared": "ties"}
    entry = {"dead": False, **places, **result}
    assert (run.failed(entry) or "").startswith(told or "")
    assert (run.failed(entry) is None) == (told is None)


def test_the_tables_for_the_docs() -> None:
    change = BY_NAME["image_bgr"]
    entries = [_entry("torch", change, caught=True), _entry("jax", change, caught=False)]
    lines = list(markdown(entries))
    assert "| data | 1 | 2 | 50% | 50% | 50% | 50% | 0% |" in lines
    assert lines[-1] == "| image_bgr | torch | `eval/stem` | torch | none |"
