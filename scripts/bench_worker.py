"""One candidate of `scripts.bench`, in a process of its own: it computes when it is told to.

`python -m scripts.bench_worker JOB`, JOB being a `Job` as JSON. Once it is built and warm it
writes one JSON line; for each line it reads it makes one turn and writes one more. It ends where
its input ends, that is, with its parent. Between turns it waits for a line and computes nothing.
"""

import dataclasses
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends import load_backend
from common.config import Config, Device
from common.initial import initial_weights

CALLS = {"train": 1, "eval": 2}
"""Calls in a turn, by mode: a short turn measures the caches that others have left cold."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a candidate is to compute; `form` is `ours` or `book`, `mode` `train` or `eval`."""

    backend: str
    form: str
    mode: str
    batch_size: int
    height: int
    width: int
    seed: int = 0


def make_batch(job: Job) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Images (N, 3, H, W), as if normalised, and labels (N, H, W) without void, from the seed."""
    random = np.random.default_rng(job.seed)
    shape = (job.batch_size, 3, job.height, job.width)
    images = random.standard_normal(shape, np.float32)
    labels = random.integers(0, Config().num_classes, (shape[0], *shape[2:]), np.uint8)
    return images, labels


def build(job: Job) -> Callable[[], object]:
    """The candidate: a function that makes one training step or one prediction.

    Both forms get the book's settings: its weight decay, no momentum, a constant rate.
    """
    config = Config(
        device=Device.cpu, learning_rate=1e-3, momentum=0.0, weight_decay=1e-3, seed=job.seed
    )
    images, labels = make_batch(job)
    backend = load_backend(job.backend)
    if job.form == "book":
        book = importlib.import_module(f"scripts.book.{job.backend}").Trainer(config)
        if job.mode == "train":
            return lambda: book.step(images, labels)
        return lambda: book.predict(images)
    weights = initial_weights(config.architecture, config.num_classes, config.seed)
    ours = backend.Trainer(config, weights)
    if job.mode == "train":
        return lambda: ours.step(images, labels, config.learning_rate)
    return lambda: ours.predict(images)


def measure(call: Callable[[], object], calls: int) -> dict[str, Any]:
    """Seconds and CPU seconds of one call, the mean of `calls`, and the peak memory in MB."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        result = call()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "seconds": seconds / calls,
        "cpu_seconds": cpu_seconds / calls,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "loss": result if isinstance(result, float) else None,
    }


def main() -> None:
    """Builds, warms up, and takes turns until the input ends."""
    # A framework's own words on standard output would break the conversation.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = Job(**json.loads(sys.argv[1]))
    call = build(job)
    first = measure(call, 1)
    measure(call, 1)
    print(json.dumps(first | {"versions": load_backend(job.backend).versions()}), file=answers)
    for _ in sys.stdin:
        print(json.dumps(measure(call, CALLS[job.mode])), file=answers)


if __name__ == "__main__":
    main()
