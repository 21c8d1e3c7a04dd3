"""JAX: the loss."""

import jax
import jax.numpy as jnp

from common.config import VOID


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy summed over the batch's valid pixels, divided by their number (at least 1).

    logits: (N, classes, H, W); labels: (N, H, W) uint8, a class or 255 (void, left out). 0-d.
    N pictures, or the cells of the upsampling, which hold the same pixels in another order.
    """
    # differs: void has no one in its one-hot column and so adds nothing; by integer index it
    # would give NaN.
    truth = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype, axis=1)
    # differs: XLA on a CPU adds one by one, which in float32 costs digits that the others keep.
    total = -jnp.sum(truth * jax.nn.log_softmax(logits, axis=1), dtype=jnp.float64)
    total = total.astype(logits.dtype)
    return total / jnp.maximum(jnp.sum(labels != VOID), 1)
