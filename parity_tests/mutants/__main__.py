"""`python -m parity_tests.mutants`: which small changes of `common/` no test notices."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from backends import load_backend
from common.errors import InputError
from parity_tests.mutants import run
from parity_tests.mutants.mutate import Mutant, mutants
from parity_tests.network.witnesses import import_torchvision
from scripts.shared.cli import JsonOption, main, new_app, write_json

TESTS = (
    *("parity_tests/data", "parity_tests/weights"),
    *("parity_tests/network/test_heads.py", "parity_tests/network/test_numbers.py"),
    *("parity_tests/network/test_tensors.py", "parity_tests/network/test_witnesses.py"),
    *("parity_tests/commands/test_ahead.py", "parity_tests/commands/test_evaluate.py"),
    "parity_tests/commands/test_inference.py",
    "parity_tests/bad_input/test_bad_input.py::test_with_a_function",
    "parity_tests/commands/test_bench.py::test_flops_of_a_layer_by_hand",
    "parity_tests/network/test_fast_forms.py::test_every_label_is_in_one_cell_and_the_rest_is_void",
)
"""The quick tests of those rooms; some of files whose others take longer."""

ROOMS = ("network", "data", "weights", "evaluation")

app = new_app()


def _sample(rooms: Sequence[str], size: int, seed: int) -> list[Mutant]:
    """So many mutants, evenly from all of these rooms of `common/`, in the files' order."""
    paths = sorted(path for room in rooms for path in Path("common", room).rglob("*.py"))
    every = [mutant for path in paths for mutant in mutants(path)]
    if not every:
        raise InputError(f"--room {' '.join(rooms)}: no code under common/ by this name")
    chosen = random.Random(seed).sample(range(len(every)), min(size, len(every)))
    return [every[k] for k in sorted(chosen)]


def _result(fates: Sequence[tuple[Mutant, str]]) -> dict[str, Any]:
    listed = [
        {"file": str(m.path), "line": m.line, "change": f"{m.before} -> {m.after}", "fate": fate}
        for m, fate in fates
    ]
    return {"mutants": listed}


def _print_score(fates: Sequence[tuple[Mutant, str]]) -> None:
    """A line a room: how many mutants, how many a test noticed."""
    kinds = Counter((m.path.parts[1], f if f in run.UNNOTICED else "noticed") for m, f in fates)
    for room in dict.fromkeys(room for room, _ in kinds):
        counts = {kind: count for (where, kind), count in kinds.items() if where == room}
        share = counts.get("noticed", 0) / sum(counts.values())
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        print(f"common/{room}: {share:.0%} of {sum(counts.values())} noticed ({told})")
    noticed = sum(fate not in run.UNNOTICED for _, fate in fates)
    print(f"all: {noticed / len(fates):.1%} of {len(fates)} noticed")


@app.command()
def try_mutants(
    tests: Annotated[list[str] | None, typer.Argument(help="Files and folders of tests.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="How many mutants.")] = 500,
    room: Annotated[
        list[str] | None, typer.Option(help="A folder of common/ to change; may repeat.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Change the code that the backends share, and see whether a test notices."""
    paths = [str(path) for path in tests or TESTS]
    chosen = _sample(room or ROOMS, sample, seed)
    load_backend("torch")  # once: forks have it too
    import_torchvision()
    fates: list[tuple[Mutant, str]] = []

    def work(session: run.Session, items: list[pytest.Item]) -> None:
        print(f"{len(chosen)} mutants; each of {len(items)} tests is run by itself", flush=True)
        measured = run.measure(session, items)
        laboratory = run.Laboratory(session, items, measured, run.imported_lines(paths))
        print(f"{len(measured)} tests are fast and start no program", flush=True)
        for mutant in chosen:
            fates.append((mutant, laboratory.fate(mutant)))
            if fates[-1][1] in run.UNNOTICED:
                print(f"{mutant}: {fates[-1][1]}", flush=True)

    if pytest.main([*run.ARGUMENTS, *paths], plugins=[run.Session(work)]) or not fates:
        raise InputError(f"{' '.join(paths)}: pytest finds no tests there, or cannot read them")
    _print_score(fates)
    write_json(json_file, _result(fates))
    raise typer.Exit(1 if any(fate in run.UNNOTICED for _, fate in fates) else 0)


if __name__ == "__main__":
    main(app)
