"""The report page: what is in the file, and, in a browser, what a person sees of it.

The tests marked `browser` need Debian's packages chromium and chromium-driver.
"""

import base64
import copy
import functools
import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.data.voc import voc_palette
from common.parity.compare import compare
from common.parity.compare_records import compare_records
from common.parity.order import AFTER, execution_order
from common.parity.records import Layer, Record, Source, Tensor, layers_to_data, split_value
from common.parity.traces import Trace
from parity_tests.browser import Chromium
from scripts.shared.report import page, write_html

CLASSES, STEPS = 5, 3
ORDER = [n for n in execution_order("resnet18", CLASSES, STEPS) if n not in AFTER]
FAULTY = "layer2.1"

HOSTILE = "a<b>&\"q\" 'x' </script><!-- {{data}} <img src=x onerror=alert(1)>"
"""A label, that is a file name, with all that means something to HTML or to the template."""


def fake_trace(label: str, faulty: bool = False, noise: float = 0.0, loss: float = 0.0) -> Trace:
    """Every name of a trace, each array small; `faulty`: off by 1e-4 from train/layer2.1 on."""
    random, own = np.random.default_rng(0), np.random.default_rng([1, len(label)])
    arrays: dict[str, np.ndarray] = {}
    parted = False
    for name in ORDER:
        parted |= name == f"train/{FAULTY}"
        shape = (2, CLASSES, 6, 8) if name.endswith("/logits") else (2, 3)
        value = random.normal(size=shape)
        arrays[name] = value * (1 + noise * own.normal(size=shape)) * (1 + 1e-4 * faulty * parted)
    arrays["eval/mask"] = arrays["eval/logits"].argmax(axis=1).astype(np.uint8)
    if faulty:
        arrays["eval/mask"][0, 0, :3] += 1
        arrays["eval/mask"] %= CLASSES
    arrays["loss"] = np.array([arrays.pop(f"loss[{k}]")[0, 0] for k in range(STEPS)]) + loss
    told = {"dtype": "float64", "num_classes": str(CLASSES), "device": "cpu", "backend": label}
    return Trace(label, arrays, told | {"versions": json.dumps({"numpy": "1.26.4"})})


def dense(blocks: Sequence[int]) -> list[str]:
    """The layers of a network with the names of a DenseNet's, four in each part of a block."""
    inside = "norm1", "conv1", "norm2", "conv2"
    parts = [f"block{k}.layer{n}" for k, count in enumerate(blocks, 1) for n in range(count)]
    layers = [f"features.{part}.{name}" for part in parts for name in inside]
    return ["features.conv0", "features.norm0", *layers, "classifier"]


