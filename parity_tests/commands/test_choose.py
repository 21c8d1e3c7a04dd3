"""`scripts.choose`: the rule on made-up numbers, the facts, the rows, the page."""

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import BACKENDS, missing_packages
from common.errors import WorkerError
from parity_tests.browser import Chromium
from parity_tests.commands.made_up_choice import HOSTILE, made_up
from parity_tests.parity.test_report import CONTRAST
from scripts.choose import facts
from scripts.choose.candidates import (
    candidates,
    is_optional,
    make_rows,
    name_of,
    prediction_jobs,
    training_jobs,
)
from scripts.choose.page import NONE, fact_rows, page, write_page
from scripts.choose.probe import is_there
from scripts.choose.proof import prove
from scripts.choose.rule import (
    RULES,
    Candidate,
    Criterion,
    Range,
    Rule,
    criteria_in_words,
    decide,
    in_words,
)
from scripts.shared.speed.turns import Measured
from scripts.shared.speed.worker import Job

Command = Callable[..., tuple[int, str, str]]

RULE = Rule(
    "Somebody",
    "A need.",
    (
        Criterion("rate", "images a second", "images/s", most=True),
        Criterion("mb", "memory", "MB", most=False, margin=0.1),
    ),
)


def candidate(name: str, rate: tuple[float, ...], mb: float, **told: bool) -> Candidate:
    """One with a rate (median, quartiles), and memory that is good to a tenth."""
    numbers = {"rate": Range(*rate), "mb": Range.within(mb, 0.1)}
    return Candidate(name, **({"maintained": True, "equal": True} | told), numbers=numbers)


# The rule


def test_who_is_measurably_ahead_is_chosen_and_the_next_is_told() -> None:
    decision = decide(RULE, [candidate("slow", (5, 4, 6), 1), candidate("fast", (9, 8, 10), 900)])
    assert decision.chosen == ["fast"]
    assert decision.reasons == [
        "Images a second: fast with 9 images/s (8 to 10) is best; next is slow with"
        " 5 images/s (4 to 6)."
    ]


def test_who_ties_is_told_apart_by_the_next_criterion_alone() -> None:
    few = [
        candidate("large", (9, 8, 10), 900),
        candidate("small", (8, 7, 8.5), 100),
        candidate("slow", (5, 4, 6), 1),
    ]
    decision = decide(RULE, few)
    assert decision.chosen == ["small"]
    assert "large with 9 images/s (8 to 10) and small with 8 images/s" in decision.reasons[0]
    assert "are within noise; next is slow" in decision.reasons[0]
    assert decision.reasons[1] == "Memory: small with 100 MB is best; next is large with 900 MB."


def test_who_ties_by_all_is_left_together() -> None:
    decision = decide(RULE, [candidate("a", (9, 8, 10), 100), candidate("b", (8, 7, 8), 110)])
    assert decision.chosen == ["a", "b"]
    assert decision.reasons[-1].startswith("They tie by every criterion")


def test_a_touch_is_a_tie_and_a_gap_is_none() -> None:
    assert Range(9, 8, 10).overlaps(Range(7, 6, 8))
    assert not Range(9, 8.1, 10).overlaps(Range(7, 6, 8))
    assert Range.within(100, 0.1).overlaps(Range.within(110, 0.1))
    assert not Range.within(100, 0.0).overlaps(Range.within(101, 0.0))


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"maintained": False}, "best is no longer maintained and is left out."),
        ({"equal": False}, "best does not compute what the others do and is left out."),
    ],
)
def test_who_may_not_be_chosen_is_left_out_however_fast(told: dict[str, bool], reason: str) -> None:
    best, other = candidate("best", (9, 8, 10), 1, **told), candidate("other", (2, 1, 3), 9)
    decision = decide(RULE, [best, other])
    assert decision.chosen == ["other"]
    assert decision.reasons == [reason, "other is the only candidate."]
    assert decide(RULE, [best]).chosen == []


def test_who_lacks_a_number_is_no_candidate() -> None:
    whole = candidate("whole", (2, 1, 3), 9)
    half = Candidate("half", True, True, {"rate": Range(9, 8, 10)})
    assert decide(RULE, [half, whole]).chosen == ["whole"]


def test_the_printed_rule_names_every_criterion_and_its_margin() -> None:
    assert len(in_words()) == 5
    assert [rule.reader for rule in RULES] == ["Train much", "Serve predictions", "Learn"]
    told = criteria_in_words(RULE)
    assert told == [
        "Images a second: the most, a tie if quartiles overlap.",
        "Memory: the least, each good to 10%.",
    ]


# The rows


AT = Job(None, "", "", 4, 64, 96)


