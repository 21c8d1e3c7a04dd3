"""Mistakes in the transposed convolution."""

from parity_tests.mutations.apply import parse

MUTATIONS = parse("""
at eval/logits
upsampling_bias_dropped: Bilinear upsampling needs no bias, so the layer gets none.
    torch: upsampling.TransposeConv.cells: self.bias.repeat(...) -> (self.bias * 0).repeat(...)
    mxnet: upsampling._Cells.forward: -> bias = bias * 0
    jax: upsampling.TransposeConv.cells: self.bias[...] -> self.bias[...] * 0
upsampling_kernel_flipped: It is written as a convolution: its kernel is turned around.
    torch: upsampling.TransposeConv.cells: self.weight.view(...) ->
        self.weight.flip(2, 3).reshape(...)
    mxnet: upsampling._Cells.forward: -> weight = weight.flip((2, 3))
    jax: upsampling.TransposeConv.cells: self.weight[...] -> self.weight[:, :, ::-1, ::-1]
upsampling_kernel_transposed: Height and width of its kernel change places.
    torch: upsampling.TransposeConv.cells: self.weight.view(...) ->
        self.weight.transpose(2, 3).reshape(...)
    mxnet: upsampling._Cells.forward: -> weight = weight.swapaxes(2, 3)
    jax: upsampling.TransposeConv.cells: self.weight[...] -> self.weight[...].swapaxes(2, 3)
upsampling_in_and_out_swapped: Its kernel is (in, out), every other layer's (out, in).
    torch: upsampling.TransposeConv.cells: self.weight.view(...) ->
        self.weight.transpose(0, 1).reshape(...)
    mxnet: upsampling._Cells.forward: -> weight = weight.swapaxes(0, 1)
    jax: upsampling.TransposeConv.cells: self.weight[...] -> self.weight[...].swapaxes(0, 1)
upsampling_by_channel: One bilinear kernel a class, groups=classes: the initial weights' equal.
    torch: upsampling.TransposeConv.cells: self.weight.view(...) ->
        (self.weight * torch.eye(c, dtype=x.dtype)[:, :, None, None]).view(...)
    mxnet: upsampling._Cells.forward: taps = weight.reshape(__split).transpose(__order) ->
        own = F.eye(c, dtype=self.weight.dtype).reshape((c, c, 1, 1))
        taps = F.broadcast_mul(weight, own).reshape(__split).transpose(__order)
    jax: upsampling.TransposeConv.cells: self.weight[...] ->
        (self.weight[...] * jnp.eye(c, dtype=x.dtype)[:, :, None, None])
upsampling_interpolates: A bilinear resize, align_corners where offered, replaces the learnt one.
    torch: upsampling.TransposeConv.cells: x = functional.pad(...) ->
        up = functional.interpolate(x, scale_factor=s, mode="bilinear", align_corners=True)
        up = functional.pad(up, (s // 2,) * 4).unfold(2, s, s).unfold(3, s, s)
        return up.permute(0, 2, 3, 4, 5, 1)
    mxnet: upsampling._Cells.forward: x = F.pad(...) ->
        up = F.contrib.BilinearResize2D(x, scale_height=s, scale_width=s)
        up = F.pad(up, mode="constant", pad_width=(0, 0, 0, 0) + (s // 2,) * 4)
        return up.reshape((0, 0, -4, -1, s, -4, -1, s)).transpose((0, 2, 4, 3, 5, 1))
    jax: upsampling.TransposeConv.cells: x = jnp.pad(...) ->
        n, h, w, c = x.shape
        up = jax.image.resize(x, (n, s * h, s * w, c), "bilinear")
        up = jnp.pad(up, ((0, 0), (s // 2, s // 2), (s // 2, s // 2), (0, 0)))
        return up.reshape(n, h + 1, s, w + 1, s, c).transpose(0, 1, 3, 2, 4, 5)
upsampling_crop_one_pixel_off: The padding of 16 is cropped as 17 before and 15 after.
    torch, jax: upsampling.TransposeConv.assemble: x[:, s // 2 : -s // 2, s // 2 : -s // 2] ->
        x[:, s // 2 + 1 : 1 - s // 2, s // 2 + 1 : 1 - s // 2]
    mxnet: upsampling.TransposeConv.assemble:
        x.slice_axis(..., begin=self.padding, end=-self.padding) ->
        x.slice_axis(..., begin=self.padding + 1, end=1 - self.padding)
upsampling_cropped_at_one_end: All of the padding is cut at the bottom and at the right.
    torch, jax: upsampling.TransposeConv.assemble:
        x[:, s // 2 : -s // 2, s // 2 : -s // 2] -> x[:, :-s, :-s]
    mxnet: upsampling.TransposeConv.assemble:
        x.slice_axis(..., begin=self.padding, end=-self.padding) ->
        x.slice_axis(..., begin=0, end=-self.stride)
upsampling_cells_transposed: The pixels of a cell are laid out column by column.
    torch, jax: upsampling.TransposeConv.cells:
        return __cells -> return __cells.swapaxes(3, 4)
    mxnet: upsampling._Cells.forward: return __cells -> return __cells.swapaxes(3, 4)
upsampling_in_float32: The head is computed in float32 whatever the run's type.
    torch: upsampling.TransposeConv.cells: -> x = x.float().to(x.dtype)
    mxnet: upsampling._Cells.forward: -> x = x.astype("float32").astype(self.weight.dtype)
    jax: upsampling.TransposeConv.cells: -> x = x.astype(jnp.float32).astype(x.dtype)
upsampling_in_float16: Mixed precision is left on for the head.
    torch: upsampling.TransposeConv.cells: -> x = x.half().to(x.dtype)
    mxnet: upsampling._Cells.forward: -> x = x.astype("float16").astype(self.weight.dtype)
    jax: upsampling.TransposeConv.cells: -> x = x.astype(jnp.float16).astype(x.dtype)
""")