def fake_record(label: str, layers: Sequence[str], noise: float = 0.0, faulty: str = "") -> Record:
    """A record of layers called in turn, each array small.

    What the layer `faulty` makes is off by 1e-4, and what comes after it, but for gradients and the
    local run. Each module around layers has code, that calls its parts.
    """
    random, own = np.random.default_rng(0), np.random.default_rng([2, len(label)])
    arrays: dict[str, np.ndarray] = {}
    passes = [f"{m}/{n}:{s}" for m in ("eval", "train") for n in layers for s in ("in", "out")]
    passes.insert(len(passes) // 2, "eval/output")
    names = [*passes, "train/output", *(f"grad/{layer}.weight" for layer in layers)]
    for name in names:
        value = random.normal(size=(2, 3))
        _, layer, _, side = split_value(name)
        place = layers.index(layer) if layer else len(layers)
        after = bool(faulty) and (place, side) >= (layers.index(faulty), "out")
        after = after and not name.startswith("grad/")
        arrays[name] = value * (1 + noise * own.normal(size=(2, 3))) * (1 + 1e-4 * after)
        if layer:
            local = 1e-4 * (layer == faulty and side == "out") + noise
            arrays[f"local/{name}"] = value * (1 + local * own.normal(size=(2, 3)))
    arrays |= {f"weight/{layer}.weight": np.ones(1) for layer in layers}
    arrays |= {"loss": np.ones(1), "input": np.ones(1)}
    calls: dict[str, dict[str, None]] = {}
    for parts in (layer.split(".") for layer in layers):
        for k, part in enumerate(parts):
            calls.setdefault(".".join(parts[:k]), {})[part] = None
    told = {
        path: Layer("Block" if path else "Net", {}, source=source_of(label, parts))
        for path, parts in calls.items()
    }
    told |= {layer: Layer("Conv2d", {"weight": f"{layer}.weight"}) for layer in layers}
    tensors = {f"{layer}.weight": vars(Tensor((1,), "o", True)) for layer in layers}
    facts = layers_to_data(told) | {"tensors": tensors, "order": [*passes, "train/output"]}
    facts |= {"noise": dict.fromkeys([*names, "loss[0]"], 1e-15), "notes": [], "random": []}
    facts |= {"symmetric": [], "missing": [], "same": {}}
    about = {"backend": label, "versions": json.dumps({"numpy": "1.26.4"}), "dtype": "float64"}
    return Record(label, arrays, about | {"record": json.dumps(facts)})


def source_of(label: str, calls: Iterable[str]) -> Source:
    """A forward pass that calls these in turn."""
    lines = "".join(f"    x = self.{name}(x)\n" for name in calls)
    return Source(f"{label}.py", 7, f"def forward(self, x):  # {label}\n{lines}    return x")


Arguments = tuple[dict[str, Any], dict[str, Mapping[str, Any]]]
"""What `write_html` is given: a report and the arrays of its traces."""


def of(*traces: Trace) -> Arguments:
    return compare(traces).to_dict(), {t.label: t.arrays for t in traces}


def of_records(*records: Record) -> Arguments:
    return compare_records(records, {}).to_dict(), {}


@functools.cache
def healthy() -> Arguments:
    return of(fake_trace("one"), fake_trace("two", noise=1e-15))


@functools.cache
def broken() -> Arguments:
    """Three traces; the last one's forward pass in train mode is wrong from layer2.1 on."""
    traces = fake_trace("one"), fake_trace("two", noise=1e-15), fake_trace("broken", faulty=True)
    traces[-1].arrays["eval/mask"][:] = traces[0].arrays["eval/mask"]
    return of(*traces)


def relabelled(value: Any, label: str) -> Any:
    """What `broken` gives, with another label for the broken trace."""
    if isinstance(value, dict):
        return {relabelled(k, label): relabelled(v, label) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [relabelled(v, label) for v in value]
    return value.replace("broken", label) if isinstance(value, str) else value


def parity() -> dict[str, Any]:
    """What `scripts.parity` finds, as far as the page needs it."""
    layers = [
        {"backend": backend, "dtype": "float64", "layer": layer, "direction": direction}
        | {"error": 1e-9 if (backend, layer) == ("two", FAULTY) else 1e-15, "gate": 1e-12}
        for backend in ("one", "two")
        for layer in ("stem", FAULTY, "logits")
        for direction in ("forward", "backward")
    ]
    worst = {"error": 1e-6, "tensor": "train/logits", "gate": 1e-5, "margin": 10.0}
    gradient = {"backend": "two", "batch": 3, "flips": 1, "where": "layer1.0.relu", "error": 1e-3}
    return {
        "passed": False,
        "verdict": "two is not equal",
        "dtype": "float32",
        "backends": {"one": {"forward": worst}, "two": {"forward": worst}},
        "comparison": copy.deepcopy(healthy()[0]),
        "comparison_float64": healthy()[0],
        "layers": layers,
        "growth": {"float32": {"two": [1e-7, 1e-6, "inf"], "two, two threads": [0.0, 1e-7, 1e-6]}},
        "flips": [{"backend": "two", "batch": 3, "name": "layer1.0.relu", "count": 1}],
        "gradients": [gradient | {"tensor": "grad/x", "gated": 9, "of": 10, "held": False}],
        "noise": {"one": {"forward": 1e-7}},
        "seconds": 12.5,
        "peak_mb": {"one": 300},
    }


def embedded(text: str) -> dict[str, Any]:
    """The JSON in a page, found as a browser finds it: up to the first `</script`."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def pixels(uri: str) -> np.ndarray:
    """The picture of a data URI, as RGB."""
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_page_holds_the_whole_report_and_no_address() -> None:
    report, arrays = broken()
    text = page(report, arrays)
    data = embedded(text)
    assert data["report"]["comparison"] == json.loads(json.dumps(report))
    assert data["report"]["passed"] is False
    assert not re.search(r"https?:|//[\w.]+/|\bsrc=|@import|url\(", text)
    assert "{{" not in text


def test_labels_are_text() -> None:
    report, arrays = relabelled(broken(), HOSTILE)
    text = page(report, arrays)
    assert text.lower().count("</script") == text.lower().count("<script") == 2
    assert HOSTILE not in text and "<img" not in text
    assert f"<title>Failed: two, {html.escape(HOSTILE)} against one</title>" in text
    traces = embedded(text)["report"]["comparison"]["traces"]
    assert [trace["label"] for trace in traces] == ["one", "two", HOSTILE]


def test_masks_are_pictures() -> None:
    report, arrays = healthy()
    arrays = {**arrays, "two": fake_trace("two", faulty=True).arrays}
    masks = embedded(page(report, arrays))["masks"]
    truth, other = masks["pictures"]
    assert truth["label"] == "one" and "difference" not in truth
    first = arrays["one"]["eval/mask"][0]
    np.testing.assert_array_equal(pixels(truth["mask"]), voc_palette()[first])
    differs = first != arrays["two"]["eval/mask"][0]
    assert other["differing"] == differs.sum() == 3
    shown = pixels(other["difference"])
    assert len(np.unique(shown[differs], axis=0)) == len(np.unique(shown[~differs], axis=0)) == 1
    assert (shown[differs][0] != shown[~differs][0]).any()
    assert len(masks["classes"]) == len(np.unique([first, arrays["two"]["eval/mask"][0]]))


def test_masks_that_cannot_be_drawn_are_left_out() -> None:
    report, arrays = healthy()
    odd = {"one": {"eval/mask": np.zeros((2, 6, 8))}, "two": {"eval/mask": np.zeros(3, np.uint8)}}
    assert embedded(page(report, odd))["masks"] == {}
    assert embedded(page(report))["masks"] == {}
    small = {**arrays, "two": {"eval/mask": np.zeros((2, 3, 3), np.uint8)}}
    pictures = embedded(page(report, small))["masks"]["pictures"]
    assert ["difference" in picture for picture in pictures] == [False, False]
    report, arrays = broken()
    without_truth = {label: arrays[label] for label in ("two", "broken")}
    pictures = embedded(page(report, without_truth))["masks"]["pictures"]
    assert [p["label"] for p in pictures if "difference" in p] == ["broken"]


def test_numbers_that_json_lacks() -> None:
    report = parity() | {"seconds": float("inf"), "peak_mb": {"one": float("nan")}}
    told = embedded(page(report))["report"]
    assert told["seconds"] == "inf" and told["peak_mb"] == {"one": "nan"}


def test_the_command_writes_the_page(tmp_path: Path, run_command: Any) -> None:
    from common.parity.traces import FORMAT
    from common.weights.checkpoint import write_tensors

    for trace in (fake_trace("one"), fake_trace("two", noise=1e-15)):
        write_tensors(
            tmp_path / f"{trace.label}.safetensors", trace.arrays, FORMAT | dict(trace.metadata)
        )
    files = [tmp_path / f"{name}.safetensors" for name in ("one", "two")]
    code, _, _ = run_command("compare", *files, "--html", tmp_path / "page.html")
    assert code == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>Passed: two against one</title>" in text
    assert embedded(text)["masks"]["pictures"]
    code, _, error = run_command("compare", *files, "--html", tmp_path / "none" / "page.html")
    assert code == 2 and error.count("\n") == 1


def test_a_label_that_is_no_text_is_written(tmp_path: Path) -> None:
    report, arrays = relabelled(broken(), "bytes\udcff")
    write_html(tmp_path / "page.html", report, arrays)
    assert "<title>Failed: two, bytes?" in (tmp_path / "page.html").read_text(encoding="utf-8")


# --- in a browser --------------------------------------------------------------------------------


class Browser(Chromium):
    """Chromium on a page of the report."""

    def __init__(self, driver: Any, folder: Path) -> None:
        super().__init__(driver)
        self.path = folder / "report.html"

    def open(self, report: Mapping[str, Any], arrays: Any = None, width: int = 1200) -> None:
        """Writes the page of a report and shows it."""
        write_html(self.path, report, arrays)
        self.scheme("light")
        self.show(self.path, width)

    def column(self, title: str) -> list[str]:
        """A column of the table of all values, as shown."""
        titles = self.js("$$('.values thead th').map((th) => th.textContent)")
        place = titles.index(title)
        rows = "$$('.values tbody tr')"
        found: list[str] = self.js(f"{rows}.map((row) => row.cells[{place}].textContent)")
        return found

    def press(self, title: str) -> str:
        """Clicks the header of a column; its `aria-sort` afterwards."""
        header = f"$$('.values thead th').find((th) => th.textContent === '{title}')"
        self.js(f"{header}.querySelector('button')").click()
        return str(self.js(f"{header}.getAttribute('aria-sort')"))


@pytest.fixture
def browser(chromium: Any, tmp_path: Path) -> Iterator[Browser]:
    """A browser; whatever a test does, the console stays empty and nothing is asked for."""
    shown = Browser(chromium, tmp_path)
    shown.faults(), shown.requests()
    yield shown
    assert shown.faults() == []
    assert set(shown.requests()) <= {shown.path.as_uri()}


@pytest.mark.browser
def test_verdict(browser: Browser) -> None:
    report, arrays = healthy()
    browser.open(report, arrays)
    shown = browser.js("$('#verdict').innerText")
    assert shown.startswith("Passed") and report["verdict"] in shown
    assert browser.js("getComputedStyle($('.tick')).display") != "none"
    assert browser.js("getComputedStyle($('.cross')).display") == "none"
    assert browser.js("$$('.beyond, .first').length") == 0
    assert browser.js("$$('.masks img').every((image) => image.naturalWidth > 0)")
    report, arrays = broken()
    browser.open(report, arrays)
    assert browser.js("$('#verdict').innerText").startswith("Failed")
    assert browser.js("getComputedStyle($('.cross')).display") != "none"


@pytest.mark.browser
@pytest.mark.parametrize("label", ["broken", HOSTILE])
def test_a_fault_is_marked_where_it_is(browser: Browser, label: str) -> None:
    report, arrays = relabelled(broken(), label)
    assert report["first"][label]["name"] == f"train/{FAULTY}"
    browser.open(report, arrays)
    told = "(td) => [td.dataset.kind, td.dataset.layer, td.dataset.trace]"
    assert browser.js(f"$$('.heat .first').map({told})") == [["train", FAULTY, label]]
    assert browser.js("$('.heat .first').innerText").startswith("\N{BALLOT X} 1.0e-4")
    beyond = browser.js(f"$$('.heat .beyond').map({told})")
    assert {trace for _, _, trace in beyond} == {label}
    assert "eval" not in {kind for kind, _, _ in beyond}
    train = [layer for kind, layer, _ in beyond if kind == "train"]
    assert train[0] == FAULTY and train[-2:] == ["logits", "loss"]
    browser.js("$('.heat .first').click()")
    assert f"train/{FAULTY}" in browser.js("$('.heat').closest('section').innerText")
    browser.js("$('.detail button').click()")
    assert browser.column("value") == [f"train/{FAULTY}"]
    assert browser.js("$('img[src=x]')") is None


@pytest.mark.browser
def test_sorting(browser: Browser) -> None:
    report, arrays = broken()
    browser.open(report, arrays)
    errors = {(row["trace"], row["name"]): float(row["error"]) for row in report["tensors"]}
    place = [row["name"] for row in report["tensors"]]
    assert browser.column("value") == place[: len(browser.column("value"))]
    assert browser.press("error") == "descending"
    shown = [errors[key] for key in zip(browser.column("trace"), browser.column("value"))]  # noqa: B905
    assert shown == sorted(errors.values(), reverse=True)[: len(shown)]
    assert browser.press("error") == "ascending"
    shown = [errors[key] for key in zip(browser.column("trace"), browser.column("value"))]  # noqa: B905
    assert shown == sorted(errors.values())[: len(shown)]
    assert browser.press("margin") == "ascending"  # the least margin first
    assert browser.column("status")[0] in ("\N{BALLOT X} new", "\N{BALLOT X} follows")
    header = browser.js("$$('.values thead button')[2]")
    header.send_keys("\ue007")  # Enter: the keyboard sorts too
    names = browser.column("value")
    assert names[0] == "buffer/backbone.bn1.running_mean" and len(set(names[:2])) == 1
    assert browser.js("$$('.values [aria-sort]:not([aria-sort=none])').length") == 1


@pytest.mark.browser
def test_filters(browser: Browser) -> None:
    report, arrays = broken()
    rows = report["tensors"]
    browser.open(report, arrays)
    browser.js("$('[name=text]')").send_keys("grad Conv1")
    assert browser.column("value")
    assert all("grad/" in name and "conv1" in name for name in browser.column("value"))
    browser.js("$('.filters:has([name=text]) button')").click()  # show all
    assert browser.js("$('p.count').textContent") == f"{len(rows)} of {len(rows)} values"
    browser.js("$('[name=beyond]')").click()
    parted = sum(row["status"] in ("new", "follows") for row in rows)
    assert browser.js("$('p.count').textContent") == f"{parted} of {len(rows)} values"
    browser.js("$('[name=stage] option[value=update]')").click()
    updates = [
        r["name"] for r in rows if r["stage"] == "update" and r["status"] in ("new", "follows")
    ]
    assert browser.column("value") == updates and updates
    browser.js("$('[name=trace] option[value=two]')").click()
    assert browser.column("value") == []


@pytest.mark.browser
def test_the_table_is_drawn_as_it_is_scrolled(browser: Browser) -> None:
    report, arrays = broken()
    browser.open(report, arrays)
    assert browser.js("$$('.values tbody tr').length") < len(report["tensors"])
    for _ in range(20):
        browser.driver.execute_async_script(
            "const box = document.querySelector('.values'); box.scrollTop = box.scrollHeight;"
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        )
    assert browser.js("$$('.values tbody tr').length") == len(report["tensors"])


@pytest.mark.browser
@pytest.mark.parametrize("label", ["broken", HOSTILE * 3])
def test_narrow(browser: Browser, label: str) -> None:
    report, arrays = relabelled(broken(), label)
    browser.open(report, arrays, width=360)
    assert browser.js("document.documentElement.scrollWidth") <= 360
    assert browser.js("$('.values').scrollWidth > $('.values').clientWidth")
    browser.open(parity(), width=360)
    assert browser.js("document.documentElement.scrollWidth") <= 360


CONTRAST = """(() => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const own = getComputedStyle(element).backgroundColor;
    return own !== "rgba(0, 0, 0, 0)" ? own
      : element.parentElement ? behind(element.parentElement) : "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const element of $$("main *")) {
    const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!text || element.closest("svg") || !element.getClientRects().length) continue;
    const [a, b] = [getComputedStyle(element).color, behind(element)].map(luminance);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) poor.push(`${element.tagName}.${element.className} ${contrast}`);
  }
  return [...new Set(poor)];
})()"""
"""Texts whose contrast with what is behind them is below 4.5, WCAG's AA."""


