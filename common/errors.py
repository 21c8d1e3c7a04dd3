"""The exceptions a person is meant to read: one line each."""

from collections.abc import Collection
from itertools import islice


class InputError(Exception):
    """Bad input: one line that names the file (or option) and the fault.

    The command line prints the message as it stands and exits with code 2.
    """


class WorkerError(Exception):
    """A process that helps this one is gone; nobody's input is at fault.

    The command line prints the message as it stands and exits with code 2.
    """


class LostError(Exception):
    """Another process of the run has failed, or cannot be reached; it is that one's to say why."""


class StoppedError(Exception):
    """A run was asked to stop, and has saved where it is.

    The command line prints the message as it stands and exits with `code`, as a shell gives it to
    what a signal has ended: 128 and the signal's number.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def listed(items: Collection[object], most: int = 5) -> str:
    """The first of `items` with commas between, and how many more there are."""
    more = len(items) - most
    return ", ".join(map(str, islice(items, most))) + (f" and {more} more" if more > 0 else "")
