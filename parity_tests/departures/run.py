"""Trains the plain network and its departures, one after the other, and measures each."""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends import load_backend
from common.config import VOID, Config, Device
from common.data.batches import total_steps, training_batches
from common.data.dataset import Dataset, open_dataset
from common.data.shapes import SHAPES_TRAIN, SHAPES_VAL, write_shapes
from common.network.initial import initial_weights
from common.network.schedule import learning_rates
from common.protocol import Backend, Trainer
from parity_tests.departures.catalogue import DEPARTURES, PLAIN, Departure
from parity_tests.mutations.apply import patched
from scripts.shared.evaluation import evaluate_dataset
from scripts.shared.sources import code_digest

ROOT = Path(__file__).parents[2]
SOURCES = (
    *(f"backends/torch/{name}.py" for name in ("device", "layers", "loss", "model")),
    *(f"backends/torch/{name}.py" for name in ("optimizer", "train", "upsampling", "weights")),
    *(f"common/network/{name}.py" for name in ("architecture", "bilinear", "grid", "initial")),
    *("common/network/schedule.py", "common/config.py", "common/evaluation/metrics.py"),
    *(f"common/data/{name}.py" for name in ("augment", "batches", "dataset", "images", "shapes")),
    "parity_tests/departures/run.py",
)
"""What the numbers depend on; the departures' own changes are in their digests."""

CONFIG = Config(steps=125, crop=(64, 96), device=Device.cpu, workers=0)
"""The training of `scripts.demo` on smaller crops, without a process that reads ahead."""


@dataclass(frozen=True)
class Plan:
    """How each is trained and measured."""

    seeds: tuple[int, ...] = (0, 1)
    early: int = 50
    """After so many steps the loss is measured."""
    train: int = SHAPES_TRAIN
    val: int = SHAPES_VAL
    config: Config = CONFIG

    def to_dict(self) -> dict[str, Any]:
        """The values for JSON."""
        told = {"seeds": list(self.seeds), "early": self.early}
        told |= {"train": self.train, "val": self.val}
        return told | {"config": self.config.to_dict()}


def about(plan: Plan) -> dict[str, Any]:
    """What results are made of: the sources' code, versions, threads, the plan."""
    backend = load_backend("torch")
    files = {path: code_digest(ROOT / path) for path in sorted(SOURCES)}
    told = {"versions": backend.versions(), "threads": backend.threads()}
    return {"made_of": files, **told, "plan": plan.to_dict()}


def digest(departure: Departure) -> str:
    """Of what a departure changes."""
    change = departure.change()
    told = (sorted(departure.settings.items()), change and change.patches)
    return hashlib.sha256(repr(told).encode()).hexdigest()


def validation_loss(backend: Backend, trainer: Trainer, val: Dataset) -> float | None:
    """The mean cross-entropy of a split's valid pixels, in eval mode; None if it is not finite."""
    total, count = 0.0, 0
    for index in range(len(val)):
        image, label = val.read(index)
        logits = backend.to_numpy(trainer.logits(image[None]))[0].astype(np.float64)
        logits -= logits.max(axis=0)
        losses = np.log(np.exp(logits).sum(axis=0))
        truth = np.where(label == VOID, 0, label)[None]
        losses -= np.take_along_axis(logits, truth, axis=0)[0]
        total += float(losses[label != VOID].sum())
        count += int((label != VOID).sum())
    return total / count if math.isfinite(total) else None


def measure(departure: Departure, plan: Plan, seed: int, data: Path) -> dict[str, float | None]:
    """`loss` on val after `plan.early` steps, `mean_iou` there at the end; None once diverged."""
    train, val = open_dataset(data, "train"), open_dataset(data, "val")
    config = plan.config.replace(
        seed=seed, num_classes=train.num_classes, **dict(departure.settings)
    )
    weights = initial_weights(config.architecture, train.num_classes, seed, width=config.width)
    found: dict[str, float | None] = {"loss": None, "mean_iou": None}
    steps = total_steps(train, config)
    with patched("torch", departure.change()) as backend:
        trainer = backend.Trainer(config, weights)
        for step, batch in enumerate(training_batches(train, config)):
            rates = learning_rates(config, step, steps)
            if not math.isfinite(trainer.step(batch.image, batch.label, *rates)):
                return found
            if step + 1 == plan.early:
                found["loss"] = validation_loss(backend, trainer, val)
        return found | {"mean_iou": evaluate_dataset(trainer, val)["mean_iou"]}


def kept(earlier: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """What of an earlier run's results still holds, by the departure's name."""
    digests = {departure.name: digest(departure) for departure in (PLAIN, *DEPARTURES)}
    return {e["name"]: e for e in earlier if e["digest"] == digests.get(e["name"])}


def run(
    plan: Plan, folder: Path, known: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """An entry each, the plain network's first; what is known is not measured again.

    The data are drawn into the folder, a new one.
    """
    write_shapes(folder, plan.train, plan.val, seed=Config.seed)
    for departure in (PLAIN, *DEPARTURES):
        named = {"name": departure.name, "title": departure.title, "tabs": list(departure.tabs)}
        entry = dict(known.get(departure.name, {}))
        if not entry:
            start = time.monotonic()
            runs = [measure(departure, plan, seed, folder) for seed in plan.seeds]
            entry = {key: [found[key] for found in runs] for key in runs[0]}
            entry |= {"seconds": time.monotonic() - start, "digest": digest(departure)}
        yield named | {key: entry[key] for key in entry if key not in named}
