"""An executed notebook as HTML: its text, its code, and what the code has put out."""

import re
from pathlib import Path
from typing import Any

import nbformat
from markupsafe import Markup, escape

from common.errors import InputError
from common.files import naming
from scripts.lessons.pages import Block, Link, Rendered, render

_TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def read_notebook(path: Path) -> Any:
    """A notebook of format 4.

    Raises:
        InputError: it cannot be read, or a cell of code was not executed.
    """
    with naming(path):
        notebook = nbformat.read(path, as_version=4)
    if any(c.cell_type == "code" and not c.execution_count and c.source for c in notebook.cells):
        raise InputError(f"{path}: not executed")
    return notebook


def render_notebook(path: Path, python: Block, link: Link) -> Rendered:
    """A notebook as a page; `python` shows code.

    Raises:
        InputError: as `read_notebook`; or it has no title, or has raised an error.
    """
    shown: list[str] = []
    text = []
    for cell in read_notebook(path).cells:
        if cell.cell_type == "markdown":
            text.append(cell.source)
            continue
        outputs = "".join(_output(path, output) for output in cell.outputs)
        shown.append(python(cell.source) + outputs)
        text.append(f"```cell\n{len(shown) - 1}\n```")
    return render("\n\n".join(text), {"cell": lambda number: shown[int(number)]}, link)


def _output(path: Path, output: Any) -> str:
    if output.output_type == "error":
        raise InputError(f"{path}: {output.ename}: {output.evalue}")
    if output.output_type == "stream":
        return _words(output.text)
    data = output.data
    if "image/png" in data:
        address = f"data:image/png;base64,{data['image/png'].strip()}"
        return f'<p class="output"><img alt="What the code above draws" src="{address}"></p>\n'
    if "text/html" in data:
        return Markup(
            '<div class="table output" tabindex="0" role="group" aria-label="Output">{}</div>\n'
        ).format(Markup(data["text/html"]))
    return _words(data.get("text/plain", ""))


def _words(text: str) -> str:
    """What was printed: of a line that was written over, its end."""
    lines = [_TERMINAL.sub("", line).rpartition("\r")[2] for line in text.rstrip("\r").split("\n")]
    return (
        f'<pre class="plain output" tabindex="0"><samp>{escape(chr(10).join(lines))}</samp></pre>\n'
    )
