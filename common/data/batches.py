"""Training batches: a function of (seed, epoch, index) alone, for any backend and any helpers.

Each of several processes makes its own images of a batch, `config.batch_size / config.processes` in
order, and no others.
"""

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import sys
import types
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.heap import Arena
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import Config
from common.data.augment import random_crop
from common.data.dataset import Dataset
from common.errors import InputError, WorkerError
from common.files import reason_of
from common.machine import keep_pages


@dataclass(frozen=True)
class Batch:
    """A process's share of a batch: `image` (N, h, w, 3) uint8, `label` (N, h, w), its files."""

    epoch: int
    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    names: tuple[str, ...]


def steps_per_epoch(dataset: Dataset, config: Config) -> int:
    """Whole batches in an epoch; what is left over waits for another epoch's order.

    Raises:
        InputError: the split is smaller than a batch.
    """
    if len(dataset) < config.batch_size:
        raise InputError(
            f"{dataset.root}: {len(dataset)} images in {dataset.split},"
            f" --batch-size asks for {config.batch_size}"
        )
    return len(dataset) // config.batch_size


def total_steps(dataset: Dataset, config: Config) -> int:
    """Steps of the whole run: `config.steps`, or `config.epochs` whole epochs."""
    per_epoch = steps_per_epoch(dataset, config)
    return config.epochs * per_epoch if config.steps is None else config.steps


def _pixels(config: Config) -> int:
    """Pixels in a process's share; each has three bytes of image and one of label."""
    return _share(config) * config.crop[0] * config.crop[1]


def _share(config: Config) -> int:
    """How many of a batch's images a process has."""
    return config.batch_size // config.processes


def _arrays(memory: Any, config: Config) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The images and the labels of a share in 4 bytes a pixel of memory."""
    values = np.frombuffer(memory, np.uint8)
    shape = (_share(config), *config.crop)
    images, labels = np.split(values, [3 * _pixels(config)])
    return images.reshape(*shape, 3), labels.reshape(shape)


def _place_of(dataset: Dataset, config: Config, step: int) -> tuple[int, int, NDArray[np.int64]]:
    """The epoch of a step, where the step's batch begins in it, and the epoch's order of images."""
    epoch, index = divmod(step, steps_per_epoch(dataset, config))
    order = np.random.default_rng([config.seed, epoch]).permutation(len(dataset))
    return epoch, index * config.batch_size, order


def batch_names(dataset: Dataset, config: Config, step: int) -> tuple[str, ...]:
    """The images of a step's batch, of all processes' shares."""
    _, first, order = _place_of(dataset, config, step)
    return tuple(dataset.names[k] for k in order[first : first + config.batch_size])


def training_batch(
    dataset: Dataset, config: Config, step: int, rank: int = 0, memory: Any | None = None
) -> Batch:
    """The share of process `rank` of the batch of step `step` (from 0), in new or given memory.

    Each epoch visits the images in an order of its own; each image is scaled, cropped and so on
    by a stream of its own, from (seed, epoch, place in the order).

    Raises:
        InputError: an image or a mask cannot be read, or a label is no class.
    """
    epoch, first, order = _place_of(dataset, config, step)
    first += rank * _share(config)
    places = range(first, first + _share(config))
    images, labels = _arrays(bytearray(4 * _pixels(config)) if memory is None else memory, config)
    for k, place in enumerate(places):
        random = np.random.default_rng([config.seed, epoch, place])
        images[k], labels[k] = random_crop(*dataset.open(order[place]), config, random)
    names = tuple(dataset.names[order[place]] for place in places)
    return Batch(epoch, images, labels, names)


def _work(
    dataset: Dataset, config: Config, rank: int, memory: Arena, pipe: "Connection[Any, Any]"
) -> None:
    """Makes each batch that is asked for in the shared memory, until the other end closes."""
    keep_pages()  # without, page faults cost a third of the time
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            try:
                batch = training_batch(dataset, config, pipe.recv(), rank, memory.buffer)
                pipe.send((batch.epoch, batch.names))
            except InputError as error:
                pipe.send(error)


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Processes that start in here ignore what a run answers to, and import no main module.

    Signals may go to every process of a group; the parent alone answers. Spawning would
    import the main module anew, and so all that a command needs and a worker does not.
    """
    answered = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, answered)
    multiprocessing.resource_tracker.ensure_running()  # starting it unblocks two of them
    signal.pthread_sigmask(signal.SIG_BLOCK, answered)
    main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _shared_memory(size: int) -> Arena:
    """Memory for two processes: in /dev/shm, or where that is too small in a temporary file.

    Raises:
        OSError: there is no room, or none may be taken.
    """
    memory = Arena(size)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        # else who writes where no room is left is ended by SIGBUS
        os.posix_fallocate(memory.fd, 0, size)
    return memory


