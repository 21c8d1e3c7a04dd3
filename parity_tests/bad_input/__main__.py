"""`python -m parity_tests.bad_input`: tries every row and prints the table as Markdown."""

import re
import tempfile

from parity_tests.bad_input import ROWS
from parity_tests.bad_input.trial import LISTS, Outcome, Row, attempt, in_this_process

ENDS = {
    "refuses": "",
    "finishes": "the other images are done",
    "stops": "what was done stays",
    "notes": "done",
    "accepts": "accepted",
}


def _said(row: Row, command: str, verdict: str, outcome: Outcome) -> str:
    """What a person reads, in one cell; temporary folders and long names as `...`."""
    lines = outcome.err.splitlines()
    if command in LISTS and outcome.code == 2:  # the faults it lists are its result
        lines = [x for x in outcome.out.splitlines() if x.startswith(("data/", "voc/"))] + lines
    cells = []
    for line in lines:
        short = re.sub(rf"{tempfile.gettempdir()}/[^/ ]*/", ".../", line)
        short = re.sub(r"(.)\1{30,}", r"\1...\1", short)
        cells.append(f"`{short}`".replace("|", "\\|"))
    end = ENDS[verdict] + (", with the same result" if row.like else "")
    return " <br> ".join([*cells, end] if end else cells)


if __name__ == "__main__":
    print("| input | command | what it prints | exit code |")
    print("|---|---|---|---|")
    for row in ROWS:
        for command, verdict in row.commands():
            with attempt(row, command, in_this_process) as outcome:
                said = _said(row, command, verdict, outcome)
            print(f"| {row.what} | {command} | {said} | {outcome.code} |", flush=True)
