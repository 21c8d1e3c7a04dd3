"""The machine: its CPU, its pages of memory, and what glibc does with blocks that are freed."""

import contextlib
import ctypes
import os
import platform
import re
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from common.errors import InputError

_LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# mallopt's parameters, from malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def cpu_info() -> dict[str, str]:
    """What Linux tells of the first CPU (`model name`, `flags`, ...); elsewhere nothing."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def thread_limit() -> int | None:
    """How many threads OMP_NUM_THREADS allows; None where it is not set.

    Raises:
        InputError: it is no number of threads. MXNet would abort, others pass over it.
    """
    text = os.environ.get("OMP_NUM_THREADS")
    if text is None:
        return None
    if not re.fullmatch("[1-9][0-9]{0,3}", text.strip()):
        raise InputError(f"OMP_NUM_THREADS={text!r}: is no number of threads; set it to 1 or more")
    return int(text)


def peak_memory() -> float:
    """The most memory that this process has held so far, in MiB."""
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@contextlib.contextmanager
def end_if_stuck(seconds: float, name: str) -> Iterator[None]:
    """Ends this process, with a line, if what is done within waits so long for another process.

    For engines that nothing else wakes from such a wait. `name` is who waits.
    """

    def give_up() -> None:
        os.write(2, f"error: {name} has waited {seconds:g} s for another process\n".encode())
        os._exit(2)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def keep_pages() -> None:
    """Lets freed memory stay with the process, for the next training step; glibc alone.

    By default glibc gives each freed block of more than 32 MB, and the free end of the heap, back
    to the system, and the next step pays for every page of it anew: a quarter of a step's time. A
    batch of 32 images has blocks of 300 MB: kept, a step of PyTorch's takes 0.7 of the time, with
    a fifth more memory.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_ARENA_MAX, 1)  # only the main heap can hold a block of more than 64 MB
        libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def restart_with_large_pages() -> None:
    """Starts this program anew, once, with large blocks in pages of 2 MB; Linux and glibc alone.

    A training step takes 0.97 of the time in PyTorch, 0.94 in MXNet and 0.83 to 0.98 in JAX, which
    fills new pages in each step. glibc asks the system for such pages where a variable says so when
    the program starts; where the system gives them to all or none, there is nothing to ask for.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" in tunables or not _LARGE_PAGES.exists():
        return
    if platform.libc_ver()[0] == "glibc" and "[madvise]" in _LARGE_PAGES.read_text():
        variables = [tunables] if tunables else []
        os.environ["GLIBC_TUNABLES"] = ":".join([*variables, "glibc.malloc.hugetlb=1"])
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