def measured(job: Job, *seconds: float) -> Measured:
    keys = ("seconds", "import_seconds", "build_seconds", "peak_mb", "new_size_seconds")
    first: dict[str, Any] = dict(zip(keys, (9.0, 2.0, 1.0, 300.0, -0.1), strict=True))
    return Measured(
        job, first | {"versions": {}}, [{"seconds": s, "peak_mb": 100 + s} for s in seconds]
    )


def test_what_is_measured() -> None:
    jobs = training_jobs(AT, ["torch", "mxnet"], processes=2, compile_too=True)
    names = {"torch": "PyTorch", "mxnet": "MXNet"}
    assert [name_of(job, names) for job in jobs] == [
        *("PyTorch", "PyTorch (the book's form)", "PyTorch (bfloat16)"),
        *("PyTorch (2 processes)", "PyTorch (torch.compile)"),
        *("MXNet", "MXNet (the book's form)", "MXNet (bfloat16)", "MXNet (2 processes)"),
    ]
    assert [job.form for job in jobs if is_optional(job)] == ["ours", "compiled", "ours"]
    read = training_jobs(
        Job(None, "", "", 4, 64, 96, data="voc"), ["jax"], processes=1, compile_too=False
    )
    assert [name_of(job, {"jax": "JAX"}) for job in read][-1] == "JAX (reading)"
    assert [job.data for job in read] == [None, None, None, "voc"]
    predicts = prediction_jobs(AT, ["torch"], graph="net.onnx", compile_too=False)
    assert {job.mode for job in predicts} == {"predict"}
    assert (predicts[-1].form, predicts[-1].graph) == ("onnxruntime", "net.onnx")


def test_a_row_has_the_median_the_quartiles_and_the_ratio_round_by_round() -> None:
    ours, book, bfloat16 = training_jobs(AT, ["torch"], processes=1, compile_too=False)
    took = [measured(ours, 2, 1, 4, 2, 1), measured(book, 4, 4, 4, 4, 4)]
    took.append(Measured(bfloat16, error="no such type"))
    first, second, third = make_rows(took, {"torch": "PyTorch"})
    assert first["images_per_second"] == 2
    assert first["quartiles"] == [2, 4]
    assert first["times_book"] == 2
    assert first["peak_mb"] == 300
    assert first["new_size_seconds"] == 0.0  # what is below the noise is no gain
    assert second["times_book"] == 1 and second["new_size_seconds"] is None
    assert third["error"] == "no such type" and "images_per_second" not in third


def test_ours_in_float32_can_be_chosen_and_nothing_else() -> None:
    result = made_up()
    rows = [*result["training"], *result["prediction"]]
    found = candidates(rows, result["frameworks"], {"torch": False, "jax": True})
    told = {one.name: (one.maintained, one.equal, set(one.numbers)) for one in found}
    speed = {"training", "training_mb", "prediction", "prediction_mb", "disk_mb"}
    assert told == {
        "PyTorch": (True, False, {*speed, "wait", "lines"}),
        "JAX": (True, True, {*speed, "wait", "lines"}),
        "ONNX Runtime": (True, False, {"prediction", "prediction_mb", "disk_mb"}),
    }
    assert found[0].numbers["wait"].value == pytest.approx(1 + 2 + 3 + 0.5)


def test_where_pictures_are_read_the_rate_with_reading_counts() -> None:
    result = made_up()
    reading = result["training"][0] | {"name": "PyTorch (reading)", "reading": True}
    reading |= {"new_size_seconds": None}
    found = candidates([*result["training"], reading], result["frameworks"], {})
    trains = [one.name for one in found if "training" in one.numbers]
    assert trains == ["PyTorch (reading)"]
    assert [one.name for one in found if "wait" in one.numbers] == ["PyTorch", "JAX"]


# The facts


def test_onnx_runtime_that_cannot_be_imported_is_one_that_is_not_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise WorkerError("onnxruntime ended with exit code 1: ImportError")

    monkeypatch.setattr("scripts.choose.facts.Worker", refuse)
    column_of = facts.column(facts.ONNX_RUNTIME, ["torch"])
    assert column_of is not None
    assert "onnxruntime" in column_of["install"] and "versions" not in column_of
    with pytest.raises(WorkerError):
        facts.column("torch", ["torch"])


def test_a_number_of_threads_that_is_none_is_told_at_once(
    run_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "abc")
    monkeypatch.setattr("scripts.choose.__main__.column", None)  # nothing is asked before
    code, _, err = run_command("choose")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("error: OMP_NUM_THREADS='abc': is no number of threads")


