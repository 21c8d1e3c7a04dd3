"""One candidate, in a process of its own: it computes when it is told to.

`python -m scripts.shared.speed.worker JOB`, JOB being a `Job` as JSON. Once it is built and warm it
says what `measure` found; for each line it reads it takes one turn and says that once more. Between
turns it waits for a line and computes nothing. See `scripts.shared.workers`. Where a candidate is
several processes, each is told to at once, and says what it took itself.
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
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
from common.config import OUTPUT_STRIDE, Config, Device, Dtype, Head
from common.data.augment import normalize
from common.network.initial import initial_weights
from common.protocol import ProcessGroup
from scripts.shared.processes import joined
from scripts.shared.speed.data import endless_batches
from scripts.shared.speed.runtime import predictor
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
Compute = Callable[[NDArray[Any], NDArray[np.uint8]], object]
"""A network's call on a batch, images and labels."""

Turn = Callable[[], contextlib.AbstractContextManager[Call]]
"""A candidate: its turn, once entered, is ready, and gives the call that is timed."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a candidate is to compute.

    `form` is `ours`, the backend, or the name of another head of it; `compiled`, ours by the
    framework's other compiler; `convolutions`, its convolutions alone; `book`, the book's way;
    `bilinear`, that with interpolation for its transposed convolution; `limit`, one matrix product;
    or `onnxruntime`, which predicts by the file `graph`. `mode` is `train`, `eval`, `predict` or
    `data`. `backend` is None in mode `data`, where no framework takes part. `data` is a folder in
    VOC's layout that batches are read from, None for one batch over and over. With `new_size` a
    network also says what another size of images costs.

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
    graph: str | None = None
    new_size: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether it is a whole network of ours."""
        return self.form in ("ours", "apart", "compiled") or self.form in set(Head)

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
    compute = _compute(job, None if job.form == "apart" else group)
    if job.mode == "train" and job.data:
        return functools.partial(_train_with_data, job, compute)
    return _Network(job, compute)


def _compute(job: Job, group: ProcessGroup | None) -> Compute:
    if job.form == "onnxruntime":
        predict = predictor(Path(str(job.graph)))
        return lambda images, _: predict(images)
    trainer = _trainer(job, group)
    if job.mode == "train":
        rate = {"rate": job.config().learning_rate} if job.is_ours else {}
        return functools.partial(trainer.step, **rate)
    call = trainer.logits if job.mode == "eval" else trainer.predict
    return lambda images, _: call(images)


def _trainer(job: Job, group: ProcessGroup | None) -> Any:
    config = job.config()
    if not job.is_ours:
        return _book(job).Trainer(config, bilinear=job.form == "bilinear")
    network = config.architecture, config.num_classes, config.seed
    weights = initial_weights(*network, head=config.head)
    trainer = load_backend(str(job.backend)).Trainer(config, weights, group)
    return _book(job).compiled(trainer) if job.form == "compiled" else trainer


class _Network:
    """Turns on one batch over and over."""

    def __init__(self, job: Job, compute: Compute) -> None:
        self.job, self.compute, self.batch = job, compute, make_batch(job)

    def __call__(self) -> contextlib.AbstractContextManager[Call]:
        return contextlib.nullcontext(lambda: self.compute(*self.batch))

    def new_size_seconds(self) -> float:
        """What a first call on images of another size takes longer than the second."""
        height = self.job.height - OUTPUT_STRIDE or 2 * OUTPUT_STRIDE
        batch = make_batch(dataclasses.replace(self.job, height=height))
        first, second = (_seconds(lambda: self.compute(*batch)) for _ in range(2))
        return first - second


def _seconds(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


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
    return importlib.import_module(f"scripts.shared.speed.{job.backend}")


def _import(job: Job) -> None:
    """Imports what `build` needs."""
    if job.form == "onnxruntime":
        importlib.import_module("onnxruntime")
    elif job.backend is not None:
        load_backend(job.backend)
        if not job.is_ours or job.form == "compiled":
            _book(job)


def _gpu(job: Job) -> tuple[str | None, float]:
    """The GPU's name and the most memory held there, in MB; None and 0 where none computes."""
    if job.device == "cpu":
        return None, 0.0
    name, peak_mb = _book(job).gpu(_device(job))
    return name, float(peak_mb)


def _versions(job: Job) -> dict[str, str]:
    if job.backend is None:
        return {"numpy": np.__version__, "pillow": PIL.__version__}
    if job.form == "onnxruntime":
        return {"onnxruntime": importlib.metadata.version("onnxruntime")}
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
    import_seconds = _seconds(lambda: _import(job))
    with _processes(job) as group:
        begin = time.perf_counter()
        turn = build(job, group)
        parts = {"import_seconds": import_seconds, "build_seconds": time.perf_counter() - begin}
        first = measure(job, turn, 1) | parts
        measure(job, turn, 1)
        if job.new_size and isinstance(turn, _Network):
            first["new_size_seconds"] = turn.new_size_seconds()
        say(first | {"versions": _versions(job), "gpu": _gpu(job)[0]})
        for _ in sys.stdin:
            say(measure(job, turn, job.calls, untimed=1))


def _processes(job: Job) -> contextlib.AbstractContextManager[ProcessGroup | None]:
    if job.processes == 1:
        return contextlib.nullcontext()
    return joined(str(job.backend), job.processes, PATIENCE)


if __name__ == "__main__":
    serve(take_turns)
