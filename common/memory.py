"""The process's memory: what glibc does with blocks that are freed."""

import ctypes
import platform

# mallopt's parameters, from malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_pages() -> None:
    """Lets freed memory stay with the process, for the next training step; glibc alone.

    By default glibc gives each freed block of more than 32 MB, and the free end of the heap, back
    to the system, and the next step pays for every page of it anew: a quarter of a step's time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_ARENA_MAX, 1)  # only the main heap can hold a block of more than 64 MB
        libc.mallopt(_MMAP_THRESHOLD, 64 << 20)
        libc.mallopt(_TRIM_THRESHOLD, 512 << 20)