@pytest.fixture
def distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three made-up packages, as pip installs them."""
    metadata = {
        "one": "License-Expression: MIT\n"
        "Requires-Dist: two[more]>=1\nRequires-Dist: numpy<2,>1.16\n"
        'Requires-Dist: three; extra == "never"\nRequires-Dist: absent\n'
        "Classifier: Programming Language :: Python :: 3.9\n"
        "Classifier: Programming Language :: Python :: 3.12\n",
        "two": 'Requires-Dist: Thr_ee; extra == "more"\n'
        "Classifier: License :: OSI Approved :: BSD License\n"
        "Classifier: Programming Language :: Python :: 3.11\n",
        "thr-ee": "License: A text\n of two lines\n",
    }
    for name, text in metadata.items():
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        head = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n"
        (folder / "METADATA").write_text(head + text)
        (folder / "RECORD").write_text(f"{name}/a.so,,1500000\n{name}/b.py,,500000\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


@pytest.mark.usefixtures("distributions")
def test_what_packages_say_of_themselves() -> None:
    assert facts.closure(["one"]) == {"one", "two", "thr-ee", "numpy"}
    assert facts.size_mb("one") == 2.0
    names = ("one", "two", "thr-ee")
    assert [facts.licence(name) for name in names] == ["MIT", "BSD License", "A text"]
    assert set(facts.held_numpy("one").split(",")) == {"<2", ">1.16"}
    assert facts.held_numpy("two") == ""
    assert facts.newest_classifier(["one"]) == "3.12"
    assert facts.newest_classifier(["one", "two", "thr-ee"]) == "3.11"


def test_lines_of_code_are_neither_blank_nor_comment_nor_docstring() -> None:
    text = '"""A module\n\nof two."""\n\nX = """a\nb"""\n\n\ndef f():\n    """Says."""\n    # why\n'
    assert facts.code_lines(text + "    return (\n        1\n    )\n") == 6


def test_our_own_source_is_counted(backend: str) -> None:
    told = facts.source(backend)
    assert told["files"] == 12
    assert 500 < told["lines"] < 2000
    assert told["differs"] > 10


def test_the_dated_table_has_what_is_installed(backend: str) -> None:
    check_installed(backend)


def test_the_dated_table_has_onnx_runtime() -> None:
    check_installed(facts.ONNX_RUNTIME)


def check_installed(name: str) -> None:
    table, told = facts.dated()[name], facts.installed(name)
    assert told["released"] and told["released"] < facts.dated()["checked"].isoformat()
    newest = tuple(map(int, told["newest_python"].split(".")))
    assert newest >= sys.version_info[:2]
    assert table["maintained"] is (name != "mxnet")
    assert table["source"].startswith("https://")
    assert told["alone_mb"] >= told["own_mb"] > 10
    assert table["package"] in told["alone_packages"]
    assert "numpy" not in told["alone_packages"]
    assert all(told["licences"].values())


def test_a_name_is_looked_up_as_far_as_it_goes() -> None:
    assert is_there("json.dumps") and is_there("xml.etree.ElementTree.Element.find")
    assert not is_there("json.no_such") and not is_there("json.no_such.deeper")
    assert not is_there("no_such_module.x")


def test_what_is_not_installed_says_how_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends._PACKAGES", {"jax": ("jax_that_nobody_has",)})
    told = facts.column("jax", [])
    assert told is not None
    assert told["install"] == "pip install '.[jax]'"
    assert "versions" not in told
    monkeypatch.setattr("backends._PACKAGES", {"jax": ()})
    assert facts.column("jax", ["torch"]) is None


@pytest.mark.full
def test_the_formats_of_the_table_are_there(backend: str) -> None:
    told = facts.column(backend, [backend])
    assert told is not None
    asked = {one["name"] for one in facts.dated()[backend]["formats"]}
    assert {one["name"] for one in told["formats"]} == asked
    for one in told["formats"]:
        assert all(one[way] for way in ("reads", "writes") if way in one)
    assert {"float32", "float64"} <= set(told["dtypes"])
    assert ("bfloat16" in told["dtypes"]) is (backend != "mxnet")
    assert told["devices"][0] == "cpu"


# The proof


@pytest.mark.full
def test_two_backends_are_proven_equal(tmp_path: Path) -> None:
    told = prove(["torch", "jax"], tmp_path)
    assert told is not None and told["passed"]
    assert told["equal"] == {"torch": True, "jax": True}
    assert all(0 < error < 1e-9 for error in told["worst"].values())


def test_one_alone_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    assert prove(["torch"], tmp_path) is None


# The page


def test_the_page_says_all_and_loads_nothing() -> None:
    result = made_up()
    text = page(result)
    for word in (
        "PyTorch",
        "JAX",
        "ONNX Runtime",
        "pip install &#39;.[mxnet]&#39;",
        "no such type",
    ):
        assert word in text, word
    for rule in result["rule"]:
        assert rule.replace("'", "&#39;") in text
    assert "<script" not in text
    assert "was busy" not in text
    links = [part.partition('"')[0] for part in text.split('href="')[1:]]
    assert all(link.startswith("https://example.org/") or link == "data:," for link in links)
    assert "src=" not in text and "url(" not in text and "@import" not in text


def test_what_is_named_on_the_page_is_text() -> None:
    result = made_up()
    result["settings"]["command"] = HOSTILE
    result["training"][0]["name"] = HOSTILE
    result["frameworks"]["jax"]["licences"] = {"jax": HOSTILE}
    text = page(result)
    assert "<img" not in text and "<script" not in text
    assert text.count("&lt;img") == 3


def test_a_busy_machine_and_one_backend_alone_are_told() -> None:
    result = made_up()
    result["machine"]["load_before"] = 1.5
    result["parity"] = None
    text = page(result)
    assert "was busy: its load was 1.5" in text
    assert "nothing to compare it with" in text


def test_the_facts_of_each_column() -> None:
    result = made_up()
    rows = dict(fact_rows(result["frameworks"], "2026-11-30", "2026-11-01"))
    assert rows["Released"] == [
        "2025-06-17, 1 year and 5 months ago",
        NONE,
        "not in the table of 2026-11-01",
        "2026-11-13, 17 days ago",
    ]
    assert rows["Our code"] == ["1,000 lines in 12 files", NONE, "1,000 lines in 12 files", NONE]
    assert rows["Newest Python"][0] == "3.14 (its classifiers say 3.15)"
    assert rows["NumPy it asks for"][:2] == ["asks for none", NONE]
    assert rows["Formats"][0] == "a (reads and writes); b (writes)"


# All of it


@pytest.mark.full
def test_one_small_run_from_end_to_end(tmp_path: Path, run_command: Command) -> None:
    file, html = tmp_path / "choose.json", tmp_path / "choose.html"
    code, out, err = run_command(
        *("choose", "--backends", "torch", "--size", 64, 64, "--batch-size", 2, "--rounds", 3),
        *("--json", file, "--html", html),
    )
    assert (code, err) == (0, "")
    result = json.loads(file.read_text())
    assert [row["name"] for row in result["training"]] == [
        *("PyTorch", "PyTorch (the book's form)", "PyTorch (bfloat16)")
    ]
    assert result["prediction"][-1]["name"] == "ONNX Runtime"
    for row in [*result["training"], *result["prediction"]]:
        assert row["error"] is None
        low, high = row["quartiles"]
        assert 0 < low <= row["images_per_second"] <= high
        assert row["peak_mb"] > 50
        assert math.isfinite(row["times_book"])
    for decision in result["decisions"]:
        assert decision["chosen"]
        assert f"{decision['reader']}: " in out
    assert result["frameworks"].keys() == {"torch", "onnxruntime"} | {
        name for name in BACKENDS if missing_packages(name)
    }
    assert html.read_text() == page(result)


@pytest.mark.parametrize("module", ["rule", "facts", "page", "proof", "candidates"])
def test_each_part_is_imported_without_a_framework(module: str) -> None:
    importlib.import_module(f"scripts.choose.{module}")


# In a browser


@pytest.fixture
def browser(chromium: Any) -> Iterator[Chromium]:
    """A browser; whatever a test does, the console stays empty."""
    shown = Chromium(chromium)
    shown.faults(), shown.requests()
    yield shown
    assert shown.faults() == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_can_be_read_light_and_dark(browser: Chromium, tmp_path: Path, width: int) -> None:
    path = tmp_path / "choose.html"
    write_page(path, made_up())
    backgrounds = set()
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        browser.show(path, width)
        backgrounds.add(browser.js("getComputedStyle(document.body).backgroundColor"))
        assert browser.js(CONTRAST) == []
        assert browser.js("document.documentElement.scrollWidth") <= width
    assert len(backgrounds) == 2
    assert set(browser.requests()) == {path.as_uri()}
    titles = browser.js("$$('h1, h2, h3').map((e) => e.tagName + ' ' + e.textContent)")
    assert titles[:5] == [
        "H1 Which framework, for this work, here?",
        *(f"H2 {rule.reader}" for rule in RULES),
        "H2 Do they compute the same?",
    ]
    # in a wide window the cells of a row stand side by side, in a narrow one below each other
    tops = browser.js("[...$('.facts tbody tr').cells].map((cell) => cell.offsetTop)")
    assert len(set(tops)) == (1 if width == 1200 else len(tops))
    assert browser.js("$$('img[src=x], script').length") == 0


@pytest.mark.browser
def test_a_bar_is_as_long_as_its_rate(browser: Chromium, tmp_path: Path) -> None:
    path = tmp_path / "choose.html"
    write_page(path, made_up())
    browser.show(path, 1200)
    widths = browser.js(
        "$$('.stack:not(.facts)')[0].querySelectorAll('.track').values().map((e) =>"
        " parseFloat(getComputedStyle(e, '::before').width)).toArray()"
    )
    assert [width / widths[0] for width in widths] == pytest.approx([1, 0.7, 0.5], abs=0.01)
