"""What is changed, and that a change is put into the code that tests run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parity_tests.mutants.mutate import mutants

ROOT = Path(__file__).parents[2]
SOURCE = '''
"""A docstring stays."""
LIMIT = 3


def window(height, width, names):
    """So does this."""
    if height < LIMIT and not names:
        raise ValueError("and what is said of errors")
    names.append(max(height, width))
    return [name.get("key", -1) for name in names[1:] if name]
'''
CHANGES = {
    "3 -> 4",
    "if height < LIMIT and (not names): -> if not (height < LIMIT and (not names)):",
    "height < LIMIT and (not names) -> height < LIMIT or not names",
    "height < LIMIT -> height <= LIMIT",
    "height < LIMIT -> height >= LIMIT",
    "height -> width",
    "width -> height",
    "not names -> names",
    "raise ValueError('and what is said of errors') -> pass",
    "names.append(max(height, width)) -> pass",
    "max -> min",
    "-1 -> 1",
    "1 -> 2",
    "1: -> :",
    "'key' -> 'key_'",
    "name.get('key', -1) -> name.get(-1, 'key')",
    " for name in names[1:] if name ->  for name in names[1:]",
    "return [name.get('key', -1) for name in names[1:] if name] -> return None",
}


def test_what_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(SOURCE)
    found = mutants(path)
    assert {f"{mutant.before} -> {mutant.after}" for mutant in found} == CHANGES
    assert {mutant.function for mutant in found} == {"", "window"}
    (dropped,) = (mutant for mutant in found if mutant.after == "pass" and "max" in mutant.before)
    assert (dropped.line, dropped.lines) == (10, range(10, 11))
    names: list[int] = []
    for mutant in (None, dropped):
        space: dict = {}
        exec(SOURCE if mutant is None else mutant.code(), space)
        space["window"](5, 7, names)
        assert names == [7]
        names = [7]


@pytest.mark.full
def test_mutants_are_noticed_by_the_tests_of_their_lines(tmp_path: Path) -> None:
    """By a few tests: of two files' mutants some, of the others none, which nothing runs here."""
    tests = ["parity_tests/commands/test_ahead.py", "parity_tests/data/test_pictures.py"]
    options = ["--room", "evaluation", "--room", "data", "--sample", "60", "--seed", "3"]
    command = [sys.executable, "-m", "parity_tests.mutants", *tests, *options]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "r.json")], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, "")
    fates: dict[str, set[str]] = {}
    for entry in json.loads((tmp_path / "r.json").read_text())["mutants"]:
        fates.setdefault(Path(entry["file"]).name, set()).add(entry["fate"])
    assert fates["voc2012.py"] == {"not covered"}
    assert any("test_pictures.py::" in fate for fate in fates["drawing.py"])