@pytest.mark.browser
def test_light_and_dark(browser: Browser) -> None:
    report, arrays = broken()
    browser.open(report, arrays)
    background = "getComputedStyle(document.body).backgroundColor"
    light = browser.js(background)
    assert browser.js(CONTRAST) == []
    browser.scheme("dark")
    assert browser.js(background) != light
    assert browser.js(CONTRAST) == []


BAD = "features.block3.layer15.norm2"


@functools.cache
def deep(count: int = 2) -> Arguments:
    """Records of a network of 147 layers: the first, one that parts at `BAD`, and equal others."""
    layers = dense((4, 4, 20, 8))
    others = [fake_record(f"equal{k}", layers, noise=1e-16) for k in range(count - 2)]
    return of_records(fake_record("torch", layers), fake_record("broken", layers, 0, BAD), *others)


@pytest.mark.browser
@pytest.mark.parametrize("label", ["broken", HOSTILE])
def test_layers_are_folded_by_module(browser: Browser, label: str) -> None:
    report, arrays = relabelled(deep(), label)
    browser.open(report, arrays)
    name = "(d) => d.querySelector('.layer').firstChild.textContent"
    opened = browser.js(f"$$('.heat details[open]').map({name})")
    assert opened == ["features", "block3", "layer15"]
    assert browser.js(f"$$('.heat details:not([open]) > summary').map({name})")[:2] == [
        "block1",
        "layer0",
    ]
    first = browser.js("$$('.heat .first').map((cell) => cell.dataset.layer)")
    assert first == [BAD]
    inside = (
        "(() => { const [a, b] = [$('.first'), $('.layers')].map((e) => e.getBoundingClientRect());"
        " return b.top < a.top && a.bottom < b.bottom; })()"
    )
    assert browser.js(inside)
    notes = browser.js("$$('.heat .note').map((note) => note.textContent)")
    layers = report["layers"]
    parted = len(layers[layers.index(BAD) : -1])
    assert notes[0] == f"146 layers, \u2717 {parted} beyond, 1 new, worst 1.0e-4"
    folded = "$$('.heat details:not([open]) > summary .cell').map((cell) => cell.textContent)"
    shown = browser.js(folded)
    assert shown[:4] == ["0", "0", "0", "0"]  # block1: alone, eval, train, gradients
    assert shown[-4:] == ["0", "\u2717 1.0e-4", "\u2717 1.0e-4", "0"]


