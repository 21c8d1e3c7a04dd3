"""MXNet Gluon: the transposed convolution as a matrix product. Derivation: docs/upsampling.md."""

from typing import Any

from mxnet import nd
from mxnet.gluon import HybridBlock, Parameter

from common.config import Config


class _Cells(HybridBlock):
    """`TransposeConv.cells`, and its parameters."""

    # differs: a hybridized block compiles its forward alone, so what is asked for
    # by itself is a block of its own.

    def __init__(self, channels: int, kernel: int, stride: int, bias: bool, config: Config) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        with self.name_scope():
            # differs(conv_transpose): (in, out, kh, kw), which is the canonical layout.
            shape, dtype = (channels, channels, kernel, kernel), config.dtype.storage
            self.weight = self.params.get("weight", shape=shape, dtype=dtype)
            self.bias = self.params.get("bias", shape=(channels,), dtype=dtype) if bias else None

    def hybrid_forward(self, F: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        # A symbol has no shape. In `reshape`, 0 keeps an axis; None in `slice` is an open end.
        c, s = self.channels, self.stride
        x = F.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 1, 1))  # (N, C, h+2, w+2)
        reach = [
            F.slice(x, begin=(None, None, 1, 1), end=(None, None, None, None)),
            F.slice(x, begin=(None, None, 1, None), end=(None, None, None, -1)),
            F.slice(x, begin=(None, None, None, 1), end=(None, None, -1, None)),
            F.slice(x, begin=(None, None, None, None), end=(None, None, -1, -1)),
        ]
        patches = F.concat(*reach, dim=1).transpose((0, 2, 3, 1))  # (N, h+1, w+1, 4C)
        taps = weight.reshape((c, c, 2, s, 2, s)).transpose(
            (3, 5, 1, 2, 4, 0)
        )  # (s, s, C, 2, 2, C)
        bias = [] if bias is None else [F.tile(bias, reps=(s * s,))]  # (s*s*C,)
        # differs: FullyConnected takes a weight as (out, in).
        taps = taps.reshape((s * s * c, 4 * c))
        options = {"num_hidden": s * s * c, "flatten": False, "no_bias": not bias}
        cells = F.FullyConnected(patches, taps, *bias, **options)
        return cells.reshape((0, 0, 0, s, s, c))


class TransposeConv(HybridBlock):
    """Transposed convolution of stride s, an even number: kernel 2s, padding s / 2.

    (N, C, h, w) -> (N, C, sh, sw). `cells` is a block: (N, C, h, w) -> (N, h+1, w+1, s, s, C),
    the output as cells of s x s pixels, before the padding is cropped.
    """

    def __init__(self, channels: int, stride: int, *, bias: bool = False, config: Config) -> None:
        super().__init__()
        self.channels = channels
        self.kernel, self.stride, self.padding = 2 * stride, stride, stride // 2
        with self.name_scope():
            self.cells = _Cells(channels, self.kernel, stride, bias, config)

    @property
    def weight(self) -> Parameter:
        return self.cells.weight

    @property
    def bias(self) -> Parameter | None:
        return self.cells.bias

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.assemble(self.cells(x))

    def assemble(self, cells: Any) -> Any:
        """Cells (N, h+1, w+1, s, s, any) side by side, cropped by s / 2 on each side.

        (N, any, sh, sw).
        """
        x = cells.swapaxes(2, 3).reshape((0, -3, -3, 0))  # -3 joins two axes
        for axis in (1, 2):
            x = x.slice_axis(axis=axis, begin=self.padding, end=-self.padding)
        return x.transpose((0, 3, 1, 2))

    def textbook(self, x: nd.NDArray) -> nd.NDArray:
        """The same by its definition: (N, C, h, w) -> (N, C, sh, sw)."""
        return nd.Deconvolution(
            x,
            self.weight.data(),
            *([] if self.bias is None else [self.bias.data()]),
            kernel=(self.kernel, self.kernel),
            stride=(self.stride, self.stride),
            pad=(self.padding, self.padding),
            num_filter=self.channels,
            no_bias=self.bias is None,
        )
