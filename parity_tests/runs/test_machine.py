"""The machine: its pages, its CPU, and what JAX has compiled for it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from common import machine
from common.machine import keep_pages

ROOT = Path(__file__).parents[2]

FILL_TWICE = """
import ctypes, resource, threading

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def fill_twice():
    faults(320 << 20)
    print(faults(320 << 20))

fill_twice()
thread = threading.Thread(target=fill_twice)
thread.start()
thread.join()
"""


def faults_of_the_second_block(first: str) -> list[int]:
    """Page faults of filling a freed block of 320 MB anew: in the first thread, and in another."""
    code = [sys.executable, "-c", first + FILL_TWICE]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told")
def test_a_freed_block_is_used_again_without_new_pages() -> None:
    kept = faults_of_the_second_block("from common.machine import keep_pages; keep_pages()\n")
    assert all(faults < 8 for faults in kept), kept
    # by default it is given back: pages of 4 kB, or of 2 MB where the system makes huge ones
    assert all(faults >= 20 for faults in faults_of_the_second_block("")), "nothing to keep"


def test_another_libc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: object) -> None:
        raise OSError("no glibc here")

    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", refuse)
    keep_pages()


START = """
import os, sys
with open({log!r}, "a") as file:
    print(os.environ.get("GLIBC_TUNABLES"), sys.orig_argv[1:], file=file)
"""
"""What Python runs when it starts, as `sitecustomize`."""


def starts(folder: Path, *arguments: str, tunables: str | None = None) -> list[str]:
    """Each start of Python with these arguments: `GLIBC_TUNABLES` and what it was given."""
    log = folder / "starts"
    (folder / "sitecustomize.py").write_text(START.format(log=str(log)))
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    environment |= {"PYTHONPATH": str(folder)}
    if tunables is not None:
        environment["GLIBC_TUNABLES"] = tunables
    command = [sys.executable, *arguments]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    return log.read_text().splitlines()


def on_request() -> bool:
    pages = machine._LARGE_PAGES
    return pages.exists() and "[madvise]" in pages.read_text()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told")
def test_a_command_starts_with_large_pages(tmp_path: Path) -> None:
    arguments = ["-X", "utf8", "-m", "scripts"]
    again = [f"glibc.malloc.hugetlb=1 {arguments}"] if on_request() else []
    assert starts(tmp_path, *arguments) == [f"None {arguments}", *again]


def test_a_command_lets_who_has_chosen_choose(tmp_path: Path) -> None:
    arguments, chosen = ["-m", "scripts"], "glibc.malloc.hugetlb=0"
    assert starts(tmp_path, *arguments, tunables=chosen) == [f"{chosen} {arguments}"]


def test_help_starts_once(tmp_path: Path) -> None:
    assert len(starts(tmp_path, "-m", "scripts.compare", "--help")) == 1


def test_an_import_starts_nothing_anew(tmp_path: Path) -> None:
    assert len(starts(tmp_path, "-c", "import scripts.compare")) == 1


@pytest.mark.parametrize(
    "setting, libc, before, after",
    [
        ("always [madvise] never", "glibc", "", "glibc.malloc.hugetlb=1"),
        ("always [madvise] never", "glibc", "a.b=1", "a.b=1:glibc.malloc.hugetlb=1"),
        ("[always] madvise never", "glibc", "", None),
        ("always madvise [never]", "glibc", "", None),
        (None, "glibc", "", None),
        ("always [madvise] never", "musl", "", None),
    ],
)
def test_large_pages_are_asked_for_where_the_system_waits_to_be_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str | None,
    libc: str,
    before: str,
    after: str | None,
) -> None:
    started: list[str | None] = []
    if setting is not None:
        (tmp_path / "enabled").write_text(setting + "\n")
    monkeypatch.setenv("GLIBC_TUNABLES", before)
    monkeypatch.setattr(machine, "_LARGE_PAGES", tmp_path / "enabled")
    monkeypatch.setattr("platform.libc_ver", lambda: (libc, ""))
    monkeypatch.setattr("os.execv", lambda *_: started.append(os.environ["GLIBC_TUNABLES"]))
    machine.restart_with_large_pages()
    assert started == ([after] if after else [])


def test_what_linux_tells_of_the_cpu() -> None:
    told = machine.cpu_info()
    if Path("/proc/cpuinfo").exists():
        assert told["processor"] == "0"
        assert all(key == key.strip() and value == value.strip() for key, value in told.items())
    else:
        assert told == {}


STEP = """
import numpy as np
from backends.jax import Trainer
from common.config import Config
from common.network.initial import initial_weights

config = Config(crop=(32, 32), batch_size=2, width=8, num_classes=5)
weights = initial_weights(config.architecture, config.num_classes, config.seed, width=config.width)
labels = np.zeros((2, 32, 32), np.uint8)
print(Trainer(config, weights).step(np.zeros((2, 32, 32, 3), np.uint8), labels, 0.1))
"""


def step(**changed: str) -> str:
    """The loss, told by a process in whose environment this is changed."""
    chosen = ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    done = subprocess.run(
        [sys.executable, "-c", STEP],
        cwd=ROOT,
        env=environment | changed,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Error" not in done.stderr
    return done.stdout


@pytest.mark.full
@pytest.mark.needs("jax")
def test_what_jax_has_compiled_is_kept(tmp_path: Path) -> None:
    mine, chosen, no_folder = tmp_path / "mine", tmp_path / "chosen", tmp_path / "file"
    first = step(XDG_CACHE_HOME=str(mine))
    (kept,) = mine.glob("rosetta-fcn/jax-*")
    files = sorted(path.name for path in kept.glob("jit__step-*-cache"))
    assert len(files) == 1
    assert step(XDG_CACHE_HOME=str(mine)) == first
    assert sorted(path.name for path in kept.glob("jit__step-*-cache")) == files

    choice = {"JAX_COMPILATION_CACHE_DIR": str(chosen), "XDG_CACHE_HOME": str(tmp_path / "not")}
    assert step(**choice) == first
    assert not (tmp_path / "not").exists()

    no_folder.touch()
    assert step(XDG_CACHE_HOME=str(no_folder)) == first
