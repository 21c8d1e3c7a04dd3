"""Markdown as HTML: blocks by their names, formulas, headings that can be linked to, links."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import latex2mathml.converter
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from common.errors import InputError

Block = Callable[[str], str]
"""What a block says, as HTML: by the name after its fence."""

Link = Callable[[str], str]
"""Where a link of the Markdown leads on the site."""

_FORMULA = re.compile(r"(?<![\\$\w])\$`?([^\s$`](?:[^$\n]*[^\s$`\\])?)`?\$(?!\w)")
_BOX = '<div class="table" tabindex="0" role="group" aria-label="Table">'


@dataclass(frozen=True)
class Heading:
    """A heading: its level, its text, and the name that a link gives it."""

    level: int
    text: str
    anchor: str


@dataclass(frozen=True)
class Rendered:
    """A page as HTML, without its title, and its other headings."""

    title: str
    headings: tuple[Heading, ...]
    body: Markup


def slug(text: str) -> str:
    """The name of a heading in a link, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def formula(latex: str, display: str = "block") -> Markup:
    """A formula in MathML, which holds its LaTeX for who cannot see it.

    Raises:
        InputError: it is none.
    """
    try:
        math = latex2mathml.converter.convert(latex, display=display)
    except Exception as error:  # of the many that it knows
        raise InputError(f"no formula: {' '.join(latex.split())}") from error
    told = escape(" ".join(latex.split()))
    return Markup(math.replace("<math ", f'<math alttext="{told}" ', 1))


def plain_block(text: str) -> str:
    """Text as it stands; what is too long for a line goes on below, and no option is torn."""
    whole = re.sub(r"--\w[\w-]*", r'<span class="o">\g<0></span>', str(escape(text)))
    lines = (f'<span class="line" style="--indent:0">{s}</span>' for s in whole.splitlines(True))
    return f'<pre class="plain"><code>{"".join(lines)}</code></pre>\n'


def render(text: str, blocks: Mapping[str, Block], link: Link) -> Rendered:
    """A page whose first line is its title.

    Raises:
        InputError: it is not, or what a block or a link names is not there.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    if not tokens or tokens[0].tag != "h1":
        raise InputError("the first line is no title")
    title, rest = _text(tokens[1]), tokens[3:]
    headings = _name_headings(rest)
    for token in rest:
        token.children = [*_inside(token.children or (), link)]
    made = [new for token in rest for new in _block(token, blocks)]
    return Rendered(title, headings, Markup(markdown.renderer.render(made, markdown.options, {})))


def _text(inline: Token) -> str:
    return "".join(child.content for child in inline.children or ())


def _name_headings(tokens: Sequence[Token]) -> tuple[Heading, ...]:
    """The headings, each with a name of its own, which its element gets."""
    headings: list[Heading] = []
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            text = _text(inline)
            same = sum(heading.text == text for heading in headings)
            anchor = slug(text) + (f"-{same}" if same else "")
            headings.append(Heading(int(token.tag[1:]), text, anchor))
            token.attrSet("id", anchor)
    return tuple(headings)


def _html(content: str, kind: str = "html_block") -> Token:
    return Token(kind, "", 0, content=content)


def _block(token: Token, blocks: Mapping[str, Block]) -> Iterator[Token]:
    """A token with what the site makes of it: of a block, what its name says."""
    name = token.info.strip() if token.type == "fence" else ""
    if name == "math":
        yield _html(f'<div class="formula" tabindex="0">{formula(token.content)}</div>\n')
    elif name in blocks:
        yield _html(blocks[name](token.content))
    elif token.type in ("fence", "code_block"):
        yield _html(plain_block(token.content))
    elif token.type == "table_open":
        yield from (_html(_BOX), token)
    elif token.type == "table_close":
        yield from (token, _html("</div>\n"))
    else:
        yield token


def _inside(tokens: Sequence[Token], link: Link) -> Iterator[Token]:
    """The tokens of a paragraph, its links turned and its formulas made."""
    for token in tokens:
        if token.type == "text" and "$" in token.content:
            for k, piece in enumerate(_FORMULA.split(token.content)):
                text = formula(piece, "inline") if k % 2 else escape(piece)
                yield _html(text, "html_inline")
            continue
        for name in ("href", "src"):
            if name in token.attrs:
                token.attrSet(name, link(str(token.attrs[name])))
        if str(token.attrs.get("href", "")).startswith("https:"):
            token.attrSet("class", "outside")
        yield token


def relative_link(page: Path, known: Mapping[Path, str], copied: Callable[[Path], str]) -> Link:
    """The links of a Markdown file: to other pages of the site, or to a copy of any other file.

    `known` are the addresses of the pages on the site, by their files.
    """

    def link(href: str) -> str:
        if href.startswith(("https://", "#")):
            return href
        file, _, anchor = href.partition("#")
        target = (page.parent / file).resolve()
        if target in known:
            return known[target] + (f"#{anchor}" if anchor else "")
        return copied(target)

    return link
