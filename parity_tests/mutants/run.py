"""Each mutant against the tests that run its lines, in forks of one process.

A test is run once by itself to learn which lines it runs and what it costs. A mutant in a function
is put into the functions that are there, by their code; where code runs at import, everything of
the program is imported anew.
"""

import contextlib
import functools
import gc
import importlib.machinery
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage
import numpy.testing  # noqa: F401, it starts a program, which a test may not
import pytest

from parity_tests.mutants.mutate import Mutant

ROOT = Path(__file__).parents[2]

SLOW = 2
"""Seconds of processor time; a test that takes longer is left out."""

BUDGET = 10.0
"""Seconds of tests, by what each took, that a mutant is given at most."""

PATIENCE = 8
"""By how many times a fork may take longer by the clock: the machine has other work."""

MEMORY = 4 << 30
"""Of a fork, in bytes: a mutant may ask for any amount."""

ARGUMENTS = (
    *("-p", "no:terminal", "-o", "addopts=", "-p", "no:cacheprovider", "-n", "0"),
    *("--without", "mxnet", "--without", "jax"),  # neither likes to be forked
)

UNNOTICED = ("alive", "not covered")
"""What may become of a mutant besides the test that fails."""

PACKAGES = ("common", "backends", "scripts", "parity_tests", "conftest")

Lines = dict[str, set[int]]
"""By file, the numbers of the lines that were run."""


