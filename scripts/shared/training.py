"""A training run on its way: steps, checkpoints, validation, and what asks it to stop."""

import contextlib
import hashlib
import json
import math
import os
import shlex
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import rich.progress

from backends import load_backend
from common.config import Config
from common.data.batches import (
    Batch,
    batch_names,
    steps_per_epoch,
    total_steps,
    training_batches,
)
from common.data.dataset import Dataset, check_split, open_dataset
from common.data.doubts import overlap
from common.errors import InputError, LostError, StoppedError, WorkerError
from common.machine import peak_memory
from common.network.grid import check_batch, check_parts
from common.network.schedule import learning_rates
from common.protocol import Backend, ProcessGroup, Trainer
from common.runs.run_folder import LAST, Checkpoint, RunFolder
from common.weights.checkpoint import Weights
from scripts.shared.cli import Heartbeat, fraction, note, progress, say_now, time_left
from scripts.shared.evaluation import METRICS, check_background, evaluate_dataset

RECENT, SLOW_DATA = 20, 0.05
"""The steps that the status line tells of; the share of their time spent waiting it mentions."""


class Requests:
    """While it is entered, what signals ask for is noted.

    The first SIGINT, SIGTERM or SIGHUP becomes `signal`: the run is to stop. A second one ends the
    process. After SIGUSR1 `save` is true: the run is to save and go on. A signal that is ignored,
    as SIGINT is in a shell's background job and SIGHUP under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.save = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Requests":
        handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self._note)
        for number, handler in (handlers | {signal.SIGUSR1: self._note_save}).items():
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = signal.Signals(number)
        with contextlib.suppress(OSError):  # the terminal is gone
            say_now("\nfinishing the step, then saving; once more stops at once\n")

    def _note_save(self, _number: int, _frame: FrameType | None) -> None:
        self.save = True


class Training:
    """A run on its way: what computes, on which data, into which folder.

    Of several processes each has one, and they stop and save together; only what the first one
    says and writes is seen.

    `seconds` is the time of each step, `waits` the part of it in which the step waited for its
    batch; `metrics` is what was last measured on val, None before. A network that is
    trained already is measured before the first step, too.
    """

    def __init__(
        self,
        backend: str,
        trainer: Trainer,
        train: Dataset,
        val: Dataset | None,
        config: Config,
        folder: RunFolder,
        group: ProcessGroup | None = None,
    ) -> None:
        self.group = group or load_backend(backend).Group()
        self.backend, self.trainer = backend, trainer
        self.train, self.val, self.config = train, val, config
        self.folder = folder
        self.made_by = made_by(backend, config)
        self.steps, self.per_epoch = total_steps(train, config), steps_per_epoch(train, config)
        self.seconds: list[float] = []
        self.waits: list[float] = []
        self.metrics: dict[str, Any] | None = None
        self._saved_step: int | None = None
        self._saved_at = time.monotonic()
        self._heartbeat = Heartbeat()

    def run(self, first: int = 0, stop_after: int | None = None) -> bool:
        """Trains from step `first` to the end, or until `stop_after` steps are done and saved.

        Returns whether the run is at its end.

        Raises:
            StoppedError: a signal asked for it; the run is saved.
            InputError: a file turned bad on the way: the run is saved up to there. Or the loss is
                no longer finite, or the disk is full: the last checkpoint stays as it is.
            WorkerError: a process that reads the data is gone; the run is saved up to there.
            LostError: another process has failed.
        """
        batches = training_batches(self.train, self.config, first, self.group.rank)
        with (
            contextlib.closing(batches),
            progress(f"train {self.backend}") as bar,
            Requests() as requests,
        ):
            task = bar.add_task("", total=self.steps, completed=first, status="")
            if first == 0:
                self._save(0)  # a run that can always go on, and a disk that has room
            self._saved_step = first
            self._validate(first, bar, requests)
            last = self.steps if stop_after is None else min(stop_after, self.steps)
            for step in range(first, last):
                self._step(step, batches)
                bar.update(task, completed=step + 1, status=self.status())
                is_due = self._agree(requests, step + 1)
                asked = requests.signal or requests.save
                if asked or step + 1 == last or is_due:
                    self._save(step + 1)
                self._stop_if_asked(requests, step + 1)
                if requests.save:
                    requests.save = False
                    bar.console.print(f"saved after step {step + 1} of {self.steps}")
                self._validate(step + 1, bar, requests)
                done = f"step {step + 1} of {self.steps}, epoch {step // self.per_epoch + 1}"
                seconds = (self.steps - step - 1) * statistics.median(self.seconds[-RECENT:])
                line = f"{done}:  {self.status()}{time_left(seconds)}"
                self._heartbeat(line, at_once=self._is_end(step + 1))
        return last == self.steps

    def how_to_go_on(self) -> str:
        """The command line for it."""
        return resume_command(self.folder.folder)

    def status(self) -> str:
        """The last loss and rate, the best mean IoU, the speed, and the wait for data if any."""
        last, seconds, waits = self.folder.steps[-1], self.seconds[-RECENT:], self.waits[-RECENT:]
        speed = self.config.batch_size / statistics.median(seconds)
        parts = [f"loss {last['loss']:.4f}", f"lr {last['lr']:.2g}", f"{speed:.1f} images/s"]
        share = sum(waits) / sum(seconds)
        if share > SLOW_DATA:
            parts.append(f"waits for data {share:.0%}")
        if self.folder.best is not None:
            parts.append(f"best IoU {self.folder.best:.3f}")
        return "  ".join(parts)

    def _agree(self, requests: Requests, step: int) -> bool:
        """Lets what one process is asked for be asked of all: they reach this after the same step.

        A signal that another has, and this one not yet, is taken for SIGTERM. Returns whether a
        checkpoint is due, by the first process's clock.
        """
        is_due = self._is_due(step)
        if self.group.size > 1:
            own = [requests.signal is not None, requests.save, is_due and self.group.rank == 0]
            asked, save, due = map(bool, self.group.sum(np.array(own, np.int64)))
            if asked and requests.signal is None:
                requests.signal = signal.SIGTERM
            requests.save, is_due = save, due
        return is_due

    def _next(self, step: int, batches: Iterator[Batch]) -> Batch:
        """The next batch, where each process has its share of it."""
        try:
            batch, fault = next(batches), None
        except (InputError, WorkerError) as error:
            batch, fault = None, error
        faults = self.group.sum(np.array([fault is not None], np.int64))
        if batch is not None and faults[0] == 0:
            return batch
        self._save(step)
        if fault is None:
            raise LostError(f"another process could not go on after step {step}")
        raise type(fault)(f"{fault}; saved after step {step}: {self.how_to_go_on()}") from fault

    def _step(self, step: int, batches: Iterator[Batch]) -> None:
        start = time.perf_counter()
        batch = self._next(step, batches)
        self.waits.append(time.perf_counter() - start)
        rate, head_rate = learning_rates(self.config, step, self.steps)
        loss = self.trainer.step(batch.image, batch.label, rate, head_rate)
        self.seconds.append(time.perf_counter() - start)
        made = self._made_in(self.seconds[-1], self.config.batch_size)
        if not math.isfinite(loss):
            names = ", ".join(batch_names(self.train, self.config, step))
            raise self._diverged(f"step {step}: the loss is {loss} on {names}")
        self.folder.log({"step": step, "epoch": batch.epoch, "loss": loss, "lr": rate} | made)

    def _made_in(self, seconds: float, images: int) -> dict[str, Any]:
        """What a log's line tells of how it came about."""
        return {"backend": self.backend} | _speed(seconds, images)

    def summary(self) -> dict[str, Any]:
        """What computed the run last, and its steps' time and speed, those before a stop too."""
        # a run that an earlier version began has lines without
        timed = [line["seconds"] for line in self.folder.steps if "seconds" in line]
        return self.made_by | _speed(sum(timed), self.config.batch_size * len(timed))

    def _diverged(self, what: str) -> InputError:
        last = f"{self.folder.folder / LAST} is of step {self._saved_step}"
        return InputError(f"{what}; is --lr too high? {last}")

    def _is_due(self, step: int) -> bool:
        """Whether a checkpoint is, after `step` steps."""
        waited = time.monotonic() - self._saved_at
        return self._is_end(step) or waited >= 60 * self.config.save_minutes

    def _is_end(self, step: int) -> bool:
        """Whether an epoch, or the run, ends after `step` steps."""
        return step > 0 and (step == self.steps or step % self.per_epoch == 0)

    def _starts_trained(self) -> bool:
        """Whether the head is more than initial values, whose biases are 0."""
        return bool(self.trainer.weights()["final_conv.bias"].any())

    def _checkpoint(self, step: int) -> Checkpoint:
        arrays, momentum = self.trainer.weights(), self.trainer.momentum()
        for name, array in {**arrays, **momentum}.items():
            if not np.isfinite(array).all():
                raise self._diverged(f"step {step}: {name} holds NaN or infinity")
        config, names = self.config, self.train.class_names
        weights = Weights(arrays, config.architecture, names, config.mean, config.std, momentum)
        epoch, position = divmod(step, self.per_epoch)
        data = data_digest(self.train)
        return Checkpoint(weights, config, step, epoch, position, data, self.made_by)

    def _save(self, step: int) -> None:
        """Writes the last checkpoint, unless it is of this step; all wait until it is there."""
        if self._saved_step != step:
            if self.group.rank == 0:
                self.folder.save(self._checkpoint(step))
            self.group.sum(np.zeros(1))
            self._saved_step, self._saved_at = step, time.monotonic()

    def _validate(self, step: int, bar: rich.progress.Progress, requests: Requests) -> None:
        """Measures val, where the run is at an epoch's end or its own and has not done so yet.

        The checkpoint of this step is there already, so nothing is lost if it ends here.
        """
        wanted = self._is_end(step) or (step == 0 and self._starts_trained())
        if not wanted or (self.folder.val and self.folder.val[-1]["step"] == step):
            return
        if self.val is None:
            self.folder.save_best()
            return
        total, start = len(self.val), time.perf_counter()
        task = bar.add_task("val", total=total, status="val")

        def show(count: int) -> None:
            bar.update(task, completed=count)
            self._heartbeat(f"val after step {step}: {count} of {total}")
            self._stop_if_asked(requests, step)

        try:
            self.metrics = evaluate_dataset(self.trainer, self.val, show, group=self.group)
        finally:
            bar.remove_task(task)
        if self.folder.best is None or (self.metrics["mean_iou"] or 0.0) > self.folder.best:
            self.folder.save_best()
        made = self._made_in(time.perf_counter() - start, total)
        measured = {key: self.metrics[key] for key in METRICS}
        self.folder.log_val(
            {"step": step} | measured | made | {"versions": self.made_by["versions"]}
        )
        if step == 0:
            mean_iou = fraction(self.metrics["mean_iou"])
            bar.console.print(f"val: mean IoU {mean_iou} before the first step")

    def _stop_if_asked(self, requests: Requests, step: int) -> None:
        if requests.signal is not None:
            raise StoppedError(
                f"stopped by {requests.signal.name} after step {step} of {self.steps}, saved:"
                f" {self.how_to_go_on()}",
                128 + requests.signal,
            )


