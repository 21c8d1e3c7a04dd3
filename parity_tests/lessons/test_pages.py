"""The lessons' site in a browser, every page of it.

Needs Debian's packages chromium and chromium-driver.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from parity_tests.browser import Chromium
from scripts.lessons.build import DOCS, build
from scripts.shared.sources import snippet

ROOT = Path(__file__).parents[2]
WIDE, NARROW = 1200, 400
NAMES = [path.stem for path in sorted(DOCS.glob("[0-9]*.md"))]
PAGES = ["index", *NAMES, "book", "dictionary", "notebook-torch", "notebook-mxnet", "notebook-jax"]

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lessons") / "site"
    assert build(folder) == len(PAGES)
    return folder


@pytest.fixture
def browser(chromium: Any, site: Path) -> Iterator[Chromium]:
    """A browser; whatever a test does, the console stays empty and only files are asked for."""
    shown = Chromium(chromium)
    shown.faults(), shown.requests()
    shown.scheme("light")
    yield shown
    assert shown.faults() == []
    requests = shown.requests()
    assert requests
    assert [url for url in requests if not url.startswith(site.as_uri())] == []


@pytest.mark.parametrize("name", NAMES)
def test_columns_stand_beside_each_other_and_a_difference_at_one_height(
    browser: Chromium, site: Path, name: str
) -> None:
    browser.show(site / f"{name}.html", WIDE)
    browser.js("$$('details').forEach((e) => e.open = true)")
    tops = browser.js(
        "$$('.columns').map((block) => [...block.querySelectorAll('.cell')]"
        ".map((cell) => [cell.style.gridRow, cell.getBoundingClientRect().top]))"
    )
    for block in tops:
        heights: dict[str, set[float]] = {}
        for row, top in block:
            heights.setdefault(row, set()).add(round(top, 1))
        assert all(len(found) == 1 for found in heights.values())
        assert sorted(heights, key=int) == sorted(heights, key=lambda row: min(heights[row]))
    left = browser.js("$$('.columns').map((b) => [...b.children].map((e) => e.offsetLeft))")
    assert all(len({*columns[:3]}) == 3 for columns in left)
    keys = browser.js(
        "$$('.columns').map((block) => [...block.querySelectorAll('.cell.differs')]"
        ".map((cell) => [cell.dataset.key, cell.style.gridRow]))"
    )
    notes = browser.js(
        "$$('.columns').map((block) => [...block.querySelectorAll('.note')]"
        ".map((note) => [note.dataset.key, Number(note.style.gridRow.split(' ')[0])]))"
    )
    for shown, told in zip(keys, notes, strict=True):
        rows = {key: {row for k, row in shown if k == key} for key, _ in shown}
        assert all(len(found) == 1 for found in rows.values())
        assert {key for key, _ in told} == rows.keys()
        assert all(row == int(next(iter(rows[key]))) + 1 for key, row in told)


@pytest.mark.parametrize("name", PAGES)
def test_a_narrow_page_stacks_its_columns_and_does_not_scroll_sideways(
    browser: Chromium, site: Path, name: str
) -> None:
    for width in (WIDE, NARROW):
        browser.show(site / f"{name}.html", width)
        browser.js("$$('details').forEach((e) => e.open = true)")
        assert browser.js("document.documentElement.scrollWidth") <= width
    left = browser.js("$$('.columns').map((b) => [...b.children].map((e) => e.offsetLeft))")
    assert all(len({*columns}) == 1 for columns in left)


@pytest.mark.parametrize("name", NAMES)
def test_every_block_of_code_is_its_source(browser: Chromium, site: Path, name: str) -> None:
    browser.show(site / f"{name}.html", WIDE)
    found = browser.js("$$('code[data-source]').map((e) => [e.dataset.source, e.textContent])")
    assert found or "```c" not in (DOCS / f"{name}.md").read_text()
    for place, text in found:
        file, _, part = place.partition(": ")
        assert text == snippet(ROOT / file, part)


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(browser: Chromium, site: Path, name: str) -> None:
    browser.show(site / f"{name}.html", WIDE)
    links = browser.js("$$('[href], img[src]').map((e) => e.getAttribute('href') ?? e.src)")
    inside = {link for link in links if not re.match("https:|data:|file:", link)}
    for link in inside:
        file, _, anchor = link.partition("#")
        target = site / file if file else site / f"{name}.html"
        assert target.is_file(), link
        assert not anchor or f'id="{anchor}"' in target.read_text(), link
    assert browser.js("$$('img').every((image) => image.complete && image.naturalWidth > 0)")
    assert browser.js("$$('img').every((image) => image.alt.length > 5)")


CONTRAST = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script")) continue;
    const ink = parse(getComputedStyle(element).color), paper = ground(element);
    const [a, b] = [luminance(ink), luminance(paper)].sort((x, y) => y - x);
    found.set(`${ink} on ${paper}: ${element.className}`, (a + 0.05) / (b + 0.05));
  }
  return [...found];
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Chromium, site: Path, scheme: str) -> None:
    """4.5 to 1 for every colour on every ground, and for names that are shown as twins."""
    browser.scheme(scheme)
    told: dict[str, float] = {}
    for name in PAGES:
        browser.show(site / f"{name}.html", WIDE)
        browser.js("$$('details').forEach((e) => e.open = true)")
        told |= dict(browser.js(CONTRAST))
        browser.js("$$('.twin').forEach((e) => e.classList.add('shown'))")
        told |= dict(browser.js(CONTRAST))
    assert len(told) > 20
    assert {colours: round(c, 2) for colours, c in told.items() if c < 4.5} == {}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_without_eyes(browser: Chromium, site: Path, name: str) -> None:
    browser.show(site / f"{name}.html", WIDE)
    assert browser.js("document.documentElement.lang") == "en"
    levels = browser.js("$$('h1, h2, h3, h4').map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    for landmark in ("header", "main", "footer", "header nav"):
        assert browser.js(f"$$('body > {landmark}').length") == 1
    names = browser.js("$$('nav, body section, aside, [role=group]').map((e) => e.ariaLabel)")
    labelled = browser.js("$$('[aria-labelledby]').length")
    assert names.count(None) == labelled
    ids = browser.js("$$('[id]').map((e) => e.id)")
    assert len(set(ids)) == len(ids)
    first = browser.js("$('a')")
    assert (first.get_attribute("class"), first.get_attribute("href")[-5:]) == ("skip", "#main")


def test_what_has_the_focus_is_seen(browser: Chromium, site: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.show(site / "07-loss.html", WIDE)
    for _ in range(12):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        style = browser.js(
            "(() => { const s = getComputedStyle(document.activeElement);"
            " return [s.outlineStyle, s.outlineWidth] })()"
        )
        assert style == ["solid", "2px"]


def test_a_name_shows_its_twins(browser: Chromium, site: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.show(site / "07-loss.html", WIDE)
    shown = "[...new Set($$('.twin.shown').map((e) => e.textContent))]"
    count = "$$('.twin.shown').map((e) => e.closest('.column').className)"
    name = browser.js("$$('.twin').find((e) => e.textContent === 'valid')")
    ActionChains(browser.driver).move_to_element(name).perform()
    assert browser.js(shown) == ["valid"]
    assert set(browser.js(count)) == {"column torch", "column mxnet", "column jax"}
    ActionChains(browser.driver).move_to_element(browser.js("$('h1')")).perform()
    assert browser.js(shown) == []
    name.click()
    ActionChains(browser.driver).move_to_element(browser.js("$('h1')")).perform()
    assert browser.js(shown) == ["valid"]
    column = browser.js("$('.column pre')")
    column.send_keys(Keys.ARROW_LEFT)
    assert len(browser.js(shown)) == 1 and browser.js(shown) != ["valid"]
    column.send_keys(Keys.ESCAPE)
    assert browser.js(shown) == []
