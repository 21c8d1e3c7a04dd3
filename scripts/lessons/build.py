"""The site: every page of `docs/lessons`, the dictionary and the notebooks, as files beside it."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from backends import BACKENDS
from common.errors import InputError
from common.files import check_new_folder, naming, write_folder, writing
from scripts.lessons.blocks import Blocks
from scripts.lessons.dictionary import Things, read_dictionary
from scripts.lessons.figures import LABELS, draw
from scripts.lessons.measured import RESULTS, read_result
from scripts.lessons.notebook import render_notebook
from scripts.lessons.pages import Rendered, relative_link, render, slug
from scripts.shared.workers import ROOT

DOCS = ROOT / "docs" / "lessons"
TEMPLATES = Path(__file__).with_name("templates")
STATIC = ("style.css", "twins.js")
_OURS = "the lessons of Rosetta FCN"
_FILES = "files.txt"
"""The site's file that names them all: a folder with these and no others may be written anew."""


@dataclass(frozen=True)
class Page:
    """A file of the site: its source, its address and its content."""

    source: Path
    address: str
    rendered: Rendered

    @property
    def title(self) -> str:
        return self.rendered.title


@dataclass
class Copies:
    """Files of the project, `root`, that pages link to, as text beside them."""

    root: Path
    paths: dict[Path, str] = field(default_factory=dict)

    def __call__(self, path: Path) -> str:
        if not path.is_file() or not path.is_relative_to(self.root):
            raise InputError(f"links to {path}, which is no file of the project")
        # Browsers show text, and save what is called .md or .py.
        name = path.name if path.suffix in (".png", ".jpg") else f"{path.name}.txt"
        inside = path.relative_to(self.root).with_name(name)
        return self.paths.setdefault(path, f"files/{inside}")

    def write(self, folder: Path) -> None:
        """Copies them into the site."""
        for path, address in self.paths.items():
            (folder / address).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / address)


def check_out(out: Path) -> None:
    """That the site can be written there.

    Raises:
        InputError: there is something else than a site of ours, or nowhere to make one.
    """
    with writing(out):
        if not out.parent.is_dir():
            raise InputError(f"{out.parent}: no such folder")
        if not (out / _FILES).is_file():
            check_new_folder(out)
            return
        known = {out / name for name in (out / _FILES).read_text(encoding="utf-8").splitlines()}
        for path in sorted(out.rglob("*")):
            if not path.is_dir() and path not in known:
                raise InputError(f"{path}: is of no earlier site, and would be lost with it")


def build(out: Path, docs: Path = DOCS, results: Path = RESULTS) -> int:
    """Writes the site, whole or not at all; how many pages it has.

    Raises:
        InputError: something is missing, or a page says what the source does not bear out.
    """
    out = out.resolve()
    check_out(out)
    environment = _environment()
    ideas = read_dictionary(docs / "dictionary.toml")
    blocks, copies = Blocks(environment, Things(ideas), results), Copies(docs.resolve().parents[1])
    pages = [*_markdown_pages(docs, blocks, copies), *_notebooks(docs, results, blocks, copies)]
    lessons = [page for page in pages if _is_lesson(page)]
    shared = {
        "menu": _menu(pages),
        "versions": _versions(read_result(results, "pitfalls")["versions"]),
        "maker": _OURS,
        "labels": LABELS,
        "notebooks": [page for page in pages if page.source.suffix == ".ipynb"],
    }
    template = environment.get_template("page.html")
    paths = read_paths(docs / "README.md", lessons)
    texts = {p.address: template.render(shared | _around(p, lessons, paths)) for p in pages}
    groups = [(name, slug(name), [*of]) for name, of in groupby(ideas, lambda idea: idea.group)]
    about = {"title": "Dictionary", "here": "dictionary.html", "groups": groups}
    texts["dictionary.html"] = environment.get_template("dictionary.html").render(shared | about)
    check_links(texts, {*copies.paths.values(), *STATIC, *_pictures(blocks)})

    def write(folder: Path) -> None:
        folder.mkdir()
        for address, text in texts.items():
            (folder / address).write_text(text, encoding="utf-8")
        for name in STATIC:
            shutil.copyfile(TEMPLATES / name, folder / name)
        copies.write(folder)
        for name in sorted(blocks.figures):
            draw(name, folder, read_result(results, "runs")["found"])
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        (folder / _FILES).write_text("\n".join([*sorted(names), _FILES, ""]), encoding="utf-8")

    write_folder(out, write, over=True)
    return len(texts)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": breakable, "spans": spans}
    return environment


def breakable(text: str) -> Markup:
    """Names that a line may break, at their dots and underscores; as text it is the same."""
    places = r"(?<=\w)(?=\.\w)|(?<=_)(?=\w)|(?<=differs\()"
    return Markup(re.sub(places, "<wbr>", str(escape(text))))


