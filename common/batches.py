"""Training batches: a function of (seed, epoch, index) alone, for any backend and any helpers."""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.config import VOID, Config, Void
from common.dataset import Dataset
from common.errors import InputError
from common.transforms import random_crop


@dataclass(frozen=True)
class Batch:
    """A batch: `image` (N, 3, h, w) float32 normalised, `label` (N, h, w) uint8, and its files."""

    epoch: int
    ends_epoch: bool
    image: NDArray[np.float32]
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


def training_batch(dataset: Dataset, config: Config, step: int) -> Batch:
    """The batch of step `step` (from 0).

    Each epoch visits the images in an order of its own; each image is cropped and flipped by a
    stream of its own, from (seed, epoch, place in the order).

    Raises:
        InputError: an image or a mask cannot be read, or a label is no class.
    """
    per_epoch = steps_per_epoch(dataset, config)
    epoch, index = divmod(step, per_epoch)
    order = np.random.default_rng([config.seed, epoch]).permutation(len(dataset))
    places = range(index * config.batch_size, (index + 1) * config.batch_size)
    images, labels = [], []
    for place in places:
        image, label = dataset.read(int(order[place]))
        if config.void == Void.background:
            label = np.where(label == VOID, 0, label).astype(np.uint8)
        random = np.random.default_rng([config.seed, epoch, place])
        image_crop, label_crop = random_crop(image, label, config, random)
        images.append(image_crop)
        labels.append(label_crop)
    names = tuple(dataset.names[order[place]] for place in places)
    return Batch(epoch, index == per_epoch - 1, np.stack(images), np.stack(labels), names)


def training_batches(dataset: Dataset, config: Config, first_step: int = 0) -> Iterator[Batch]:
    """The batches of the run from `first_step` on, read ahead by `config.workers` threads.

    The bytes do not depend on the number of workers; with 0, each batch is made when it is asked
    for.

    Raises:
        InputError: as `training_batch`, when that batch's turn comes.
    """
    steps = iter(range(first_step, total_steps(dataset, config)))
    if config.workers == 0:
        for step in steps:
            yield training_batch(dataset, config, step)
        return
    pool = ThreadPoolExecutor(config.workers)
    ahead: collections.deque[Future[Batch]] = collections.deque()
    try:
        for step in steps:
            ahead.append(pool.submit(training_batch, dataset, config, step))
            if len(ahead) > config.workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
