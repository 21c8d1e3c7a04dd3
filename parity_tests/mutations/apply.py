"""A fault: its description, its text substitutions, and a backend imported with them applied."""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import cast

import backends
from backends import BACKENDS
from common.protocol import Backend

_FOLDER = Path(backends.__file__).parent


@dataclass(frozen=True)
class Patch:
    """`old` becomes `new` in a backend's `<file>.py`, where it stands exactly `count` times."""

    file: str
    old: str
    new: str
    count: int = 1


Patches = Patch | tuple[Patch, ...]


@dataclass(frozen=True)
class Fault:
    """A porting mistake: what it is, where it must first be seen, and its patches by backend.

    `expected`: patterns (as in `fnmatch`) over the names of a trace, `loss[k]` for a step's loss.
    `without`: why it cannot be made in a backend that `patches` lacks. `setting`: the data that
    show it, one of `run.SETTINGS`.
    """

    name: str
    why: str
    expected: tuple[str, ...]
    patches: Mapping[str, tuple[Patch, ...]]
    without: Mapping[str, str] = field(default_factory=dict)
    setting: str = "generic"


def fault(
    name: str,
    why: str,
    expected: str | Sequence[str],
    *,
    torch: Patches | str,
    mxnet: Patches | str,
    jax: Patches | str,
    setting: str = "generic",
) -> Fault:
    """A fault of its patches in each backend; a string says why a backend cannot have it."""
    patches: dict[str, tuple[Patch, ...]] = {}
    without = {}
    for backend, given in {"torch": torch, "mxnet": mxnet, "jax": jax}.items():
        if isinstance(given, str):
            without[backend] = given
        else:
            patches[backend] = (given,) if isinstance(given, Patch) else given
    places = (expected,) if isinstance(expected, str) else tuple(expected)
    return Fault(name, why, places, patches, without, setting)


def everywhere(
    name: str, why: str, expected: str | Sequence[str], *patches: Patch, setting: str = "generic"
) -> Fault:
    """A fault whose patches are the same text in each backend."""
    return fault(
        name, why, expected, torch=patches, mxnet=patches, jax=patches, setting=setting
    )  # fmt: skip


def source_files(backend: str) -> dict[str, Path]:
    """A backend's files by name, without `.py`."""
    return {path.stem: path for path in sorted((_FOLDER / backend).glob("*.py"))}


def patched_sources(backend: str, change: Fault | None) -> dict[str, str]:
    """The text of each of a backend's files, with a fault's patches applied.

    Raises:
        ValueError: a patch's old text does not stand in the file as often as it says.
    """
    texts = {name: path.read_text() for name, path in source_files(backend).items()}
    for patch in change.patches[backend] if change else ():
        found = texts[patch.file].count(patch.old)
        if change and found != patch.count:
            raise ValueError(
                f"{change.name}: backends/{backend}/{patch.file}.py has {patch.old!r}"
                f" {found} times, not {patch.count}"
            )
        texts[patch.file] = texts[patch.file].replace(patch.old, patch.new)
    return texts


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from a text instead of its file; nothing is cached on disk."""

    def __init__(self, name: str, path: Path, text: str) -> None:
        super().__init__(name, str(path))
        self.text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of one backend in their patched texts."""

    def __init__(self, backend: str, change: Fault | None) -> None:
        self.root = f"backends.{backend}"
        self.files = source_files(backend)
        self.texts = patched_sources(backend, change)

    def find_spec(
        self, fullname: str, path: object, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.root and not fullname.startswith(f"{self.root}."):
            return None
        name = fullname.removeprefix(self.root).removeprefix(".") or "__init__"
        loader = _Loader(fullname, self.files[name], self.texts[name])
        return importlib.util.spec_from_file_location(
            fullname,
            self.files[name],
            loader=loader,
            submodule_search_locations=[] if name == "__init__" else None,
        )


def _take_out(root: str) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == root or name.startswith(f"{root}.")]
    return {name: sys.modules.pop(name) for name in names}


@contextlib.contextmanager
def patched(backend: str, change: Fault | None) -> Iterator[Backend]:
    """The backend, imported anew with a fault; what was imported before comes back afterwards."""
    assert backend in BACKENDS
    root = f"backends.{backend}"
    finder = _Finder(backend, change)
    healthy = _take_out(root)
    sys.meta_path.insert(0, finder)
    try:
        yield cast(Backend, importlib.import_module(root))
    finally:
        sys.meta_path.remove(finder)
        _take_out(root)
        sys.modules.update(healthy)
        if root in healthy:
            setattr(backends, backend, healthy[root])
        elif hasattr(backends, backend):
            delattr(backends, backend)
