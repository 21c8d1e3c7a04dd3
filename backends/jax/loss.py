"""JAX: the loss."""

import jax
import jax.numpy as jnp

from common.config import VOID


def cross_entropy(
    logits: jax.Array, labels: jax.Array, count: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy summed over the batch's valid pixels, divided by their number (at least 1).

    logits: (N, classes, ...); labels: (N, ...) uint8, a class or 255 (void, left out). Returns
    a scalar. N images of pixels, or N pixels: the sum is the same. Where they are a part
    of a batch, `count` is the number in all of it.
    """
    # differs(label_255): the one-hot column of void is all zeros and adds nothing to the sum.
    truth = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype, axis=1)
    log_probability = jax.nn.log_softmax(logits, axis=1)
    valid = labels != VOID
    losses = -jnp.sum(truth * log_probability, axis=1)
    # in float32 XLA on a CPU may lose a digit of so long a sum, which the others keep
    total = jnp.sum(losses, dtype=jnp.float64).astype(logits.dtype)
    number = valid.sum() if count is None else count
    return total / jnp.maximum(number, 1)
