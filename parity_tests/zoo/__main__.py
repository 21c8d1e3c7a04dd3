"""`python -m parity_tests.zoo`: holds each pair's networks against each other.

A pair is a process of its own. Its result is kept in `--out`, and not computed again.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from common.files import write_whole
from common.parity.compare import compare_records
from common.parity.records import read_record
from common.parity.report import finite
from parity_tests.zoo.pairs import PAIRS, record_side
from scripts.shared.cli import console, main, new_app, write_json
from scripts.shared.verdicts import number

app = new_app()

VANISHING = 1e-3
"""A gradient that is off by more, and within its tolerance, is rounding on both sides."""


def run_pair(name: str) -> dict[str, Any]:
    """The result of one pair: what is matched, whether the two are equal, where they part first."""
    start, pair = time.monotonic(), PAIRS[name]
    with tempfile.TemporaryDirectory() as folder:
        a, b = (Path(folder) / f"{side}.safetensors" for side in "ab")
        record_side(pair.a, pair.size, a, generic=0)
        record_side(pair.b, pair.size, b, against=a)
        records = [read_record(path) for path in (a, b)]
        report = compare_records(records, {})
    found = records[1].map
    assert found is not None
    buffers = [d for d in report.differences if d.parted and d.stage == "buffer"]
    forward = [d for d in report.differences if d.parted and d.stage != "buffer"]
    first = next(iter([*forward, *buffers]), None)
    held = [d for d in report.differences if not d.parted and d.stage != "buffer"]
    gradients = [d.error for d in held if d.stage == "gradient" and d.error < VANISHING]
    unmatched = [f"{side}: {n}" for side, names in found.unmatched.items() for n in names]
    causes = dict.fromkeys([pair.cause] if forward and pair.cause else [d.cause for d in buffers])
    return {
        "pair": name,
        "matched": len(found.entries),
        "unmatched": unmatched,
        "equal": report.passed,
        "equal_but_buffers": not forward and not report.findings,
        "first": first and first.where_it_is,
        "cause": "; ".join(filter(None, causes)) or None,
        "worst": max((d.error for d in held if d.stage != "gradient"), default=None),
        "worst_gradient": max(gradients, default=None),
        "least_margin": min((d.margin or 0.0 for d in held), default=None),
        "seconds": round(time.monotonic() - start, 1),
    }


def _in_a_process(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "parity_tests.zoo", "--pair", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"pair": name, "failed": lines[-1] if lines else f"exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="Where the pairs' results are kept.")] = Path("zoo"),
    json_path: Annotated[Path | None, typer.Option("--json", help="All results.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="The results as a page.")] = None,
    pair: Annotated[str | None, typer.Option(help="Runs one, and prints its result.")] = None,
) -> None:
    """Hold public implementations of the same networks against each other."""
    if pair is not None:
        print(json.dumps(finite(run_pair(pair))))
        return
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for place, name in enumerate(PAIRS):
        kept = out / f"{place:02}.json"
        row = json.loads(kept.read_text()) if kept.exists() else None
        if row is None or row["pair"] != name or "failed" in row:
            row = _in_a_process(name)
            kept.write_text(json.dumps(row))
        rows.append(row)
        console.print(_line(row), markup=False, soft_wrap=True)
    write_json(json_path, {"pairs": rows})
    if markdown is not None:
        text = page(rows)
        write_whole(markdown, lambda temporary: temporary.write_text(text, encoding="utf-8"))


PAGE = """# Networks that nobody here wrote

Public implementations of the same networks, with the same random weights, two images each: held
against each other by [`record` and `compare`](port.md), in float64, through the forward pass in
eval and train mode, the loss, every gradient and the buffers. Made by:

    python -m parity_tests.zoo --markdown docs/zoo.md

`error`: the largest relative L2 error of a value or a loss; `gradient`: of a gradient (those that
vanish left out); `margin`: how many times the error of a value would fit below its tolerance.

| pair | tensors | result | error | gradient | margin |
|---|---|---|---|---|---|
"""


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The results as Markdown."""
    lines = []
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['pair']} | | failed: {row['failed']} | | | |")
            continue
        more = f", {len(row['unmatched'])} unmatched" if row["unmatched"] else ""
        numbers = [number(row[key]) for key in ("worst", "worst_gradient")]
        cells = [row["pair"], f"{row['matched']}{more}", _result(row), *numbers]
        lines.append(f"| {' | '.join(cells)} | {row['least_margin']:.2g} |")
    return PAGE + "\n".join(lines) + "\n"


def _result(row: Mapping[str, Any]) -> str:
    if row["equal"]:
        return "equal"
    if row["equal_but_buffers"]:
        return f"equal but for the buffers: {row['cause']}"
    return f"first at `{row['first']}`: {row['cause'] or 'no cause known'}"


def _line(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"{row['pair']}: failed: {row['failed']}"
    how = (
        "equal" if row["equal"] else "equal but for the buffers" if row["equal_but_buffers"] else ""
    )
    where = (
        "" if how == "equal" else f" first at {row['first']}; {row['cause'] or 'no cause known'}"
    )
    told = f"{row['matched']} tensors matched, {len(row['unmatched'])} not"
    return f"{row['pair']}: {told}; {how or 'not equal'}{where} ({row['seconds']} s)"


if __name__ == "__main__":
    main(app)