@pytest.mark.browser
def test_an_equal_module_says_so(browser: Browser) -> None:
    layers = dense((8, 8))
    browser.open(*of_records(fake_record("one", layers), fake_record("two", layers, 1e-16)))
    notes = browser.js("$$('.heat details:not([open]) .note').map((note) => note.innerText)")
    assert re.fullmatch(r"66 layers, equal, worst \d\.\de-16", notes[0])
    assert browser.js("$$('.heat details[open]').length") == 0
    browser.js("$('.heat summary')").click()
    assert browser.js("$$('.heat details[open]').length") == 1


@pytest.mark.browser
def test_layers_are_searched(browser: Browser) -> None:
    report, arrays = deep()
    browser.open(report, arrays)
    seen = (
        "$$('.heat div.row:not([hidden]) [data-kind=local]')"
        ".filter((cell) => !cell.closest('details:not([open])')).map((cell) => cell.dataset.layer)"
    )
    before = browser.js(seen)
    browser.js("$('[name=layers]')").send_keys("Block2 conv1")
    found = browser.js(seen)
    assert found == [f"features.block2.layer{k}.conv1" for k in range(4)]
    assert browser.js("$('span.count').textContent") == "4 of 148 rows"
    browser.js("$('[name=layers]')").clear()
    browser.js("$('[name=layers]').dispatchEvent(new Event('input'))")
    assert browser.js(seen) == before
    browser.js("$$('.filters:has([name=layers]) button')[1]").click()  # fold all
    assert browser.js("$$('.heat details[open]').length") == 0
    browser.js("$('[name=parted]')").click()
    layers = report["layers"]
    assert browser.js(seen) == layers[layers.index(BAD) :]


