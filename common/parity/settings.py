"""Runs of thin networks that show what ordinary data hide: each takes seconds, and says why.

A mistake shows where the data exercise it. Of a batch of two landscapes with five classes one
cannot see that labels beyond 127 overflow, nor that a ReLU's derivative at 0 is another. These are
what `parity --hard` runs, what `data generic --hard` writes, and what the mutations are run on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config import VOID, Config, Dtype, Freeze, Head, Schedule
from common.files import write_new_folder
from common.network.initial import generic_weights
from common.network.schedule import learning_rates
from common.parity.traces import Batches, generic_batches
from common.protocol import Arrays
from common.weights.checkpoint import Weights, default_class_names, write_tensors, write_weights

CONFIG = Config(
    num_classes=5,
    width=8,
    dtype=Dtype.float64,
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=0.01,
    schedule=Schedule.poly,
)
"""Of every setting, but for what it changes. The rate falls in each step."""

STEPS = 4
"""A kept momentum takes part in the second update, and the third loss shows it."""

SMALL, FAINT, BRIGHT, LOUD = 0.01, 1 / 64, 2e3, 150.0
"""A variance, and by what images are fainter, a channel shines, logits are larger."""

_OPTIONS = {
    "dtype": "--dtype",
    "learning_rate": "--lr",
    "momentum": "--momentum",
    "weight_decay": "--weight-decay",
    "schedule": "--schedule",
    "head_rate": "--head-rate",
    "freeze": "--freeze",
    "accumulate": "--accumulate",
}


@dataclass(frozen=True)
class Setting:
    """A thin network, its weights and its batches.

    `batch`: images, height and width. `changes`: what of `CONFIG` is another. `groups`: of the
    values of a trace those that are looked at, all if it is empty: where sums cancel, gradients
    are badly conditioned, and no tolerance would be right for them. `spoil` changes the weights,
    and gives the batches or others.
    """

    name: str
    why: str
    batch: tuple[int, int, int] = (2, 24, 72)
    steps: int = STEPS
    changes: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    spoil: Callable[[Arrays, Batches], Batches] = lambda weights, batches: batches

    @property
    def config(self) -> Config:
        return CONFIG.replace(**self.changes)

    @property
    def rates(self) -> list[tuple[float, float]]:
        """Of each step, the backbone's and the head's."""
        return [learning_rates(self.config, step, self.steps) for step in range(self.steps)]

    def make(self) -> tuple[Arrays, Batches]:
        """Generic weights and batches, float64."""
        config = self.config
        network = config.architecture, config.num_classes
        weights: Arrays = dict(
            generic_weights(*network, seed=3, width=config.width, head=config.head)
        )
        batches = generic_batches(self.steps, *self.batch, config.num_classes, seed=4)
        return weights, self.spoil(weights, batches)

    def holds(self, group: str) -> bool:
        """Whether a group of values, `grad` for one, is looked at."""
        return not self.groups or group in self.groups

    @property
    def options(self) -> list[str]:
        """Those of `trace` that make this run."""
        config, told = self.config, ["--steps", str(self.steps), "--after"]
        for name, option in _OPTIONS.items():
            value = getattr(config, name)
            told += [option, f"{value:g}" if isinstance(value, float) else str(value)]
        return told


def _small_variance(weights: Arrays, batches: Batches) -> Batches:
    """Of one channel of the first norm, so that its eps shows there."""
    weights["backbone.bn1.running_var"][0] = SMALL
    return batches


def _void_part(_: Arrays, batches: Batches) -> Batches:
    """The last two images of the first batch, so that its second part is void."""
    label = batches.label.copy()
    label[0, 2:] = VOID
    return Batches(batches.image, label)


def _void_everywhere(_: Arrays, batches: Batches) -> Batches:
    """The third image, and all of the second batch."""
    label = batches.label.copy()
    label[:, 2] = VOID
    label[1] = VOID
    return Batches(batches.image, label)


def _loud(weights: Arrays, batches: Batches) -> Batches:
    weights["transpose_conv.weight"] *= LOUD
    return batches


def _ties(weights: Arrays, batches: Batches) -> Batches:
    """A norm's channel gives 0 everywhere, another, before the pool, one value; two classes tie."""
    for norm, shift in {"layer4.1.bn1": 0.0, "bn1": 0.7}.items():
        weights[f"backbone.{norm}.weight"][2] = 0.0
        weights[f"backbone.{norm}.bias"][2] = shift
    weights["transpose_conv.weight"][:, [1, 3]] = 0.0
    weights["transpose_conv.bias"][[1, 3]] = 0.25
    return batches