def resume_command(folder: Path) -> str:
    """What goes on with a run, in words."""
    return f"python -m scripts.train --resume {shlex.quote(str(folder))} goes on"


def _speed(seconds: float, images: int) -> dict[str, float]:
    """The time of so many images, their number a second, and this process's most memory in MiB."""
    peak = peak_memory()
    rate = images / seconds if seconds else 0.0
    return {"seconds": seconds, "images_per_second": rate, "peak_mb": peak}


def made_by(backend: str, config: Config) -> dict[str, Any]:
    """What computes; while it is the same, so is each bit of a step."""
    framework: Backend = load_backend(backend)
    return {
        "backend": str(backend),
        "versions": framework.versions(),
        "device": str(framework.select_device(config.device)),
        "threads": framework.threads(),
        "processes": config.processes,
    }


def data_digest(dataset: Dataset) -> str:
    """SHA-256 over the split's names, in order, and the classes: what the batches depend on."""
    text = json.dumps([list(dataset.names), list(dataset.class_names)])
    return hashlib.sha256(text.encode()).hexdigest()


def open_data(folder: Path, config: Config) -> tuple[Dataset, Dataset | None]:
    """The train split and, where there is one, the val split, every file of both checked.

    What is allowed and seldom meant is said.

    Raises:
        InputError: a file or a label is bad, a batch too small, or `--void background` has no
            background to go to.
    """
    train = open_dataset(folder, "train")
    has_val = (train.root / "ImageSets" / "Segmentation" / "val.txt").exists()
    val = open_dataset(folder, "val") if has_val else None
    check_background(train, config.void)
    total_steps(train, config)
    check_parts(config, config.batch_size)
    check_batch(config, config.batch_size // config.parts, *config.crop)
    doubts = []
    for dataset in (train, val):
        if dataset is not None:
            doubts += check_split(dataset)
    if val is not None:
        doubts += overlap(val.split_path, val.names, train.names)
    for doubt in doubts:
        note(doubt)
    return train, val
