"""Where a command is to write, and what happens to the machine meanwhile."""

import contextlib
import errno
import itertools
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from unittest import mock

import numpy as np

import backends
from common.data.batches import _Worker
from parity_tests.bad_input.files import as_it_is
from parity_tests.bad_input.trial import RUN, USE, WEIGHTS, Row
from parity_tests.bad_input.weights import PTH, state_dict


def not_installed() -> AbstractContextManager[object]:
    return mock.patch.dict(backends._PACKAGES, torch=("torch_that_nobody_has",))


@contextlib.contextmanager
def numpy_2() -> Iterator[None]:
    """NumPy says that it is NumPy 2; MXNet itself need not be there to be refused."""
    with (
        mock.patch.dict(backends._PACKAGES, mxnet=("numpy",)),
        mock.patch.dict(sys.modules),
        mock.patch.object(np, "__version__", "2.4.6"),
    ):
        for name in [name for name in sys.modules if name.startswith("backends.mxnet")]:
            del sys.modules[name]
        yield


def worker_killed() -> AbstractContextManager[object]:
    return mock.patch.object(_Worker, "ask", lambda self, step: self._process.kill())


def full_disk() -> AbstractContextManager[object]:
    """No file reaches the disk."""
    return mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


@contextlib.contextmanager
def disk_fills_up() -> Iterator[None]:
    """Of a run, the config, the first checkpoint and the first step's logs reach the disk."""
    fsync, calls = os.fsync, itertools.count()

    def full(handle: int) -> None:
        if next(calls) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with mock.patch("os.fsync", full):
        yield


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file grows beyond 100 kB: what a full disk or a quota does to a large one."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


NOWHERE = "(Operation not permitted|Permission denied|Read-only file system)"

ROWS = [
    *(
        Row(what, as_it_is, says, arguments, refuses=commands)
        for what, arguments, commands, says in (
            (
                "run folder that is not empty",
                "--out out",
                "train",
                "out: is not empty; --out wants a new folder",
            ),
            (
                "output folder that is a file",
                "--out result.json",
                "train predict",
                "result.json: cannot be made: (File exists|Not a directory)",
            ),
            (
                "output folder where nobody may write",
                "--out /sys/run",
                "train predict",
                f"/sys/run: cannot be made: {NOWHERE}",
            ),
            (
                "output file where nobody may write",
                "--json /sys/x.json",
                "evaluate",
                f"/sys/x.json: cannot be written: {NOWHERE}",
            ),
            (
                "output file in a folder that is not there",
                "--json none/x.json",
                USE,
                "none/x.json: no such folder: none",
            ),
            (
                "output over the input",
                f"--json {WEIGHTS}",
                "convert",
                f"{WEIGHTS}: would overwrite the input",
            ),
            (
                "batch larger than the set",
                "--batch-size 7",
                "train",
                "data: 2 images in train, --batch-size asks for 7",
            ),
            (
                "batch of one image of 32x32",
                "--batch-size 1 --crop 32 32",
                "train",
                "one image of 32x32 pixels leaves BatchNorm one value a channel",
            ),
        )
    ),
    Row(
        "disk full",
        as_it_is,
        r"(result.json|out.safetensors|out/train_00000.png): cannot be written: No space left",
        refuses="evaluate predict convert",
        during=full_disk,
    ),
    Row(
        "no file may grow beyond 100 kB",
        as_it_is,
        "out.safetensors: cannot be written: .*File too large",
        refuses="convert",
        during=small_files,
    ),
    Row(
        "backend that is not installed",
        as_it_is,
        r"--backend torch: torch_that_nobody_has not installed; install with: pip install '.*torch",
        refuses=RUN,
        during=not_installed,
    ),
    Row(
        "backend that is not installed, for .pth",
        state_dict(),
        f"{PTH}: torch.save needs a framework: --backend torch: .* not installed; install with",
        refuses="convert",
        weights=PTH,
        during=not_installed,
    ),
    Row(
        "MXNet under NumPy 2",
        as_it_is,
        r"--backend mxnet: .*MXNet 1.9.1 needs NumPy 1, here is 2.4.6; install with: pip install",
        "--backend mxnet",
        refuses=RUN,
        during=numpy_2,
    ),
    Row(
        "a process that reads the data is killed",
        as_it_is,
        r"a process that reads the data has ended \(SIGKILL\)",
        "--workers 1",
        stops="train",
        during=worker_killed,
    ),
]
