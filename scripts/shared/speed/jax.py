"""JAX and Flax NNX: the book's network and loop, compiled, with XLA's own transposed convolution.

The book has no JAX tab: this is its PyTorch tab in Flax's own layers.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from backends.jax import train
from backends.jax.device import select_device, to_numpy
from backends.jax.layers import _convolution
from backends.jax.processes import Group
from backends.jax.upsampling import TransposeConv
from common.config import Config
from common.network.bilinear import bilinear_weight
from common.network.tensors import gradient_shapes
from scripts.shared.speed.chain import POOLED, follow, starting_arrays

Array = NDArray[Any]


def _conv(in_channels: int, channels: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    padding = (size // 2, size // 2)
    return nnx.Conv(
        in_channels,
        channels,
        (size, size),
        strides=stride,
        padding=(padding, padding),
        use_bias=False,
        kernel_init=nnx.initializers.kaiming_normal(),
        rngs=rngs,
    )


def _batch_norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)


class _Residual(nnx.Module):  # type: ignore[misc]  # Flax has no types here
    def __init__(self, in_channels: int, channels: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv1 = _conv(in_channels, channels, 3, stride, rngs)
        self.bn1 = _batch_norm(channels, rngs)
        self.conv2 = _conv(channels, channels, 3, 1, rngs)
        self.bn2 = _batch_norm(channels, rngs)
        if in_channels != channels:
            self.downsample = nnx.Sequential(
                _conv(in_channels, channels, 1, stride, rngs), _batch_norm(channels, rngs)
            )
        else:
            self.downsample = None

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = nnx.relu(self.bn1(self.conv1(x)))
        return jnp.asarray(nnx.relu(self.bn2(self.conv2(y)) + shortcut))


def _max_pool(x: jax.Array) -> jax.Array:
    pooled: jax.Array = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    return pooled


def _resnet18(rngs: nnx.Rngs) -> nnx.Sequential:
    """ResNet-18's layers up to the last block, as torchvision's."""
    layers = [_conv(3, 64, 7, 2, rngs), _batch_norm(64, rngs), nnx.relu, _max_pool]
    in_channels = 64
    for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers.append(_Residual(in_channels, channels, stride, rngs))
        layers.append(_Residual(channels, channels, 1, rngs))
        in_channels = channels
    return nnx.Sequential(*layers)


class _FCN(nnx.Module):  # type: ignore[misc]
    def __init__(self, config: Config, bilinear: bool) -> None:
        classes, rngs = config.num_classes, nnx.Rngs(config.seed)
        self.bilinear = bilinear
        self.backbone = _resnet18(rngs)
        self.final_conv = nnx.Conv(512, classes, (1, 1), rngs=rngs)
        if bilinear:
            return
        # Padding is counted from the full output's edge: kernel - 1 - padding = 64 - 1 - 16.
        self.transpose_conv = nnx.ConvTranspose(
            classes,
            classes,
            (64, 64),
            strides=(32, 32),
            padding=((47, 47), (47, 47)),
            transpose_kernel=True,
            rngs=rngs,
        )
        kernel = bilinear_weight(classes, 64).transpose(2, 3, 1, 0)
        self.transpose_conv.kernel[...] = jnp.asarray(kernel, jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.backbone(x.transpose(0, 2, 3, 1))
        scores: jax.Array = self.final_conv(x)
        if not self.bilinear:
            return jnp.asarray(self.transpose_conv(scores))
        n, h, w, classes = scores.shape
        return jnp.asarray(jax.image.resize(scores, (n, 32 * h, 32 * w, classes), "bilinear"))


@nnx.jit  # type: ignore[untyped-decorator]
def _step(model: _FCN, optimizer: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    def objective(model: _FCN) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
        return jnp.mean(losses)

    loss, gradients = nnx.value_and_grad(objective)(model)
    optimizer.update(model, gradients)
    return jnp.asarray(loss)


_logits = nnx.jit(lambda model, images: model(images))
_predict = nnx.jit(lambda model, images: jnp.argmax(model(images), axis=-1))


class Trainer:
    """The book's network and its optimizer."""

    def __init__(self, config: Config, bilinear: bool = False) -> None:
        device = select_device(config.device)
        jax.config.update("jax_default_device", device)  # type: ignore[no-untyped-call]
        self.net = _FCN(config, bilinear)
        sgd = optax.chain(
            optax.add_decayed_weights(config.weight_decay), optax.sgd(config.learning_rate)
        )
        self.optimizer = nnx.Optimizer(self.net, sgd, wrt=nnx.Param)

    def step(self, images: Array, labels: Array) -> float:
        """One training step on (N, 3, H, W) float32 and (N, H, W) uint8; the loss before it."""
        self.net.train()
        loss = _step(self.net, self.optimizer, jnp.asarray(images), jnp.asarray(labels))
        return float(loss)

    def logits(self, images: Array) -> jax.Array:
        """The scores (N, H, W, classes) in eval mode."""
        self.net.eval()
        logits: jax.Array = _logits(self.net, jnp.asarray(images))
        return logits.block_until_ready()

    def predict(self, images: Array) -> NDArray[np.integer[Any]]:
        """The most likely class of each pixel, (N, H, W)."""
        self.net.eval()
        return np.asarray(_predict(self.net, jnp.asarray(images)))


