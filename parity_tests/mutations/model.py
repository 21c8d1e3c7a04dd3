"""Mistakes in the network's layers, batch normalisation and upsampling apart."""

from parity_tests.mutations.apply import Patches, after, mutation, swap

_RELU = "__relu(self.bn1(self.conv1(x)))"
_SUM = "__relu(x + shortcut)"

_STOPPED = {
    "torch": "{}.detach()",
    "mxnet": "F.BlockGrad({})",
    "jax": "jax.lax.stop_gradient({})",
}
"""An expression that no gradient goes through."""


def _padded(before: str, after: str, mode: str = "constant") -> dict[str, str]:
    """The input padded by so many pixels before and after, in each backend."""
    return {
        "torch": f'nn.functional.pad(x, ({before}, {after}) * 2, mode="{mode}")',
        "mxnet": f'x.pad(mode="{mode}", pad_width=(0, 0, 0, 0) + ({before}, {after}) * 2)',
        "jax": f'jnp.pad(x, ((0, 0), *[({before}, {after})] * 2, (0, 0)), mode="{mode}")',
    }


def _own(seam: str, old: str, new: dict[str, str]) -> dict[str, Patches]:
    """The same replaced in each backend, by an expression of its own."""
    return {backend: swap(seam, old, expression) for backend, expression in new.items()}


def _stopped(seam: str, old: str, what: str) -> dict[str, Patches]:
    """`what` in `old` replaced by the same without a gradient."""
    return _own(
        seam, old, {b: old.replace(what, stop.format(what)) for b, stop in _STOPPED.items()}
    )


def _stem_padded(before: str, after: str, mode: str = "constant") -> dict[str, Patches]:
    """The stem's convolution without padding, of an input that is padded."""
    unpadded = swap(
        "model.ResNet.__init__",
        "self.conv1 = _conv(..., padding=3)",
        "self.conv1 = _conv(..., padding=0)",
    )
    return {
        backend: [unpadded, swap("model.ResNet.stem", "self.conv1(x)", f"self.conv1({padded})")]
        for backend, padded in _padded(before, after, mode).items()
    }


_BLOCK_ENDS = {
    "relu_before_sum": (
        "The ReLU stands before the shortcut is added, not after.",
        "__relu(x) + shortcut",
    ),
    "relu_once_too_often": (
        "Every BatchNorm is given its ReLU, the block's second one too.",
        "__relu(__relu(x) + shortcut)",
    ),
    "relu_missing_after_sum": ("The ReLU after the sum is forgotten.", "x + shortcut"),
    "shortcut_dropped": ("The sum with the shortcut is lost.", "__relu(x)"),
}
"""What a block ends in."""

