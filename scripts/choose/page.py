"""The page: what `scripts.choose` has found, in one file that loads nothing."""

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from common.files import write_whole
from scripts.choose.candidates import first_step
from scripts.choose.rule import figures

Facts = Mapping[str, Any]

NONE = "\N{EN DASH}"

BUSY = 0.5
"""Of the cores: a load before the run from which on the page says that the machine was busy."""


def _unique(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _age(released: str, today: str) -> str:
    days = (datetime.date.fromisoformat(today) - datetime.date.fromisoformat(released)).days
    years, months = divmod(int(days / 30.44), 12)
    told = [f"{n} {unit}{'s' * (n > 1)}" for n, unit in ((years, "year"), (months, "month")) if n]
    return " and ".join(told) or f"{days} days"


def _formats(formats: Sequence[Facts]) -> str:
    told = []
    for one in formats:
        ways = [way for way in ("reads", "writes") if one.get(way)]
        told.append(f"{one['name']} ({' and '.join(ways)})")
    return "; ".join(told) or NONE


def _python(facts: Facts) -> str:
    told = facts["newest_python"] or "not in the table"
    if facts["classifier_python"] not in ("", told):
        told += f" (its classifiers say {facts['classifier_python']})"
    return str(told)


def _numpy(facts: Facts) -> str:
    return "; ".join(f"{name} {held}" for name, held in facts["numpy"].items()) or "asks for none"


def fact_rows(
    columns: Mapping[str, Facts], today: str, checked: str
) -> list[tuple[str, list[str]]]:
    """Each fact's name, and what it is in each column; nothing of what is not installed."""
    tell: dict[str, Callable[[Facts], str]] = {
        "Version": lambda f: "; ".join(f"{k} {v}" for k, v in f["versions"].items()),
        "Released": lambda f: (
            f"{f['released']}, {_age(f['released'], today)} ago"
            if f["released"]
            else f"not in the table of {checked}"
        ),
        "Maintained": lambda f: f"{'yes' if f['maintained'] else 'no'}: {f['why']}",
        "Licence": lambda f: _unique(f["licences"].values()),
        "On disk by itself": lambda f: f"{figures(f['own_mb'])} MB",
        "On disk with what it brings": lambda f: (
            f"{figures(f['alone_mb'])} MB, {len(f['alone_packages'])} packages"
        ),
        "NumPy it asks for": _numpy,
        "Newest Python": _python,
        "Devices seen here": lambda f: ", ".join(f["devices"]),
        "Products in": lambda f: ", ".join(f["dtypes"]) or NONE,
        "Formats": lambda f: _formats(f["formats"]),
        "Our code": lambda f: (
            f"{f['source_code']['lines']:,} lines in {f['source_code']['files']} files"
            if "source_code" in f
            else NONE
        ),
        "Places that say how it differs": lambda f: (
            str(f["source_code"]["differs"]) if "source_code" in f else NONE
        ),
    }
    rows = []
    for name, say in tell.items():
        cells = [NONE if "install" in one else say(one) for one in columns.values()]
        rows.append((name, cells))
    return rows


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f} s"


def page(result: Facts) -> str:
    """The page of what `scripts.choose --json` writes."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figures": figures, "seconds": _seconds, "first_step": first_step}
    machine = result["machine"]
    return environment.get_template("page.html").render(
        result,
        facts=fact_rows(result["frameworks"], machine["date"], result["checked"]),
        busy=machine["load_before"] > BUSY * machine["cores"],
    )


def write_page(path: Path, result: Facts) -> None:
    """Writes the page, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    # a folder's name may hold bytes that are no text
    text = page(result).encode("utf-8", errors="replace")
    write_whole(path, lambda temporary: temporary.write_bytes(text))