def spans(text: str) -> Markup:
    """A sentence, whose code stands between backticks."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _is_lesson(page: Page) -> bool:
    return re.match(r"\d\d-", page.source.name) is not None


def _pictures(blocks: Blocks) -> Iterator[str]:
    for name in blocks.figures:
        yield from (f"{name}-light.svg", f"{name}-dark.svg")


def _markdown_pages(docs: Path, blocks: Blocks, copies: Copies) -> list[Page]:
    sources = [docs / "README.md", *sorted(docs.glob("[0-9][0-9]-*.md")), docs / "book.md"]
    known = {path.resolve(): f"{path.stem}.html" for path in sources}
    known[(docs / "README.md").resolve()] = "index.html"
    known[(docs / "dictionary.toml").resolve()] = "dictionary.html"
    known[(docs.parent / "fcn.ipynb").resolve()] = "notebook-torch.html"
    pages = []
    for source in sources:
        link = relative_link(source, known, copies)
        with naming(source):
            text = source.read_text(encoding="utf-8")
        try:
            rendered = render(text, blocks.of_a_page(), link)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        pages.append(Page(source, known[source.resolve()], rendered))
    return pages


def _notebooks(docs: Path, results: Path, blocks: Blocks, copies: Copies) -> list[Page]:
    pages = []
    for backend in BACKENDS:
        source = results / f"notebook_{backend}.ipynb"
        link = relative_link(docs.parent / "fcn.ipynb", {}, copies)
        rendered = render_notebook(source, blocks.python, link)
        pages.append(Page(source, f"notebook-{backend}.html", rendered))
    return pages


def _menu(pages: Sequence[Page]) -> list[tuple[str, str]]:
    menu = [("index.html", "Lessons"), ("dictionary.html", "Dictionary")]
    own = {"book.html": "The book", "notebook-torch.html": "Notebook"}
    return [*menu, *((p.address, own[p.address]) for p in pages if p.address in own)]


def _versions(versions: Mapping[str, str]) -> str:
    told = (f"{name} {version.partition('+')[0]}" for name, version in versions.items())
    return f"Measured with {', '.join(told)}."


@dataclass(frozen=True)
class ReaderPath:
    """Lessons in the order that serves a reader, who is told by a heading of the index."""

    reader: str
    addresses: tuple[str, ...]


def read_paths(readme: Path, lessons: Sequence[Page]) -> list[ReaderPath]:
    """The lists of links below the headings `... if you know ...` of the index.

    Raises:
        InputError: one of them has a lesson twice, or one that is not there.
    """
    known = {page.source.name: page.address for page in lessons}
    paths = []
    sections = re.split(r"^#+ ", readme.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for section in sections:
        reader = section.partition("\n")[0].strip()
        if re.search(r"\byou know \w+", reader):
            links = re.findall(r"\]\((\d\d-[\w-]+\.md)\)", section)
            if not set(links) <= known.keys() or len(set(links)) < len(links):
                raise InputError(f"{readme}: {reader}: a lesson that is not there, or twice")
            paths.append(ReaderPath(reader, tuple(known[link] for link in links)))
    return paths


def _around(page: Page, lessons: Sequence[Page], paths: Sequence[ReaderPath]) -> dict[str, Any]:
    """What the template tells of a page and of its neighbours."""
    addresses = [lesson.address for lesson in lessons]
    by_address = {lesson.address: lesson for lesson in lessons}
    place = addresses.index(page.address) if page.address in addresses else None
    next_on_paths = []
    for path in paths:
        if page.address not in path.addresses:
            continue
        k = path.addresses.index(page.address)
        later = path.addresses[k + 1 : k + 2]
        entry = {"reader": path.reader, "place": k + 1, "length": len(path.addresses)}
        next_on_paths.append(entry | {"after": by_address[later[0]] if later else None})
    return {
        "here": page.address,
        "title": page.title,
        "body": page.rendered.body,
        "headings": [h for h in page.rendered.headings if h.level == 2],
        "number": None if place is None else int(page.source.name[:2]),
        "before": lessons[place - 1] if place else None,
        "after": lessons[place + 1] if place is not None and place + 1 < len(lessons) else None,
        "paths": next_on_paths,
    }


def check_links(texts: Mapping[str, str], files: set[str]) -> None:
    """That every address in the pages leads to a page, a place on it, or a file.

    Raises:
        InputError: one does not.
    """
    anchors = {address: set(re.findall(r'\bid="([^"]+)"', text)) for address, text in texts.items()}
    for address, text in texts.items():
        for found in re.findall(r'\b(?:href|src|srcset)="([^"]+)"', text):
            if found.startswith(("https://", "data:")):
                continue
            target, _, anchor = found.partition("#")
            target = target or address
            if target not in files and (
                target not in anchors or (anchor and anchor not in anchors[target])
            ):
                raise InputError(f"{address}: a link leads nowhere: {found}")
