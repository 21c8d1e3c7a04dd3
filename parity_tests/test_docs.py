"""What README, CONTRIBUTING and docs/ say of the code: quotations, commands, paths, links."""

import ast
import functools
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image

from scripts.shared.sources import snippet

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}

QUOTATION = re.compile(r"<!-- from (\S+): (\S+) -->\s*```python\n(.*?)```", re.S)
FENCE = re.compile(r"^```.*?^```", re.S | re.M)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
COMMAND = re.compile(r"python -m ((?:scripts|parity_tests)\.[\w.]+)([^`\n]*)")
PATH = re.compile(r"(?:backends|common|scripts|parity_tests|docs|\.ci)/[\w/.*<>-]*")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def source_of(path: str, name: str) -> str:
    """What `snippet` finds in a file of the project."""
    return snippet(ROOT / path, name)


def essence(code: str) -> tuple[str, list[str]]:
    """The syntax tree and the words of the comments: what line breaks do not change."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = [t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT]
    return ast.dump(ast.parse(code)), " ".join(comments).split()


QUOTATIONS = [
    pytest.param(*found, id=f"{page}-{found[0]}-{found[1]}")
    for page, text in TEXTS.items()
    for found in QUOTATION.findall(text)
]


@pytest.mark.parametrize("path, name, code", QUOTATIONS)
def test_a_quotation_is_what_the_source_says(path: str, name: str, code: str) -> None:
    """But for docstrings and line breaks, so that three of them fit side by side."""
    source = source_of(path, name)
    assert essence(code) == essence(source), f"{path}: {name} is\n\n{source}"


def test_every_block_of_python_is_a_quotation() -> None:
    assert len(QUOTATIONS) >= 12
    for page, text in TEXTS.items():
        assert text.count("```python") == len(QUOTATION.findall(text)), page


@pytest.mark.parametrize(
    "change", [("total", "summe"), ("# differs", "# alike"), ("sum()", "mean()")]
)
def test_a_changed_quotation_is_found(change: tuple[str, str]) -> None:
    source = source_of("backends/torch/loss.py", "cross_entropy")
    assert change[0] in source
    assert essence(source) == essence(source.replace(", ", ",\n    ", 1))
    assert essence(source) != essence(source.replace(*change))


@functools.cache
def application(module: str) -> Any:
    """The command line of `python -m <module>`; None where it takes no options."""
    package = importlib.import_module(module)
    is_package = hasattr(package, "__path__")
    program = importlib.import_module(f"{module}.__main__") if is_package else package
    return typer.main.get_command(program.app) if hasattr(program, "app") else None


def options(command: Any) -> set[str]:
    """Every option of a command, its subcommands' too."""
    parameters = getattr(command, "params", [])
    own = {name for p in parameters for name in (*p.opts, *p.secondary_opts)}
    return own.union({"--help"}, *map(options, getattr(command, "commands", {}).values()))


def unknown_options(module: str, rest: str) -> list[str]:
    """The options of a command line that the command does not have."""
    command = application(module)
    words = shlex.split(rest, comments=True)
    if words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words[0]]
    elif words and not words[0].startswith("-") and hasattr(command, "commands"):
        return words[:1]
    known = options(command)
    return [word for word in words if word.startswith("--") and word.split("=")[0] not in known]


def commands() -> list[tuple[str, str]]:
    """Each `python -m ...` of the texts, once: module and what follows."""
    return sorted({found for text in TEXTS.values() for found in COMMAND.findall(text)})


@pytest.mark.parametrize("module, rest", commands())
def test_a_command_has_the_options_that_the_texts_give_it(module: str, rest: str) -> None:
    assert unknown_options(module, rest) == []


def test_an_option_that_is_none_is_found() -> None:
    assert len(commands()) > 30
    assert unknown_options("scripts.train", " --backend jax --no-such 3  # --free") == ["--no-such"]
    assert unknown_options("scripts.data", " spheres data") == ["spheres"]
    assert unknown_options("scripts.data", " check --train 3 x") == ["--train"]