@pytest.mark.browser
def test_few_layers_are_not_folded(browser: Browser) -> None:
    layers = ["conv1", "norm1", "conv2", "norm2", "fc"]
    records = fake_record("one", layers), fake_record("two", layers, faulty="norm2")
    browser.open(*of_records(*records))
    assert browser.js("$$('.heat details, [name=layers]').length") == 0
    names = browser.js("$$('.heat div.row > .layer').map((name) => name.textContent)")
    assert names == ["", "layer", *layers, "output, loss"]
    told = "(td) => [td.dataset.kind, td.dataset.layer, td.dataset.trace]"
    assert browser.js(f"$$('.heat .first').map({told})") == [["local", "norm2", "two"]]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 360])
def test_six_traces_side_by_side(browser: Browser, width: int) -> None:
    report, arrays = deep(6)
    browser.open(report, arrays, width)
    traces = browser.js("$$('.heat .trace').map((trace) => trace.textContent)")
    assert traces == ["broken", *(f"equal{k}" for k in range(4))] * 4
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js(CONTRAST) == []
    lefts = (
        "$$('.heat .row').filter((row) => !row.matches('.head *, details[open] > summary'))"
        ".filter((row) => !row.parentElement.closest('details:not([open])') || row.matches("
        "'details[open] > details > summary')).map((row) => row.children[7].offsetLeft)"
    )
    found = browser.js(lefts)
    assert len(found) > 10 and len(set(found)) == 1


