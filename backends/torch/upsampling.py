"""PyTorch: the transposed convolution as a matrix product. Derivation: docs/upsampling.md."""

import torch
from torch import nn
from torch.nn import functional

from common.config import OUTPUT_STRIDE, Config


class TransposeConv(nn.Module):
    """Transposed convolution, kernel 64, stride 32, padding 16, with bias.

    (N, C, h, w) -> (N, C, 32h, 32w).
    """

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        s = OUTPUT_STRIDE
        self.kernel, self.stride, self.padding = 2 * s, s, s // 2
        # differs(conv_transpose): (in, out, kh, kw), which is the canonical layout.
        shape = (channels, channels, self.kernel, self.kernel)
        dtype = getattr(torch, config.dtype.storage)
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(channels, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return assemble(self.cells(x))

    def cells(self, x: torch.Tensor) -> torch.Tensor:
        """The output as cells of 32x32 pixels, before the padding is cropped.

        (N, C, h, w) -> (N, h+1, w+1, 32, 32, C).
        """
        c, s = x.shape[1], self.stride
        x = functional.pad(x, (1, 1, 1, 1))  # (N, C, h+2, w+2)
        reach = [x[:, :, 1:, 1:], x[:, :, 1:, :-1], x[:, :, :-1, 1:], x[:, :, :-1, :-1]]
        patches = torch.cat(reach, dim=1).permute(0, 2, 3, 1)  # (N, h+1, w+1, 4C)
        taps = self.weight.view(c, c, 2, s, 2, s).permute(2, 4, 0, 3, 5, 1)  # (2, 2, C, s, s, C)
        bias = self.bias.repeat(s * s)  # (s*s*C,)
        cells = torch.addmm(bias, patches.reshape(-1, 4 * c), taps.reshape(4 * c, -1))
        return cells.view(*patches.shape[:3], s, s, c)

    def textbook(self, x: torch.Tensor) -> torch.Tensor:
        """The same by its definition: (N, C, h, w) -> (N, C, 32h, 32w)."""
        return functional.conv_transpose2d(x, self.weight, self.bias, self.stride, self.padding)


def assemble(cells: torch.Tensor) -> torch.Tensor:
    """Cells (N, h+1, w+1, 32, 32, C) side by side, cropped by 16 on each side.

    (N, C, 32h, 32w).
    """
    n, rows, columns, s, _, c = cells.shape
    x = cells.transpose(2, 3).reshape(n, rows * s, columns * s, c)
    # fast: NHWC in memory, so that only long runs are moved.
    return x[:, s // 2 : -s // 2, s // 2 : -s // 2].permute(0, 3, 1, 2)
