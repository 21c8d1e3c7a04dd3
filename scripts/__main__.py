"""`python -m scripts`: the commands, by what they are for."""

import difflib
import sys

from scripts.shared.cli import fail

COMMANDS = {
    "Train and use a network": {
        "data": "make, prepare and check data sets",
        "train": "train a network, and go on with a run",
        "curves": "lay the curves of several runs on top of each other",
        "evaluate": "measure a network on a split",
        "predict": "segment images",
        "convert": "carry weights between frameworks and other programs",
    },
    "Is a port right": {
        "match": "find which tensor of one record is which of another",
        "compare": "say where two records or traces first differ",
        "trace": "write every named value of a run in one framework",
        "witness.onnx": "write that trace by ONNX Runtime",
    },
    "The three frameworks side by side": {
        "demo": "train, evaluate and predict in all of them",
        "parity": "trace a run in each, and compare",
        "relay": "change the framework in the middle of a run",
        "pitfalls": "show where they silently differ",
        "bench": "measure their speed",
        "choose": "say which one to take for this work, here",
        "lessons": "build the lessons as a site, from the source",
    },
}
"""What for -> the command's name -> what it does."""


def main() -> None:
    """Prints the list. Arguments belong to a command: a line says how that is run."""
    if sys.argv[1:] not in ([], ["--help"]):
        known = [name for commands in COMMANDS.values() for name in commands]
        near = difflib.get_close_matches(sys.argv[1], known, n=1)
        hint = f"python -m scripts.{near[0]} runs one" if near else "python -m scripts lists them"
        fail(f"{sys.argv[1]}: python -m scripts takes nothing; {hint}")
    print("Usage: python -m scripts.COMMAND [OPTIONS]; its --help tells the options")
    for use, commands in COMMANDS.items():
        print(f"\n{use}:")
        for name, what in commands.items():
            print(f"  {name:<14}{what}")


if __name__ == "__main__":
    main()