@pytest.mark.browser
@pytest.mark.parametrize("label", ["broken", HOSTILE])
def test_the_code_of_both_sides_is_shown(browser: Browser, label: str) -> None:
    report, arrays = relabelled(deep(), label)
    browser.open(report, arrays)
    shown = browser.js("$$('details.code[open] pre').map((pre) => pre.textContent)")
    assert len(shown) == 2
    for text, trace in zip(shown, ("torch", label), strict=True):
        assert text.startswith(f"def forward(self, x):  # {trace}\n    x = self.norm1(x)\n")
    called = browser.js("$$('.code .called').map((line) => [line.dataset.line, line.innerText])")
    assert called == [["10", "    x = self.norm2(x)\n"]] * 2
    captions = browser.js("$$('.code figcaption').map((caption) => caption.textContent)")
    assert captions[0] == "torch: features.block3.layer15, Block torch.py:7"
    assert browser.js("$('img[src=x]')") is None


@pytest.mark.browser
def test_what_a_recorder_noticed_is_told(browser: Browser) -> None:
    report, arrays = copy.deepcopy(deep())
    report["traces"][1]["unmatched"] = {"a": {"conv.bias": "the port has none"}}
    browser.open(report, arrays)
    shown = browser.js("$$('h2').find((h2) => h2.textContent === 'What made them').parentElement")
    assert "a conv.bias the port has none" in shown.text
    assert "[object" not in browser.js("document.body.innerText")


