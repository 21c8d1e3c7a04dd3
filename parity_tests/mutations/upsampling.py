"""Mistakes in the transposed convolution."""

from parity_tests.mutations.apply import Patches, before, mutation, start, swap

_CELLS = {
    "torch": "upsampling.TransposeConv.cells",
    "mxnet": "upsampling._Cells.forward",
    "jax": "upsampling.TransposeConv.cells",
}
"""Where the cells are computed."""

_WEIGHT = {"torch": "self.weight", "mxnet": "weight", "jax": "self.weight[...]"}
"""The kernel as it is read there."""

_KERNELS = {
    "upsampling_kernel_flipped": (
        "A transposed convolution is written as a convolution: its kernel is turned around.",
        "{}.flip(2, 3)",
        "{}.flip((2, 3))",
        "{}[:, :, ::-1, ::-1]",
    ),
    "upsampling_kernel_transposed": (
        "Height and width of the transposed convolution's kernel change places.",
        "{}.transpose(2, 3)",
        "{}.swapaxes(2, 3)",
        "{}.swapaxes(2, 3)",
    ),
    "upsampling_in_and_out_swapped": (
        "The transposed convolution keeps (in, out), every other one (out, in).",
        "{}.transpose(0, 1)",
        "{}.swapaxes(0, 1)",
        "{}.swapaxes(0, 1)",
    ),
    "upsampling_by_channel": (
        "One bilinear kernel a class, groups=classes, which the usual initial weights equal.",
        "({} * torch.eye(c, dtype=x.dtype)[:, :, None, None])",
        "F.broadcast_mul({}, F.eye(c, dtype=self.weight.dtype).reshape((c, c, 1, 1)))",
        "({} * jnp.eye(c, dtype=x.dtype)[:, :, None, None])",
    ),
}
"""What the kernel is replaced by where it is read, in each backend."""

_TYPES = {
    "upsampling_in_float32": (
        "The head is computed in float32 whatever the run's type.",
        "float32",
    ),
    "upsampling_in_float16": ("Mixed precision is left on for the head.", "float16"),
}

_CROPS = {
    "upsampling_crop_one_pixel_off": (
        "The transposed convolution's padding of 16 is cropped as 17 before and 15 after.",
        "{half} + 1",
        "1 - {half}",
    ),
    "upsampling_cropped_at_one_end": (
        "The output's size is right, but all of the padding is cut at the bottom and right.",
        "0",
        "-2 * {half}",
    ),
}
"""Where the crop of both axes begins and ends."""


def _kernel(torch: str, mxnet: str, jax: str) -> dict[str, Patches]:
    kernels = {"torch": torch, "mxnet": mxnet, "jax": jax}
    return {
        backend: swap(
            seam,
            f"{_WEIGHT[backend]}.{'view' if backend == 'torch' else 'reshape'}(...)",
            f"{kernels[backend].format(_WEIGHT[backend])}.reshape(...)",
        )
        for backend, seam in _CELLS.items()
    }


def _crop(begin: str, end: str) -> dict[str, Patches]:
    first, last = begin.format(half="s // 2"), end.format(half="s // 2")
    sliced = swap(
        "upsampling.assemble",
        "x[:, s // 2 : -s // 2, s // 2 : -s // 2]",
        f"x[:, {first} : {last}, {first} : {last}]",
    )
    first, last = begin.format(half="half"), end.format(half="half")
    mxnet = swap(
        "upsampling.assemble",
        "x.slice_axis(..., begin=half, end=-half)",
        f"x.slice_axis(..., begin={first}, end={last})",
    )
    return {"torch": sliced, "mxnet": mxnet, "jax": sliced}


MUTATIONS = [
    mutation(
        "upsampling_bias_dropped",
        "Bilinear upsampling needs no bias, so the transposed convolution gets none.",
        "eval/logits",
        torch=swap(_CELLS["torch"], "self.bias", "self.bias * 0"),
        mxnet=start(_CELLS["mxnet"], "bias = bias * 0"),
        jax=swap(_CELLS["jax"], "self.bias[...]", "self.bias[...] * 0"),
    ),
    *(
        mutation(name, why, "eval/logits", _kernel(*kernels))
        for name, (why, *kernels) in _KERNELS.items()
    ),
    mutation(
        "upsampling_interpolates",
        "A bilinear resize, with align_corners where it is offered, replaces the learnt one.",
        "eval/logits",
        torch=before(
            _CELLS["torch"],
            "functional.pad(...)",
            """
            up = functional.interpolate(x, scale_factor=s, mode="bilinear", align_corners=True)
            up = functional.pad(up, (s // 2,) * 4).unfold(2, s, s).unfold(3, s, s)
            return up.permute(0, 2, 3, 4, 5, 1)
            """,
        ),
        mxnet=before(
            _CELLS["mxnet"],
            "F.pad(...)",
            """
            up = F.contrib.BilinearResize2D(x, scale_height=s, scale_width=s)
            up = F.pad(up, mode="constant", pad_width=(0, 0, 0, 0) + (s // 2,) * 4)
            up = up.reshape((0, 0, -4, -1, s, -4, -1, s))
            return up.transpose((0, 2, 4, 3, 5, 1))
            """,
        ),
        jax=before(
            _CELLS["jax"],
            "jnp.pad(...)",
            """
            n, h, w, c = x.shape
            up = jax.image.resize(x, (n, s * h, s * w, c), "bilinear")
            up = jnp.pad(up, ((0, 0), (s // 2, s // 2), (s // 2, s // 2), (0, 0)))
            return up.reshape(n, h + 1, s, w + 1, s, c).transpose(0, 1, 3, 2, 4, 5)
            """,
        ),
    ),
    *(
        mutation(name, why, "eval/logits", _crop(begin, end))
        for name, (why, begin, end) in _CROPS.items()
    ),
    mutation(
        "upsampling_cells_transposed",
        "The pixels of a cell are laid out column by column.",
        "eval/logits",
        {
            backend: swap(seam, "return __cells", "return __cells.swapaxes(3, 4)")
            for backend, seam in _CELLS.items()
        },
    ),
    *(
        mutation(
            name,
            why,
            "eval/logits",
            torch=start(_CELLS["torch"], f"x = x.to(torch.{kind}).to(x.dtype)"),
            mxnet=start(_CELLS["mxnet"], f'x = F.cast(F.cast(x, "{kind}"), self.weight.dtype)'),
            jax=start(_CELLS["jax"], f"x = x.astype(jnp.{kind}).astype(x.dtype)"),
        )
        for name, (why, kind) in _TYPES.items()
    ),
]
