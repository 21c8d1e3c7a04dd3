"""JAX: the transposed convolution as a matrix product. Derivation: docs/upsampling.md."""

import jax
import jax.numpy as jnp
from flax import nnx

from common.config import OUTPUT_STRIDE, Config


class TransposeConv(nnx.Module):
    """Transposed convolution, kernel 64, stride 32, padding 16, with bias.

    (N, h, w, C) -> (N, C, 32h, 32w).
    """

    def __init__(self, channels: int, config: Config) -> None:
        s = OUTPUT_STRIDE
        self.kernel, self.stride, self.padding = 2 * s, s, s // 2
        # differs(conv_transpose): the canonical (in, out, kh, kw), not Flax's; no operator of
        # JAX's own sees it.
        shape = (channels, channels, self.kernel, self.kernel)
        self.weight = nnx.Param(jnp.zeros(shape, config.dtype.storage))
        self.bias = nnx.Param(jnp.zeros(channels, config.dtype.storage))

    def __call__(self, x: jax.Array) -> jax.Array:
        return assemble(self.cells(x))

    def cells(self, x: jax.Array) -> jax.Array:
        """The output as cells of 32x32 pixels, before the padding is cropped.

        (N, h, w, C) -> (N, h+1, w+1, 32, 32, C).
        """
        c, s = x.shape[-1], self.stride
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # (N, h+2, w+2, C)
        reach = [x[:, 1:, 1:], x[:, 1:, :-1], x[:, :-1, 1:], x[:, :-1, :-1]]
        patches = jnp.concatenate(reach, axis=-1)  # (N, h+1, w+1, 4C)
        taps = self.weight[...].reshape(c, c, 2, s, 2, s).transpose(2, 4, 0, 3, 5, 1)
        cells = jnp.matmul(
            patches.reshape(-1, 4 * c),
            taps.reshape(4 * c, -1).astype(x.dtype),  # rows: 2, 2, C; columns: s, s, C
            preferred_element_type=taps.dtype,
        )
        return cells.reshape(*patches.shape[:3], s, s, c) + self.bias[...]

    def textbook(self, x: jax.Array) -> jax.Array:
        """The same by its definition: (N, h, w, C) -> (N, C, 32h, 32w)."""
        # differs: padding is counted from the full output's edge: kernel - 1 - 16.
        edge = self.kernel - 1 - self.padding
        logits = jax.lax.conv_transpose(
            x,
            self.weight[...],
            (self.stride, self.stride),
            ((edge, edge), (edge, edge)),
            dimension_numbers=("NHWC", "OIHW", "NCHW"),
            transpose_kernel=True,
        )
        return logits + self.bias[...][:, None, None]


def assemble(cells: jax.Array) -> jax.Array:
    """Cells (N, h+1, w+1, 32, 32, C) side by side, cropped by 16 on each side.

    (N, C, 32h, 32w).
    """
    n, rows, columns, s, _, c = cells.shape
    x = cells.swapaxes(2, 3).reshape(n, rows * s, columns * s, c)
    return x[:, s // 2 : -s // 2, s // 2 : -s // 2].transpose(0, 3, 1, 2)
