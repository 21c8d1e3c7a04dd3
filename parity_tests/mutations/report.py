"""What the results of mutations say: shares, a table on the terminal, tables in Markdown."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import rich.box
import rich.table

from backends import BACKENDS
from parity_tests.mutations.catalogue import AREAS, MUTATIONS
from parity_tests.mutations.run import failed
from scripts.shared.cli import console

Entry = Mapping[str, Any]


def _share(entries: Sequence[Entry], holds: Callable[[Entry], bool]) -> float:
    return sum(map(holds, entries)) / len(entries) if entries else 0.0


def by_name(entries: Iterable[Entry]) -> dict[str, dict[str, Entry]]:
    """The entries of each mutation, by backend, in the order of the catalogue."""
    entries = list(entries)
    found = {m.name: {e["backend"]: e for e in entries if e["name"] == m.name} for m in MUTATIONS}
    return {
        name: {backend: own[backend] for backend in BACKENDS if backend in own}
        for name, own in found.items()
        if own
    }


def _float64_alone(entry: Entry) -> bool:
    return entry["caught"] and not (entry["float32"]["caught"] or entry["plain"]["caught"])


def summary(entries: Sequence[Entry], about: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The results with their shares, each over all mutations in all backends."""
    return {
        "faults": list(entries),
        "caught_share": _share(entries, lambda e: e["caught"]),
        "located_share": _share(entries, lambda e: e["located"]),
        "float32_caught_share": _share(entries, lambda e: e["float32"]["caught"]),
        "float32_located_share": _share(entries, lambda e: e["float32"]["located"]),
        "plain_caught_share": _share(entries, lambda e: e["plain"]["caught"]),
        "plain_generic_caught_share": _share(entries, lambda e: e["plain"]["generic"]),
        "plain_located_share": 0.0,
        "only_float64": sorted(
            name
            for name, found in by_name(entries).items()
            if all(map(_float64_alone, found.values()))
        ),
        **about,
    }


def _mark(entry: Entry) -> str:
    return "✓✓" if entry.get("located") else "✓" if entry["caught"] else "✗"


def _marks(entries: Iterable[Entry]) -> str:
    """One mark where all backends agree, else one each."""
    marks = [_mark(entry) for entry in entries]
    return marks[0] if len(set(marks)) == 1 else " ".join(marks)


def print_result(result: Mapping[str, Any]) -> None:
    """One row a mutation, what failed, and the shares."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for header in ("mutation", *BACKENDS, "float32", "plain"):
        table.add_column(header, no_wrap=True)
    for name, entries in by_name(result["faults"]).items():
        table.add_row(
            name,
            *(_mark(entries[b]) if b in entries else "-" for b in BACKENDS),
            *(_marks(e[kind] for e in entries.values()) for kind in ("float32", "plain")),
        )
    console.print(table)
    console.print("✓✓ caught, and its place named; ✓ caught; ✗ missed; - not made in this backend")
    for entry in result["faults"]:
        if told := failed(entry):
            line = f"{entry['backend']} {entry['name']}: {told}"
            console.print(line, soft_wrap=True, markup=False)
    for kind in ("", "float32_", "plain_"):
        label = kind.rstrip("_") or "float64"
        shares = [f"{result[f'{kind}{what}_share']:.1%} {what}" for what in ("caught", "located")]
        console.print(f"{label:8} {', '.join(shares)}")


# --- Markdown


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _seen_by(entries: Mapping[str, Entry], holds: Callable[[Entry], bool]) -> str:
    """`all`, `none`, or the backends in which it is seen."""
    seen = [backend for backend, entry in entries.items() if holds(entry)]
    return "none" if not seen else "all" if len(seen) == len(entries) else ", ".join(seen)


def _area_row(name: str, entries: Sequence[Entry]) -> str:
    bold = "**" if name == "all" else ""
    percents = [
        _share(entries, lambda e: e["caught"]),
        _share(entries, lambda e: e["located"]),
        _share(entries, lambda e: e["float32"]["caught"]),
        _share(entries, lambda e: e["float32"]["located"]),
        _share(entries, lambda e: e["plain"]["caught"]),
    ]
    cells = [name, str(len(by_name(entries))), str(len(entries)), *(f"{p:.0%}" for p in percents)]
    return _row(f"{bold}{cell}{bold}" for cell in cells)


def markdown(entries: Sequence[Entry]) -> Iterator[str]:
    """The lines of the tables of `docs/mutations.md`: by area, and mutation by mutation."""
    double, single = ("float64: caught", "located"), ("float32: caught", "located")
    yield _row(["mistakes in", "mutations", "runs", *double, *single, "plain: caught"])
    yield "|---" * 8 + "|"
    for area, mutations in AREAS.items():
        names = {mutation.name for mutation in mutations}
        yield _area_row(area, [e for e in entries if e["name"] in names])
    yield _area_row("all", entries)
    yield ""
    yield _row(["mutation", "float64", "first divergence", "float32", "plain"])
    yield "|---" * 5 + "|"
    for name, found in by_name(entries).items():
        places = list(dict.fromkeys(f"`{e['where']}`" for e in found.values() if e["where"]))
        yield _row(
            [
                name,
                _seen_by(found, lambda e: e["caught"]),
                ", ".join(places),
                _seen_by(found, lambda e: e["float32"]["caught"]),
                _seen_by(found, lambda e: e["plain"]["caught"]),
            ]
        )
