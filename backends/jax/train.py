"""JAX: a training step, and the network on whole images."""

import contextlib
import functools
import os
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from backends.jax.device import images_to_device, select_device, to_device, to_numpy
from backends.jax.loss import cross_entropy
from backends.jax.model import FCN, build_model
from backends.jax.optimizer import build_optimizer, export_momentum, import_momentum
from backends.jax.processes import Group
from backends.jax.weights import export_weights, freeze_tensors, import_weights
from common.config import Config, Dtype
from common.machine import cpu_info
from common.network.grid import image_size, label_cells, parts_of, valid_pixels
from common.network.tensors import frozen_tensors, in_head

Array = NDArray[Any]

# differs: a compiled function is pure. It takes the model apart into its structure,
# known at compilation, and its arrays, puts it together inside, and returns what changed. It is
# compiled once for each structure and padded size, whatever trainer calls it.


@functools.partial(jax.jit, static_argnames="structure")
def _logits(structure: nnx.GraphDef, state: nnx.State, images: jax.Array) -> jax.Array:
    logits: jax.Array = nnx.merge(structure, state)(images)
    return logits


@functools.partial(jax.jit, static_argnames="structure")
def _classes(structure: nnx.GraphDef, state: nnx.State, images: jax.Array) -> jax.Array:
    model = nnx.merge(structure, state)
    cells = model.transpose_conv.cells(model.scores(images))
    classes = jnp.argmax(cells, axis=-1, keepdims=True).astype(jnp.uint8)
    return model.transpose_conv.assemble(classes)[..., 0]


def _loss_of(
    model: FCN, images: jax.Array, labels: jax.Array, count: jax.Array | None
) -> tuple[jax.Array, None]:
    """The loss, and that there is nothing else to tell. Images NHWC, labels in cells."""
    cells = model.transpose_conv.cells(model.scores(images))
    return cross_entropy(cells.reshape(-1, cells.shape[-1]), labels.reshape(-1), count), None


def _backward(
    objective: Callable[..., tuple[jax.Array, Any]],
    structure: nnx.GraphDef,
    parameters: nnx.State,
    buffers: nnx.State,
    images: jax.Array,
    labels: jax.Array,
    count: jax.Array | None = None,
) -> tuple[tuple[jax.Array, nnx.State, nnx.State], Any]:
    """The loss of a batch, or of a part, its gradients, the buffers; and what `objective` told."""
    # copied: the buffers change inside the function
    model = nnx.merge(structure, parameters, buffers, copy=True)
    differentiate = nnx.value_and_grad(objective, has_aux=True)
    (loss, told), gradients = differentiate(model, images, labels, count)
    return (loss, gradients, nnx.state(model, nnx.Not(nnx.Param))), told


def _add_part(
    objective: Callable[..., tuple[jax.Array, Any]],
    structure: nnx.GraphDef,
    parameters: nnx.State,
    buffers: nnx.State,
    sums: tuple[jax.Array, nnx.State, nnx.State],
    images: jax.Array,
    labels: jax.Array,
    count: jax.Array,
) -> tuple[tuple[jax.Array, nnx.State, nnx.State], Any]:
    """`sums` with a part of a batch: loss, gradients, and by what it would change the buffers."""
    batch = structure, parameters, buffers, images, labels, count
    (loss, gradients, new), told = _backward(objective, *batch)
    changes = jax.tree.map(jnp.subtract, new, buffers)
    return jax.tree.map(jnp.add, sums, (loss, gradients, changes)), told


