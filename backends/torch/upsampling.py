"""PyTorch: the transposed convolution as a matrix product. Derivation: docs/upsampling.md."""

import torch
from torch import nn
from torch.nn import functional

from common.config import Config


class TransposeConv(nn.Module):
    """Transposed convolution of stride s, an even number: kernel 2s, padding s / 2.

    (N, C, h, w) -> (N, C, sh, sw).
    """

    def __init__(self, channels: int, stride: int, *, bias: bool = False, config: Config) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = 2 * stride, stride, stride // 2
        # differs(conv_transpose): (in, out, kh, kw), which is the canonical layout.
        shape = (channels, channels, self.kernel, self.kernel)
        dtype = getattr(torch, config.dtype.storage)
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(channels, dtype=dtype)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.assemble(self.cells(x))

    def cells(self, x: torch.Tensor) -> torch.Tensor:
        """The output as cells of s x s pixels, before the padding is cropped.

        (N, C, h, w) -> (N, h+1, w+1, s, s, C).
        """
        c, s = x.shape[1], self.stride
        x = functional.pad(x, (1, 1, 1, 1))  # (N, C, h+2, w+2)
        reach = [x[:, :, 1:, 1:], x[:, :, 1:, :-1], x[:, :, :-1, 1:], x[:, :, :-1, :-1]]
        patches = torch.cat(reach, dim=1).permute(0, 2, 3, 1)  # (N, h+1, w+1, 4C)
        taps = self.weight.view(c, c, 2, s, 2, s).permute(2, 4, 0, 3, 5, 1)  # (2, 2, C, s, s, C)
        rows, columns = patches.reshape(-1, 4 * c), taps.reshape(4 * c, -1)
        if self.bias is None:
            cells = rows @ columns
        else:
            cells = torch.addmm(self.bias.repeat(s * s), rows, columns)
        return cells.view(*patches.shape[:3], s, s, c)

    def assemble(self, cells: torch.Tensor) -> torch.Tensor:
        """Cells (N, h+1, w+1, s, s, any) side by side, cropped by s / 2 on each side.

        (N, any, sh, sw).
        """
        n, rows, columns, s, _, c = cells.shape
        x = cells.transpose(2, 3).reshape(n, rows * s, columns * s, c)
        # fast: NHWC in memory, so that only long runs are moved.
        return x[:, s // 2 : -s // 2, s // 2 : -s // 2].permute(0, 3, 1, 2)

    def textbook(self, x: torch.Tensor) -> torch.Tensor:
        """The same by its definition: (N, C, h, w) -> (N, C, sh, sw)."""
        return functional.conv_transpose2d(x, self.weight, self.bias, self.stride, self.padding)
