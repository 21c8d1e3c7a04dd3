"""`python -m scripts.lessons`: the lessons as a site, from the source."""

import time
from pathlib import Path
from typing import Annotated

import typer

from common.errors import InputError
from scripts.shared.cli import main, new_app, note, say

app = new_app()


@app.command()
def lessons(
    out: Annotated[
        Path, typer.Option(help="The folder of the site, a new one or an earlier site.")
    ],
    renew: Annotated[
        bool, typer.Option("--renew", help="First measure anew what is stale or not there.")
    ] = False,
) -> None:
    """Build the lessons' site from docs/lessons, the source, and what was measured."""
    try:
        import matplotlib  # noqa: F401  # which draws the figures, in the end

        from scripts.lessons.build import build, check_out
        from scripts.lessons.measured import RENEWABLE, stale
    except ImportError as error:
        raise InputError(f"needs {error.name}; install with: pip install '.[lessons]'") from error
    start = time.monotonic()
    check_out(out)
    if renew:
        for result in RENEWABLE:
            if not result.path.exists() or result.is_stale():
                say(f"measuring {result.name}")
                result.renew()
    old = stale()
    pages = build(out)
    if old:
        note(f"stale, --renew measures them anew: {', '.join(old)}")
    say(f"{pages} pages in {out}, {time.monotonic() - start:.0f} s: open {out / 'index.html'}")


if __name__ == "__main__":
    main(app)