@pytest.mark.browser
def test_names_of_layers_are_text(browser: Browser) -> None:
    layers = [f"{HOSTILE}.{HOSTILE}", f"{HOSTILE}.norm", "fc"]
    records = fake_record("one", layers), fake_record("two", layers, faulty=layers[0])
    browser.open(*of_records(*records))
    assert browser.js("$('.heat summary .layer').firstChild.textContent") == HOSTILE
    assert browser.js("$('.heat .first').dataset.layer") == layers[0]
    assert browser.js("$('.code .called').innerText").strip() == f"x = self.{HOSTILE}(x)"
    assert browser.js("$('img[src=x]')") is None


@pytest.mark.browser
def test_the_arrows_go_over_what_is_folded(browser: Browser) -> None:
    browser.open(*deep())
    browser.js("$('.heat .first').click()")
    key = "document.activeElement"
    assert browser.js(f"{key}.dataset.layer") == BAD
    place = "[document.activeElement.dataset.kind, document.activeElement.dataset.layer]"
    for arrow, there in (
        ("\ue014", ["eval", BAD]),
        ("\ue015", ["eval", "features.block3.layer15.conv2"]),
        ("\ue015", ["eval", "classifier"]),
        ("\ue013", ["eval", "features.block3.layer15.conv2"]),
        ("\ue012", ["local", "features.block3.layer15.conv2"]),
    ):
        browser.js(key).send_keys(arrow)
        assert browser.js(place) == there


@pytest.mark.browser
def test_a_parity_run(browser: Browser) -> None:
    browser.open(parity())
    titles = browser.js("$$('h2').map((h2) => h2.textContent)")
    for title in ("One layer at a time", "Growth", "Decisions that changed", "Noise", "Cost"):
        assert title in titles
    assert titles.count("All values, float64") == 2
    told = "(td) => [td.dataset.kind, td.dataset.layer, td.dataset.trace]"
    alone = [["alone-forward", FAULTY, "two"], ["alone-backward", FAULTY, "two"]]
    assert browser.js(f"$$('.heat .beyond').map({told})") == alone
    dashed = "$$('figure .line.dashed').length"
    assert browser.js(dashed) == 1


@pytest.mark.browser
@pytest.mark.parametrize("left_out", ["all", "comparison", "tensors", "first"])
def test_what_is_missing_is_not_shown(browser: Browser, left_out: str) -> None:
    report = parity()
    if left_out == "all":
        report = {"passed": True, "verdict": "nothing to see"}
    elif left_out == "comparison":
        report = {k: v for k, v in report.items() if not k.startswith("comparison")}
    else:
        del report["comparison"][left_out]
    browser.open(report)
    assert browser.js("$('#verdict p').textContent") == report["verdict"]
    assert ("One layer at a time" in browser.js("document.body.innerText")) == (left_out != "all")
