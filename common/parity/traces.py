"""Traces: every named value of a training run, in canonical names and layouts, in one file."""

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import VOID, Architecture, Config, Dtype, Freeze, Head, float32
from common.errors import InputError
from common.files import naming, parse_json, shortened
from common.network.initial import generic_weights
from common.network.tensors import (
    ARCHITECTURES,
    config_tensors,
    frozen_tensors,
    in_head,
    is_trained,
    layer_names,
    tensors,
)
from common.parity.order import AFTER, group_of
from common.protocol import Array, Arrays, Backend, Probe
from common.weights.checkpoint import (
    FLOAT_TYPES,
    Weights,
    class_count,
    default_class_names,
    read_tensors,
    write_tensors,
    write_weights,
)

TRAINED = ("grad", "update", "momentum")
"""The groups of values that only a weight which is trained has."""

FORMAT = {"format": "rosetta-trace", "schema": "1"}
"""Metadata that says what a trace file is."""


@dataclass(frozen=True)
class Trace:
    """A trace: every named value of a run, and what its file says of itself.

    A trace that holds only some groups of names (`eval`, `train`, `loss`, `grad`, ...) says which,
    joined by commas, in its metadata: `groups`. All others hold everything.
    """

    label: str
    arrays: Mapping[str, Array]
    metadata: Mapping[str, str]

    @property
    def dtype(self) -> str:
        """One of `common.config.Dtype`, as told; else that of the first array of floats."""
        if "dtype" in self.metadata:
            return self.metadata["dtype"]
        kinds = (array.dtype.name for array in self.arrays.values())
        return next((kind for kind in kinds if kind in FLOAT_TYPES), "float64")

    @property
    def steps(self) -> int:
        """How many losses it has."""
        return int(np.size(self.arrays.get("loss", ())))

    @property
    def architecture(self) -> str:
        return self.metadata.get("architecture", ARCHITECTURES[0])

    @property
    def head(self) -> str:
        return self.metadata.get("head", Head.fcn32s)

    @property
    def num_classes(self) -> int:
        return int(self.metadata.get("num_classes") or self.arrays["eval/logits"].shape[1])

    @property
    def network(self) -> str:
        """In words: what two traces that can be compared have in common."""
        return f"{self.architecture} {self.head} with {self.num_classes} classes"

    @property
    def versions(self) -> dict[str, str]:
        """The version of each package; empty where the trace tells none."""
        try:
            told = parse_json(self.metadata.get("versions", "{}"))
        except ValueError:
            return {}
        return {str(k): str(v) for k, v in told.items()} if isinstance(told, dict) else {}

    def _number(self, key: str, missing: str = "none") -> float | None:
        """What the metadata tell, or `missing`; None where that is no finite number."""
        try:
            value = float(self.metadata.get(key, missing))
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    def learning_rate(self, name: str) -> float | None:
        """A tensor's, of the first step, a float32 value; None where the trace tells none."""
        rate, multiple = self._number("learning_rate"), self._number("head_rate", "1")
        if rate is None or multiple is None:
            return None
        return float32(rate * (multiple if in_head(name) else 1))

    @property
    def weight_decay(self) -> float | None:
        """A float32 value; None where the trace tells none."""
        decay = self._number("weight_decay")
        return None if decay is None else float32(decay)

    @functools.cached_property
    def frozen(self) -> frozenset[str]:
        """Values that a run does not have whose weights are frozen."""
        freeze = Freeze(self.metadata.get("freeze", Freeze.none))
        specs = tensors(self.architecture, self.num_classes, head=self.head).values()
        names = [spec.name for spec in specs if not is_trained(spec, freeze)]
        return frozenset(f"{group}/{name}" for group in TRAINED for name in names)

    def holds(self, name: str) -> bool:
        """Whether a value belongs to what is trained, and to the groups that it says it holds."""
        groups = self.metadata.get("groups")
        if name in self.frozen:
            return False
        if name in AFTER:
            return name in self.arrays
        if groups is None:
            return True
        if name.startswith("loss[") and int(name[5:-1]) >= self.steps:
            return False
        return group_of(name) in {group.strip() for group in groups.split(",")}

    def describe(self) -> dict[str, Any]:
        """Label, versions and settings, for a report."""
        told = {k: v for k, v in self.metadata.items() if k not in ("versions", *FORMAT)}
        return {"label": self.label, **told, "versions": self.versions}


