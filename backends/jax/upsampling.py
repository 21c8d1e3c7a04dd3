"""JAX: the transposed convolution as a matrix product. Derivation: docs/upsampling.md."""

import jax
import jax.numpy as jnp
from flax import nnx

from common.config import Config


class TransposeConv(nnx.Module):
    """Transposed convolution of stride s, an even number: kernel 2s, padding s / 2.

    (N, h, w, C) -> (N, sh, sw, C).
    """

    def __init__(self, channels: int, stride: int, *, bias: bool = False, config: Config) -> None:
        self.kernel, self.stride, self.padding = 2 * stride, stride, stride // 2
        # differs(conv_transpose): the canonical (in, out, kh, kw), not Flax's; no operator of
        # JAX's own sees it.
        shape = (channels, channels, self.kernel, self.kernel)
        self.weight = nnx.Param(jnp.zeros(shape, config.dtype.storage))
        self.bias = nnx.Param(jnp.zeros(channels, config.dtype.storage)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.assemble(self.cells(x))

    def cells(self, x: jax.Array) -> jax.Array:
        """The output as cells of s x s pixels, before the padding is cropped.

        (N, h, w, C) -> (N, h+1, w+1, s, s, C).
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
        cells = cells.reshape(*patches.shape[:3], s, s, c)
        return cells if self.bias is None else cells + self.bias[...]

    def assemble(self, cells: jax.Array) -> jax.Array:
        """Cells (N, h+1, w+1, s, s, any) side by side, cropped by s / 2 on each side.

        (N, sh, sw, any).
        """
        n, rows, columns, s, _, c = cells.shape
        x = cells.swapaxes(2, 3).reshape(n, rows * s, columns * s, c)
        return x[:, s // 2 : -s // 2, s // 2 : -s // 2]

    def textbook(self, x: jax.Array) -> jax.Array:
        """The same by its definition: (N, h, w, C) -> (N, sh, sw, C)."""
        # differs: padding is counted from the full output's edge: kernel - 1 - s / 2.
        edge = self.kernel - 1 - self.padding
        logits = jax.lax.conv_transpose(
            x,
            self.weight[...],
            (self.stride, self.stride),
            ((edge, edge), (edge, edge)),
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            transpose_kernel=True,
        )
        return logits if self.bias is None else logits + self.bias[...]
