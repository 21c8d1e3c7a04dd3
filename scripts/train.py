"""Trains the network and keeps a run folder."""

import contextlib
import json
import math
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import rich.progress
import typer

from backends import load_backend
from common.batches import total_steps, training_batches
from common.checkpoint import Weights, read_weights, write_weights, write_whole
from common.config import VOID, Config, Void
from common.dataset import Dataset, check_split, open_dataset
from common.errors import InputError
from common.initial import initial_weights
from common.protocol import Arrays, Backend, Trainer
from common.schedule import learning_rate
from common.transforms import check_batch
from scripts.cli import (
    BackendOption,
    DataOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ScheduleOption,
    console,
    main,
    new_app,
    progress,
    write_json,
)
from scripts.evaluate import check_classes, evaluate_dataset
from scripts.plots import plot_run

app = new_app()

RECENT, SLOW_DATA = 20, 0.05
"""The steps that the status line tells of; the share of their time spent waiting it mentions."""


class Run:
    """A run folder: `config.json`, `log.jsonl`, `val.jsonl`, checkpoints and curves.

    `log.jsonl` has a line a step (`step`, `epoch`, `loss`, `lr`), `val.jsonl` a line for each
    time the val split was measured. `seconds` is the time of each step, `waits` the part of it
    in which the step waited for its batch.
    `last.safetensors` is written at the end of an epoch and of the run, `best.safetensors` when
    the mean IoU is then the highest so far, or without a val split every time.

    Raises:
        InputError: the folder cannot be made, or holds something.
    """

    def __init__(self, folder: Path, config: Config, class_names: tuple[str, ...]) -> None:
        self.folder, self.config, self.class_names = folder, config, class_names
        self.steps: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.waits: list[float] = []
        self.val: list[dict[str, Any]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise InputError(f"{folder}: is not empty; --out wants a new folder")
            self._log = (folder / "log.jsonl").open("w")
        except OSError as error:
            raise InputError(f"{folder}: cannot be made: {error.strerror}") from error

    def log(self, seconds: float, waited: float, **line: Any) -> None:
        """Adds a step to the log, and its times."""
        self.seconds.append(seconds)
        self.waits.append(waited)
        self.steps.append(line)
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()

    def status(self) -> str:
        """The last loss and rate, the speed, and whether the data is what the last steps took."""
        last, seconds, waits = self.steps[-1], self.seconds[-RECENT:], self.waits[-RECENT:]
        speed = self.config.batch_size / statistics.median(seconds)
        text = f"loss {last['loss']:.4f}  lr {last['lr']:.2g}  {speed:.1f} images/s"
        share = sum(waits) / sum(seconds)
        return f"{text}  waits for data {share:.0%}" if share > SLOW_DATA else text

    def checkpoint(self, trainer: Trainer, backend: str, metrics: dict[str, Any] | None) -> None:
        """Writes the last checkpoint, and the best where the metrics say so."""
        step = len(self.steps)
        best = max((line["mean_iou"] or 0 for line in self.val), default=-1)
        names = ["last"]
        if metrics is None or (metrics["mean_iou"] or 0) > best:
            names.append("best")
        if metrics is not None:
            keys = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")
            self.val.append({"step": step} | {key: metrics[key] for key in keys})
            with (self.folder / "val.jsonl").open("a") as file:
                file.write(json.dumps(self.val[-1]) + "\n")
        weights, momentum = trainer.weights(), trainer.momentum()
        for name in names:
            write_weights(
                self.folder / f"{name}.safetensors",
                weights,
                self.config.architecture,
                self.class_names,
                self.config.mean,
                self.config.std,
                momentum,
                step=str(step),
                backend=backend,
                config=json.dumps(self.config.to_dict()),
            )

    def close(self) -> None:
        """Draws the curves and closes the log."""
        self._log.close()
        curves = self.folder / "curves.png"
        write_whole(curves, lambda path: plot_run(path, self.steps, self.val))


def _validate(trainer: Trainer, val: Dataset, config: Config, bar: rich.progress.Progress) -> Any:
    task = bar.add_task("val", total=len(val), status="val")
    try:
        return evaluate_dataset(
            trainer, val, config, lambda count: bar.update(task, completed=count)
        )
    finally:
        bar.remove_task(task)


def run_training(
    backend: str,
    trainer: Trainer,
    train: Dataset,
    val: Dataset | None,
    config: Config,
    run: Run,
) -> dict[str, Any] | None:
    """Trains to the end of the run; returns the last metrics on val, None without one.

    Raises:
        InputError: a file turned bad on the way, or the loss is no longer finite. The last
            checkpoint stays as it is.
        WorkerError: a process that reads the data is gone.
    """
    steps = total_steps(train, config)
    metrics = None
    batches = training_batches(train, config)
    with contextlib.closing(batches), progress(f"train {backend}") as bar:
        task = bar.add_task("", total=steps, status="")
        for step in range(steps):
            start = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - start
            rate = learning_rate(config, step, steps)
            loss = trainer.step(batch.image, batch.label, rate)
            if not math.isfinite(loss):
                files = ", ".join(batch.names)
                raise InputError(f"step {step}: the loss is {loss} on {files}; is --lr too high?")
            seconds = time.perf_counter() - start
            run.log(seconds, waited, step=step, epoch=batch.epoch, loss=loss, lr=rate)
            bar.update(task, completed=step + 1, status=run.status())
            if step + 1 == steps or batch.ends_epoch:
                if val is not None:
                    metrics = _validate(trainer, val, config, bar)
                run.checkpoint(trainer, backend, metrics)
    run.close()
    return metrics


def open_data(folder: Path, config: Config) -> tuple[Dataset, Dataset | None]:
    """The train split and, where there is one, the val split, every file of both checked.

    Raises:
        InputError: a file or a label is bad, a batch too small, or `--void background` has no
            background to go to.
    """
    train = open_dataset(folder, "train")
    has_val = (train.root / "ImageSets" / "Segmentation" / "val.txt").exists()
    val = open_dataset(folder, "val") if has_val else None
    if config.void == Void.background and train.class_names[0] != "background":
        raise InputError(
            f"{folder}: --void background, but class 0 is {train.class_names[0]}, not background"
        )
    total_steps(train, config)
    check_batch(config.batch_size, *config.crop)
    for dataset in (train, val):
        if dataset is not None:
            check_split(dataset)
    return train, val


def start_weights(path: Path | None, config: Config, train: Dataset) -> Weights:
    """What training starts from: a file, or the seed's initial weights.

    Raises:
        InputError: the file is no weights file, or its classes are not the data's.
    """
    if path is None:
        arrays: Arrays = dict(initial_weights(config.architecture, train.num_classes, config.seed))
        return Weights(arrays, config.architecture, train.num_classes, train.class_names)
    weights = read_weights(path)
    check_classes(path, weights, train)
    return weights


def _check_scale(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not 0 < low <= high < math.inf:
        raise typer.BadParameter(f"{low:g} {high:g}: 0 < MIN <= MAX is wanted")
    return value


@app.command()
def train(
    backend: BackendOption,
    data: DataOption,
    out: Annotated[Path, typer.Option(help="The run folder; new or empty.")],
    weights: Annotated[
        Path | None, typer.Option(help="Start from these; otherwise from the seed's initial ones.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = Config.epochs,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps in all, in place of epochs.")
    ] = Config.steps,
    batch_size: Annotated[int, typer.Option(min=1)] = Config.batch_size,
    crop: Annotated[
        tuple[int, int], typer.Option(min=1, metavar="H W", help="Size of a training crop.")
    ] = Config.crop,
    scale: Annotated[
        tuple[float, float],
        typer.Option(
            metavar="MIN MAX",
            callback=_check_scale,
            help="Scale each image by a random factor between these, 0.5 2 for instance.",
        ),
    ] = Config.scale,
    jitter: Annotated[
        float,
        typer.Option(min=0, max=1, help="Vary brightness, contrast and saturation by this share."),
    ] = Config.jitter,
    learning_rate: Annotated[float, typer.Option("--lr", min=0)] = Config.learning_rate,
    momentum: Annotated[float, typer.Option(min=0, max=1)] = Config.momentum,
    weight_decay: Annotated[float, typer.Option(min=0)] = Config.weight_decay,
    schedule: ScheduleOption = Config.schedule,
    void: Annotated[
        Void, typer.Option(help="ignore: void counts nowhere; background: it is class 0.")
    ] = Config.void,
    seed: Annotated[int, typer.Option(min=0)] = Config.seed,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that read ahead; the batches stay the same.")
    ] = Config.workers,
    device: DeviceOption = Config.device,
    dtype: DtypeOption = Config.dtype,
    json_path: JsonOption = None,
) -> None:
    """Train the network; the run folder keeps config, log, checkpoints and curves."""
    config = Config.from_dict(locals())  # the options that are its fields
    train_set, val_set = open_data(data, config)
    start = start_weights(weights, config, train_set)
    config = config.replace(
        architecture=start.architecture,
        num_classes=start.num_classes,
        mean=start.mean,
        std=start.std,
    )
    framework: Backend = load_backend(backend)
    trainer = framework.Trainer(config, start.arrays)
    run = Run(out, config, train_set.class_names)
    config.write(
        out / "config.json",
        backend=backend,
        versions=framework.versions(),
        data=str(data),
        weights=None if weights is None else str(weights),
        class_names=train_set.class_names,
        void_label=VOID,
    )
    metrics = run_training(backend, trainer, train_set, val_set, config, run)
    console.print(f"{out}: {len(run.steps)} steps, loss {run.steps[-1]['loss']:.4f}")
    if metrics is not None:
        console.print(f"val: mean IoU {metrics['mean_iou']:.4f}")
    write_json(json_path, {"steps": run.steps, "val": run.val, "metrics": metrics})


if __name__ == "__main__":
    main(app)
