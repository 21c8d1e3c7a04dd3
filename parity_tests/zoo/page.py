"""What the zoo's results say: a line on the terminal, a page in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scripts.shared.verdicts import number

Row = Mapping[str, Any]

PAGE = """# Networks that nobody here wrote

Public implementations of the same networks, with the same random weights: held against each other
by [`record` and `compare`](port.md), in float64, through the forward pass in eval and train mode,
the loss, every gradient and the buffers, two images or sentences each. Made by:

    bash scripts/zoo.sh --mutations --markdown docs/zoo.md

`error`: the largest relative L2 error of a value or a loss; `gradient`: of a gradient (those that
vanish left out); `margin`: how many times the error of a value would fit below its tolerance.

| pair | tensors | result | error | gradient | margin |
|---|---|---|---|---|---|
"""

MUTATIONS = """
## Mistakes put into them

As [into our own network](mutations.md): the port is the network itself, in PyTorch, with one
mistake in one layer, the one in the middle of those of its kind. `caught`: `compare` does not pass;
`located`: what it names first is the place of the mistake.

"""


def told(row: Row) -> str:
    """A result in a line."""
    name = row.get("pair") or row["network"]
    if "failed" in row:
        return f"{name}: failed: {row['failed']}"
    if "runs" in row:
        caught, located = (_share(row["runs"], key) for key in ("caught", "located"))
        what = f"{len(row['runs'])} mutations, {caught} caught, {located} located"
    else:
        what = f"{row['matched']} tensors matched, {len(row['unmatched'])} not; {_result(row)}"
    return f"{name}: {what} ({row['seconds']} s)"


def _share(runs: Sequence[Row], key: str) -> str:
    return f"{sum(run[key] for run in runs) / len(runs):.0%}"


def _result(row: Row) -> str:
    if row["equal"]:
        return "equal"
    if row["equal_but_buffers"]:
        return f"equal but for the buffers: {row['cause']}"
    return f"first at `{row['first']}`: {row['cause'] or 'no cause known'}"


def _cells(row: Row) -> list[str]:
    if "failed" in row:
        return [row["pair"], "", f"failed: {row['failed']}", "", "", ""]
    more = f", {len(row['unmatched'])} unmatched" if row["unmatched"] else ""
    numbers = [number(row[key]) for key in ("worst", "worst_gradient")]
    margin = row["least_margin"]
    exact = "exact" if margin in (None, "inf") else f"{margin:.2g}"
    return [row["pair"], f"{row['matched']}{more}", _result(row), *numbers, exact]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def page(pairs: Sequence[Row], networks: Sequence[Row]) -> str:
    """The results as Markdown."""
    text = PAGE + "".join(_line(_cells(row)) for row in pairs)
    if not networks:
        return text
    runs = {row["network"]: row.get("runs", []) for row in networks}
    text += MUTATIONS + _line(["network", "mutations", "caught", "located"]) + "|---|---|---|---|\n"
    whole = {**runs, "**all**": [run for own in runs.values() for run in own]}
    for name, own in whole.items():
        shares = [_share(own, key) for key in ("caught", "located")] if own else ["failed"] * 2
        text += _line([name, str(len(own)), *shares])
    missed = [run for run in whole["**all**"] if not (run["caught"] and run["located"])]
    if missed:
        text += "\nNot caught, or found elsewhere:\n\n" + _line(["network", "mutation", "first"])
        text += "|---|---|---|\n"
    for run in missed:
        told = "healed: the network returns the same" if run["healed"] else "not caught"
        first = f"`{run['first']}`" if run["first"] else told
        text += _line([run["network"], f"`{run['mutation']}` in `{run['layer']}`", first])
    names = dict.fromkeys(run["mutation"] for run in whole["**all**"])
    return text + f"\nThe mutations: {', '.join(f'`{name}`' for name in names)}.\n"
