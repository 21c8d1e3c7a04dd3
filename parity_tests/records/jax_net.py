"""The network of `torch_net.py` in Flax, as an NNX module and as a Linen module."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from common.config import Config


class Net(nnx.Module):
    """Of images (N, 8, 8, 3): `classes` (N, 5) and `vector` (N, 6)."""

    rectify = staticmethod(nnx.relu)

    def __init__(self, epsilon: float = 1e-5) -> None:
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(3, 8, (3, 3), padding=1, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=Config.bn_decay, epsilon=epsilon, rngs=rngs)
        self.shared = nnx.Conv(8, 8, (3, 3), padding=1, rngs=rngs)
        self.down = nnx.Conv(8, 8, (2, 2), strides=2, padding=0, feature_group_count=8, rngs=rngs)
        self.up = nnx.ConvTranspose(8, 6, (4, 4), strides=(2, 2), padding="SAME", rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.query = nnx.Linear(6, 6, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(6, 6, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(6, 6, use_bias=False, rngs=rngs)
        self.flat = nnx.Linear(6 * 8 * 8, 5, rngs=rngs)
        self.unused = nnx.Linear(2, 2, rngs=rngs)

    def skip(self, x: jax.Array) -> jax.Array:
        return x

    def __call__(self, x: jax.Array) -> dict[str, Any]:
        x = self.rectify(self.norm(self.stem(x)))
        x = nnx.relu(self.shared(self.shared(x)) + self.skip(x))
        x = self.drop(self.up(self.down(x)))
        pooled = x.mean((1, 2))
        vector = self.query(pooled) * nnx.softmax(self.key(pooled)) + self.value(pooled)
        return {"classes": self.flat(x.reshape(len(x), -1)), "vector": vector}


class LinenNet(linen.Module):
    """The same; its layers are named by the order of their calls."""

    @linen.compact  # type: ignore[untyped-decorator]
    def __call__(self, x: jax.Array, train: bool = False) -> dict[str, Any]:
        shared = linen.Conv(8, (3, 3), padding=1)
        x = linen.Conv(8, (3, 3), padding=1)(x)
        x = linen.relu(linen.BatchNorm(not train, momentum=Config.bn_decay)(x))
        x = linen.relu(shared(shared(x)) + x)
        x = linen.Conv(8, (2, 2), strides=2, padding=0, feature_group_count=8)(x)
        x = linen.ConvTranspose(6, (4, 4), strides=(2, 2), padding="SAME")(x)
        x = linen.Dropout(0.5)(x, deterministic=not train)
        pooled = x.mean((1, 2))
        # not in the order of the others
        value = linen.Dense(6, use_bias=False, name="v")(pooled)
        key = linen.Dense(6, use_bias=False, name="k")(pooled)
        query = linen.Dense(6, use_bias=False, name="q")(pooled)
        vector = query * linen.softmax(key) + value
        return {"classes": linen.Dense(5)(x.reshape(len(x), -1)), "vector": vector}


def loss(output: dict[str, Any]) -> jax.Array:
    return jnp.square(output["classes"]).mean() + output["vector"].sum()
