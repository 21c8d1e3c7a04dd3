"""One run of `scripts.parity`, in a process of its own: one framework, dtype and thread count.

`python -m scripts.parity.worker JOB`, JOB being a `Job` as JSON: see `scripts.shared.workers`. Says
how far it is, and leaves its results as safetensors files in the job's folder.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends import load_backend
from common.config import VOID, Config, Device, Dtype, Schedule
from common.files import sha256
from common.machine import peak_memory
from common.network.grid import pad_images
from common.network.schedule import learning_rates
from common.network.tensors import layer_sources
from common.parity.traces import Batches, make_trace, read_batches, trace_metadata
from common.protocol import Array, Arrays, Probe
from common.weights.checkpoint import read_tensors, read_weights, write_tensors
from scripts.shared.evaluation import config_of
from scripts.shared.workers import Say, keep_to_cores, serve


@dataclasses.dataclass(frozen=True)
class Job:
    """What to run and where to leave it.

    `folder` gets `trace.safetensors`, the first `steps` of a run of `of_steps`;
    `probe<k>.safetensors`, the first step on each of the first `probes` batches;
    `layers.safetensors`, each layer alone on what `layer_inputs` holds. That file is made first if
    `makes_inputs`. `reversed_batch`: the images of a probe in reverse order, which changes nothing
    but the order of sums.
    """

    backend: str
    architecture: str
    head: str
    dtype: str
    folder: str
    weights: str
    batches: str
    settings: dict[str, Any]
    steps: int = 0
    of_steps: int = 0
    probes: int = 0
    layer_inputs: str | None = None
    makes_inputs: bool = False
    reversed_batch: bool = False

    @property
    def layers(self) -> dict[str, tuple[str, ...]]:
        return layer_sources(self.architecture, self.head)

    @property
    def turns(self) -> int:
        """How many times the worker says that something is done."""
        layers = len(self.layers) if self.layer_inputs else 0
        return self.steps + self.probes + layers


def loss_gradient(logits: Array, labels: NDArray[np.uint8]) -> Array:
    """The loss's gradient by the logits: (softmax - one-hot) over the number of valid pixels."""
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    gradient: Array = exponent / exponent.sum(axis=1, keepdims=True)
    gradient -= np.arange(logits.shape[1])[:, None, None] == labels[:, None]
    valid = labels != VOID
    gradient *= valid[:, None] / max(int(valid.sum()), 1)
    return gradient


def layer_inputs(
    probe: Probe,
    layers: Mapping[str, Sequence[str]],
    images: Array,
    labels: NDArray[np.uint8],
) -> Arrays:
    """`<layer>/x <source>`, what goes into each layer, and `<layer>/gradient`, what comes back.

    `layers` are in order, with what each is made of. Of the batch on its padded grid, in train
    mode, rounded to float32, so that runs of either dtype start from the same numbers.
    """
    images = pad_images(images)
    rows, columns = np.subtract(images.shape[2:], labels.shape[1:])
    labels = np.pad(labels, ((0, 0), (0, rows), (0, columns)), constant_values=VOID)
    _, activations, _ = probe.traced_step(images, labels, 0.0)  # a rate of 0 leaves the weights
    outputs = activations | {"image": images}
    gradients: Arrays = {"logits": loss_gradient(outputs["logits"], labels)}
    found: Arrays = {}
    for name, sources in reversed(list(layers.items())):
        inputs, gradient = [outputs[source] for source in sources], gradients[name]
        found |= {f"{name}/x {source}": outputs[source] for source in sources}
        found[f"{name}/gradient"] = gradient
        _, by_input, _ = probe.layer(name, inputs, gradient)
        for source, more in zip(sources, by_input, strict=True):
            gradients[source] = gradients[source] + more if source in gradients else more
    return {name: array.astype(np.float32) for name, array in found.items()}


def alone(probe: Probe, layers: Mapping[str, Sequence[str]], inputs: Arrays, say: Say) -> Arrays:
    """Each layer by itself: `<layer>/output`, `<layer>/by <source>`, `<layer>/by <weight>`."""
    found: Arrays = {}
    for name, sources in layers.items():
        x = [inputs[f"{name}/x {source}"] for source in sources]
        output, by_input, by_weight = probe.layer(name, x, inputs[f"{name}/gradient"])
        found[f"{name}/output"] = output
        found |= {f"{name}/by {source}": a for source, a in zip(sources, by_input, strict=True)}
        found |= {f"{name}/by {weight}": array for weight, array in by_weight.items()}
        say(f"{name} alone")
    return found


def first_step(probe: Probe, batches: Batches, k: int, *, backward: bool) -> Arrays:
    """The first step on batch k: every activation in train mode and every gradient."""
    order = slice(None, None, -1) if backward else slice(None)
    image, label = batches.image[k][order], batches.label[k][order]
    _, activations, gradients = probe.traced_step(image, label, 0.0)
    found = {f"train/{name}": array[order] for name, array in activations.items()}
    return found | {f"grad/{name}": array for name, array in gradients.items()}


def run(job: Job, say: Say) -> None:
    """Does the job; a new trainer for each part, since all start from the same weights."""
    folder = Path(job.folder)
    start = read_weights(Path(job.weights))
    batches = read_batches(Path(job.batches), start.num_classes, max(job.steps, job.probes, 1))
    usual = Config(dtype=Dtype(job.dtype), device=Device.cpu, schedule=Schedule.poly)
    config = config_of(start, usual.replace(**job.settings))
    backend = load_backend(job.backend)

    def probe() -> Probe:
        return backend.Probe(backend.Trainer(config, start.arrays))

    metadata = trace_metadata(job.backend, backend, config, job.steps) | {
        "weights_sha256": sha256(Path(job.weights)),
        "batches_sha256": sha256(Path(job.batches)),
        "threads": os.environ["OMP_NUM_THREADS"],
    }
    if job.layer_inputs:
        layers, path = job.layers, Path(job.layer_inputs)
        if job.makes_inputs:
            made = layer_inputs(probe(), layers, batches.image[0], batches.label[0])
            write_tensors(path, made, {})
        inputs, _ = read_tensors(path)
        write_tensors(folder / "layers.safetensors", alone(probe(), layers, inputs, say), {})
    for k in range(job.probes):
        found = first_step(probe(), batches, k, backward=job.reversed_batch)
        partial = metadata | {"groups": "train,grad"}
        write_tensors(folder / f"probe{k}.safetensors", found, partial)
        say(f"batch {k}")
    if job.steps:
        rates = [learning_rates(config, step, job.of_steps) for step in range(job.steps)]
        arrays = make_trace(
            probe(), batches, config, rates, lambda step, loss: say(f"loss {loss:.6f}")
        )
        write_tensors(folder / "trace.safetensors", arrays, metadata)


def work(job: dict[str, Any], say: Say) -> None:
    """Does the job, and says last how many MiB of memory it held at most."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    if job["backend"] == "jax" and threads > 1:
        keep_to_cores(threads)
    run(Job(**job), say)
    say(peak_memory())


if __name__ == "__main__":
    serve(work)
