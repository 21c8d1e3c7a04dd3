"""One candidate of `scripts.bench`, in a process of its own: it computes when it is told to.

`python -m scripts.bench.worker JOB`, JOB being a `Job` as JSON. Once it is built and warm it
says what `measure` found; for each line it reads it takes one turn and says that once more. Between
turns it waits for a line and computes nothing. See `scripts.shared.workers`. Where a candidate is
several processes, each is told to at once, and says what it took itself.
"""

import contextlib
import dataclasses
import functools
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from backends import load_backend
from common.config import Config, Device, Dtype, Head
from common.data.augment import normalize
from common.network.initial import initial_weights
from common.protocol import ProcessGroup
from scripts.bench.data import endless_batches
from scripts.shared.processes import joined
from scripts.shared.workers import Say, keep_to_cores, serve

CALLS = {"train": 1, "eval": 2, "predict": 2, "data": 2}
"""Calls in a turn, by mode. Where a call is short, one alone would measure little more than caches
that the other candidates have left cold."""

CALLS_WITH_DATA = 4
"""Calls in a turn where batches are read ahead, so that most are read while it lasts."""

SIDE = {"cpu": 3000, "gpu": 8192}
"""The matrices of the form `limit`, by device: as large as a device needs to be at full speed."""

PATIENCE = 120.0
"""Seconds that processes wait for one another, each of which may compile meanwhile."""

Call = Callable[[], object]
Turn = Callable[[], contextlib.AbstractContextManager[Call]]
"""A candidate: its turn, once entered, is ready, and gives the call that is timed."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a candidate is to compute.

    `form` is `ours`, the backend, or the name of another head of it; `convolutions`, its
    convolutions alone; `book`, the book's way; `bilinear`, that with interpolation for its
    transposed convolution; or `limit`, one matrix product. `mode` is one of `scripts.bench`'s.
    `backend` is None in mode `data`, where no framework takes part. `data` is a folder in VOC's
    layout that batches are read from, None for one batch over and over.

    Of several `processes`, which share each batch, this one is `rank`. In the form `apart` they
    sum nothing over one another, in all else it is `ours`; `sum` is what is left out there: the
    engine's sum of as many numbers as there are gradients. `threads` are a process's; None: as
    many as it may have.
    """

    backend: str | None
    form: str
    mode: str
    batch_size: int
    height: int
    width: int
    dtype: str = "float32"
    device: str = "cpu"
    data: str | None = None
    processes: int = 1
    rank: int = 0
    threads: int | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it is a whole network of ours."""
        return self.form in ("ours", "apart") or self.form in set(Head)

    @property
    def calls(self) -> int:
        """Calls in a turn."""
        if self.form == "limit":
            return 1
        return CALLS_WITH_DATA if self.mode == "train" and self.data else CALLS[self.mode]

    def config(self) -> Config:
        """The book's settings, for every form: its weight decay, no momentum, a constant rate."""
        return Config(
            head=Head(self.form) if self.form in set(Head) else Config.head,
            dtype=Dtype(self.dtype),
            device=Device(self.device),
            learning_rate=1e-3,
            momentum=0.0,
            weight_decay=1e-3,
            batch_size=self.batch_size,
            processes=self.processes,
            crop=(self.height, self.width),
        )


