"""The one exception a person is meant to read."""


class InputError(Exception):
    """Bad input: one line that names the file (or option) and the fault.

    The command line prints the message as it stands and exits with code 2.
    """
