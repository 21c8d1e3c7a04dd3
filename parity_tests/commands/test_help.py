"""What the commands say of themselves: the list, help in groups, suggestions; quickly."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.config import SETTINGS
from scripts.__main__ import COMMANDS
from scripts.train.__main__ import GROUPS

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
NAMES = [name for commands in COMMANDS.values() for name in commands]
SLOW = ("matplotlib", "tensorboardX", "torch", "mxnet", "jax", "onnx", "onnxruntime")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_list_has_every_command_once() -> None:
    modules = (path.relative_to(ROOT / "scripts") for path in (ROOT / "scripts").rglob("*.py"))
    runnable = {
        ".".join(path.with_suffix("").parts).removesuffix(".__main__")
        for path in modules
        if "app = " in (ROOT / "scripts" / path).read_text()
    }
    assert sorted(NAMES) == sorted(runnable)
    result = python("-m", "scripts")
    assert (result.returncode, result.stderr) == (0, "")
    for commands in COMMANDS.values():
        for name, what in commands.items():
            assert f"  {name:<14}{what}\n" in result.stdout


@pytest.mark.parametrize(
    "typed, hint", [("trian", "python -m scripts.train runs one"), ("x", "python -m scripts lists")]
)
def test_a_command_after_the_list_is_told_how_to_be_run(typed: str, hint: str) -> None:
    result = python("-m", "scripts", typed)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {typed}: ")
    assert hint in result.stderr


def test_data_without_a_verb_lists_its_own_in_a_line_each(run_command: Command) -> None:
    code, out, err = run_command("data")
    assert (code, err) == (0, "")
    lines = out.partition("Commands:\n")[2].splitlines()
    assert {line.split()[0] for line in lines} >= {"check", "generic", "shapes", "voc2012"}
    assert "..." not in out.partition("Commands:\n")[2]


def test_the_help_of_train_is_grouped_and_short(run_command: Command) -> None:
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(SETTINGS)
    code, out, _ = run_command("train", "--help")
    assert code == 0
    assert out.count("\n") <= 101
    at = [out.index(f"\n{heading}:\n") for heading in ("Options", *GROUPS)]
    assert at == sorted(at)
    assert out.index("--out") < at[1] < out.index("--architecture") < at[2] < out.index("--lr")


@pytest.mark.parametrize(
    "typed, meant",
    [("--recipie", "--recipe"), ("--batch_size", "--batch-size"), ("--learningrate", "--lear")],
)
def test_an_option_that_is_none_suggests_the_near_one(
    typed: str, meant: str, run_command: Command
) -> None:
    code, _, err = run_command("train", typed, "3")
    assert code == 2
    assert err.count("\n") == 1
    assert f"No such option: {typed} " in err
    assert meant in err.partition("Possible")[2]


def test_the_rate_has_the_name_that_recipes_give_it(run_command: Command) -> None:
    for option in ("--lr", "--learning-rate"):
        code, out, _ = run_command("train", option, "0.125", "--show-config")
        assert code == 0
        assert "learning_rate = 0.125\n" in out


@pytest.mark.parametrize("name", NAMES)
def test_help_imports_nothing_slow(name: str) -> None:
    result = python("-X", "importtime", "-m", f"scripts.{name}", "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: python -m scripts.{name} ")
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "numpy" in imported
    assert not imported.intersection(SLOW)
