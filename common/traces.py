"""Traces: every named value of a training run, in canonical names and layouts, in one file."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.checkpoint import FLOAT_TYPES, read_tensors
from common.config import VOID, Config
from common.errors import InputError
from common.names import tensors
from common.protocol import Array, Arrays, Backend, Trainer

FORMAT = {"format": "rosetta-trace", "schema": "1"}
"""Metadata that says what a trace file is."""


@dataclass(frozen=True)
class Batches:
    """Batches to trace: `image` (steps, N, 3, H, W) float, `label` (steps, N, H, W) uint8."""

    image: Array
    label: NDArray[np.uint8]


def generic_batches(
    steps: int, batch_size: int, height: int, width: int, num_classes: int, seed: int
) -> Batches:
    """Random batches, float64, with void spread unevenly over the images.

    Labels come in 8x8 patches; image k of a batch is void in its first k / batch_size rows, and
    a patch in ten is void anywhere.
    """
    random = np.random.default_rng([seed, steps, batch_size, height, width])
    image = random.normal(size=(steps, batch_size, 3, height, width))
    grid = (steps, batch_size, -(-height // 8), -(-width // 8))
    patches = random.integers(0, num_classes, grid)
    patches[random.random(grid) < 0.1] = VOID
    label = patches.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width].astype(np.uint8)
    for k in range(batch_size):
        label[:, k, : height * k // batch_size] = VOID
    return Batches(image, label)


def _batches_fault(arrays: Arrays, num_classes: int, steps: int) -> str | None:
    if missing := {"image", "label"} - arrays.keys():
        return f"has no array {' nor '.join(sorted(missing))}"
    image, label = arrays["image"], arrays["label"]
    if image.ndim != 5 or image.shape[2] != 3:
        return f"image is {image.shape}, not (steps, N, 3, H, W)"
    if image.dtype.name not in FLOAT_TYPES:
        return f"image is {image.dtype}, not float32 or float64"
    if not np.isfinite(image).all():
        return "image holds NaN or infinity"
    if label.shape != image.shape[:2] + image.shape[3:]:
        return f"label is {label.shape}, image {image.shape}"
    if label.dtype != np.uint8:
        return f"label is {label.dtype}, not uint8"
    if not label.size:
        return f"is empty: image is {image.shape}"
    classes = label[label != VOID]
    if classes.size and classes.max() >= num_classes:
        return f"label {classes.max()} is neither one of {num_classes} classes nor {VOID}"
    if not 1 <= steps <= len(image):
        return f"holds {len(image)} batches, --steps asks for {steps}"
    return None


def read_batches(path: Path, num_classes: int, steps: int) -> Batches:
    """The batches of a safetensors file, checked; the first `steps` of them.

    Raises:
        InputError: the file or an array in it is not what `Batches` says, a label is neither a
            class nor 255, or there are fewer batches than `steps`.
    """
    arrays, _ = read_tensors(path)
    fault = _batches_fault(arrays, num_classes, steps)
    if fault:
        raise InputError(f"{path}: {fault}")
    return Batches(arrays["image"][:steps], arrays["label"][:steps])


def _with_prefix(prefix: str, arrays: Arrays) -> Iterator[tuple[str, Array]]:
    return ((f"{prefix}/{name}", array) for name, array in arrays.items())


def make_trace(
    trainer: Trainer,
    batches: Batches,
    config: Config,
    rates: Sequence[float],
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Arrays:
    """Runs a training step for each rate and returns every named value on the way.

    The trainer is fresh, and is trained afterwards. Names: `eval/<layer>` and `eval/mask`, taken
    first; `train/<layer>`, `grad/<weight>`, `update/<weight>`, `buffer/<name>` of the first step;
    `loss` (steps,), before each update; `final/<name>`, `momentum/<weight>` after the last.

    `on_step` is told each step and its loss.
    """
    specs = tensors(config.architecture, config.num_classes)
    image, label = batches.image, batches.label
    before = trainer.weights()
    trace = dict(_with_prefix("eval", trainer.activations(image[0])))
    trace["eval/mask"] = trainer.predict(image[0])
    loss, activations, gradients = trainer.traced_step(image[0], label[0], rates[0])
    losses = [loss]
    on_step(0, loss)
    after = trainer.weights()
    trace.update(_with_prefix("train", activations))
    trace.update(_with_prefix("grad", gradients))
    for name, spec in specs.items():
        if spec.trainable:
            trace[f"update/{name}"] = after[name] - before[name]
        else:
            trace[f"buffer/{name}"] = after[name]
    for step, rate in enumerate(rates[1:], start=1):
        # traced as the first: where a step is compiled, one program is enough
        losses.append(trainer.traced_step(image[step], label[step], rate)[0])
        on_step(step, losses[-1])
    trace["loss"] = np.array(losses, config.dtype)
    trace.update(_with_prefix("final", trainer.weights()))
    trace.update(_with_prefix("momentum", trainer.momentum()))
    return trace


def trace_metadata(name: str, backend: Backend, config: Config, steps: int) -> dict[str, str]:
    """What made a trace: the backend, its versions, the device, the dtype and every setting."""
    settings = ("architecture", "num_classes", "learning_rate", "momentum", "weight_decay")
    values = config.to_dict()
    return FORMAT | {
        "backend": name,
        "versions": json.dumps(backend.versions()),
        "device": str(backend.select_device(config.device)),
        "dtype": config.dtype,
        "steps": str(steps),
        "schedule": config.schedule,
        **{key: str(values[key]) for key in (*settings, "bn_eps", "bn_decay")},
    }
