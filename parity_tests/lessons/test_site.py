"""The site of the lessons: what is in its files."""

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from backends import BACKENDS
from common.errors import InputError
from scripts.lessons import measured
from scripts.lessons.build import build
from scripts.lessons.pages import formula, render
from scripts.shared.sources import code_digest, snippet

ROOT = Path(__file__).parents[2]

README = """# Lessons

See [one](01-loss.md), the [dictionary](dictionary.toml#arrays), [the book](book.md), and
[notes](../notes.md).

## An hour, if you know PyTorch

1. [one](01-loss.md)
"""
LESSON = """# Loss

The loss of $x_1$ costs $5, not $6 <b>.

```math
\\frac{a}{b}
```

## The code

```columns
loss.py: cross_entropy
```

```common
common/network/bilinear.py: bilinear_kernel
```

```pitfall
label_255
```

    python -m scripts.pitfalls label_255

```solution
bn_two_batches
`More` words, not <b>.
```
"""
DICTIONARY = """[[row]]
group = "arrays"
idea = "an <array>"
torch = "torch.Tensor"
mxnet = ["mxnet.nd.NDArray", "mxnet.nd.array"]
jax = ""
"""


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder of one lesson, with all that belongs to it, and `results` beside it."""
    folder = tmp_path / "docs" / "lessons"
    folder.mkdir(parents=True)
    texts = {"README.md": README, "01-loss.md": LESSON, "dictionary.toml": DICTIONARY}
    for name, text in {**texts, "book.md": "# The book\n\n```departures\n```\n"}.items():
        (folder / name).write_text(text)
    (folder.parent / "notes.md").write_text("# Notes\n")
    results = tmp_path / "results"
    results.mkdir()
    for name in ("pitfalls.json", "mutations.json"):
        shutil.copy(measured.RESULTS / name, results)
    answers = {backend: {"mean": 1.375, "all": [1, 2]} for backend in BACKENDS}
    made: dict[str, Any] = {"made_of": {}, "versions": {}}
    found = made | {"found": {"bn_two_batches": answers}}
    (results / "exercises.json").write_text(json.dumps(found))
    entry = {"title": "plain", "tabs": ["JAX 2026"], "loss": [1.0, 3.0, 2.0], "mean_iou": [None]}
    (results / "departures.json").write_text(json.dumps(made | {"departures": [entry]}))
    for backend in BACKENDS:
        nbformat.write(notebook(backend), results / f"notebook_{backend}.ipynb")
    return folder


def notebook(backend: str) -> nbformat.NotebookNode:
    """A notebook that was executed: a title, and a cell that has printed over a line."""
    outputs = [
        nbformat.v4.new_output("stream", text="1%\r\x1b[31m100%\x1b[0m\n"),
        nbformat.v4.new_output("execute_result", {"text/plain": "<3>"}),
    ]
    cell = nbformat.v4.new_code_cell(f"name = '{backend}'", execution_count=1, outputs=outputs)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A notebook"), cell])


def built(docs: Path) -> dict[str, str]:
    """The pages of the site of a folder, by name."""
    out = docs.parents[1] / "site"
    build(out, docs, docs.parents[1] / "results")
    return {path.name: path.read_text() for path in out.glob("*.html")}


def text_of(fragment: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", fragment))


def test_every_block_of_code_is_its_source(docs: Path) -> None:
    found = re.findall(
        r'<code data-source="([^"]+)">(.*?)</code>', built(docs)["01-loss.html"], re.S
    )
    places = [place for place, _ in found]
    assert places[:3] == [f"backends/{backend}/loss.py: cross_entropy" for backend in BACKENDS]
    assert len(places) == 7
    for place, code in found:
        file, _, name = place.partition(": ")
        assert text_of(code) == snippet(ROOT / file, name)


def test_a_page_tells_what_was_measured(docs: Path) -> None:
    pages = built(docs)
    lesson = pages["01-loss.html"]
    assert lesson.count("IndexError</td>") >= 4  # beside the difference, and in the pitfall
    assert re.search(r"mean</th>\s*<td>1.375</td><td>1.375</td><td>1.375</td>", lesson)
    assert "<td>1, 2</td>" in lesson
    assert "The layer's own statistics are the formula's:" in text_of(lesson)
    assert "<p><code>More</code> words, not &lt;b&gt;.</p>" in lesson
    assert "<td>2.000 (1.000 to 3.000)</td><td>diverged</td>" in pages["book.html"]
    assert "torch 2." in lesson.rpartition("<footer>")[2]


def test_what_was_measured_of_a_difference_stands_once_on_a_page(docs: Path) -> None:
    columns = "```columns\nloss.py: cross_entropy\n```\n\n"
    for name in ("01-loss.md", "book.md"):
        path = docs / name
        path.write_text(path.read_text() + "\n" + 2 * columns)
    pages = built(docs)
    for name, times in (("01-loss.html", 3), ("book.html", 2)):
        keys = re.findall(r'<aside class="note"[^>]*data-key="(\w+)"([^>]*)>', pages[name])
        assert len(keys) == times * len({key for key, _ in keys}) > 0
        for key in {key for key, _ in keys}:
            first, *others = [rest for k, rest in keys if k == key]
            assert f'id="measured-{key}"' in first
            assert not any("id=" in rest for rest in others)
            assert pages[name].count(f'<a href="#measured-{key}">') == times - 1


def test_a_page_is_what_its_markdown_says(docs: Path) -> None:
    pages = built(docs)
    lesson, index = pages["01-loss.html"], pages["index.html"]
    assert "costs $5, not $6 &lt;b&gt;." in lesson
    assert lesson.count("<math ") == 2 and 'alttext="\\frac{a}{b}"' in lesson
    assert '<h2 id="the-code">' in lesson and 'href="#the-code"' in lesson
    assert 'href="dictionary.html#arrays"' in index and 'href="files/docs/notes.md.txt"' in index
    assert (docs.parents[1] / "site/files/docs/notes.md.txt").read_text() == "# Notes\n"
    assert "An hour, if you know PyTorch, 1 of 1:" in text_of(lesson)
    assert "an &lt;array&gt;" in pages["dictionary.html"]


def test_a_notebook_shows_what_its_code_has_put_out(docs: Path) -> None:
    for backend in BACKENDS:
        page = built(docs)[f"notebook-{backend}.html"]
        assert f"name = '{backend}'" in text_of(page)
        assert "<samp>100%\n</samp>" in page and "<samp>&lt;3&gt;</samp>" in page


def fault(docs: Path, file: str, old: str, new: str) -> str:
    """What the build says when a file has another text."""
    path = docs / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError) as said:
        built(docs)
    assert not (docs.parents[1] / "site").exists()
    return str(said.value)


@pytest.mark.parametrize(
    "file, old, new, said",
    [
        ("01-loss.md", "loss.py: cross_entropy", "loss.py: entropy", "has 0 of entropy"),
        ("01-loss.md", "loss.py: cross_entropy", "torch/loss.py: f", "not a line for each"),
        ("01-loss.md", "loss.py: cross_entropy", "cross_entropy", "not lines of `file.py: name`"),
        ("01-loss.md", "```pitfall\nlabel_255", "```pitfall\nnone", "pitfall none: no such"),
        ("01-loss.md", "bn_two_batches", "none", "solution none: not measured"),
        ("01-loss.md", "```common\ncommon/network", "```figure\nx", "figure x/bilinear.py"),
        ("01-loss.md", "# Loss\n", "Loss\n", "the first line is no title"),
        ("01-loss.md", "\\frac{a}{b}", "\\frac{", "no formula: "),
        ("README.md", "../notes.md", "../none.md", "which is no file"),
        ("README.md", "../notes.md", "../../../../../../../../etc/passwd", "which is no file"),
        ("README.md", "dictionary.toml#arrays", "dictionary.toml#none", "a link leads nowhere"),
        ("README.md", "1. [one](01-loss.md)", "1. [one](02-x.md)", "02-x.md, which is no file"),
        ("dictionary.toml", 'jax = ""', "", "row 1: lacks or does not know jax"),
        ("dictionary.toml", 'jax = ""', "jax = 1", "row 1: 1 is no dotted name"),
        ("dictionary.toml", 'jax = ""', 'jax = "a..b"', "row 1: 'a..b' is no dotted name"),
        ("../../results/exercises.json", '"found"', '"lost"', "is no result: lacks found"),
        ("../../results/notebook_jax.ipynb", "n_count\": 1", "n_count\": null", "not executed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(docs: Path, file: str, old: str, new: str, said: str) -> None:
    message = fault(docs, file, old, new)
    assert "\n" not in message
    assert said in message


@pytest.mark.parametrize(
    "name", ["lessons/book.md", "lessons/dictionary.toml", "lessons/README.md"]
)
def test_what_lacks_is_one_line(docs: Path, name: str) -> None:
    (docs.parent / name).unlink()
    with pytest.raises(InputError, match=r"[\w.]+: no such file$"):
        built(docs)


def test_a_site_is_built_anew_in_its_place_and_in_no_other(docs: Path) -> None:
    site = docs.parents[1] / "site"
    built(docs)
    extra = docs / "02-more.md"
    extra.write_text("# More\n\nSaid.\n")
    built(docs)
    assert (site / "02-more.html").exists()
    extra.unlink()
    built(docs)
    assert not (site / "02-more.html").exists()
    (site / "files" / "notes.txt").write_text("someone's")
    with pytest.raises(InputError, match=r"notes\.txt: is of no earlier site"):
        built(docs)
    assert (site / "index.html").exists()
    (site / "files.txt").unlink()
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        built(docs)
    assert (site / "files" / "notes.txt").read_text() == "someone's"


@pytest.mark.parametrize("ended", [KeyboardInterrupt, OSError])
def test_a_build_that_ends_leaves_the_earlier_site(
    docs: Path, monkeypatch: pytest.MonkeyPatch, ended: type[BaseException]
) -> None:
    """Also between the old one and the new."""
    pages = built(docs)
    replace = Path.replace

    def end(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise ended("it ends")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", end)
    with pytest.raises((KeyboardInterrupt, InputError)):
        built(docs)
    site = docs.parents[1] / "site"
    assert {path.name: path.read_text() for path in site.glob("*.html")} == pages
    assert [path.name for path in site.parent.iterdir() if path.name.startswith(".")] == []


def test_a_result_is_stale_when_its_source_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.py"
    source.write_text("x = 1\n")
    monkeypatch.setattr(measured, "ROOT", tmp_path)
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    result = measured.Result("numbers", lambda: {"x": 1}, ("*.py",))
    result.renew()
    assert measured.read_result(tmp_path, "numbers")["found"] == {"x": 1}
    assert not result.is_stale()
    source.write_text("# why\nx = (\n    1\n)\n")
    assert not result.is_stale()  # it does the same
    source.write_text("x = 2\n")
    assert result.is_stale()
    source.write_text("x = (\n")
    with pytest.raises(InputError, match=r"source\.py: is no Python: "):
        result.is_stale()


def test_departures_are_stale_when_they_are_of_other_code_or_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = tmp_path / "parity_tests" / "departures" / "catalogue.py"
    catalogue.parent.mkdir(parents=True)
    source = tmp_path / "source.py"
    for path in (catalogue, source):
        path.write_text("x = 1\n")
    monkeypatch.setattr(measured, "ROOT", tmp_path)
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    monkeypatch.setattr(measured, "RENEWABLE", ())
    digest = code_digest(source)

    def is_stale(**other: Any) -> bool:
        whole: dict[str, Any] = {
            "made_of": {"source.py": digest},
            "versions": {"numpy": np.__version__},
        }
        whole |= {"catalogue": digest, "departures": []}
        (tmp_path / "departures.json").write_text(json.dumps(whole | other))
        return bool(measured.stale())

    assert not is_stale()
    assert is_stale(catalogue=None)  # it is not whole
    assert is_stale(versions={"numpy": "1.0"})
    catalogue.write_text("x = 2\n")
    assert is_stale()
    catalogue.write_text("x = 1\n")
    source.write_text("x = 2\n")
    assert is_stale()


def test_a_formula_that_is_none_is_text() -> None:
    for text in ("$5 and $6", "a$b$c", "`$x$`"):
        assert "<math" not in render(f"# T\n\n{text}\n", {}, str).body
    assert formula("x^2", "inline").count("<math ") == 1


def test_the_command_says_what_it_has_built(
    docs: Path, run_command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.lessons.build.build", lambda out: 3)
    monkeypatch.setattr("scripts.lessons.measured.stale", lambda: ["pitfalls", "runs"])
    code, out, err = run_command("lessons", "--out", docs.parents[1] / "site")
    assert (code, err) == (0, "note: stale, --renew measures them anew: pitfalls, runs\n")
    assert out.startswith(f"3 pages in {docs.parents[1] / 'site'}")
    code, out, err = run_command("lessons", "--out", docs)
    assert code == 2 and err.count("\n") == 1
