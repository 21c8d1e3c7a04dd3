"""The U-Net of `unet_torch.py` ported to Flax, with two mistakes, and its record.

python -m docs.port.unet_jax torch.safetensors map.toml jax.safetensors
"""

import sys

import jax
import jax.numpy as jnp
from flax import nnx
from safetensors.numpy import load_file

from backends.jax import record


class Block(nnx.Module):
    def __init__(self, in_channels: int, channels: int, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(in_channels, channels, (3, 3), padding=1, rngs=rngs)
        self.norm1 = nnx.GroupNorm(channels, num_groups=4, epsilon=1e-5, rngs=rngs)
        self.conv2 = nnx.Conv(channels, channels, (3, 3), padding=1, rngs=rngs)
        self.norm2 = nnx.GroupNorm(channels, num_groups=4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.silu(self.norm1(self.conv1(x)))
        return nnx.silu(self.norm2(self.conv2(x)))


class UNet(nnx.Module):
    def __init__(self, num_classes: int = 4) -> None:
        rngs = nnx.Rngs(0)
        self.down1 = Block(3, 16, rngs)
        self.down2 = Block(16, 32, rngs)
        self.mid = Block(32, 32, rngs)
        self.norm = nnx.LayerNorm(32, epsilon=1e-5, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 32, decode=False, rngs=rngs)
        self.up = nnx.ConvTranspose(32, 16, (2, 2), strides=(2, 2), rngs=rngs)
        self.up1 = Block(32, 16, rngs)
        self.head = nnx.Conv(16, num_classes, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        skip = self.down1(x)
        x = self.mid(self.down2(nnx.max_pool(skip, (2, 2), (2, 2))))
        tokens = x.reshape(len(x), -1, x.shape[-1])
        tokens = tokens + self.attention(self.norm(tokens))
        x = tokens.reshape(x.shape)
        x = self.up1(jnp.concatenate([self.up(x), skip], -1))
        return self.head(x)


reference, map_path, out = sys.argv[1:]
image = load_file(reference)["input"].transpose(0, 2, 3, 1)
record(
    UNet(),
    image,
    loss=lambda y: jnp.square(y).mean(),
    against=reference,
    map=map_path,
    out=out,
)
