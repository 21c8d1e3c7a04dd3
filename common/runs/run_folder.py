"""A run's folder: its config, its logs, its checkpoints; one process at a time writes to it."""

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from common.config import Config
from common.errors import InputError
from common.files import JSON_LIMIT, lock, parse_json, read_bytes, write_whole, writing
from common.weights.checkpoint import Weights, read_weights, write_weights

if TYPE_CHECKING:
    from common.runs.tensorboard import Board

LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"
DAMAGED = "damaged.safetensors"
"""What a checkpoint is called that could not be read, after the run went on without it."""

LOCK = ".lock"

PICTURES = ("curves.png", "confusion.png", "classes.png", "predictions.png")
"""What a run that is done has come to; `metrics.json` tells it in numbers."""

_LOGS = ("log.jsonl", "val.jsonl")
_FILES = (LAST, PREVIOUS, BEST, DAMAGED, LOCK, "config.json", "metrics.json", *_LOGS, *PICTURES)


def run_files(folder: Path) -> list[Path]:
    """The files of a run, be they there or not."""
    return [folder / name for name in _FILES]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a run is after `step` steps, and all that it needs to go on from there.

    `position` is the index of the next batch in epoch `epoch`: with the config, whose seed the
    batches are a function of, all there is to know of the data's order. `data` is
    `data_digest`'s; `made_by` tells what computed the steps (`backend`, `versions`, `device`,
    `threads`).
    """

    weights: Weights
    config: Config
    step: int
    epoch: int
    position: int
    data: str
    made_by: dict[str, Any]

    def write(self, path: Path, previous: Path | None = None) -> None:
        """Writes it whole, proven readable; what was there before keeps the name `previous`.

        Raises:
            InputError: the file cannot be written; what was there is untouched.
        """
        extra = {
            "step": str(self.step),
            "epoch": str(self.epoch),
            "position": str(self.position),
            "data": self.data,
            "config": json.dumps(self.config.to_dict()),
            "backend": str(self.made_by["backend"]),
            "made_by": json.dumps(self.made_by),
        }
        write_weights(path, dataclasses.replace(self.weights, extra=extra), previous)

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """The inverse of `write`.

        Raises:
            InputError: the file is damaged or missing, or holds weights alone.
        """
        weights = read_weights(path)
        try:
            return cls(
                weights,
                Config.from_dict(parse_json(weights.extra["config"])),
                int(weights.extra["step"]),
                int(weights.extra["epoch"]),
                int(weights.extra["position"]),
                weights.extra["data"],
                parse_json(weights.extra["made_by"]),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: no checkpoint that a run can go on from") from error


def _read_lines(path: Path, before: int) -> list[dict[str, Any]]:
    """The lines of a log whose `step` is below `before`; the last may be torn.

    Raises:
        InputError: another one is no line of a log.
    """
    texts = read_bytes(path, JSON_LIMIT).splitlines() if path.exists() else []
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            line = parse_json(text)
            if line["step"] < before:
                lines.append(line)
        except (ValueError, TypeError, KeyError) as error:
            if number < len(texts):
                raise InputError(
                    f"{path}: line {number} is damaged; remove it to go on without"
                ) from error
    return lines


class RunFolder:
    """The folder of one run; from `create` or `lock` until it is left, no other process's.

    `config.json` tells how the run was started and what computed it since when. `log.jsonl` has
    a line a step (`step`, `epoch`, `loss`, `lr`), `val.jsonl` a line for each time the val split
    was measured (`step`: after how many), both with what computed it (`backend`) and how fast
    (`seconds`, `images_per_second`, `peak_mb`), and `tensorboard` the same for TensorBoard.
    `last.safetensors` is where the run goes on from, `previous.safetensors` what it was before,
    `best.safetensors` the checkpoint of the highest mean IoU.

    Raises:
        InputError: any method, of a file that is damaged or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[dict[str, Any]] = []
        self.val: list[dict[str, Any]] = []
        self._lock: IO[str] | None = None
        self._fell_back = False
        self._logs: dict[str, IO[str]] = {}
        self._board: Board | None = None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (*self._logs.values(), self._board, self._lock):
            if file is not None:
                with contextlib.suppress(OSError):  # a full disk: it was said when it was met
                    file.close()

    def check_new(self) -> None:
        """Refuses a folder that holds anything; makes nothing.

        Raises:
            InputError: it does, or is none.
        """
        with writing(self.folder, "cannot be made"):
            if self.folder.exists() and any(p.name != LOCK for p in self.folder.iterdir()):
                raise InputError(f"{self.folder}: is not empty; --out wants a new folder")

    def create(self) -> None:
        """Makes the folder of a new run, and locks it.

        Raises:
            InputError: it cannot be made, holds something, or is another process's.
        """
        with writing(self.folder, "cannot be made"):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.lock()
        self.check_new()

    def lock(self) -> None:
        """Makes the folder this process's own, until it ends, however that comes.

        A file system without locks is said to be one.

        Raises:
            InputError: it cannot be written to, or is another process's.
        """
        with writing(self.folder, "cannot be written to"):
            self._lock = (self.folder / LOCK).open("a+")
        if not lock(self._lock, self.folder):
            self._lock.seek(0)
            process = self._lock.read().strip()
            raise InputError(f"{self.folder}: another run, process {process}, writes there")
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    @property
    def best(self) -> float | None:
        """The highest mean IoU on val so far; None before the first."""
        return max((line["mean_iou"] or 0.0 for line in self.val), default=None)

    def info(self) -> dict[str, Any]:
        """What `config.json` says.

        Raises:
            InputError: there is no run, or its config is damaged.
        """
        path = self.folder / "config.json"
        if not path.exists():
            what = "no run, for it has no config.json" if self.folder.exists() else "no such run"
            raise InputError(f"{self.folder}: {what}")
        data = read_bytes(path, JSON_LIMIT)
        with contextlib.suppress(ValueError, TypeError, KeyError):
            info: dict[str, Any] = parse_json(data)
            if isinstance(info["data"], str) and isinstance(info["history"], list):
                return info
        raise InputError(f"{path}: damaged, or no run's config")

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Writes `config.json`."""
        text = json.dumps(info, indent=2) + "\n"
        write_whole(self.folder / "config.json", lambda path: path.write_text(text))

    def load(self) -> tuple[Checkpoint, str | None]:
        """The last checkpoint, or the one before where that is damaged, and then a word on it.

        Raises:
            InputError: neither can be read.
        """
        last, previous = self.folder / LAST, self.folder / PREVIOUS
        try:
            return Checkpoint.read(last), None
        except InputError as error:
            if not previous.exists():
                raise
            try:
                found = Checkpoint.read(previous)
            except InputError as other:
                raise InputError(f"{error}; and {other}") from other
            self._fell_back = True
            return found, f"{error}; going on from {previous}, of step {found.step}"

    def rewind(self, step: int) -> None:
        """Makes the logs end where `step` steps were done, and clears what a kill left behind.

        A damaged last checkpoint is set aside, so that it never takes the place of the good one.
        """
        ours = [f".{name}.*" for name in (LAST, PREVIOUS, BEST)]
        for pattern in (*ours, ".tmp??????"):  # the last is safetensors' own
            for path in self.folder.glob(pattern):
                path.unlink()
        if self._fell_back and (self.folder / LAST).exists():
            (self.folder / LAST).replace(self.folder / DAMAGED)
        self.read_logs(step)
        for name, lines in (("log", self.steps), ("val", self.val)):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            write_whole(self.folder / f"{name}.jsonl", partial(Path.write_text, data=text))

    def read_logs(self, step: int = sys.maxsize) -> None:
        """Reads `steps` and `val` as far as `step` steps."""
        self.steps = _read_lines(self.folder / "log.jsonl", step)
        self.val = _read_lines(self.folder / "val.jsonl", step + 1)

    def log(self, line: dict[str, Any]) -> None:
        """Adds a step."""
        self.steps.append(line)
        self._append("log", line)
        drawn = {"loss": line["loss"], "rate": line["lr"]}
        drawn["images_per_second"] = line["images_per_second"]
        self._draw("train", drawn, line["step"])

    def log_val(self, line: dict[str, Any]) -> None:
        """Adds a measurement of the val split."""
        self.val.append(line)
        self._append("val", line)
        values = {key: value for key, value in line.items() if isinstance(value, float)}
        self._draw("val", values, line["step"])

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes the last checkpoint, after the logs that lead to it.

        Raises:
            InputError: a value is not finite, or the file cannot be written; the checkpoint
                before is untouched.
        """
        with writing(self.folder / "log.jsonl"):
            for file in self._logs.values():
                os.fsync(file.fileno())
            if self._board is not None:
                self._board.flush()
        checkpoint.write(self.folder / LAST, self.folder / PREVIOUS)

    def save_best(self) -> None:
        """Lets `best` be the checkpoint that the run is at: a second name of it, or a copy.

        `last` is never written in place, so `best` stays what it is.

        Raises:
            InputError: the file cannot be written; the best before is untouched.
        """
        last = self.folder / LAST
        # `rewind` sets a damaged one aside
        source = last if last.exists() else self.folder / PREVIOUS

        def link(path: Path) -> None:
            path.unlink()
            try:
                path.hardlink_to(source)
            except OSError:  # a file system without links
                shutil.copyfile(source, path)

        write_whole(self.folder / BEST, link)

    def _append(self, name: str, line: dict[str, Any]) -> None:
        path = self.folder / f"{name}.jsonl"
        with writing(path):
            if name not in self._logs:
                self._logs[name] = path.open("a")
            self._logs[name].write(json.dumps(line) + "\n")
            self._logs[name].flush()

    def _draw(self, group: str, values: Mapping[str, float], step: int) -> None:
        path = self.folder / "tensorboard"
        with writing(path):
            if self._board is None:
                from common.runs.tensorboard import Board  # here: it takes a while to import

                self._board = Board(path, step)
            self._board.add(group, values, step)


class ReadOnlyFolder(RunFolder):
    """A run's folder to a process that shares the run and is not the first: it writes nothing."""

    def check_new(self) -> None:
        """Leaves it to the first process."""

    create = lock = save_best = check_new

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Leaves it to the first process."""

    def rewind(self, step: int) -> None:
        """Reads the logs alone."""
        self.read_logs(step)

    def save(self, checkpoint: Checkpoint) -> None:
        """Leaves it to the first process."""

    def _append(self, name: str, line: dict[str, Any]) -> None:
        pass

    def _draw(self, group: str, values: Mapping[str, float], step: int) -> None:
        pass
