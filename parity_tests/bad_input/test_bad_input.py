"""Every row against the functions that it names, and with every command that it is told for."""

import contextlib
import json
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.images import open_image
from common.errors import InputError
from common.runs.run_folder import Checkpoint
from parity_tests.bad_input import ROWS
from parity_tests.bad_input.trial import (
    IMAGE,
    LISTS,
    LOG,
    RUN_LAST,
    Outcome,
    Row,
    Run,
    attempt,
    snapshot,
    workplace,
)
from parity_tests.bad_input.weights import Payload
from parity_tests.conftest import TIMES

LOCKS = {Path("run/.lock"), Path("voc/.voc2012")}


def hidden(paths: Iterable[Path]) -> set[Path]:
    """What a file that is being written is called, until it is whole."""
    return {path for path in paths if path.name[0] == "."} - LOCKS


def check_line(row: Row, command: str, outcome: Outcome) -> None:
    """One line, which begins with `error: ` and names the file and what is wrong."""
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("error: ")
    # the list of a folder's faults is what `data check` is for
    told = outcome.out + outcome.err if command in LISTS else outcome.err
    assert re.search(row.says, told)
    assert "Traceback" not in outcome.out + outcome.err


def check_stop(outcome: Outcome) -> None:
    """What is there is whole, and is what the line says; nothing pretends to be complete."""
    assert not hidden(outcome.written)
    assert "manifest.json" not in {path.name for path in outcome.written}
    told = re.search(r"(?:saved after|is of) step (\d+)", outcome.err)
    last = Checkpoint.read(RUN_LAST) if RUN_LAST.exists() else None
    assert told is None or (last is not None and last.step == int(told[1]))


def check_results(command: str, outcome: Outcome) -> None:
    """The command's own files are there and no others, none of them half-written."""
    written = set(outcome.written)
    if command in ("train", "resume"):
        assert {path.parts[0] for path in written} == {"run"}
        assert not hidden(written)
        assert LOG.read_bytes().count(b"\n") == Checkpoint.read(RUN_LAST).step
    elif command == "predict":
        masks = {path for path in written if path.name.count(".") == 1}
        assert masks
        assert written == masks | {path.with_suffix(".overlay.png") for path in masks}
        for path in IMAGE.parent.iterdir():
            with contextlib.suppress(InputError):
                size = open_image(path).size
                masks.remove(mask := Path("out", f"{path.stem}.png"))
                with Image.open(mask) as found:
                    assert found.size == size
        assert not masks
    else:
        names = {"evaluate": {"result.json"}, "convert": {"out.safetensors"}}
        assert written == {Path(name) for name in names.get(command, ())}


def results(command: str, outcome: Outcome) -> object:
    """What the command has written, a run's logs, or what `data check` has said."""
    if command == "check":
        return outcome.out
    if command in ("train", "resume"):
        return {
            path: [json.loads(line) | dict.fromkeys(TIMES) for line in text.splitlines()]
            for path, text in outcome.written.items()
            if path.suffix == ".jsonl" and text is not None
        }
    return outcome.written


def cases() -> Iterator[object]:
    """Every row with its commands; without `full` those of rows that name no function, and else
    the first that a command takes this way for these functions.
    """
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
    with attempt(row, command, run_command) as outcome:
        if verdict in ("notes", "accepts"):
            said = f"note: {row.says}\n" if verdict == "notes" else ""
            assert outcome.code == 0
            assert re.fullmatch(said, outcome.err)
            check_results(command, outcome)
        else:
            check_line(row, command, outcome)
            assert outcome.kept
        if verdict == "refuses":
            assert not outcome.written
        elif verdict == "stops":
            check_stop(outcome)
        elif verdict == "finishes":
            check_results(command, outcome)
    if row.like is not None:
        with attempt(row, command, run_command, row.like) as like:
            assert like.code == 0
            assert results(command, outcome) == results(command, like)


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize(
    ("row", "function"),
    [
        pytest.param(row, function, id=f"{row.what}-{getattr(function, 'func', function).__name__}")
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
    assert before.items() <= after.items() if row.stops else after == before
    if row.like is not None:
        with workplace():
            row.like()
            np.testing.assert_equal(result, function())


def test_the_payload_would_have_been_seen() -> None:
    with workplace():
        pickle.loads(pickle.dumps(Payload()))
        assert Path("executed").is_dir()
