"""The notebook: what it may hold, that its outputs are its own, that it runs in each backend."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from backends import BACKENDS, missing_packages
from parity_tests.test_structure import FRAMEWORKS
from scripts.lessons.kernel import NOTEBOOK, execute, result_path, set_variable

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "scripts/lessons/results"
KEPT = {"docs": NOTEBOOK} | {name: result_path(RESULTS, name) for name in BACKENDS}


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_it_is_valid_and_its_cells_are_short_and_parse() -> None:
    notebook = read(NOTEBOOK)
    nbformat.validate(notebook)
    assert len(code(notebook)) > 15
    for cell in code(notebook):
        ast.parse(cell.source)
        assert len(cell.source.splitlines()) <= 20, cell.id


def test_it_imports_no_framework_itself() -> None:
    source = "\n".join(cell.source for cell in code(read(NOTEBOOK)))
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import)]
    froms = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    modules = {a.name for node in found for a in node.names} | {node.module for node in froms}
    assert {"numpy", "backends"} <= modules
    assert not {str(module).partition(".")[0] for module in modules} & FRAMEWORKS
    assert not any(str(module).startswith("backends.") for module in modules)


@pytest.mark.parametrize("folder", [".", "docs"])
def test_it_finds_the_project_from_the_root_and_from_docs(folder: str) -> None:
    source = next(cell.source for cell in code(read(NOTEBOOK)) if "sys.path" in cell.source)
    command = [sys.executable, "-P", "-c", f"{source}\nimport backends"]
    subprocess.run(command, cwd=ROOT / folder, check=True)


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_small_whole_and_of_no_machine(name: str) -> None:
    notebook, text = read(KEPT[name]), KEPT[name].read_text()
    assert len(text) < 500_000
    words = re.sub(r'"image/png": ".*"', "", text)
    assert not re.search(r"/(work|home|root|tmp|Users|usr)/|site-packages|[Ww]arning", words)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert [cell.execution_count for cell in code(notebook)] == [*range(1, len(code(notebook)) + 1)]
    for cell in code(notebook):
        assert not cell.metadata
        for output in cell.outputs:
            assert output.output_type in ("display_data", "execute_result", "stream")
            assert output.get("name") != "stderr"


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_kept_was_executed_as_the_notebook_now_stands(backend: str) -> None:
    notebook, kept = read(NOTEBOOK), read(result_path(RESULTS, backend))
    set_variable(notebook, "BACKEND", backend)
    assert [(c.id, c.source) for c in kept.cells] == [(c.id, c.source) for c in notebook.cells]


def test_the_outputs_in_docs_are_those_of_pytorch() -> None:
    assert NOTEBOOK.read_text() == result_path(RESULTS, "torch").read_text()


@pytest.mark.full
def test_it_runs_and_the_others_compute_the_same(backend: str) -> None:
    notebook = execute(backend, STEPS=2)
    nbformat.validate(notebook)
    assert notebook.metadata == read(NOTEBOOK).metadata
    last = printed(code(notebook)[-1])
    found = re.findall(rf"^(\w+) from {backend}: (\S+)$", last, re.M)
    others = [name for name in BACKENDS if name != backend and not missing_packages(name)]
    assert [name for name, _ in found] == others
    assert all(0 <= float(difference) <= 1e-12 for _, difference in found)
