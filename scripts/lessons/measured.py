"""What the lessons tell in numbers: measured once, kept in `results/`, measured anew when asked.

A result says of what it was made: digests of the files that it depends on, and versions. A build
takes it as it is, and names those whose files have changed since.
"""

import hashlib
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends import BACKENDS, load_backend
from common.errors import InputError, WorkerError
from common.files import JSON_LIMIT, naming, parse_json, read_bytes
from scripts.lessons.columns import KEY
from scripts.lessons.runs import measure_runs
from scripts.shared.cli import last_line, write_json
from scripts.shared.sources import code_digest
from scripts.shared.workers import ROOT

RESULTS = Path(__file__).with_name("results")
_PACKAGES = ("torch", "mxnet", "jax", "flax", "optax", "numpy")


@dataclass(frozen=True)
class Result:
    """A file of `results/`: what measures it, and what its numbers depend on, as patterns."""

    name: str
    measure: Callable[[], Any]
    sources: tuple[str, ...]

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.name}.json"

    def made_of(self) -> dict[str, str]:
        """A digest of the code of each pattern's files."""
        found = {}
        for pattern in self.sources:
            whole = hashlib.sha256()
            for path in sorted(ROOT.glob(pattern)):
                whole.update(f"{path.relative_to(ROOT)} {code_digest(path)}\n".encode())
            found[pattern] = whole.hexdigest()[:16]
        return found

    def renew(self) -> None:
        """Measures it, and writes the file."""
        made_of = self.made_of()
        found = {"made_of": made_of, "versions": versions(), "found": self.measure()}
        write_json(self.path, found)

    def is_stale(self) -> bool:
        """Whether what it was made of is no more what is there.

        Raises:
            InputError: it is no result.
        """
        kept = read_result(RESULTS, self.name)
        return bool(kept["made_of"] != self.made_of() or kept["versions"] != versions())


def versions() -> dict[str, str]:
    """Of what is installed here of the frameworks."""
    installed = {}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


_DEPARTING = "parity_tests.departures"
"""It writes its file itself: it takes a quarter of an hour, and goes on where it was stopped."""

_FOUND = (("made_of", dict), ("versions", dict), ("found", (dict, list)))
_DEPARTED = (("made_of", dict), ("versions", dict), ("departures", list))


def read_result(folder: Path, name: str) -> dict[str, Any]:
    """A result of a folder, `RESULTS` for one.

    Raises:
        InputError: it is not there, or is none.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        how = f"python -m {_DEPARTING} --json" if name == "departures" else "--renew"
        raise InputError(f"{path}: not there; {how} measures it")
    with naming(path):
        found: dict[str, Any] = dict(parse_json(read_bytes(path, JSON_LIMIT)))
    for key, kinds in _DEPARTED if name == "departures" else _FOUND:
        if not isinstance(found.get(key), kinds):
            raise InputError(f"{path}: is no result: lacks {key}")
    return found


def _asked(module: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
    """What a command writes with `--json`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [sys.executable, "-m", module, *arguments, "--json", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode not in codes:
            raise WorkerError(f"python -m {module}: {last_line(done.stderr)}")
        return json.loads(path.read_text())


def measure_pitfalls() -> dict[str, Any]:
    """Every pitfall by name."""
    return {pitfall["name"]: pitfall for pitfall in _asked("scripts.pitfalls")["pitfalls"]}


def source_keys() -> set[str]:
    """Every key of `# differs(key):` in the backends."""
    return {
        key
        for path in (ROOT / "backends").rglob("*.py")
        for key in KEY.findall(path.read_text(encoding="utf-8"))
    }


_TOLD = ("why", "where", "error", "located", "setting", "plain")


def measure_mutations() -> dict[str, Any]:
    """Of each key that is no pitfall's, what the mutation of its name does, by backend."""
    keys = sorted(source_keys() - set(read_result(RESULTS, "pitfalls")["found"]))
    options = [word for key in keys for word in ("--mutation", key)]
    found: dict[str, Any] = {}
    for entry in _asked("parity_tests.mutations", *options, codes=(0, 1))["faults"]:
        told = {key: entry[key] for key in _TOLD}
        found.setdefault(entry["name"], {})[entry["backend"]] = told
    return found


def measure_exercises() -> dict[str, Any]:
    """The answers of every solution, by name and backend."""
    found: dict[str, Any] = {}
    for backend in BACKENDS:
        load_backend(backend)  # before all else: it sets the framework up
        module = importlib.import_module(f"scripts.lessons.exercises.{backend}")
        for name, solve in vars(module).items():
            if getattr(solve, "__module__", "") == module.__name__ and re.match(r"[a-z]", name):
                found.setdefault(name, {})[backend] = solve()
    return found


def measure_notebooks() -> list[str]:
    """Executes the notebook in each backend; which cells of code it has."""
    from scripts.lessons import kernel  # here: half of what a build takes to start

    kernel.renew(RESULTS)
    notebook = json.loads(kernel.NOTEBOOK.read_text(encoding="utf-8"))
    return [cell["id"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


_BACKENDS = ("backends/**/*.py", "common/config.py", "common/network/*.py")

RENEWABLE = (
    Result("pitfalls", measure_pitfalls, ("scripts/pitfalls/*.py",)),
    Result(
        "mutations",
        measure_mutations,
        (*_BACKENDS, "common/parity/*.py", "parity_tests/mutations/*.py"),
    ),
    Result("exercises", measure_exercises, (*_BACKENDS, "scripts/lessons/exercises/*.py")),
    Result("runs", measure_runs, (*_BACKENDS, "common/data/*.py", "scripts/lessons/runs.py")),
    Result(
        "notebooks",
        measure_notebooks,
        (
            *_BACKENDS,
            "common/data/*.py",
            "common/evaluation/*.py",
            "docs/fcn.ipynb",
            "scripts/lessons/kernel.py",
        ),
    ),
)


def stale() -> list[str]:
    """The results that are of other code or versions than those that are here, or not whole."""
    old = [result.name for result in RENEWABLE if result.is_stale()]
    found, here = read_result(RESULTS, "departures"), versions()
    files = {ROOT / file: digest for file, digest in found["made_of"].items()}
    files[ROOT / "parity_tests/departures/catalogue.py"] = found.get("catalogue")
    if any(here.get(name) != version for name, version in found["versions"].items()) or not all(
        path.exists() and code_digest(path) == digest for path, digest in files.items()
    ):
        path = (RESULTS / "departures.json").relative_to(ROOT)
        old.append(f"departures (by python -m {_DEPARTING} --json {path})")
    return old
