"""The solutions in JAX and Flax NNX."""

import jax.numpy as jnp
from flax import nnx

from backends.jax.layers import batch_norm
from common.config import Config, Dtype
from scripts.lessons.exercises import Answers

# 1 to 7: arrays to loss


def bn_two_batches() -> Answers:
    """After the call, n / (n - 1) is made up for; momentum is what is kept of the old."""
    layer = nnx.BatchNorm(1, momentum=0.75, rngs=nnx.Rngs(0))
    for batch in ([[1], [3]], [[3], [5]]):
        old, n = layer.var[...], len(batch)
        layer(jnp.float32(batch))
        layer.var[...] += (layer.var[...] - 0.75 * old) / (n - 1)
    return {"mean": layer.mean[...].item(), "variance": layer.var[...].item()}


def bn_beside_another() -> Answers:
    """In train mode an output depends on the whole batch, in eval mode on its own input alone."""
    layer = batch_norm(1, Config(dtype=Dtype.float64))

    def first_of(*values: float) -> float:
        return float(layer(jnp.float64(values).reshape(-1, 1, 1, 1))[0].item())

    layer.eval()
    in_eval = [first_of(1, 3, 5), first_of(1, 3, 11)]
    layer.train()
    return {"eval": in_eval, "train": [first_of(1, 3, 5), first_of(1, 3, 11)]}


# 8 to 14: gradients to processes
