"""Mistakes in the network's layers, batch normalisation apart."""

from parity_tests.mutations.apply import Fault, Patch, everywhere, fault

_LOGITS = "eval/logits"


def _m(old: str, new: str, count: int = 1) -> Patch:
    return Patch("model", old, new, count)


_TORCH_STEM = "self.relu(self.bn1(self.conv1(x)))  # (N"
_MXNET_STEM = "self.relu(self.bn1(self.conv1(x)))  # (N"
_JAX_STEM = "nnx.relu(self.bn1(self.conv1(x)))  # (N"
_TORCH_INNER = "self.relu(self.bn1(self.conv1(x)))\n        x = self.bn2"
_MXNET_INNER = "self.relu(self.bn1(self.conv1(x)))\n"
_JAX_INNER = "nnx.relu(self.bn1(self.conv1(x)))\n"
_TORCH_SUM = "functional.relu(x + shortcut)"
_MXNET_SUM = "self.relu(x + shortcut)"
_JAX_SUM = "nnx.relu(x + shortcut)"
_TORCH_STEM_CONV = "_conv(3, 64, 7, stride=2, padding=3"
_JAX_STEM_CONV = "_conv(3, 64, 7, 2, 3, config)\n"
_CROP = "s // 2 : -s // 2, s // 2 : -s // 2]"  # of both axes, in every layout


def _sum(new: str, relu: str | None = None) -> tuple[Patch, Patch, Patch]:
    """The block's last line replaced; `{relu}` stands for the framework's function."""
    names = ("functional.relu", "self.relu", "nnx.relu")
    return tuple(  # type: ignore[return-value]
        _m(old, new.format(relu=relu or name))
        for old, name in zip((_TORCH_SUM, _MXNET_SUM, _JAX_SUM), names, strict=True)
    )


def _block_end(name: str, why: str, new: str) -> Fault:
    torch, mxnet, jax = _sum(new)
    return fault(name, why, "eval/layer1.0", torch=torch, mxnet=mxnet, jax=jax)


def _taps(name: str, why: str, torch: str, mxnet: str, jax: str) -> Fault:
    """The transposed convolution's kernel replaced where the forward pass reads it."""
    return fault(
        name,
        why,
        _LOGITS,
        torch=_m("taps = self.weight.view(", f"taps = {torch}.reshape("),
        mxnet=_m("taps = weight.reshape(", f"taps = {mxnet}.reshape("),
        jax=_m("taps = self.weight[...].reshape(", f"taps = {jax}.reshape("),
    )


