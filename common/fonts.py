"""Fonts for names in any script: those that are installed, as matplotlib finds them."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence

from common.text import shorten


@functools.cache
def charmap(path: str) -> Mapping[int, int]:
    """The characters that a font has, by their codes."""
    from matplotlib import font_manager  # here, as below: it takes a while to import

    return font_manager.get_font(path).get_charmap()


def usual_font() -> str:
    """The file of the font of plots: DejaVu Sans, which matplotlib brings along."""
    from matplotlib import font_manager

    return str(font_manager.findfont(font_manager.FontProperties()))


@functools.cache
def font_with(letters: frozenset[str]) -> str:
    """The file of the font that has most of the letters; the usual one where it has as many."""
    from matplotlib import font_manager

    # Last Resort has a box for each character that there is
    found = [font for font in font_manager.fontManager.ttflist if "Last Resort" not in font.name]
    upright = sorted({font.fname for font in found if font.style == "normal"})
    codes = set(map(ord, letters))
    if codes <= charmap(usual_font()).keys():
        return usual_font()
    return max((usual_font(), *upright), key=lambda path: len(codes & charmap(path).keys()))


def drawable(
    names: Sequence[str], numbers: Collection[int], longest: int, has: Callable[[str], bool]
) -> list[str]:
    """Names as a picture can show them: short, numbered where the font lacks a character."""
    shown = []
    for number, name in zip(numbers, names, strict=True):
        short = shorten(name, longest)
        drawn = "".join(c if has(c) else "\N{WHITE SQUARE}" for c in short)
        shown.append(drawn if drawn == short else f"{number}: {drawn}")
    return shown
