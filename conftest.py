"""`pytest --without NAME`: the suite where a backend's framework is not installed.

Beside the suite and not in it: here pytest finds the option whatever its other arguments are.
"""

from collections.abc import Iterator

import pytest

from backends import BACKENDS

OPTIONAL = [name for name in BACKENDS if name != "torch"]
"""PyTorch is what the others are held against: without it there is no suite."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--without`."""
    parser.addoption(
        "--without",
        metavar="NAME",
        action="append",
        choices=OPTIONAL,
        default=[],
        help=f"leave out every test that needs this backend ({' or '.join(OPTIONAL)}); may repeat."
        " Unless it is left out, a backend that is not installed fails its tests.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Registers the mark `needs`."""
    line = "needs(*names): the backends that a test needs and is not parametrized with."
    config.addinivalue_line("markers", line)


def needed(item: pytest.Item) -> Iterator[str]:
    """The backends a test needs: its `needs` marks, and each parameter that is a backend's name.

    Raises:
        UsageError: a mark names no backend.
    """
    for mark in item.iter_markers("needs"):
        if odd := set(mark.args) - set(BACKENDS):
            raise pytest.UsageError(f"{item.nodeid}: needs no such backend: {', '.join(odd)}")
        yield from mark.args
    if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
        for value in item.callspec.params.values():
            among = value if isinstance(value, tuple | list) else (value,)
            yield from (name for name in BACKENDS if name in among)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the tests that need a backend that is left out."""
    without = set(config.getoption("without"))
    needing = {item for item in items if not without.isdisjoint(needed(item))}
    if needing:
        config.hook.pytest_deselected(items=[item for item in items if item in needing])
        items[:] = [item for item in items if item not in needing]
