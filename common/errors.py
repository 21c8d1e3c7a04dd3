"""The exceptions a person is meant to read: one line each."""


class InputError(Exception):
    """Bad input: one line that names the file (or option) and the fault.

    The command line prints the message as it stands and exits with code 2.
    """


class WorkerError(Exception):
    """A process that helps this one is gone; nobody's input is at fault.

    The command line prints the message as it stands and exits with code 2.
    """