def _isolate(folder: str, seconds: int) -> None:
    """Has this fork write to a folder of its own, quietly, and end when it takes too much."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    os.environ["PYTEST_DEBUG_TEMPROOT"] = os.environ["TMPDIR"] = tempfile.tempdir = folder
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def in_fork(work: Callable[[], Any], seconds: int) -> Any:
    """What a function returns in a fork, through JSON; None where the fork does not end by itself.

    `seconds` of processor time are its limit.
    """
    folder = tempfile.mkdtemp(prefix="mutant-")
    answer = Path(folder, "answer.json")
    process = os.fork()
    if process == 0:
        try:
            _isolate(folder, seconds)
            answer.write_text(json.dumps(work()))
        finally:
            os._exit(0)
    deadline = time.monotonic() + seconds * PATIENCE
    while os.waitpid(process, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # and what it may have started
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)
    found = json.loads(answer.read_text()) if answer.exists() else None
    shutil.rmtree(folder, ignore_errors=True)
    return found


class Session:
    """A pytest plugin: the tests that were found go to a function in place of being run."""

    def __init__(self, work: Callable[["Session", list[pytest.Item]], None]) -> None:
        self._work = work
        self._passed = True

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._work(self, session.items)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._passed &= report.passed

    def first_failure(self, items: Sequence[pytest.Item]) -> str | None:
        """Runs tests until one does not pass, and returns its name."""
        for item, after in zip(items, [*items[1:], None], strict=True):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
            if not self._passed:
                return item.nodeid
        return None


@dataclass(frozen=True)
class Test:
    """What a test took, in seconds of processor time, and the lines of `common/` that it runs."""

    __test__ = False

    seconds: float
    lines: Lines


@contextlib.contextmanager
def _covering(lines: dict[str, list[int]]) -> Iterator[None]:
    """Adds the lines of `common/` that are run inside to the given ones."""
    watch = coverage.Coverage(data_file=None, config_file=False, include=[f"{ROOT}/common/*"])
    watch.start()
    try:
        yield
    finally:
        watch.stop()
        with warnings.catch_warnings(action="ignore"):  # that no line was run
            data = watch.get_data()
        lines |= {file: sorted(data.lines(file) or ()) for file in data.measured_files()}


def _forget_the_program() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in PACKAGES:
            del sys.modules[name]


def _imported_lines(paths: Sequence[str]) -> Any:
    lines: dict[str, list[int]] = {}
    _forget_the_program()
    with _covering(lines):
        pytest.main([*ARGUMENTS, "--collect-only", *paths])
    return lines


def _no_programs(event: str, _: Any) -> None:
    """An audit hook: a test of a program that is started runs no line here."""
    if event in ("subprocess.Popen", "os.posix_spawn"):
        raise RuntimeError(event)


def _measured(session: Session, item: pytest.Item) -> Any:
    lines: dict[str, list[int]] = {}
    sys.addaudithook(_no_programs)
    start = time.process_time()
    with _covering(lines):
        failed = session.first_failure([item])
    return None if failed else (time.process_time() - start, lines)


def measure(session: Session, items: Sequence[pytest.Item]) -> dict[str, Test]:
    """By name, the tests that pass, are fast enough and start no program."""
    tests = {}
    for item in items:
        told = in_fork(lambda item=item: _measured(session, item), SLOW + 1)
        if told is not None and told[0] <= SLOW:
            lines = {file: set(numbers) for file, numbers in told[1].items()}
            tests[item.nodeid] = Test(told[0], lines)
    return tests


def imported_lines(paths: Sequence[str]) -> Lines:
    """What of `common/` is run before any test is."""
    found = in_fork(lambda: _imported_lines(paths), 600)
    return {file: set(numbers) for file, numbers in found.items()}


def _file(name: str) -> Path:
    return Path(name.partition("::")[0])


@functools.cache
def _imports(path: Path, module: str) -> bool:
    return f"from {module} import" in path.read_text()


def _code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield inner
            yield from _code_objects(inner)


class Laboratory:
    """A pytest session whose tests were measured, for mutants to be tried in."""

    def __init__(
        self,
        session: Session,
        items: Sequence[pytest.Item],
        tests: dict[str, Test],
        at_import: Lines,
    ) -> None:
        self._session, self._tests, self._at_import = session, tests, at_import
        self._items = {item.nodeid: item for item in items}
        self._functions: dict[tuple[str, str], list[types.FunctionType]] = {}
        for function in gc.get_objects():
            if type(function) is types.FunctionType:  # `isinstance` asks lazy modules, too
                code = function.__code__
                key = code.co_filename, code.co_qualname
                self._functions.setdefault(key, []).append(function)

    def _runs_at_import(self, mutant: Mutant, file: str) -> bool:
        return not mutant.function or bool(
            self._at_import.get(file, set()).intersection(mutant.lines)
            or (file, mutant.function) not in self._functions
        )

    def _users(self, module: str, file: str) -> set[str]:
        """The tests that use a file, or one of `common/` that imports it."""
        paths = [p.resolve() for p in Path("common").rglob("*.py") if _imports(p, module)]
        files = {file, *map(str, paths)}
        return {
            name
            for name, test in self._tests.items()
            if any(test.lines.get(f, set()) - self._at_import.get(f, set()) for f in files)
            or _imports(_file(name), module)
        }

    def _covering_tests(self, mutant: Mutant, file: str) -> list[str]:
        """Those that run the mutant's lines; of what runs at import, those that use its file.

        First the tests of files that import it, each time the fastest first, up to `BUDGET`.
        """
        module = ".".join(mutant.path.with_suffix("").parts)
        if self._runs_at_import(mutant, file):
            names = self._users(module, file)
        else:
            lines = set(mutant.lines)
            names = {n for n, test in self._tests.items() if test.lines.get(file, set()) & lines}
        total = 0.0
        found: list[str] = []
        for name in sorted(names, key=lambda n: (not _imports(_file(n), module), self._time(n))):
            total += self._time(name)
            if total > BUDGET and found:
                break
            found.append(name)
        return found

    def _time(self, name: str) -> float:
        return self._tests[name].seconds

    def _anew(self, mutant: Mutant, names: Sequence[str]) -> str | None:
        """Runs the tests with the program imported anew, and the mutant in it."""
        code, file = mutant.code(), str(mutant.path.resolve())
        original = importlib.machinery.SourceFileLoader.get_code

        def get_code(loader: Any, name: str) -> Any:
            return code if loader.path == file else original(loader, name)

        setattr(importlib.machinery.SourceFileLoader, "get_code", get_code)  # noqa: B010
        failed: list[str | None] = ["at import"]

        def work(session: Session, items: list[pytest.Item]) -> None:
            found = {item.nodeid: item for item in items}
            if found.keys() >= set(names):
                failed[0] = session.first_failure([found[name] for name in names])

        _forget_the_program()
        files = dict.fromkeys(name.partition("::")[0] for name in names)
        pytest.main([*ARGUMENTS, *files], plugins=[Session(work)])
        return failed[0]

    def _in_place(self, mutant: Mutant, names: Sequence[str], file: str) -> str | None:
        """Runs the tests with the mutant's code in the functions that are there."""
        code = {code.co_qualname: code for code in _code_objects(mutant.code())}
        for function in self._functions[file, mutant.function]:
            function.__code__ = code[mutant.function]
        return self._session.first_failure([self._items[name] for name in names])

    def fate(self, mutant: Mutant) -> str:
        """The test that fails, `alive` or `not covered`; or that the process did not end."""
        file = str(mutant.path.resolve())
        names = self._covering_tests(mutant, file)
        if not names:
            return "not covered"
        anew = self._runs_at_import(mutant, file)

        def work() -> str:
            found = self._anew(mutant, names) if anew else self._in_place(mutant, names, file)
            return "alive" if found is None else found

        limit = 5 + 2 * sum(map(self._time, names))
        return in_fork(work, int(limit)) or "no end, or a crash"
