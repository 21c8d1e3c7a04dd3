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
from parity_tests.bad_input.trial import RUN, WEIGHTS, Row
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
    """No file grows beyond a megabyte: what a full disk or a quota does to a large one."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


ROWS = [
    Row(
        "run folder that is not empty",
        as_it_is,
        "out: is not empty; --out wants a new folder",
        refuses="train",
        arguments=["--out", "out"],
    ),
    Row(
        "output folder that is a file",
        as_it_is,
        "result.json: cannot be made: (File exists|Not a directory)",
        refuses="train predict",
        arguments=["--out", "result.json"],
    ),
    Row(
        "output folder where nobody may write",
        as_it_is,
        "/sys/run: cannot be made: (Operation not permitted|Permission denied|Read-only file sys)",
        refuses="train predict",
        arguments=["--out", "/sys/run"],
    ),
    Row(
        "output file where nobody may write",
        as_it_is,
        "/sys/x.json: cannot be written: (Operation not perm|Permission denied|Read-only file sys)",
        refuses="evaluate",
        arguments=["--json", "/sys/x.json"],
    ),
    Row(
        "output file in a folder that is not there",
        as_it_is,
        "none/x.json: no such folder: none",
        refuses="train evaluate predict convert",
        arguments=["--json", "none/x.json"],
    ),
    Row(
        "output over the input",
        as_it_is,
        f"{WEIGHTS}: would overwrite the input",
        refuses="convert",
        arguments=["--json", str(WEIGHTS)],
    ),
    Row(
        "disk full",
        as_it_is,
        r"(result.json|out.safetensors|out/train_00000.png): cannot be written: No space left",
        refuses="evaluate predict convert",
        during=full_disk,
    ),
    Row(
        "no file may grow beyond 1 MB",
        as_it_is,
        "out.safetensors: cannot be written: .*File too large",
        refuses="convert",
        during=small_files,
    ),
    Row(
        "batch larger than the set",
        as_it_is,
        "data: 2 images in train, --batch-size asks for 7",
        refuses="train",
        arguments=["--batch-size", "7"],
    ),
    Row(
        "batch of one image of 32x32",
        as_it_is,
        "one image of 32x32 pixels leaves BatchNorm one value a channel",
        refuses="train",
        arguments=["--batch-size", "1", "--crop", "32", "32"],
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
        refuses=RUN,
        arguments=["--backend", "mxnet"],
        during=numpy_2,
    ),
    Row(
        "a process that reads the data is killed",
        as_it_is,
        r"a process that reads the data has ended \(SIGKILL\)",
        stops="train",
        arguments=["--workers", "1"],
        during=worker_killed,
    ),
]
