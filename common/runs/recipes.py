"""Recipes: named sets of a run's settings, TOML files; data, not code."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import TEXT_LIMIT, parse_toml, read_bytes

RECIPES = {path.stem: path for path in sorted(Path(__file__).with_name("recipes").glob("*.toml"))}
"""The recipes that come with the program, by name."""


def _nearest(word: str, words: Iterable[str]) -> str:
    """` Is <the most similar word> meant?`, or nothing where none is similar."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f" Is {near[0]} meant?" if near else ""


def find_recipe(name: str) -> Path:
    """The file of a recipe: one of `RECIPES`, or any TOML file by its path.

    Raises:
        InputError: it is neither.
    """
    if name in RECIPES:
        return RECIPES[name]
    if not Path(name).is_file():
        near = _nearest(name, RECIPES)
        raise InputError(
            f"--recipe {name}: no such recipe (have {', '.join(RECIPES)}) or file.{near}"
        )
    return Path(name)


def read_recipe(path: Path, settings: Iterable[str]) -> dict[str, Any]:
    """The settings of a recipe, as the file has them; `description` is left out.

    Raises:
        InputError: the file is no TOML, or has a key that is not one of `settings`; the nearest
            is suggested.
    """
    try:
        values = parse_toml(read_bytes(path, TEXT_LIMIT))
    except ValueError as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    values.pop("description", None)
    for key in values:
        if key not in settings:
            raise InputError(f"{path}: {key} is no setting.{_nearest(key, settings)}")
    return values


def description(path: Path) -> str:
    """What a recipe says of itself."""
    return str(parse_toml(path.read_bytes())["description"]).strip()


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def write_recipe(settings: Mapping[str, Any]) -> str:
    """Settings (numbers, strings, lists of them) as TOML; what is None is left out."""
    return "".join(f"{key} = {_toml(v)}\n" for key, v in settings.items() if v is not None)