def _faint(weights: Arrays, batches: Batches) -> Batches:
    """Images 64 times fainter, and the first norm's buffers to match."""
    weights["backbone.bn1.running_mean"] *= FAINT
    weights["backbone.bn1.running_var"] *= FAINT**2
    return Batches(batches.image * FAINT, batches.label)


def _large_mean(weights: Arrays, batches: Batches) -> Batches:
    """One channel shines, so that the 1x1 convolution after it, which no padding disturbs, has a
    mean far above its deviation: float64 alone has the digits for that.
    """
    weights["backbone.layer1.1.bn2.bias"][0] = BRIGHT
    return batches


FORWARD = ("eval", "train")

SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting(
            "generic",
            "two landscapes of which 32 divides neither side, void lies unevenly",
            spoil=_small_variance,
        ),
        Setting(
            "portrait",
            "four portraits whose height alone is padded; an image is void, and so is a batch",
            batch=(4, 70, 32),
            spoil=_void_everywhere,
        ),
        Setting("only_width", "landscapes whose width alone is padded", batch=(2, 32, 72)),
        Setting("fcn8s", "the skip connections", changes={"head": Head.fcn8s}),
        Setting("head_rate", "the head learns faster", changes={"head_rate": 1.7}),
        Setting("frozen_norms", "BatchNorm is frozen", changes={"freeze": Freeze.batch_norm}),
        Setting("frozen_backbone", "the head alone learns", changes={"freeze": Freeze.backbone}),
        Setting(
            "many_classes",
            "classes beyond 127",
            changes={"num_classes": 150, "head": Head.fcn8s},  # the smallest last kernel
        ),
        Setting("loud", "logits of 1,000, gradients of norm 1,000", steps=1, spoil=_loud),
        Setting("ties", "a ReLU's input is 0, windows and classes have equals", spoil=_ties),
        Setting("faint", "variances so small that eps matters", groups=FORWARD, spoil=_faint),
        Setting("large_mean", "a mean far above its deviation", groups=FORWARD, spoil=_large_mean),
        Setting("single", "float32", changes={"dtype": Dtype.float32}, groups=FORWARD, steps=1),
        Setting("large", "more than 65,536 valid pixels", batch=(2, 256, 224), steps=1),
        Setting(
            "parts",
            "the batch is computed in two parts, of which one is void",
            batch=(4, 24, 72),
            changes={"accumulate": 2},
            spoil=_void_part,
        ),
        Setting(
            "long",
            "what comes late",
            steps=160,
            changes={"learning_rate": 2e-4},
            groups=("loss", "momentum", "final", "after"),  # one update is little beyond rounding
        ),
    )
}
"""In the order in which they are run: a mistake is named by the first that shows it."""


def names_until(last: Sequence[str]) -> list[str]:
    """The settings up to the last of these."""
    every = list(SETTINGS)
    return every[: max(map(every.index, last)) + 1]


def write_settings(folder: Path) -> None:
    """Writes `<setting>/W.safetensors` and `B.safetensors`, and `settings.json`: what each shows,
    and the options of `trace` that run it. Whole or not at all.

    Raises:
        InputError: `folder` exists and is not an empty folder, or cannot be written.
    """
    write_new_folder(folder, _write_settings)


def _write_settings(folder: Path) -> None:
    for name, setting in SETTINGS.items():
        weights, batches = setting.make()
        architecture, names = Config.architecture, default_class_names(setting.config.num_classes)
        (folder / name).mkdir(parents=True)
        write_weights(folder / name / "W.safetensors", Weights(weights, architecture, names))
        write_tensors(folder / name / "B.safetensors", vars(batches), {})
    about = {name: {"why": s.why, "trace": s.options} for name, s in SETTINGS.items()}
    (folder / "settings.json").write_text(json.dumps(about, indent=2) + "\n")
