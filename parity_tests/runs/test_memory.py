"""What is freed stays with the process: seen by the pages that the next block costs."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from common.memory import keep_pages

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
    faults(48 << 20)
    print(faults(48 << 20))

fill_twice()
thread = threading.Thread(target=fill_twice)
thread.start()
thread.join()
"""


def faults_of_the_second_block(first: str) -> list[int]:
    """Page faults of filling a freed block of 48 MB anew: in the first thread, and in another."""
    code = [sys.executable, "-c", first + FILL_TWICE]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told")
def test_a_freed_block_is_used_again_without_new_pages() -> None:
    kept = faults_of_the_second_block("from common.memory import keep_pages; keep_pages()\n")
    assert all(faults < 8 for faults in kept), kept
    # by default it is given back: pages of 4 kB, or of 2 MB where the system makes huge ones
    assert all(faults >= 20 for faults in faults_of_the_second_block("")), "nothing to keep"


def test_another_libc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: object) -> None:
        raise OSError("no glibc here")

    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", refuse)
    keep_pages()