def _update(
    transform: optax.GradientTransformation,
    parameters: nnx.State,
    momentum: optax.OptState,
    gradients: nnx.State,
    rate: jax.Array,
    head_rate: jax.Array,
) -> tuple[nnx.State, optax.OptState]:
    """Parameters and momentum after a step. `parameters` are what is trained."""
    velocity, momentum = transform.update(gradients, momentum, parameters)

    def change(path: tuple[Any, ...], v: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return -(head_rate if in_head(name) else rate) * v

    updates = jax.tree_util.tree_map_with_path(change, velocity)
    return optax.apply_updates(parameters, updates), momentum


def _whole_step(
    objective: Callable[..., tuple[jax.Array, Any]],
    structure: nnx.GraphDef,
    transform: optax.GradientTransformation,
    parameters: nnx.State,
    buffers: nnx.State,
    momentum: optax.OptState,
    images: jax.Array,
    labels: jax.Array,
    rate: jax.Array,
    head_rate: jax.Array,
) -> tuple[Any, ...]:
    """Loss, parameters, buffers, momentum; and what `objective` told, and the gradients.

    `buffers` are all that is not trained, frozen weights too.
    """
    batch = structure, parameters, buffers, images, labels
    (loss, gradients, buffers), told = _backward(objective, *batch)
    state = parameters, momentum, gradients, rate, head_rate
    parameters, momentum = _update(transform, *state)
    return loss, parameters, buffers, momentum, told, gradients


_compile_step = functools.partial(
    jax.jit,
    static_argnames=("structure", "transform"),
    donate_argnames=("parameters", "buffers", "momentum"),
)
_compile_part = functools.partial(jax.jit, static_argnames="structure", donate_argnames="sums")


@_compile_step
def _step(**arguments: Any) -> tuple[Any, ...]:
    return *_whole_step(_loss_of, **arguments)[:-2], None, None


@_compile_part
def _part(**arguments: Any) -> tuple[Any, Any]:
    return _add_part(_loss_of, **arguments)


@jax.jit
def _nothing(parameters: nnx.State, buffers: nnx.State) -> tuple[jax.Array, nnx.State, nnx.State]:
    """What parts are added to."""
    loss = jnp.zeros((), jax.tree.leaves(parameters)[0].dtype)
    zeros: tuple[jax.Array, nnx.State, nnx.State]
    zeros = jax.tree.map(jnp.zeros_like, (loss, parameters, buffers))
    return zeros


@functools.partial(
    jax.jit,
    static_argnames=("transform", "parts"),
    donate_argnames=("parameters", "buffers", "momentum"),
)
def _finish(
    transform: optax.GradientTransformation,
    parts: int,
    parameters: nnx.State,
    buffers: nnx.State,
    momentum: optax.OptState,
    sums: tuple[jax.Array, nnx.State, nnx.State],
    rate: jax.Array,
    head_rate: jax.Array,
) -> tuple[Any, ...]:
    """The same as `_whole_step`, of a batch whose parts are added up; no part has told anything.

    The buffers take the mean of what each part would have made of them.
    """
    loss, gradients, changes = sums
    buffers = jax.tree.map(lambda old, change: old + change / parts, buffers, changes)
    state = parameters, momentum, gradients, rate, head_rate
    parameters, momentum = _update(transform, *state)
    return loss, parameters, buffers, momentum, None, gradients


def _keep_compiled() -> None:
    """Lets the next start find what this one compiles, unless the user has chosen a folder.

    It is code for this CPU, and kept in the user's cache by JAX's version and the CPU's abilities.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    with contextlib.suppress(RuntimeError, OSError):  # who has no home, or may not write there
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cpu = zlib.crc32(cpu_info().get("flags", "").encode())
        kept = caches / "rosetta-fcn" / f"jax-{jax.__version__}-{cpu:08x}"
        kept.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(kept))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


class Trainer:
    """The network and its optimizer on one device: see `common.protocol.Trainer`."""

    def __init__(
        self, config: Config, weights: Mapping[str, Array], group: Group | None = None
    ) -> None:
        # Pages are not kept: it would be a tenth faster, but take a third more memory.
        _keep_compiled()  # fast: a second start takes its first step in less than half the time
        self.config = config
        self.group = group or Group()
        self.device = select_device(config.device, self.group.local_rank)
        self.group.spread(self.device.platform)
        if config.dtype == Dtype.bfloat16 and self.device.platform == "cpu":
            warnings.warn("jax on a CPU is slower in bfloat16 than in float32", stacklevel=2)
        self.model = build_model(config)
        import_weights(self.model, weights)
        freeze_tensors(self.model, frozen_tensors(config))
        nnx.update(self.model, jax.device_put(nnx.state(self.model), self.device))
        self.optimizer = build_optimizer(self.model, config)

    def predict(self, images: Array) -> NDArray[np.uint8]:
        self.model.eval()
        classes = _classes(*nnx.split(self.model), self._images(images))
        height, width = image_size(images)
        return np.ascontiguousarray(to_numpy(classes)[:, :height, :width])

    def logits(self, images: Array) -> jax.Array:
        self.model.eval()
        height, width = image_size(images)
        logits = _logits(*nnx.split(self.model), self._images(images))
        # differs(late_errors): JAX computes in the background.
        return logits[:, :, :height, :width].block_until_ready()

    def step(
        self, images: Array, labels: Array, rate: float, head_rate: float | None = None
    ) -> float:
        return self._step_through(_step, _part, images, labels, rate, head_rate)[0]

    def _step_through(
        self,
        step: Callable[..., tuple[Any, ...]],
        part: Callable[..., tuple[Any, Any]],
        images: Array,
        labels: Array,
        rate: float,
        head_rate: float | None,
    ) -> tuple[float, list[Any], Any]:
        """`step` by compiled forms of `_whole_step` and `_add_part`: the loss, and what they told.

        That is of each part what the objective told, and the gradients.
        """
        # differs(eval_mode_in_training): a switch of the model.
        self.model.train()
        structure, parameters, buffers = nnx.split(self.model, nnx.Param, ...)
        state = {"parameters": parameters, "buffers": buffers, "momentum": self.optimizer.state}
        transform = self.optimizer.transform
        rates = {
            "rate": self._scalar(rate),
            "head_rate": self._scalar(rate if head_rate is None else head_rate),
        }
        told: list[Any] = []
        if self.config.parts == 1:
            batch = self._batch(images, labels)
            found = step(structure=structure, transform=transform, **state, **batch, **rates)
            told.append(found[-2])
        else:
            count = self._scalar(self.group.sum(np.array(valid_pixels(labels))), "int64")
            network = {"structure": structure, "parameters": parameters, "buffers": buffers}
            sums = _nothing(parameters, buffers)
            parts = parts_of(images, self.config), parts_of(labels, self.config)
            for one in zip(*parts, strict=True):
                sums, more = part(**network, sums=sums, **self._batch(*one), count=count)
                told.append(more)
            sums = self.group.reduce(sums)
            found = _finish(transform, self.config.parts, **state, sums=sums, **rates)
        loss, parameters, buffers, self.optimizer.state, _, gradients = found
        nnx.update(self.model, parameters, buffers)
        return float(loss), told, gradients

    def weights(self) -> dict[str, Array]:
        return export_weights(self.model)

    def momentum(self) -> dict[str, Array]:
        return export_momentum(self.model, self.optimizer)

    def load_momentum(self, arrays: Mapping[str, Array]) -> None:
        import_momentum(self.model, self.optimizer, arrays)
        # fast: where a step leaves it; else the next step would be compiled anew.
        self.optimizer.state = jax.device_put(self.optimizer.state, self.device)

    def _batch(self, images: Array, labels: Array) -> dict[str, jax.Array]:
        cells = to_device(label_cells(labels, self.config), self.device, "uint8")
        return {"images": self._images(images), "labels": cells}

    def _scalar(self, value: float | Array, dtype: str | None = None) -> jax.Array:
        return to_device(np.asarray(value), self.device, dtype or self.config.dtype.storage)

    def _images(self, images: Array) -> jax.Array:
        return images_to_device(images, self.device, self.config)