class _Worker:
    """A process that makes one batch at a time, in memory that it shares with this one.

    Raises:
        OSError: there is no memory to share, or no process more.
    """

    def __init__(self, dataset: Dataset, config: Config, rank: int) -> None:
        # a fork would copy a framework's threads in whatever state they are
        context = multiprocessing.get_context("spawn")
        self._config = config
        self._memory = _shared_memory(4 * _pixels(config))
        self._pipe, theirs = context.Pipe()
        arguments = (dataset, config, rank, self._memory, theirs)
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        with _quiet_start():
            self._process.start()
        theirs.close()  # the process has the only other end, so its death closes the pipe

    def ask(self, step: int) -> None:
        """Has the batch of a step made, over the one before."""
        with contextlib.suppress(ConnectionError):  # `batch` tells
            self._pipe.send(step)

    def batch(self) -> Batch:
        """The batch that was asked for, in memory of its own."""
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise WorkerError(
                f"a process that reads the data has ended ({how}); is there memory enough?"
                " --workers 0 does without"
            ) from None
        if isinstance(answer, InputError):
            raise answer
        epoch, names = answer
        return Batch(epoch, *_arrays(bytearray(self._memory.buffer), self._config), names)

    def close(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def count_workers(config: Config) -> int:
    """How many processes read ahead for each that computes.

    Where several compute, those of all together are no more than the machine's cores.
    """
    if config.processes == 1:
        return config.workers
    return min(config.workers, (os.cpu_count() or 1) // config.processes)


def _start_workers(
    workers: list[_Worker], dataset: Dataset, config: Config, rank: int, steps: range
) -> None:
    """Adds `count_workers` processes, each with a step to make, or as many as there is room for.

    A warning says where there is none for all.
    """
    for step in steps[: count_workers(config)]:
        try:
            workers.append(_Worker(dataset, config, rank))
        except OSError as error:
            told = f"--workers {config.workers}: for no more than {len(workers)}"
            warnings.warn(f"{told}: {reason_of(error)}", stacklevel=2)
            break
        workers[-1].ask(step)


def training_batches(
    dataset: Dataset, config: Config, first_step: int = 0, rank: int = 0
) -> Generator[Batch, None, None]:
    """A process's share of the run's batches from `first_step` on, read ahead by `count_workers`.

    Each of these makes one batch ahead and then waits until it is taken, so that at most
    `config.workers` batches are held besides those that were taken, at 4 bytes a pixel. The
    bytes do not depend on the number of workers; with 0, each batch is made when it is asked for,
    as it is where there is no memory for a worker, which a warning says.

    Raises:
        InputError: as `training_batch`, when that batch's turn comes.
        WorkerError: a worker is gone.
    """
    steps = range(first_step, total_steps(dataset, config))
    workers: list[_Worker] = []
    try:
        _start_workers(workers, dataset, config, rank, steps)
        if not workers:
            keep_pages()
        for k, step in enumerate(steps):
            if not workers:
                yield training_batch(dataset, config, step, rank)
                continue
            worker = workers[k % len(workers)]
            batch = worker.batch()
            if step + len(workers) in steps:
                worker.ask(step + len(workers))
            yield batch
    finally:
        for worker in workers:
            worker.close()
