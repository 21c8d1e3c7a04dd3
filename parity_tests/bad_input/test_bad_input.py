"""Every row against the functions that it names, and with every command that it is told for."""

import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from parity_tests.bad_input import ROWS
from parity_tests.bad_input.trial import (
    LISTS,
    LOG,
    Outcome,
    Row,
    Run,
    attempt,
    snapshot,
    workplace,
)
from parity_tests.bad_input.weights import Payload

LOCKS = {Path("run/.lock"), Path("voc/.voc2012")}


def masks(stems: set[str]) -> set[Path]:
    return {Path("out") / f"{stem}{end}" for stem in stems for end in (".png", ".overlay.png")}


def hidden(paths: Iterable[Path]) -> set[Path]:
    """What a file that is being written is called, until it is whole."""
    return {path for path in paths if path.name[0] == "."}


def check_results(command: str, outcome: Outcome) -> None:
    """The command's own files are there and no others, none of them half-written."""
    written = set(outcome.written)
    if command in ("train", "resume"):
        assert {path.parts[0] for path in written} == {"run"}
        assert hidden(written) <= LOCKS
        log = outcome.after[LOG]
        assert log is not None
        assert log.count(b"\n") == outcome.saved
    elif command == "predict":
        assert outcome.sizes == outcome.wanted
        assert written == masks(set(outcome.sizes))
    else:
        names = {"evaluate": {"result.json"}, "convert": {"out.safetensors"}}
        assert written == {Path(name) for name in names.get(command, ())}


def check_line(row: Row, command: str, outcome: Outcome) -> None:
    """One line, which begins with `error: ` and names the file and what is wrong."""
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("error: ")
    # the list of a folder's faults is what `data check` is for
    told = outcome.out + outcome.err if command in LISTS else outcome.err
    assert re.search(row.says, told)
    assert "Traceback" not in outcome.out + outcome.err


RESULTS: dict[object, object] = {}
"""Of what rows are like: many are like the clean data."""


def results(command: str, outcome: Outcome) -> object:
    """What the command has written, a run's logs, or what `data check` has said."""
    if command == "check":
        return outcome.out
    if command in ("train", "resume"):
        return {path: text for path, text in outcome.written.items() if path.suffix == ".jsonl"}
    return outcome.written


def check_stop(outcome: Outcome) -> None:
    """What is there is whole, and is what the line says; nothing pretends to be complete."""
    assert hidden(outcome.written) <= LOCKS
    assert "manifest.json" not in {path.name for path in outcome.written}
    told = re.search(r"(?:saved after|is of) step (\d+)", outcome.err)
    if told is not None:
        assert int(told[1]) == outcome.saved


def cases() -> Iterator[object]:
    """Every row with its commands; without `full` those of rows that name no function, and else
    the first that a command takes this way for these functions."""
    seen = set()
    for row in ROWS:
        for command, verdict in row.commands():
            kind = row.by or row, command, verdict
            marks = [pytest.mark.full] if kind in seen else []
            marks += [pytest.mark.needs(row.needs)] if row.needs else []
            seen.add(kind)
            yield pytest.param(row, command, verdict, id=f"{row.what}-{command}", marks=marks)


@pytest.mark.parametrize(("row", "command", "verdict"), list(cases()))
def test_with_a_command(row: Row, command: str, verdict: str, run_command: Run) -> None:
    outcome = attempt(row, command, run_command)
    kept = {path: outcome.after.get(path) for path in outcome.before}
    if verdict == "refuses":
        check_line(row, command, outcome)
        assert outcome.after == outcome.before
    elif verdict == "stops":
        check_line(row, command, outcome)
        assert kept == outcome.before
        check_stop(outcome)
    elif verdict == "finishes":
        check_line(row, command, outcome)
        assert kept == outcome.before
        check_results(command, outcome)
        assert outcome.sizes
    else:
        assert outcome.code == 0
        said = rf"note: {row.says}\n" if verdict == "notes" else ""
        assert re.fullmatch(said, outcome.err)
        check_results(command, outcome)
        if row.like is not None:
            key = row.like, row.weights, command
            if key not in RESULTS:
                like = attempt(row, command, run_command, row.like)
                assert like.code == 0
                RESULTS[key] = results(command, like)
            assert results(command, outcome) == RESULTS[key]


@pytest.mark.parametrize(
    ("row", "function"),
    [
        pytest.param(row, function, id=f"{row.what}-{getattr(function, '__name__', '')}")
        for row in ROWS
        for function in row.by
    ],
)
def test_with_a_function(row: Row, function: Callable[[], object]) -> None:
    with workplace("resume" in row.refuses):
        row.spoil()
        before = snapshot()
        with row.during():
            if row.accepts:
                result = function()
            else:
                with pytest.raises(InputError, match=row.says) as refused:
                    function()
                assert "\n" not in str(refused.value)
        after = snapshot()
    kept = {path: after.get(path) for path in before} if row.stops else after
    assert kept == before
    if row.like is not None:
        with workplace():
            row.like()
            np.testing.assert_equal(result, function())


def test_the_payload_would_have_been_seen() -> None:
    with workplace():
        pickle.loads(pickle.dumps(Payload()))
        assert Path("executed").is_dir()
