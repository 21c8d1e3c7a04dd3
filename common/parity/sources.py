"""The code in which networks part: of either side, the forward pass that makes a difference."""

from collections.abc import Mapping, Sequence
from itertools import takewhile

from common.parity.records import Layer
from common.parity.report import Excerpt, Report

SHOWN = 12
"""Of how many new differences of a trace the code is told."""


def name_sources(
    report: Report,
    layers: Mapping[str, Mapping[str, Layer]],
    paths: Mapping[str, Mapping[str, str]],
) -> None:
    """Tells the code of both sides in which the first new differences of a report are made.

    `layers` are each record's own by label; `paths` are by label what the modules that the report
    names are called there.
    """
    for trace in report.compared:
        new = [d for d in report.of(trace) if d.status == "new" and d.modules]
        for d in new[:SHOWN]:
            for label in (report.reference, trace):
                own = [paths[label][module] for module in d.modules if module in paths[label]]
                if len(own) == len(d.modules):
                    d.code += _excerpts(label, layers[label], own)


def _excerpts(trace: str, layers: Mapping[str, Layer], modules: Sequence[str]) -> list[Excerpt]:
    """The innermost code that a module is made by, or that several are called in; or none."""
    split = [path.split(".") for path in modules]
    holders = split if len(split) == 1 else [path[:-1] for path in split]
    shared = [*takewhile(lambda parts: len({*parts}) == 1, zip(*holders, strict=False))]
    for length in range(len(shared), -1, -1):
        path = ".".join(split[0][:length])
        if path in layers and (source := layers[path].source):
            inside = [own[length] for own in split if len(own) > length]
            return [Excerpt(trace, path, layers[path].kind, tuple(filter(None, inside)), source)]
    return []
