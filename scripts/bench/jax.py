"""JAX and Flax NNX: the book's network and loop, compiled, with XLA's own transposed convolution.

The book has no JAX tab: this is its PyTorch tab in Flax's own layers. The backbone is
`backends.jax`'s, so what is compared is the head, the loss and the step around them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from backends.jax.device import select_device
from backends.jax.model import ResNet
from common.config import Config
from common.network.bilinear import bilinear_weight

Array = NDArray[Any]


class _FCN(nnx.Module):  # type: ignore[misc]  # Flax has no types here
    def __init__(self, config: Config, bilinear: bool) -> None:
        classes, rngs = config.num_classes, nnx.Rngs(config.seed)
        self.bilinear = bilinear
        self.backbone = ResNet(config)
        self.final_conv = nnx.Conv(512, classes, (1, 1), param_dtype=config.dtype, rngs=rngs)
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
            param_dtype=config.dtype,
            rngs=rngs,
        )
        kernel = bilinear_weight(classes, 64).transpose(2, 3, 1, 0)
        self.transpose_conv.kernel[...] = jnp.asarray(kernel, config.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.backbone(x.transpose(0, 2, 3, 1))["out"]
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


def product(side: int, dtype: str, device: jax.Device) -> Callable[[], object]:
    """A function that multiplies two (side, side) matrices and waits for the result."""
    halves = jax.random.uniform(jax.random.key(0), (2, side, side), jnp.float32).astype(dtype)
    a, b = jax.device_put(halves, device)
    matmul = jax.jit(jnp.matmul)
    return lambda: matmul(a, b).block_until_ready()


def gpu(device: jax.Device) -> tuple[str, float]:
    """A GPU's name, and the most megabytes that arrays have held on it."""
    return device.device_kind, device.memory_stats()["peak_bytes_in_use"] / 2**20
