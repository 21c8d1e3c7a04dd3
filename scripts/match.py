"""Proposes which tensor of one network is which of another, from a record of each."""

from pathlib import Path
from typing import Annotated

import typer

from common.parity.matching import match
from common.parity.records import read_record
from scripts.shared.cli import ForceOption, main, new_app
from scripts.shared.outputs import MAP, check_places
from scripts.shared.verdicts import say

app = new_app()


@app.command(name="match")
def run(
    a: Annotated[Path, typer.Argument(metavar="A", help="The reference's record.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The port's record.")],
    out: Annotated[Path, typer.Option(help="The map, a TOML file to be read and edited.")],
    force: ForceOption = False,
) -> None:
    """Write a map of the tensors of one record to those of another."""
    check_places((out, MAP), reads=[a, b], force=force)
    first, second = read_record(a), read_record(b)
    found, guessed = match(first, second)
    about = f"Which tensor of {first.label} (a) is which of {second.label} (b)."
    found.write(out, about + "".join(f"\nA guess: {layer}" for layer in guessed))
    say(f"{out}: {len(found.entries)} tensors matched")
    for label, side in ((first.label, "a"), (second.label, "b")):
        for name, why in found.unmatched.get(side, {}).items():
            say(f"{label}: {name} is unmatched: {why}")
    if guessed:
        say(f"alike, and told apart by nothing: {', '.join(guessed)}; look at their lines in {out}")


if __name__ == "__main__":
    main(app)