def _trace_fault(arrays: Arrays, metadata: Mapping[str, str]) -> str | None:
    if metadata.get("format") != FORMAT["format"]:
        return f"not a trace: its metadata lack format={FORMAT['format']}"
    if metadata.get("schema") != FORMAT["schema"]:
        told = metadata.get("schema", "none")
        return f"a trace of schema {told}; this program reads schema 1, and 2 of any network"
    architecture = metadata.get("architecture", ARCHITECTURES[0])
    if architecture not in ARCHITECTURES:
        return f"architecture {architecture!r} is unknown, have {', '.join(ARCHITECTURES)}"
    for key, kind in {"dtype": Dtype, "head": Head, "freeze": Freeze}.items():
        if key in metadata and metadata[key] not in set(kind):
            return f"{key} {metadata[key]!r} is unknown, have {', '.join(kind)}"
    if not arrays:
        return "holds no arrays"
    if "num_classes" not in metadata and arrays.get("eval/logits", np.zeros(0)).ndim != 4:
        return "does not tell num_classes and has no eval/logits (N, classes, H, W)"
    classes = metadata.get("num_classes", "1")
    if class_count(classes) is None:
        return f"num_classes {shortened(classes)} is not a number of classes, 1 to {VOID}"
    if "loss" in arrays and arrays["loss"].ndim != 1:
        return f"loss is {arrays['loss'].shape}, not (steps,)"
    return None


def read_trace(path: Path) -> Trace:
    """A trace file, labelled by its name.

    Raises:
        InputError: it cannot be read, is no trace, or is one of another schema.
    """
    return trace_of(path, *read_tensors(path))