class _AheadOfTime:
    """Our trainer with programs that are compiled before they are called, one a batch's shape.

    A first call compiles its program too; what `jax.jit` looks up in each later call is known.
    """

    def __init__(self, trainer: train.Trainer) -> None:
        self.trainer = trainer
        self.steps: dict[tuple[int, ...], Any] = {}
        self.predictions: dict[tuple[int, ...], Any] = {}

    def step(self, images: Array, labels: Array, rate: float) -> float:
        def step(structure: Any, transform: Any, **arrays: Any) -> tuple[Any, ...]:
            if images.shape not in self.steps:
                static = {"structure": structure, "transform": transform}
                self.steps[images.shape] = train._step.lower(**static, **arrays).compile()
            found: tuple[Any, ...] = self.steps[images.shape](**arrays)
            return found

        return self.trainer._step_through(step, train._part, images, labels, rate, None)[0]

    def predict(self, images: Array) -> NDArray[np.uint8]:
        self.trainer.model.eval()
        structure, state = nnx.split(self.trainer.model)
        x = self.trainer._images(images)
        if images.shape not in self.predictions:
            self.predictions[images.shape] = train._classes.lower(structure, state, x).compile()
        return to_numpy(self.predictions[images.shape](state, x))


def compiled(trainer: train.Trainer) -> _AheadOfTime:
    """Our trainer, compiled ahead of time."""
    return _AheadOfTime(trainer)


@functools.partial(jax.jit, static_argnames="config")
def _outputs(
    config: Config, images: jax.Array, parameters: dict[str, jax.Array]
) -> list[jax.Array]:
    def convolve(x: jax.Array, name: str, stride: int, padding: int) -> jax.Array:
        return _convolution(x, parameters[name], stride, padding)

    *outputs, scores = follow(config, convolve, images, parameters[POOLED])
    head = TransposeConv(config.num_classes, config.head.stride, config=config)
    head.weight[...] = parameters["transpose_conv.weight"]
    return [*outputs, head.cells(scores)]


@functools.partial(jax.jit, static_argnames="config")
def _gradients(
    config: Config, images: jax.Array, parameters: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    outputs, pull_back = jax.vjp(functools.partial(_outputs, config, images), parameters)
    found: tuple[dict[str, jax.Array]] = pull_back(outputs)
    return found[0]


class Convolutions:
    """Our network's convolutions and its last product alone, NHWC, compiled."""

    def __init__(self, config: Config) -> None:
        self.config, self.device = config, select_device(config.device)
        images, arrays = starting_arrays(config)
        head = "transpose_conv.weight"  # in its canonical layout; kernels are (kh, kw, in, out)
        layouts = dict.fromkeys(arrays, (2, 3, 1, 0)) | {POOLED: (0, 2, 3, 1), head: (0, 1, 2, 3)}
        self.images = self._to_device(images.transpose(0, 2, 3, 1))
        self.parameters = {
            name: self._to_device(array.transpose(layouts[name])) for name, array in arrays.items()
        }

    def forward(self) -> list[jax.Array]:
        """What no convolution takes, the cells last."""
        outputs = _outputs(self.config, self.images, self.parameters)
        return [output.block_until_ready() for output in outputs]

    def gradients(self) -> dict[str, jax.Array]:
        """Those of half the sum of the outputs' squares: what comes back is what came out."""
        found = _gradients(self.config, self.images, self.parameters)
        return {name: gradient.block_until_ready() for name, gradient in found.items()}

    def _to_device(self, array: Array) -> jax.Array:
        on_device: jax.Array = jax.device_put(jnp.asarray(array, self.config.dtype), self.device)
        return on_device


def product(side: int, dtype: str, device: jax.Device) -> Callable[[], object]:
    """A function that multiplies two (side, side) matrices and waits for the result."""
    halves = jax.random.uniform(jax.random.key(0), (2, side, side), jnp.float32).astype(dtype)
    a, b = jax.device_put(halves, device)
    matmul = jax.jit(jnp.matmul)
    return lambda: matmul(a, b).block_until_ready()


def gradient_sum(config: Config, group: Group) -> Callable[[], object]:
    """A function that sums as many numbers as there are gradients over the processes."""
    device = select_device(config.device, group.local_rank)
    group.spread(device.platform)
    arrays = [
        jax.device_put(jnp.zeros(shape, config.dtype.storage), device)
        for shape in gradient_shapes(config).values()
    ]
    return lambda: [total.block_until_ready() for total in group.reduce(arrays)]


def gpu(device: jax.Device) -> tuple[str, float]:
    """A GPU's name, and the most megabytes that arrays have held on it."""
    return device.device_kind, device.memory_stats()["peak_bytes_in_use"] / 2**20
