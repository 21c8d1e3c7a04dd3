"""The shape of the code: twin backends, one-way imports, laziness."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from backends import BACKENDS, load_backend, missing_packages
from common.errors import InputError

ROOT = Path(__file__).parent.parent
FRAMEWORKS = {"torch", "torchvision", "mxnet", "gluoncv", "jax", "jaxlib", "flax", "optax", "orbax"}
FILES = sorted(path.name for path in (ROOT / "backends" / "torch").glob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def public_names(path: Path) -> list[str]:
    """Public classes and functions in order, functions with their parameters' names."""
    found = []
    for node in parse(path).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found.append(f"class {node.name}")
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            parameters = ", ".join(a.arg for a in (*node.args.args, *node.args.kwonlyargs))
            found.append(f"def {node.name}({parameters})")
    return found


def methods(path: Path, name: str) -> list[str]:
    for node in parse(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            functions = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            return [
                f"{n.name}({', '.join(a.arg for a in n.args.args)})"
                for n in functions
                if not n.name.startswith("_") or n.name == "__init__"
            ]
    raise AssertionError(f"{path}: no class {name}")


def imported(path: Path) -> set[str]:
    """Top packages, and `backends.<name>` for our own, that a file imports anywhere."""
    found = set()
    for node in ast.walk(parse(path)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in modules:
            parts = module.split(".")
            found.add(".".join(parts[:2]) if parts[0] == "backends" else parts[0])
    return found


def test_the_same_files_in_each_backend(backend: str) -> None:
    assert len(FILES) == 7
    assert sorted(path.name for path in (ROOT / "backends" / backend).glob("*.py")) == FILES


@pytest.mark.parametrize("file", FILES)
def test_the_same_public_names_in_the_same_order(backend: str, file: str) -> None:
    expected = public_names(ROOT / "backends" / "torch" / file)
    assert expected or file == "__init__.py"
    assert public_names(ROOT / "backends" / backend / file) == expected


def test_the_trainer_has_the_protocol_s_methods(backend: str) -> None:
    expected = methods(ROOT / "common" / "protocol.py", "Trainer")
    assert methods(ROOT / "backends" / backend / "train.py", "Trainer") == expected
    assert len(expected) == 10


def test_the_same_exports(backend: str) -> None:
    def exports(name: str) -> list[str]:
        module = parse(ROOT / "backends" / name / "__init__.py")
        return [
            ast.unparse(node).replace(f"backends.{name}", "backends") for node in module.body[1:]
        ]

    assert exports(backend) == exports("torch")


def test_differences_are_told_in_every_backend() -> None:
    for file in ("device.py", "model.py", "loss.py", "optimizer.py", "train.py", "weights.py"):
        for name in BACKENDS:
            assert "# differs:" in (ROOT / "backends" / name / file).read_text(), (name, file)


def test_no_backend_imports_another(backend: str) -> None:
    own = {"mxnet": {"mxnet"}, "torch": {"torch"}, "jax": {"jax", "flax", "optax", "orbax"}}
    for path in (ROOT / "backends" / backend).glob("*.py"):
        foreign = imported(path) & (FRAMEWORKS | {f"backends.{n}" for n in BACKENDS})
        assert foreign <= own[backend] | {f"backends.{backend}"}, path
        assert "scripts" not in imported(path), path


def test_no_framework_under_common() -> None:
    for path in (ROOT / "common").glob("*.py"):
        assert not imported(path) & (FRAMEWORKS | {"backends", "scripts", "parity_tests"}), path


def test_scripts_reach_frameworks_through_backends_alone() -> None:
    for path in (ROOT / "scripts").glob("*.py"):
        assert not imported(path) & (FRAMEWORKS | {f"backends.{n}" for n in BACKENDS}), path


def modules_after(code: str) -> set[str]:
    """Which frameworks a fresh Python has imported after running `code`."""
    code += "\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(result.stdout.splitlines()[-1])) & FRAMEWORKS


def test_a_backend_imports_its_own_framework_and_no_other(backend: str) -> None:
    mine = {"torch": {"torch"}, "mxnet": {"mxnet"}, "jax": {"jax", "jaxlib", "flax", "optax"}}
    loaded = modules_after(f"from backends import load_backend; load_backend({backend!r})")
    assert mine[backend] <= loaded
    assert loaded <= mine[backend] | ({"orbax"} if backend == "jax" else set())


def test_the_commands_import_no_framework_before_they_need_one() -> None:
    names = "bench, convert, data, demo, evaluate, plots, predict, trace, train"
    assert modules_after(f"from scripts import {names}") == set()


def test_without_leaves_out_what_needs_a_backend_and_nothing_else() -> None:
    def collected(*options: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
        files = [f"parity_tests/test_{name}.py" for name in ("structure", "weights", "witnesses")]
        done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if "::" in line]

    everything, without = collected(), collected("--without", "mxnet")
    left_out = [test for test in everything if "mxnet" in test or "gluon" in test]
    assert len(left_out) > 20
    assert without == [test for test in everything if test not in left_out]


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(InputError, match="no such backend, have torch, mxnet, jax"):
        load_backend("caffe")


def test_a_missing_framework_is_one_line_that_says_how_to_install_it(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    assert missing_packages(backend)
    with pytest.raises(InputError, match=rf"install with: pip install '\.\[{backend}\]'"):
        load_backend(backend)


def test_an_import_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise AttributeError("module 'numpy' has no\nattribute 'bool'")

    monkeypatch.setattr("importlib.import_module", fails)
    with pytest.raises(InputError, match="cannot be imported: module 'numpy' has no attribute"):
        load_backend("torch")


def test_float32_hyperparameters() -> None:
    import numpy as np

    from common.config import Config

    config = Config()
    assert config.momentum == float(np.float32(0.9)) != 0.9
    assert config.bn_eps == float(np.float32(1e-5)) != 1e-5
    assert config.to_dict()["momentum"] == 0.9
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