def trace_of(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> Trace:
    """A trace of what a file holds.

    Raises:
        InputError: it is no trace, or is one of another schema.
    """
    fault = _trace_fault(arrays, metadata)
    if fault:
        raise InputError(f"{path}: {fault}")
    return Trace(path.stem, arrays, metadata)


def map_tensors(path: Path) -> tuple[Arrays, dict[str, str]]:
    """As `read_tensors`, but the arrays stay in the file, and can't be written to.

    However many files are open so, the system keeps of them in memory what there is room for.

    Raises:
        InputError: as `read_tensors`.
    """
    arrays, metadata = read_tensors(path)  # whole, once: it is checked
    with naming(path):
        content = np.memmap(path, np.uint8, "r").view(np.ndarray)
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = parse_json(content[8:start].tobytes())
        for name, array in arrays.items():
            begin, end = (start + offset for offset in header[name]["data_offsets"])
            arrays[name] = content[begin:end].view(array.dtype).reshape(array.shape)
    return arrays, metadata


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


def write_generic(
    weights: Path,
    batches: Path,
    architecture: str,
    steps: int,
    batch_size: int,
    size: tuple[int, int],
    seed: int,
    num_classes: int = Config.num_classes,
    width: int = Config.width,
    head: str = Config.head,
) -> None:
    """Writes what traces are made from: generic weights and generic batches.

    All values are float32, so that runs of either dtype start from the same numbers.

    Raises:
        InputError: a file cannot be written.
    """
    arrays = generic_weights(architecture, num_classes, seed, width, head)
    single = {name: array.astype(np.float32) for name, array in arrays.items()}
    names = default_class_names(num_classes)
    write_weights(weights, Weights(single, Architecture(architecture), names))
    data = generic_batches(steps, batch_size, *size, num_classes, seed)
    write_tensors(batches, {"image": data.image.astype(np.float32), "label": data.label}, {})


def _batches_fault(arrays: Arrays, num_classes: int, steps: int, accumulate: int) -> str | None:
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
    if image.shape[1] % accumulate:
        return f"holds batches of {image.shape[1]} images, --accumulate asks for {accumulate} parts"
    if not 1 <= steps <= len(image):
        return f"holds {len(image)} batches, --steps asks for {steps}"
    return None


def read_batches(path: Path, num_classes: int, steps: int, accumulate: int = 1) -> Batches:
    """The batches of a safetensors file, checked; the first `steps` of them.

    Raises:
        InputError: the file or an array in it is not what `Batches` says, a label is neither a
            class nor 255, there are fewer batches than `steps`, or they cannot be cut into
            `accumulate` equal parts.
    """
    arrays, _ = read_tensors(path)
    fault = _batches_fault(arrays, num_classes, steps, accumulate)
    if fault:
        raise InputError(f"{path}: {fault}")
    return Batches(arrays["image"][:steps], arrays["label"][:steps])


def make_trace(
    probe: Probe,
    batches: Batches,
    config: Config,
    rates: Sequence[tuple[float, float]],
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    *,
    after: bool = False,
) -> Arrays:
    """Runs a training step for each pair of rates (`learning_rates`): every value on the way.

    The probe's trainer is fresh, and is trained afterwards. Names: `eval/<layer>` and `eval/mask`,
    taken first; `train/<layer>`, `grad/<weight>`, `update/<weight>`, `buffer/<name>` of the first
    step; `loss` (steps,), before each update; `final/<name>`, `momentum/<weight>` after the last.
    With `after` also `after/logits` and `after/mask`: the first batch, evaluated at the end.

    `on_step` is told each step and its loss.
    """
    specs = config_tensors(config)
    layers, frozen = layer_names(config.architecture, config.head), frozen_tensors(config)
    trainer = probe.trainer
    before = trainer.weights()
    activations = probe.activations(batches.image[0])
    trace = {f"eval/{name}": activations[name] for name in layers}
    trace["eval/mask"] = trainer.predict(batches.image[0])
    losses = []
    for step, pair in enumerate(rates):
        # all are traced as the first: where a step is compiled, one program is enough
        image, label = batches.image[step], batches.label[step]
        loss, activations, gradients = probe.traced_step(image, label, *pair)
        losses.append(loss)
        on_step(step, loss)
        if step == 0:
            weights = trainer.weights()
            trace |= {f"train/{name}": activations[name] for name in layers}
            trace |= {f"grad/{name}": array for name, array in gradients.items()}
            for name, spec in specs.items():
                if spec.trainable and name not in frozen:
                    trace[f"update/{name}"] = weights[name] - before[name]
                elif not spec.trainable:
                    trace[f"buffer/{name}"] = weights[name]
    trace["loss"] = np.array(losses, config.dtype.storage)
    trace |= {f"final/{name}": array for name, array in trainer.weights().items()}
    trace |= {f"momentum/{name}": array for name, array in trainer.momentum().items()}
    if after:
        # the class map first, as a training loop would: nothing has left train mode before
        trace["after/mask"] = trainer.predict(batches.image[0])
        trace["after/logits"] = probe.activations(batches.image[0])["logits"]
    return trace


def weights_size(config: Config) -> int:
    """The bytes of a trace without its layers, whose values are as many as the images are large."""
    specs, frozen = config_tensors(config), frozen_tensors(config)
    values = 0
    for name, spec in specs.items():
        groups = ["final"]
        if not spec.trainable:
            groups += ["buffer"]
        elif name not in frozen:
            groups += TRAINED
        values += len(groups) * math.prod(spec.shape)
    return values * np.dtype(config.dtype.storage).itemsize


def trace_metadata(name: str, backend: Backend, config: Config, steps: int) -> dict[str, str]:
    """What made a trace: the backend, its versions, the device, the dtype and every setting."""
    settings = (
        *("architecture", "head", "num_classes", "accumulate"),
        *("learning_rate", "head_rate", "freeze"),
    )
    values = config.to_dict()
    device = str(backend.select_device(config.device))  # every framework's own name for it
    return FORMAT | {
        "backend": name,
        "versions": json.dumps(backend.versions()),
        "device": "cpu" if "cpu" in device.lower() else device,
        "dtype": config.dtype,
        "steps": str(steps),
        "schedule": config.schedule,
        **{key: str(values[key]) for key in settings},
        **{key: str(values[key]) for key in ("momentum", "weight_decay", "bn_eps", "bn_decay")},
    }