TYPED = re.compile(r"^(?:    )?(python .*)$", re.M)
IN_ORDER = ("commands", "weights", "training", "writing-a-trace", "port", "parity", "mutations")
"""What one page makes is what another reads."""
OTHERS = re.compile(
    r"scripts\.(bench|choose|parity|relay)|mutations --json|mutants|pitfalls  "  # take minutes
    r"|voc|camvid|export|--resume|runs/torch"  # data that a reader has
)


def typed() -> list[str]:
    """The commands of the pages, but for `OTHERS`, each once, in the order of a reader."""
    pages = (*(TEXTS[f"docs/{page}.md"] for page in IN_ORDER), TEXTS["README.md"])
    lines = dict.fromkeys(line for text in pages for line in TYPED.findall(text))
    return [line for line in lines if not OTHERS.search(line.partition("#")[0])]


def run_as_typed(lines: Iterable[str], folder: Path) -> None:
    """Each in a shell in the folder, with nothing but this Python's environment."""
    for room in ("backends", "common", "docs", "parity_tests", "scripts"):
        (folder / room).symlink_to(ROOT / room)
    Image.new("RGB", (600, 520)).save(folder / "large.jpg")
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PATH": search}
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True
        )
        has_mistakes = "scripts.compare torch.safetensors" in line  # docs/port/unet_jax.py
        assert done.returncode == (1 if has_mistakes else 0), f"{line}\n{done.stderr}"
        assert "Traceback" not in done.stderr


@pytest.mark.full
@pytest.mark.needs("mxnet", "jax")
def test_commands_run_as_they_are_typed(tmp_path: Path) -> None:
    assert len(typed()) >= 20
    run_as_typed(typed(), tmp_path)


LESSONS = [name for name, text in TEXTS.items() if "lessons/" in name and TYPED.search(text)]


@pytest.mark.full
@pytest.mark.needs("mxnet", "jax")
@pytest.mark.parametrize("page", LESSONS)
def test_commands_of_a_lesson_need_no_other_page(page: str, tmp_path: Path) -> None:
    run_as_typed(TYPED.findall(TEXTS[page]), tmp_path)


def test_every_option_that_is_spoken_of_is_one_of_a_command() -> None:
    shell = "".join(path.read_text() for path in (ROOT / "scripts").glob("*.sh"))
    shell += (ROOT / "conftest.py").read_text()
    known = {"--cov", "--cov-report"}.union(
        *(options(application(module)) for module in {module for module, _ in commands()})
    )
    for page, text in TEXTS.items():
        for span in SPAN.findall(FENCE.sub("", text)):
            for word in re.findall(r"(?<!\S)--[a-z][a-z-]+", span):
                assert word in known or word in shell, f"{page}: {span}"


def test_shell_scripts_are_there_and_know_their_options() -> None:
    for page, text in TEXTS.items():
        for script, rest in re.findall(r"bash (\S+\.sh|\.ci/run)([^`\n]*)", text):
            said = (ROOT / script).read_text()
            for word in shlex.split(rest, comments=True):
                assert not word.startswith("--") or word in said, f"{page}: {script} {word}"


def test_every_path_that_is_spoken_of_is_there() -> None:
    for page, text in TEXTS.items():
        for span in SPAN.findall(FENCE.sub("", text)):
            if PATH.fullmatch(span) and "<" not in span:
                assert list(ROOT.glob(span.rstrip("/"))), f"{page}: {span}"


def anchors(text: str) -> set[str]:
    """The headings as GitHub names them in a link."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_and_pictures_lead_somewhere(page: str) -> None:
    for link in LINK.findall(FENCE.sub("", TEXTS[page])):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_everything_in_docs_is_linked() -> None:
    linked = {
        (path.parent / link.partition("#")[0]).resolve()
        for path in PAGES
        for link in LINK.findall(path.read_text())
    }
    files = (path for path in (ROOT / "docs").rglob("*") if path.is_file())
    assert {path.resolve() for path in files if "__pycache__" not in path.parts} <= linked


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150
