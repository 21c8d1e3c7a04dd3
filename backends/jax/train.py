"""JAX: a training step, and the network on whole images."""

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from backends.jax.device import images_to_device, select_device, to_device, to_numpy
from backends.jax.loss import cross_entropy
from backends.jax.model import FCN, assemble, build_model
from backends.jax.optimizer import build_optimizer, export_momentum, import_momentum
from backends.jax.weights import export_weights, import_weights, trained_tensors
from common.config import Config, Dtype
from common.network.grid import image_size, label_cells, padded_size
from common.network.tensors import tensors

Array = NDArray[Any]
Activations = dict[str, jax.Array]


# differs: a compiled function is pure. It takes the model apart into its structure, known at
# compilation, and its arrays, puts it together inside, and returns what changed. It is compiled
# once for each structure and padded size, whatever trainer calls it.


@functools.partial(jax.jit, static_argnames=("structure", "traced"))
def _evaluate(
    structure: nnx.GraphDef, state: nnx.State, images: jax.Array, *, traced: bool
) -> Activations:
    cells, activations = nnx.merge(structure, state)(images.transpose(0, 2, 3, 1))
    # differs: what is not returned is not kept in memory.
    return activations if traced else {"logits": cells}


@jax.jit
def _classes(cells: jax.Array) -> jax.Array:
    return jnp.argmax(cells, axis=1, keepdims=True).astype(jnp.uint8)


_assemble = jax.jit(assemble, static_argnums=(1, 2))


@functools.partial(
    jax.jit,
    static_argnames=("structure", "transform", "traced"),
    donate_argnames=("parameters", "buffers", "velocity"),
)
def _step(
    structure: nnx.GraphDef,
    transform: optax.GradientTransformation,
    parameters: nnx.State,
    buffers: nnx.State,
    velocity: optax.OptState,
    images: jax.Array,
    labels: jax.Array,
    rate: jax.Array,
    *,
    traced: bool,
) -> tuple[Any, ...]:
    def objective(model: FCN) -> tuple[jax.Array, Activations]:
        cells, activations = model(images.transpose(0, 2, 3, 1))
        return cross_entropy(cells, labels), activations

    model = nnx.merge(structure, parameters, buffers)
    (loss, activations), gradients = nnx.value_and_grad(objective, has_aux=True)(model)
    buffers = nnx.state(model, nnx.BatchStat)
    updates, velocity = transform.update(gradients, velocity, parameters)
    parameters = optax.apply_updates(parameters, jax.tree.map(lambda v: -rate * v, updates))
    return loss, parameters, buffers, velocity, (activations, gradients) if traced else None


@functools.partial(jax.jit, static_argnames=("structure", "name"))
def _layer(
    structure: nnx.GraphDef,
    parameters: nnx.State,
    buffers: nnx.State,
    name: str,
    x: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, tuple[nnx.State, jax.Array]]:
    def forward(parameters: nnx.State, x: jax.Array) -> jax.Array:
        # copied: the buffers change inside the function that is differentiated
        model = nnx.merge(structure, parameters, buffers, copy=True)
        output = model.layer(name, x.transpose(0, 2, 3, 1))
        return output.transpose(0, 3, 1, 2)

    output, pullback = jax.vjp(forward, parameters, x)
    return output, pullback(gradient)


