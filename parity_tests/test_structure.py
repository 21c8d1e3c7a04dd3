"""The shape of the code: twin backends, one-way imports, laziness."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backends import BACKENDS, load_backend, missing_packages
from common.errors import InputError
from parity_tests.mutations.catalogue import MUTATIONS
from scripts.pitfalls.catalogue import PITFALLS

ROOT = Path(__file__).parent.parent
FRAMEWORKS = {"torch", "torchvision", "mxnet", "gluoncv", "jax", "jaxlib", "flax", "optax", "orbax"}
OWN = {
    "torch": ("torch", "torchvision"),
    "mxnet": ("mxnet", "gluoncv"),
    "jax": ("jax", "flax", "optax", "orbax"),
    "onnx": ("torch",),
}
"""Which frameworks a file sees, by the backend that it is of; ONNX is exported by PyTorch."""
BACKEND_OF = {"onnx": "torch"}
FILES = sorted(path.name for path in (ROOT / "backends" / "torch").glob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


ALONE = {"variables"}
"""Parameters of one framework: a Linen module does not hold its weights."""


def public_names(path: Path) -> list[str]:
    """Public classes and functions in order, functions with their parameters' names."""
    found = []
    for node in parse(path).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found.append(f"class {node.name}")
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            names = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
            parameters = ", ".join(name for name in names if name not in ALONE)
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
    """The modules that a file imports anywhere, with dots."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(module: str, *packages: str) -> bool:
    """Whether a module is one of these packages, or in one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def packages_of(parts: tuple[str, ...]) -> tuple[str, ...]:
    """What a file may import of the frameworks, from its place: its backend's, if it has one."""
    name = parts[-1].removesuffix(".py")
    if parts[0] == "backends" and len(parts) > 2:
        name = parts[1]
    return OWN.get(name, ()) if parts[0] in ("backends", "scripts") else ()


def may_import(parts: tuple[str, ...], module: str) -> bool:
    """Whether the file at `parts`, from the root, may import a module.

    Imports go one way: tests, commands, backends, common. A backend's framework is its own; of the
    commands, only files named after a framework see it. No command imports another.
    """
    room = parts[0]
    if within(module, *FRAMEWORKS):
        return within(module, *packages_of(parts))
    if room == "common":
        return not within(module, "backends", "scripts", "parity_tests")
    if room == "backends":
        own = f"backends.{parts[1]}"
        return within(module, own, "common") or not within(
            module, "backends", "scripts", "parity_tests"
        )
    if within(module, "parity_tests"):
        return False
    if within(module, *(f"backends.{name}" for name in BACKENDS)):
        name = parts[-1].removesuffix(".py")
        return within(module, f"backends.{BACKEND_OF.get(name, name)}")
    command = parts[1].removesuffix(".py")
    return not within(module, "scripts") or within(
        module, "scripts.shared", *(() if command == "shared" else (f"scripts.{command}",))
    )


def source_files(root: Path) -> list[Path]:
    """Every Python file of the program, however deep, from the root."""
    rooms = ("common", "backends", "scripts")
    return sorted(p.relative_to(root) for room in rooms for p in (root / room).rglob("*.py"))


def forbidden_imports(root: Path) -> list[str]:
    """`file: module` for each import that breaks a rule."""
    return [
        f"{path}: {module}"
        for path in source_files(root)
        for module in sorted(imported(root / path))
        if not may_import(path.parts, module)
    ]


def circles(root: Path) -> list[str]:
    """Modules of the program that import each other, in a circle."""
    files = {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): path
        for path in source_files(root)
    }
    edges = {
        name: {m for i in imported(root / path) for m in (i, i.rpartition(".")[0]) if m in files}
        - {name}
        for name, path in files.items()
    }
    while leaves := [name for name, targets in edges.items() if not targets & edges.keys()]:
        for name in leaves:
            del edges[name]
    return sorted(edges)


def test_the_same_files_in_each_backend(backend: str) -> None:
    assert len(FILES) == 12
    assert sorted(path.name for path in (ROOT / "backends" / backend).glob("*.py")) == FILES


@pytest.mark.parametrize("file", FILES)
def test_the_same_public_names_in_the_same_order(backend: str, file: str) -> None:
    expected = public_names(ROOT / "backends" / "torch" / file)
    assert expected or file == "__init__.py"
    assert public_names(ROOT / "backends" / backend / file) == expected


