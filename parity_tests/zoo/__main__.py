"""`python -m parity_tests.zoo`: holds public networks against each other, and puts mistakes in.

What is recorded and compared runs in a process of its own for each environment. Each result is
kept in `--out`, and not computed again.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from common.files import write_whole
from common.parity.compare_records import compare_records
from common.parity.records import read_record
from common.parity.report import finite
from parity_tests.zoo.page import page, told
from parity_tests.zoo.pairs import PAIRS, ZOO
from scripts.shared.cli import console, main, new_app, write_json

app = new_app()

VANISHING = 1e-3
"""A gradient that is off by more, and within its tolerance, is rounding on both sides."""

NETWORKS = {
    **dict.fromkeys(("ResNet18", "DenseNet", "MobileNet v2", "SqueezeNet 1.1", "ViT"), ".venv"),
    "BERT": ZOO,
}
"""The networks that mistakes are put into, each with its environment."""


def run_pair(name: str) -> dict[str, Any]:
    """The result of one pair: what is matched, whether the two are equal, where they part first."""
    start, pair = time.monotonic(), PAIRS[name]
    with tempfile.TemporaryDirectory() as folder:
        sides = name.split(", ")[-1].split(" and ")
        a, b = (Path(folder) / f"{side}.safetensors" for side in sides)
        pair.a(out=a, generic=0)
        pair.b(out=b, against=a)
        records = [read_record(path) for path in (a, b)]
        report = compare_records(records, {})
    found = records[1].map
    assert found is not None
    buffers = [d for d in report.differences if d.parted and d.stage == "buffer"]
    forward = [d for d in report.differences if d.parted and d.stage != "buffer"]
    first = next(iter([*forward, *buffers]), None)
    within = [d for d in report.differences if d.status in ("equal", "within")]
    held = [d for d in within if d.stage != "buffer"]
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


def run_network(name: str) -> dict[str, Any]:
    """A network with each of its mutations: what became of each."""
    from parity_tests.zoo.mutations import run_network as run

    start = time.monotonic()
    return {"network": name, "runs": run(name), "seconds": round(time.monotonic() - start, 1)}


def _work(kind: str, names: Sequence[str]) -> None:
    """Prints the results of some pairs or networks, a line each."""
    one: Callable[[str], dict[str, Any]] = run_pair if kind == "pair" else run_network
    for name in names:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                row = one(name)
        except Exception as error:
            lines = str(error).splitlines() or ["no word why"]
            row = {kind: name, "failed": f"{type(error).__name__}: {lines[0]}"}
        print(json.dumps(finite(row)), flush=True)


def _results(kind: str, environment: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The results of some pairs or networks, from a process of an environment's own.

    One that ends the process, for want of memory for instance, has failed; the next goes on.
    """
    python = Path(environment) / "bin" / "python"
    if not python.exists():
        failed = f"{environment} is not there: bash scripts/zoo.sh makes it"
        yield from ({kind: name, "failed": failed} for name in names)
        return
    left = list(names)
    while left:
        command = [str(python), "-m", "parity_tests.zoo", "--worker", json.dumps([kind, left])]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                del left[0]
                yield json.loads(line)
        if left:
            yield {kind: left.pop(0), "failed": f"its process ended: {process.returncode}"}


def _kept(out: Path, kind: str, environments: Mapping[str, str]) -> list[dict[str, Any]]:
    """All results of a kind: those that an earlier run has left, and the rest computed now."""
    paths = {name: out / f"{kind}-{k:02}.json" for k, name in enumerate(environments)}
    rows = {}
    for name, path in paths.items():
        row = json.loads(path.read_text()) if path.exists() else {}
        if row.get(kind) == name and "failed" not in row:
            rows[name] = row
    for environment in dict.fromkeys(environments.values()):
        mine = [n for n, own in environments.items() if own == environment and n not in rows]
        for row in _results(kind, environment, mine):
            paths[row[kind]].write_text(json.dumps(row))
            rows[row[kind]] = row
            console.print(told(row), markup=False, soft_wrap=True)
    return [rows[name] for name in environments]


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="Where the results are kept.")] = Path("zoo"),
    json_path: Annotated[Path | None, typer.Option("--json", help="All results.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="The results as a page.")] = None,
    mutations: Annotated[
        bool, typer.Option("--mutations", help="Also put mistakes into some of them.")
    ] = False,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Hold public implementations of the same networks against each other.

    Exit code 0 only when all could be run, each difference has its cause, and no mutation is dead.
    """
    if worker is not None:
        _work(*json.loads(worker))
        return
    out.mkdir(parents=True, exist_ok=True)
    pairs = _kept(out, "pair", {name: pair.environment for name, pair in PAIRS.items()})
    networks = _kept(out, "network", NETWORKS) if mutations else []
    write_json(json_path, {"pairs": pairs, "networks": networks})
    if markdown is not None:
        text = page(pairs, networks)
        write_whole(markdown, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    unknown = any("failed" in row or not (row["equal"] or row["cause"]) for row in pairs)
    dead = any("failed" in row or any(r["dead"] for r in row["runs"]) for row in networks)
    raise typer.Exit(1 if unknown or dead else 0)


if __name__ == "__main__":
    main(app)