class Trainer:
    """The network and its optimizer on one device: see `common.protocol.Trainer`."""

    def __init__(self, config: Config, weights: Mapping[str, Array]) -> None:
        # differs: pages are not kept: a tenth faster, but a third more memory.
        self.config = config
        self.device = select_device(config.device)
        # differs: a prediction was measured to take a tenth longer than in float32.
        if config.dtype == Dtype.bfloat16 and self.device.platform == "cpu":
            warnings.warn("jax on a CPU is slower in bfloat16 than in float32", stacklevel=2)
        self.model = build_model(config)
        import_weights(self.model, weights)
        nnx.update(self.model, jax.device_put(nnx.state(self.model), self.device))
        self.optimizer = build_optimizer(self.model, config)

    def predict(self, images: Array) -> NDArray[np.uint8]:
        classes = _classes(self._evaluate(images, traced=False)["logits"])
        return self._to_pictures(classes, images)[:, 0]

    def logits(self, images: Array) -> jax.Array:
        height, width = image_size(images)
        cells = self._evaluate(images, traced=False)["logits"]
        logits = _assemble(cells, *padded_size(images))
        # differs: JAX computes in the background, and compiles a crop for each size.
        return logits[:, :, :height, :width].block_until_ready()

    def activations(self, images: Array) -> dict[str, Array]:
        return self._export(self._evaluate(images, traced=True), images)

    def step(self, images: Array, labels: Array, rate: float) -> float:
        loss, _ = self._step(images, labels, rate, traced=False)
        return float(loss)

    def traced_step(
        self, images: Array, labels: Array, rate: float
    ) -> tuple[float, dict[str, Array], dict[str, Array]]:
        loss, (activations, gradients) = self._step(images, labels, rate, traced=True)
        return float(loss), self._export(activations, images), self._export_gradients(gradients)

    def layer(self, name: str, x: Array, gradient: Array) -> tuple[Array, Array, dict[str, Array]]:
        self.model.train()
        structure, parameters, buffers = nnx.split(self.model, nnx.Param, nnx.BatchStat)
        output, (by_weight, by_input) = _layer(
            structure, parameters, buffers, name, self._to_device(x), self._to_device(gradient)
        )
        specs = tensors(self.config.architecture, self.config.num_classes)
        named = self._export_gradients(by_weight)
        own = {k: array for k, array in named.items() if specs[k].layer == name}
        return to_numpy(output), to_numpy(by_input), own

    def weights(self) -> dict[str, Array]:
        return export_weights(self.model)

    def momentum(self) -> dict[str, Array]:
        return export_momentum(self.model, self.optimizer)

    def load_momentum(self, arrays: Mapping[str, Array]) -> None:
        import_momentum(self.model, self.optimizer, arrays)

    def _to_device(self, array: Array) -> jax.Array:
        return to_device(array, self.device, self.config.dtype.storage)

    def _to_pictures(self, cells: jax.Array, images: Array) -> Array:
        """Cells as pictures on the host, cropped there to the images' own size."""
        height, width = image_size(images)
        pictures = _assemble(cells, *padded_size(images))
        return np.ascontiguousarray(to_numpy(pictures)[:, :, :height, :width])

    def _export(self, activations: Activations, images: Array) -> dict[str, Array]:
        # differs: NHWC on the device, but for the cells.
        arrays = {k: to_numpy(a.transpose(0, 3, 1, 2)) for k, a in activations.items()}
        return {**arrays, "logits": self._to_pictures(activations["logits"], images)}

    def _export_gradients(self, gradients: nnx.State) -> dict[str, Array]:
        # differs: gradients have the structure of the model, so a copy of the model names them.
        model = nnx.clone(self.model)
        nnx.update(model, gradients)
        arrays = export_weights(model)
        return {name: arrays[name] for name in trained_tensors(self.model)}

    def _evaluate(self, images: Array, *, traced: bool) -> Activations:
        self.model.eval()
        structure, state = nnx.split(self.model)
        x = images_to_device(images, self.device, self.config)
        return _evaluate(structure, state, x, traced=traced)

    def _step(
        self, images: Array, labels: Array, rate: float, *, traced: bool
    ) -> tuple[jax.Array, Any]:
        self.model.train()
        structure, parameters, buffers = nnx.split(self.model, nnx.Param, nnx.BatchStat)
        loss, parameters, buffers, self.optimizer.state, trace = _step(
            structure,
            self.optimizer.transform,
            parameters,
            buffers,
            self.optimizer.state,
            images_to_device(images, self.device, self.config),
            to_device(label_cells(labels), self.device, "uint8"),
            self._to_device(np.asarray(rate)),
            traced=traced,
        )
        nnx.update(self.model, parameters, buffers)
        return loss, trace