def test_the_trainer_has_the_protocol_s_methods(backend: str) -> None:
    expected = methods(ROOT / "common" / "protocol.py", "Trainer")
    found = methods(ROOT / "backends" / backend / "train.py", "Trainer")
    assert found == expected
    assert len(expected) == 7
    probe = methods(ROOT / "common" / "protocol.py", "Probe")
    assert methods(ROOT / "backends" / backend / "probe.py", "Probe") == probe
    assert len(probe) == 4


def test_the_same_exports(backend: str) -> None:
    def exports(name: str) -> list[str]:
        module = parse(ROOT / "backends" / name / "__init__.py")
        return [
            ast.unparse(node).replace(f"backends.{name}", "backends") for node in module.body[1:]
        ]

    assert exports(backend) == exports("torch")


def keys_of(backend: str) -> set[str]:
    """The keys of `# differs(key):` in a backend's files."""
    texts = [path.read_text() for path in (ROOT / "backends" / backend).glob("*.py")]
    return set(re.findall(r"# differs\((\w+)\):", "".join(texts)))


def test_what_all_three_differ_in_has_one_key_that_is_measured(backend: str) -> None:
    """What is keyed is told in each backend, and a pitfall or a mutation shows its effect."""
    measured = {pitfall.name for pitfall in PITFALLS} | {mutation.name for mutation in MUTATIONS}
    assert len(keys_of(backend)) > 10
    assert keys_of(backend) == keys_of("torch")
    assert keys_of(backend) <= measured


def test_imports_go_one_way() -> None:
    assert forbidden_imports(ROOT) == []


def test_no_module_imports_itself_over_others() -> None:
    assert circles(ROOT) == []


@pytest.mark.parametrize(
    "place, line",
    [
        ("common/deep/er/x.py", "import torch"),
        ("common/deep/er/x.py", "from jax import numpy"),
        ("common/data/x.py", "from backends import load_backend"),
        ("common/data/x.py", "import scripts.shared.cli"),
        ("backends/torch/x.py", "import mxnet.gluon"),
        ("backends/torch/x.py", "from backends.jax import model"),
        ("backends/jax/deep/x.py", "from backends.torch.model import FCN"),
        ("backends/mxnet/x.py", "from scripts.shared import cli"),
        ("scripts/x.py", "import torch"),
        ("scripts/shared/x.py", "import flax"),
        ("scripts/x.py", "from backends.mxnet import Trainer"),
        ("scripts/x.py", "from scripts.train import training"),
        ("scripts/bench/x.py", "from scripts.parity.worker import Job"),
        ("scripts/shared/x.py", "from scripts.evaluate import app"),
        ("scripts/bench/deep/jax.py", "import torch"),
        ("scripts/x.py", "from parity_tests import conftest"),
    ],
)
def test_an_import_against_the_rules_is_found(tmp_path: Path, place: str, line: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(f"def f():\n    {line}\n")
    assert len(forbidden_imports(tmp_path)) == 1


def test_a_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "common" / "deep").mkdir(parents=True)
    (tmp_path / "common" / "deep" / "a.py").write_text("from common import b\n")
    (tmp_path / "common" / "b.py").write_text("from common.deep.a import x\n")
    (tmp_path / "common" / "c.py").write_text("import common.b\n")
    assert circles(tmp_path) == ["common.b", "common.c", "common.deep.a"]


def test_each_room_says_what_lives_there() -> None:
    for room in ("common", "backends", "scripts", "parity_tests"):
        for folder in [ROOT / room, *(p for p in (ROOT / room).rglob("*") if p.is_dir())]:
            if list(folder.glob("*.py")):
                assert ast.get_docstring(parse(folder / "__init__.py")), folder


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
    commands = sorted(
        f"scripts.{p.stem}" if p.suffix else f"scripts.{p.name}.__main__"
        for p in (ROOT / "scripts").iterdir()
        if p.suffix == ".py" or (p / "__main__.py").exists()
    )
    commands.remove("scripts.__init__")
    assert len(commands) >= 12
    assert modules_after(f"import {', '.join(commands)}") == set()


def test_without_leaves_out_what_needs_a_backend_and_nothing_else() -> None:
    def collected(*options: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
        names = ("network/test_model", "weights/test_weights", "network/test_witnesses")
        files = [f"parity_tests/{name}.py" for name in names]
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
