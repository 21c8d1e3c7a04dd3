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
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from numpy.typing import NDArray

from backends.jax.device import images_to_device, select_device, to_device, to_numpy
from backends.jax.loss import cross_entropy
from backends.jax.model import FCN, build_model
from backends.jax.optimizer import build_optimizer, export_momentum, import_momentum
from backends.jax.processes import SHARED, Group
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


def _backward_in_parts(
    objective: Callable[..., tuple[jax.Array, Any]],
    structure: nnx.GraphDef,
    parameters: nnx.State,
    buffers: nnx.State,
    images: jax.Array,
    labels: jax.Array,
    count: jax.Array,
    axis: str | None,
) -> tuple[tuple[jax.Array, nnx.State, nnx.State], Any]:
    """The same of a batch in parts: images and labels (parts, N, ...), here and along the axis.

    The buffers take the mean of what each part would have made of them.
    """

    def add(sums: Any, part: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
        (loss, gradients, new), told = _backward(
            objective, structure, parameters, buffers, *part, count
        )
        changes = jax.tree.map(jnp.subtract, new, buffers)
        return jax.tree.map(jnp.add, sums, (loss, gradients, changes)), told

    nothing = jnp.zeros((), jax.tree.leaves(parameters)[0].dtype)
    zeros = jax.tree.map(jnp.zeros_like, (nothing, parameters, buffers))
    sums, told = lax.scan(add, zeros, (images, labels))
    parts = len(images)
    if axis is not None:
        # differs: `psum` adds, `pmean` would divide by the processes.
        sums, parts = lax.psum(sums, axis), parts * lax.psum(1, axis)
    loss, gradients, changes = sums
    buffers = jax.tree.map(lambda old, change: old + change / parts, buffers, changes)
    return (loss, gradients, buffers), told


def _update(
    objective: Callable[..., tuple[jax.Array, Any]],
    structure: nnx.GraphDef,
    transform: optax.GradientTransformation,
    parameters: nnx.State,
    buffers: nnx.State,
    momentum: optax.OptState,
    images: jax.Array,
    labels: jax.Array,
    count: jax.Array | None,
    rate: jax.Array,
    head_rate: jax.Array,
    axis: str | None = None,
) -> tuple[Any, ...]:
    """A step: loss, parameters, buffers, momentum; and a pair, what `objective` told, gradients.

    `parameters` are what is trained; `buffers` are all else, frozen weights too. A batch in parts
    has `count`, of valid pixels; `axis` is that of the processes which share it.
    """
    batch = objective, structure, parameters, buffers, images, labels
    if count is None:
        (loss, gradients, buffers), told = _backward(*batch)
    else:
        (loss, gradients, buffers), told = _backward_in_parts(*batch, count, axis)
    velocity, momentum = transform.update(gradients, momentum, parameters)

    def change(path: tuple[Any, ...], v: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return -(head_rate if in_head(name) else rate) * v

    updates = jax.tree_util.tree_map_with_path(change, velocity)
    parameters = optax.apply_updates(parameters, updates)
    return loss, parameters, buffers, momentum, (told, gradients)


_compile_update = functools.partial(
    jax.jit,
    static_argnames=("structure", "transform"),
    donate_argnames=("parameters", "buffers", "momentum"),
)


@_compile_update
def _step(**arguments: Any) -> tuple[Any, ...]:
    return _update(_loss_of, **arguments)[:-1]


@functools.partial(
    jax.jit,
    static_argnames=("structure", "transform", "mesh"),
    donate_argnames=("parameters", "buffers", "momentum"),
)
def _shared_step(
    structure: nnx.GraphDef,
    transform: optax.GradientTransformation,
    mesh: Mesh,
    **arrays: Any,
) -> tuple[Any, ...]:
    """`_step` of a batch that processes share, as one program over all of them."""

    # differs: outside `shard_map` the program would be that of the whole batch, and BatchNorm
    # would take the statistics of all of it.
    def share(arrays: dict[str, Any]) -> tuple[Any, ...]:
        update = _update(_loss_of, structure, transform, **arrays, axis=SHARED)
        return update[:-1]

    specs = {
        name: PartitionSpec(SHARED) if name in ("images", "labels") else PartitionSpec()
        for name in arrays
    }
    return jax.shard_map(
        share, mesh=mesh, in_specs=(specs,), out_specs=PartitionSpec(), check_vma=False
    )(arrays)


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
        nnx.update(self.model, self._everywhere(nnx.state(self.model)))
        self.optimizer.state = self._everywhere(self.optimizer.state)

    def predict(self, images: Array) -> NDArray[np.uint8]:
        self.model.eval()
        classes = _classes(*self._split(), self._images(images))
        height, width = image_size(images)
        return np.ascontiguousarray(to_numpy(classes)[:, :height, :width])

    def logits(self, images: Array) -> jax.Array:
        self.model.eval()
        height, width = image_size(images)
        logits = _logits(*self._split(), self._images(images))
        # differs(late_errors): JAX computes in the background.
        return logits[:, :, :height, :width].block_until_ready()

    def step(
        self, images: Array, labels: Array, rate: float, head_rate: float | None = None
    ) -> float:
        compiled: Callable[..., tuple[Any, ...]] = _step
        if self.group.mesh is not None:
            compiled = functools.partial(_shared_step, mesh=self.group.mesh)
        return self._step_through(compiled, images, labels, rate, head_rate)[0]

    def _step_through(
        self,
        compiled: Callable[..., tuple[Any, ...]],
        images: Array,
        labels: Array,
        rate: float,
        head_rate: float | None,
    ) -> tuple[float, Any]:
        """`step` by a compiled form of `_update`: the loss, and what more that returns."""
        # differs(eval_mode_in_training): a switch of the model.
        self.model.train()
        structure, parameters, buffers = nnx.split(self.model, nnx.Param, ...)
        x, truth, count = self._batch(images, labels)
        loss, parameters, buffers, self.optimizer.state, *more = compiled(
            structure=structure,
            transform=self.optimizer.transform,
            parameters=parameters,
            buffers=buffers,
            momentum=self.optimizer.state,
            images=x,
            labels=truth,
            count=count,
            rate=self._scalar(rate),
            head_rate=self._scalar(rate if head_rate is None else head_rate),
        )
        nnx.update(self.model, parameters, buffers)
        return float(loss), more

    def weights(self) -> dict[str, Array]:
        return export_weights(self.model)

    def momentum(self) -> dict[str, Array]:
        return export_momentum(self.model, self.optimizer)

    def load_momentum(self, arrays: Mapping[str, Array]) -> None:
        import_momentum(self.model, self.optimizer, arrays)
        # fast: where a step leaves it; else the next step would be compiled anew.
        self.optimizer.state = self._everywhere(self.optimizer.state)

    def _batch(self, images: Array, labels: Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Images, labels in cells, and if they are in parts how many pixels of all are valid."""
        config, group = self.config, self.group
        if config.parts == 1:
            cells = label_cells(labels, config)
            return self._images(images), to_device(cells, self.device, "uint8"), None
        count = group.sum(np.array(valid_pixels(labels)))
        parts = [*map(self._images, parts_of(images, config))]
        cells = np.stack([label_cells(part, config) for part in parts_of(labels, config)])
        x, truth = jnp.stack(parts), to_device(cells, self.device, "uint8")
        return group.shard(x), group.shard(truth), self._scalar(count, "int64")

    def _split(self) -> tuple[nnx.GraphDef, nnx.State]:
        """The model's structure and arrays, for this process alone."""
        structure, state = nnx.split(self.model)
        if self.group.mesh is not None:
            state = jax.tree.map(lambda array: array.addressable_data(0), state)
        return structure, state

    def _everywhere(self, arrays: Any) -> Any:
        """Arrays where the step is compiled: on the device, and as those of all processes."""
        return self.group.replicate(jax.device_put(arrays, self.device))

    def _scalar(self, value: float | Array, dtype: str | None = None) -> jax.Array:
        dtype = dtype or self.config.dtype.storage
        scalar: jax.Array = self._everywhere(to_device(np.asarray(value), self.device, dtype))
        return scalar

    def _images(self, images: Array) -> jax.Array:
        return images_to_device(images, self.device, self.config)