def make_batch(job: Job) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """A process's images and labels (N, H, W) without void, the same for all.

    Ours are pictures (N, H, W, 3) uint8; the book's the same ones as its dataset gives them,
    (N, 3, H, W) float32, normalised on the host.
    """
    random = np.random.default_rng(Config.seed)
    shape = (job.batch_size // job.processes, job.height, job.width)
    pictures = random.integers(0, 256, (*shape, 3), np.uint8)
    labels = random.integers(0, Config.num_classes, shape, np.uint8)
    if job.is_ours:
        return pictures, labels
    return np.stack([normalize(picture, job.config()) for picture in pictures]), labels


def build(job: Job, group: ProcessGroup | None = None) -> Turn:
    """The candidate; `group` are its processes, if there are several.

    Raises:
        InputError: the device or the data cannot be had.
    """
    if job.mode == "data":
        batches = _batches(job, workers=0)
        return lambda: contextlib.nullcontext(lambda: next(batches))
    if job.form == "limit":
        multiply = _book(job).product(SIDE[job.device], job.dtype, _device(job))
        return lambda: contextlib.nullcontext(multiply)
    if job.form == "convolutions":
        alone = _book(job).Convolutions(job.config())
        compute = alone.gradients if job.mode == "train" else alone.forward
        return lambda: contextlib.nullcontext(compute)
    if job.form == "sum":
        add_up = _book(job).gradient_sum(job.config(), group)
        return lambda: contextlib.nullcontext(add_up)
    return _network(job, None if job.form == "apart" else group)


def _network(job: Job, group: ProcessGroup | None) -> Turn:
    config = job.config()
    if job.is_ours:
        network = config.architecture, config.num_classes, config.seed
        weights = initial_weights(*network, head=config.head)
        trainer: Any = load_backend(str(job.backend)).Trainer(config, weights, group)
        step = functools.partial(trainer.step, rate=config.learning_rate)
    else:
        trainer = _book(job).Trainer(config, bilinear=job.form == "bilinear")
        step = trainer.step
    if job.mode == "train" and job.data:
        return functools.partial(_train_with_data, job, step)
    images, labels = make_batch(job)
    calls: dict[str, Call] = {
        "train": lambda: step(images, labels),
        "eval": lambda: trainer.logits(images),
        "predict": lambda: trainer.predict(images),
    }
    return lambda: contextlib.nullcontext(calls[job.mode])


@contextlib.contextmanager
def _train_with_data(job: Job, step: Callable[..., object]) -> Iterator[Call]:
    """Steps on fresh batches. Reading ahead starts and ends with the turn.

    So it takes nothing from the other candidates. The first batch is made before the clock starts,
    for a run waits once for its first batch, not once a turn.
    """
    with contextlib.closing(_batches(job, Config.workers)) as batches:
        next(batches)
        yield lambda: step(*next(batches))


def _batches(job: Job, workers: int) -> Any:
    return endless_batches(job.form, Path(str(job.data)), job.config().replace(workers=workers))


def _device(job: Job) -> Any:
    return load_backend(str(job.backend)).select_device(job.device)


def _book(job: Job) -> Any:
    return importlib.import_module(f"scripts.bench.{job.backend}")


def _gpu(job: Job) -> tuple[str | None, float]:
    """The GPU's name and the most memory held there, in MB; None and 0 where none computes."""
    if job.backend is None or job.device == "cpu":
        return None, 0.0
    name, peak_mb = _book(job).gpu(_device(job))
    return name, float(peak_mb)


def _versions(job: Job) -> dict[str, str]:
    if job.backend is None:
        return {"numpy": np.__version__, "pillow": PIL.__version__}
    return load_backend(job.backend).versions()


def _cpu_seconds() -> float:
    """Of this process, and of those that read ahead for it."""
    seconds = time.process_time()
    for child in multiprocessing.active_children():
        after_name = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += sum(map(int, after_name[11:13])) / os.sysconf("SC_CLK_TCK")
    return seconds


def _peak_mb(job: Job) -> float:
    """The most memory held so far: on the device, or resident on the host.

    On the host, the peaks of the processes that read ahead are added to that of this one.
    """
    gpu, peak_mb = _gpu(job)
    if gpu:
        return peak_mb
    kilobytes = 0
    for pid in ("self", *(child.pid for child in multiprocessing.active_children())):
        # ru_maxrss would begin with what the process held that started this one
        status = Path(f"/proc/{pid}/status").read_text()
        kilobytes += int(status.partition("VmHWM:")[2].split()[0])
    return kilobytes / 1024


def measure(job: Job, turn: Turn, calls: int, untimed: int = 0) -> dict[str, Any]:
    """Seconds and CPU seconds of one call, the mean of `calls`, and the peak memory in MB.

    The `untimed` calls come first: they bring back to caches and memory what the other
    candidates, and a system that reclaims the pages of who waits, have driven out.
    """
    with turn() as call:
        for _ in range(untimed):
            call()
        cpu, wall = _cpu_seconds(), time.perf_counter()
        for _ in range(calls):
            call()
        seconds, cpu_seconds = time.perf_counter() - wall, _cpu_seconds() - cpu
        return {
            "seconds": seconds / calls,
            "cpu_seconds": cpu_seconds / calls,
            "peak_mb": _peak_mb(job),
        }


def take_turns(work: dict[str, Any], say: Say) -> None:
    """Builds, warms up, and takes turns until the input ends.

    Raises:
        InputError: as `build`, or a picture cannot be read.
    """
    job = Job(**work)
    keep_to_cores(int(os.environ["OMP_NUM_THREADS"]), job.rank)
    with _processes(job) as group:
        turn = build(job, group)
        first = measure(job, turn, 1)
        measure(job, turn, 1)
        say(first | {"versions": _versions(job), "gpu": _gpu(job)[0]})
        for _ in sys.stdin:
            say(measure(job, turn, job.calls, untimed=1))


def _processes(job: Job) -> contextlib.AbstractContextManager[ProcessGroup | None]:
    if job.processes == 1:
        return contextlib.nullcontext()
    return joined(str(job.backend), job.processes, PATIENCE)


if __name__ == "__main__":
    serve(take_turns)