MUTATIONS = [
    mutation(
        "stem_same_padding",
        "SAME, Flax's and TensorFlow's default, pads the 7x7/2 stem by 2 before and 3 after.",
        "eval/stem",
        _stem_padded("2", "3"),
    ),
    mutation(
        "stem_reflects",
        "A padding layer that mirrors the image stands where zeros should.",
        "eval/stem",
        _stem_padded("3", "3", "reflect"),
    ),
    mutation(
        "block_same_padding",
        "SAME pads a 3x3 convolution of stride 2 by 0 before and 1 after.",
        "eval/layer2.0",
        [
            after("model.BasicBlock.__init__", "self.conv1 = __", "self.stride = stride"),
            swap(
                "model.BasicBlock.__init__",
                "self.conv1 = _conv(..., padding=1)",
                "self.conv1 = _conv(..., padding=0)",
            ),
        ],
        _own(
            "model.BasicBlock.forward",
            "self.conv1(x)",
            {b: f"self.conv1({x})" for b, x in _padded("2 - self.stride", "1").items()},
        ),
    ),
    mutation(
        "stride_in_second_convolution",
        "The block's stride is put on its second convolution, not on its first.",
        "eval/layer2.0",
        [
            swap(
                "model.BasicBlock.__init__",
                f"self.conv{number} = _conv(__in, __out, 3, {old}...)",
                f"self.conv{number} = _conv(__in, __out, 3, {new}...)",
            )
            for number, old, new in ((1, "stride, ", ""), (2, "", "stride, "))
        ],
    ),
    mutation(
        "shortcut_averages",
        "resnet18d's shortcut averages 2x2 pixels, resnet18's takes every second one.",
        "eval/layer2.0",
        _own(
            "model.BasicBlock.forward",
            "self.downsample(x)",
            {
                "torch": "self.downsample(nn.functional.avg_pool2d(x, 2)"
                ".repeat_interleave(2, 2).repeat_interleave(2, 3))",
                "mxnet": "self.downsample(F.UpSampling(F.Pooling(x, kernel=(2, 2), stride=(2, 2),"
                ' pool_type="avg"), scale=2, sample_type="nearest"))',
                "jax": "self.downsample(nnx.avg_pool(x, (2, 2), strides=(2, 2))"
                ".repeat(2, 1).repeat(2, 2))",
            },
        ),
    ),
    mutation(
        "shortcut_takes_odd_pixels",
        "Padding before the shortcut's 1x1 convolution shifts which pixels it takes.",
        "eval/layer2.0",
        _own(
            "model.BasicBlock.forward",
            "self.downsample(x)",
            {
                "torch": "self.downsample(x.roll((-1, -1), (2, 3)))",
                "mxnet": "self.downsample(F.slice(F.pad(x, mode='edge',"
                " pad_width=(0, 0, 0, 0, 0, 1, 0, 1)),"
                " begin=(None, None, 1, 1), end=(None, None, None, None)))",
                "jax": "self.downsample(jnp.roll(x, (-1, -1), (1, 2)))",
            },
        ),
    ),
    mutation(
        "shortcut_not_normalised",
        "The shortcut's convolution is ported without the BatchNorm that follows it.",
        "eval/layer2.0",
        _own(
            "model.BasicBlock.forward",
            "self.downsample(x)",
            {
                "torch": "self.downsample[0](x)",
                "mxnet": "self.downsample[0](x)",
                "jax": "self.downsample.layers[0](x)",
            },
        ),
    ),
    *(
        mutation(name, why, "eval/layer1.0", swap("model.BasicBlock.forward", _SUM, end))
        for name, (why, end) in _BLOCK_ENDS.items()
    ),
    mutation(
        "pool_padded_after",
        "SAME, or Caffe's ceil mode, gives the same size and pads the max-pool after only.",
        "eval/stem",
        torch=swap("model.ResNet", "nn.MaxPool2d(...)", "nn.MaxPool2d(3, 2, 0, ceil_mode=True)"),
        mxnet=swap("model.ResNet", "nn.MaxPool2D(...)", "nn.MaxPool2D(3, 2, 0, ceil_mode=True)"),
        jax=swap(
            "model.ResNet", "nnx.max_pool(..., padding=__)", 'nnx.max_pool(..., padding="SAME")'
        ),
    ),
    mutation(
        "pool_averages",
        "Average pooling stands where max pooling should.",
        "eval/stem",
        torch=swap("model.ResNet", "nn.MaxPool2d(...)", "nn.AvgPool2d(...)"),
        mxnet=swap("model.ResNet", "nn.MaxPool2D(...)", "nn.AvgPool2D(...)"),
        jax=swap("model.ResNet", "nnx.max_pool(...)", "nnx.avg_pool(...)"),
    ),
    mutation(
        "pool_before_norm",
        "The stem pools before it normalises: with positive gammas no eval pass shows it.",
        ("eval/stem", "train/stem"),
        swap("model.ResNet.stem", _RELU, "self.conv1(x)"),
        _own(
            "model.ResNet.stem",
            "return __pooled",
            {
                backend: f"return {relu}(self.bn1(__pooled))"
                for backend, relu in (
                    ("torch", "self.relu"),
                    ("mxnet", "self.relu"),
                    ("jax", "nnx.relu"),
                )
            },
        ),
    ),
    mutation(
        "relu_missing_in_stem",
        "The stem's activation is forgotten, as where it is an argument of the convolution.",
        "eval/stem",
        swap("model.ResNet.stem", _RELU, "self.bn1(self.conv1(x))"),
    ),
    mutation(
        "relu_missing_inside",
        "The ReLU between a block's two convolutions is forgotten.",
        "eval/layer1.0",
        swap("model.BasicBlock.forward", _RELU, "self.bn1(self.conv1(x))"),
    ),
    mutation(
        "relu_leaky",
        "A leaky ReLU stands inside the blocks.",
        "eval/layer1.0",
        _own(
            "model.BasicBlock.forward",
            "__relu(self.bn1(...))",
            {
                "torch": "nn.functional.leaky_relu(self.bn1(...))",
                "mxnet": 'F.LeakyReLU(self.bn1(...), act_type="leaky", slope=0.01)',
                "jax": "nnx.leaky_relu(self.bn1(...))",
            },
        ),
    ),
    mutation(
        "relu_after_head",
        "A loop over layers adds an activation after the last convolution too.",
        ("eval/final_conv", "eval/logits"),
        _own(
            "model.FCN.scores",
            "self.final_conv(x)",
            {
                "torch": "self.final_conv(x).relu()",
                "mxnet": "self.final_conv(x).relu()",
                "jax": "nnx.relu(self.final_conv(x))",
            },
        ),
    ),
    mutation(
        "dropout_left_in",
        "torchvision's FCN head has a dropout of 0.1 before its last convolution.",
        "train/final_conv",
        {
            backend: [
                after(
                    "model.FCN.__init__", "self.final_conv = __", "self.dropout = nn.Dropout(0.1)"
                ),
                swap("model.FCN.scores", "self.final_conv(x)", "self.final_conv(self.dropout(x))"),
            ]
            for backend in ("torch", "mxnet")
        },
        jax=swap(
            "model.FCN.scores",
            "self.final_conv(x)",
            "self.final_conv(x if self.backbone.bn1.use_running_average else jnp.where("
            "jax.random.bernoulli(jax.random.key(0), 0.9, x.shape), x / 0.9, 0))",
        ),
    ),
    mutation(
        "activation_in_float32",
        "One call between two stages makes float32 of float64, MXNet's nd.array for one.",
        ("eval/layer3.1", "eval/layer4.0"),
        _own(
            "model.ResNet.forward",
            "self.layer4(x)",
            {
                "torch": "self.layer4(x.float().to(x.dtype))",
                "mxnet": 'self.layer4(x.astype("float32").astype(self.bn1.gamma.dtype))',
                "jax": "self.layer4(x.astype(jnp.float32).astype(x.dtype))",
            },
        ),
    ),
    mutation(
        "gradient_stopped_between_stages",
        "A detach, or a trip through NumPy, cuts the gradient off between two stages.",
        "grad/backbone.layer2.1.bn2.bias",
        _stopped("model.ResNet.forward", "self.layer3(x)", "x"),
    ),
    mutation(
        "gradient_stopped_in_shortcut",
        "The shortcut is stored detached, so the gradient takes the long way alone.",
        "grad/backbone.layer4.0.downsample.1.bias",
        _stopped("model.BasicBlock.forward", _SUM, "shortcut"),
    ),
    mutation(
        "backbone_without_gradient",
        "The backbone is run as a fixed feature extractor.",
        "grad/backbone.layer4.1.bn2.bias",
        _stopped("model.ResNet.forward", "self.norm(x)", "self.norm(x)"),
    ),
]