FAULTS: list[Fault] = [
    fault(
        "stem_same_padding",
        "SAME, Flax's and TensorFlow's default, pads the 7x7/2 stem by 2 before and 3 after.",
        "eval/stem",
        torch=(
            _m(_TORCH_STEM_CONV, "_conv(3, 64, 7, stride=2, padding=0"),
            _m(_TORCH_STEM, _TORCH_STEM.replace("(x)", "(functional.pad(x, (2, 3, 2, 3)))")),
        ),
        mxnet=(
            _m(_TORCH_STEM_CONV, "_conv(3, 64, 7, stride=2, padding=0"),
            _m(
                _MXNET_STEM,
                _MXNET_STEM.replace(
                    "(x)", '(F.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 2, 3, 2, 3)))'
                ),
            ),
        ),
        jax=_m(_JAX_STEM_CONV, _JAX_STEM_CONV + '        self.conv1.padding = "SAME"\n'),
    ),
    fault(
        "block_same_padding",
        "SAME pads a 3x3 convolution of stride 2 by 0 before and 1 after.",
        "eval/layer2.0",
        torch=(
            _m("3, stride, padding=1", "3, stride, padding=0", 2),
            _m(
                _TORCH_INNER,
                _TORCH_INNER.replace(
                    "(x)", "(functional.pad(x, (2 - self.conv1.stride[0], 1) * 2))", 1
                ),
            ),
        ),
        mxnet=(
            _m("3, stride, padding=1", "3, stride, padding=0", 2),
            _m(
                _MXNET_INNER,
                _MXNET_INNER.replace(
                    "(x)",
                    '(F.pad(x, mode="constant", pad_width=(0, 0, 0, 0)'
                    ' + (2 - self.conv1._kwargs["stride"][0], 1) * 2))',
                ),
            ),
        ),
        jax=_m(
            "_conv(in_channels, channels, 3, stride, 1, config)\n",
            "_conv(in_channels, channels, 3, stride, 1, config)\n"
            '        self.conv1.padding = "SAME"\n',
            2,
        ),
    ),
    fault(
        "stem_reflects",
        "A padding layer that mirrors the image stands where zeros should.",
        "eval/stem",
        torch=(
            _m(_TORCH_STEM_CONV, "_conv(3, 64, 7, stride=2, padding=0"),
            _m(
                _TORCH_STEM,
                _TORCH_STEM.replace("(x)", '(functional.pad(x, (3, 3, 3, 3), mode="reflect"))'),
            ),
        ),
        mxnet=(
            _m(_TORCH_STEM_CONV, "_conv(3, 64, 7, stride=2, padding=0"),
            _m(
                _MXNET_STEM,
                _MXNET_STEM.replace(
                    "(x)", '(F.pad(x, mode="reflect", pad_width=(0, 0, 0, 0, 3, 3, 3, 3)))'
                ),
            ),
        ),
        jax=(
            _m(_JAX_STEM_CONV, "_conv(3, 64, 7, 2, 0, config)\n"),
            _m(
                _JAX_STEM,
                _JAX_STEM.replace(
                    "(x)", '(jnp.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)), "reflect"))'
                ),
            ),
        ),
    ),
    fault(
        "stride_in_second_convolution",
        "The block's stride is put on its second convolution, not on its first.",
        "eval/layer2.0",
        torch=(
            _m("channels, 3, stride, padding=1", "channels, 3, padding=1", 2),
            _m("(channels, channels, 3, padding=1", "(channels, channels, 3, stride, padding=1", 2),
        ),
        mxnet=(
            _m("channels, 3, stride, padding=1", "channels, 3, padding=1", 2),
            _m("(channels, channels, 3, padding=1", "(channels, channels, 3, stride, padding=1", 2),
        ),
        jax=(
            _m("channels, 3, stride, 1, config", "channels, 3, 1, 1, config", 2),
            _m(
                "(channels, channels, 3, 1, 1, config",
                "(channels, channels, 3, stride, 1, config",
                2,
            ),
        ),
    ),
    fault(
        "shortcut_averages",
        "resnet18d's shortcut averages 2x2 pixels, resnet18's takes every second one.",
        "eval/layer2.0",
        torch=_m(
            "self.downsample(x)",
            "self.downsample(functional.avg_pool2d(x, 2).repeat_interleave(2, 2)"
            ".repeat_interleave(2, 3))",
        ),
        mxnet=_m(
            "self.downsample(x)",
            "self.downsample(F.UpSampling(F.Pooling(x, kernel=(2, 2), stride=(2, 2),"
            ' pool_type="avg"), scale=2, sample_type="nearest"))',
        ),
        jax=_m(
            "self.downsample_0(x)",
            "self.downsample_0(nnx.avg_pool(x, (2, 2), strides=(2, 2)).repeat(2, 1).repeat(2, 2))",
        ),
    ),
    fault(
        "shortcut_takes_odd_pixels",
        "Padding before the shortcut's 1x1 convolution shifts which pixels it takes.",
        "eval/layer2.0",
        torch=_m("self.downsample(x)", "self.downsample(x.roll((-1, -1), (2, 3)))"),
        mxnet=_m(
            "self.downsample(x)",
            "self.downsample(F.slice(F.pad(x, mode='edge', pad_width=(0, 0, 0, 0, 0, 1, 0, 1)),"
            " begin=(None, None, 1, 1), end=(None, None, None, None)))",
        ),
        jax=_m("self.downsample_0(x)", "self.downsample_0(jnp.roll(x, (-1, -1), (1, 2)))"),
    ),
    fault(
        "pool_padded_after",
        "SAME, or Caffe's ceil mode, gives the same size and pads the max-pool after only.",
        "eval/stem",
        torch=_m("nn.MaxPool2d(3, stride=2, padding=1)", "nn.MaxPool2d(3, 2, 0, ceil_mode=True)"),
        mxnet=_m('pad=(1, 1), pool_type="max"', 'pooling_convention="full", pool_type="max"'),
        jax=_m(
            "padding=((1, 1), (1, 1)))\n        return x, inner",
            'padding="SAME")\n        return x, inner',
        ),
    ),
    fault(
        "pool_averages",
        "Average pooling stands where max pooling should.",
        "eval/stem",
        torch=_m("nn.MaxPool2d(", "nn.AvgPool2d("),
        mxnet=_m('pool_type="max"', 'pool_type="avg"'),
        jax=_m("nnx.max_pool(", "nnx.avg_pool("),
    ),
    fault(
        "pool_before_norm",
        "The stem pools before it normalises: with positive gammas no eval pass shows it.",
        ("eval/stem", "train/stem"),
        torch=(
            _m(
                _TORCH_STEM,
                "self.relu(self.bn1(functional.max_pool2d(self.conv1(x), 3, 2, 1)))  # (N",
            ),
            _m(
                "self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)",
                "self.maxpool = nn.Identity()",
            ),
        ),
        mxnet=(
            _m(
                _MXNET_STEM,
                "self.conv1(x)  # (N",
            ),
            _m(
                "        return x, inner  # (N",
                "        x = self.relu(self.bn1(x))\n        return x, inner  # (N",
            ),
        ),
        jax=(
            _m(_JAX_STEM, "self.conv1(x)  # (N"),
            _m(
                "        return x, inner  # (N",
                "        x = nnx.relu(self.bn1(x))\n        return x, inner  # (N",
            ),
        ),
    ),
    fault(
        "relu_missing_in_stem",
        "The stem's activation is forgotten, as where it is an argument of the convolution.",
        "eval/stem",
        torch=_m(_TORCH_STEM, "self.bn1(self.conv1(x))  # (N"),
        mxnet=_m(_MXNET_STEM, "self.bn1(self.conv1(x))  # (N"),
        jax=_m(_JAX_STEM, "self.bn1(self.conv1(x))  # (N"),
    ),
    fault(
        "relu_missing_inside",
        "The ReLU between a block's two convolutions is forgotten.",
        "eval/layer1.0",
        torch=_m(_TORCH_INNER, "self.bn1(self.conv1(x))\n        x = self.bn2"),
        mxnet=_m(_MXNET_INNER, "self.bn1(self.conv1(x))\n"),
        jax=_m(_JAX_INNER, "self.bn1(self.conv1(x))\n"),
    ),
    fault(
        "relu_leaky",
        "A leaky ReLU stands inside the blocks.",
        "eval/layer1.0",
        torch=_m(_TORCH_INNER, _TORCH_INNER.replace("self.relu", "functional.leaky_relu", 1)),
        mxnet=_m(
            _MXNET_INNER,
            'F.LeakyReLU(self.bn1(self.conv1(x)), act_type="leaky", slope=0.01)\n',
        ),
        jax=_m(_JAX_INNER, _JAX_INNER.replace("relu", "leaky_relu", 1)),
    ),
    fault(
        "relu_after_head",
        "A loop over layers adds an activation after the last convolution too.",
        ("eval/final_conv", _LOGITS),
        torch=_m("self.final_conv(x)", "functional.relu(self.final_conv(x))"),
        mxnet=_m("self.final_conv(x)  #", "self.backbone.relu(self.final_conv(x))  #"),
        jax=_m("self.final_conv(x)  #", "nnx.relu(self.final_conv(x))  #"),
    ),
    _block_end(
        "relu_before_sum",
        "The ReLU stands before the shortcut is added, not after.",
        "{relu}(x) + shortcut",
    ),
    _block_end(
        "relu_once_too_often",
        "Every BatchNorm is given its ReLU, the block's second one too.",
        "{relu}({relu}(x) + shortcut)",
    ),
    _block_end("relu_missing_after_sum", "The ReLU after the sum is forgotten.", "x + shortcut"),
    _block_end("shortcut_dropped", "The sum with the shortcut is lost.", "{relu}(x)"),
    fault(
        "shortcut_not_normalised",
        "The shortcut's convolution is ported without the BatchNorm that follows it.",
        "eval/layer2.0",
        torch=_m("self.downsample(x)", "self.downsample[0](x)"),
        mxnet=_m("self.downsample(x)", "self.downsample[0](x)"),
        jax=_m("self.downsample_1(self.downsample_0(x))", "self.downsample_0(x)"),
    ),
    fault(
        "dropout_left_in",
        "torchvision's FCN head has a dropout of 0.1 before its last convolution.",
        "train/final_conv",
        torch=_m(
            "self.final_conv(x)", "self.final_conv(functional.dropout(x, 0.1, self.training))"
        ),
        mxnet=_m("self.final_conv(x)  #", "self.final_conv(F.Dropout(x, p=0.1))  #"),
        jax=_m(
            "self.final_conv(x)  #",
            "self.final_conv(x if self.backbone.bn1.use_running_average else jnp.where("
            "jax.random.bernoulli(jax.random.key(0), 0.9, x.shape), x / 0.9, 0))  #",
        ),
    ),
    fault(
        "final_bias_dropped",
        "The convolutions before have no bias, so the last gets none.",
        "eval/final_conv",
        torch=_m(
            "self.final_conv = nn.Conv2d(512, config.num_classes, 1)\n",
            "self.final_conv = nn.Conv2d(512, config.num_classes, 1)\n"
            "        weight = lambda: self.final_conv.weight\n"
            "        self.final_conv.forward = lambda x: functional.conv2d(x, weight())\n",
        ),
        mxnet=_m(
            "self.final_conv(x)  #",
            "F.Convolution(x, self.final_conv.weight.var(), kernel=(1, 1),"
            " num_filter=self.num_classes, no_bias=True)  #",
        ),
        jax=_m("self.final_conv(x)  #", "x @ self.final_conv.kernel[...][0, 0]  #"),
    ),
    fault(
        "upsampling_bias_dropped",
        "Bilinear upsampling needs no bias, so the transposed convolution gets none.",
        _LOGITS,
        torch=_m("self.bias.repeat_interleave(s * s)", "x.new_zeros(c * s * s)"),
        mxnet=_m("F.tile(bias, reps=(s * s,))", "F.zeros_like(F.tile(bias, reps=(s * s,)))"),
        jax=_m(" + self.bias[...][:, None, None]", ""),
    ),
    _taps(
        "upsampling_kernel_flipped",
        "A transposed convolution is written as a convolution: its kernel is turned around.",
        "self.weight.flip(2, 3)",
        "F.reverse(weight, axis=(2, 3))",
        "self.weight[...][:, :, ::-1, ::-1]",
    ),
    _taps(
        "upsampling_kernel_transposed",
        "Height and width of the transposed convolution's kernel change places.",
        "self.weight.transpose(2, 3)",
        "F.swapaxes(weight, 2, 3)",
        "self.weight[...].swapaxes(2, 3)",
    ),
    _taps(
        "upsampling_in_and_out_swapped",
        "The transposed convolution keeps (in, out), every other one (out, in).",
        "self.weight.transpose(0, 1)",
        "F.swapaxes(weight, 0, 1)",
        "self.weight[...].swapaxes(0, 1)",
    ),
    _taps(
        "upsampling_by_channel",
        "One bilinear kernel a class, groups=classes, which the usual initial weights equal.",
        "(self.weight * torch.eye(c, dtype=x.dtype)[:, :, None, None])",
        "F.broadcast_mul(weight, F.eye(c, dtype=self.weight.dtype).reshape((c, c, 1, 1)))",
        "(self.weight[...] * jnp.eye(c, dtype=x.dtype)[:, :, None, None])",
    ),
    fault(
        "upsampling_interpolates",
        "A bilinear resize, with align_corners where it is offered, replaces the learnt one.",
        _LOGITS,
        torch=_m(
            "        x = functional.pad(x, (1, 1, 1, 1))",
            '        up = functional.interpolate(x, scale_factor=s, mode="bilinear",'
            " align_corners=True)\n"
            "        up = functional.pad(up, (s // 2,) * 4).unfold(2, s, s).unfold(3, s, s)\n"
            "        return up.permute(0, 2, 3, 1, 4, 5).reshape(-1, c, s, s)\n"
            "        x = functional.pad(x, (1, 1, 1, 1))",
        ),
        mxnet=_m(
            "        x = F.pad(x, mode",
            "        up = F.contrib.BilinearResize2D(x, scale_height=s, scale_width=s)\n"
            '        up = F.pad(up, mode="constant", pad_width=(0, 0, 0, 0) + (s // 2,) * 4)\n'
            "        up = up.reshape((0, 0, -4, -1, s, -4, -1, s)).transpose((0, 2, 4, 3, 5, 1))\n"
            "        return up.reshape((-1, s, s, c))\n"
            "        x = F.pad(x, mode",
        ),
        jax=_m(
            "        x = jnp.pad(x, ((0, 0), (1",
            "        n, h, w, c = x.shape\n"
            '        up = jax.image.resize(x, (n, s * h, s * w, c), "bilinear")\n'
            "        half = (s // 2, s // 2)\n"
            "        up = jnp.pad(up, ((0, 0), half, half, (0, 0)))\n"
            "        up = up.reshape(n, h + 1, s, w + 1, s, c).transpose(0, 1, 3, 5, 2, 4)\n"
            "        return up.reshape(-1, c, s, s)\n"
            "        x = jnp.pad(x, ((0, 0), (1",
        ),
    ),
    everywhere(
        "upsampling_crop_one_pixel_off",
        "The transposed convolution's padding of 16 is cropped as 17 before and 15 after.",
        _LOGITS,
        _m(_CROP, "s // 2 + 1 : 1 - s // 2, s // 2 + 1 : 1 - s // 2]"),
    ),
    everywhere(
        "upsampling_cropped_at_one_end",
        "The output's size is right, but all of the padding is cut at the bottom and right.",
        _LOGITS,
        _m(_CROP, ":-s, :-s]"),
    ),
    fault(
        "upsampling_cells_transposed",
        "The pixels of a cell are laid out column by column.",
        _LOGITS,
        torch=_m("cells.view(-1, c, s, s)", "cells.view(-1, c, s, s).transpose(2, 3)"),
        mxnet=_m("cells.reshape((-1, s, s, c))", "cells.reshape((-1, s, s, c)).swapaxes(1, 2)"),
        jax=_m("cells.reshape(-1, c, s, s)", "cells.reshape(-1, c, s, s).swapaxes(2, 3)"),
    ),
    fault(
        "upsampling_in_float32",
        "The head is computed in float32 whatever the run's type.",
        _LOGITS,
        torch=_m("patches.reshape(-1, 4 * c)", "patches.reshape(-1, 4 * c).float().to(x.dtype)"),
        mxnet=_m(
            "F.FullyConnected(patches,",
            'F.FullyConnected(F.cast(F.cast(patches, "float32"), self.weight.dtype),',
        ),
        jax=_m(
            "patches.reshape(-1, 4 * c)",
            "patches.reshape(-1, 4 * c).astype(jnp.float32).astype(x.dtype)",
        ),
    ),
    fault(
        "upsampling_in_float16",
        "Mixed precision is left on for the head.",
        _LOGITS,
        torch=_m("patches.reshape(-1, 4 * c)", "patches.reshape(-1, 4 * c).half().to(x.dtype)"),
        mxnet=_m(
            "F.FullyConnected(patches,",
            'F.FullyConnected(F.cast(F.cast(patches, "float16"), self.weight.dtype),',
        ),
        jax=_m(
            "patches.reshape(-1, 4 * c)",
            "patches.reshape(-1, 4 * c).astype(jnp.float16).astype(x.dtype)",
        ),
    ),
    fault(
        "activation_in_float32",
        "One call between two stages makes float32 of float64, MXNet's nd.array for one.",
        ("eval/layer3.1", "eval/layer4.0"),
        torch=_m("self.layer4(x)", "self.layer4(x.float().to(x.dtype))"),
        mxnet=_m(
            "            for block in stage:\n",
            "            if stage is self.layer4:\n"
            '                x = F.cast(F.cast(x, "float32"), self.bn1.gamma.dtype)\n'
            "            for block in stage:\n",
        ),
        jax=_m(
            "x, relus = block(x)",
            'x = x.astype(jnp.float32).astype(x.dtype) if name == "layer4.0" else x\n'
            "            x, relus = block(x)",
        ),
    ),
    fault(
        "gradient_stopped_between_stages",
        "A detach, or a trip through NumPy, cuts the gradient off between two stages.",
        "grad/backbone.layer2.1.bn2.bias",
        torch=_m("self.layer3(x)", "self.layer3(x.detach())"),
        mxnet=_m(
            "            for block in stage:\n",
            "            x = F.BlockGrad(x) if stage is self.layer3 else x\n"
            "            for block in stage:\n",
        ),
        jax=_m(
            "x, relus = block(x)",
            'x = jax.lax.stop_gradient(x) if name == "layer3.0" else x\n'
            "            x, relus = block(x)",
        ),
    ),
    fault(
        "gradient_stopped_in_shortcut",
        "The shortcut is stored detached, so the gradient takes the long way alone.",
        "grad/backbone.layer4.0.downsample.1.bias",
        torch=_m(_TORCH_SUM, "functional.relu(x + shortcut.detach())"),
        mxnet=_m(_MXNET_SUM, "self.relu(x + F.BlockGrad(shortcut))"),
        jax=_m(_JAX_SUM, "nnx.relu(x + jax.lax.stop_gradient(shortcut))"),
    ),
    fault(
        "backbone_without_gradient",
        "The backbone is run as a fixed feature extractor.",
        "grad/backbone.layer4.1.bn2.bias",
        torch=_m("self.final_conv(x)", "self.final_conv(x.detach())"),
        mxnet=_m("self.final_conv(x)  #", "self.final_conv(F.BlockGrad(x))  #"),
        jax=_m("self.final_conv(x)  #", "self.final_conv(jax.lax.stop_gradient(x))  #"),
    ),
]
