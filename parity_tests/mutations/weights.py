"""Mistakes in how canonical weights get into the model."""

from parity_tests.mutations.apply import mutation, start


def _twins(a: str, b: str) -> str:
    return f'weights[{{"{a}": "{b}", "{b}": "{a}"}}.get(name, name)]'


def _kernels(change: str, condition: str = "array.ndim == 4") -> str:
    return f"array{change}.copy() if {condition} else array"


_LOADED = {
    "twin_convolutions_swapped": (
        "Tensors of the same shape are matched by shape, or by a wrong order.",
        "eval/layer1.0",
        _twins("backbone.layer1.0.conv1.weight", "backbone.layer1.0.conv2.weight"),
    ),
    "twin_blocks_swapped": (
        "A renaming rule counts blocks from the wrong end.",
        "eval/layer3.0",
        _twins("backbone.layer3.0.conv2.weight", "backbone.layer3.1.conv1.weight"),
    ),
    "shortcut_norm_swapped": (
        "Frameworks list the shortcut's BatchNorm before or after the block's second one.",
        "eval/layer2.0",
        """weights[
            name.replace("0.bn2", "0.downsample.1")
            if "layer2.0.bn2" in name
            else name.replace("2.0.downsample.1", "2.0.bn2")
        ]""",
    ),
    "gamma_and_beta_swapped": (
        "BatchNorm's two vectors are loaded in the other order.",
        "eval/stem",
        _twins("backbone.bn1.weight", "backbone.bn1.bias"),
    ),
    "mean_and_variance_swapped": (
        "BatchNorm's two buffers are loaded in the other order.",
        "eval/layer4.1",
        _twins("backbone.layer4.1.bn2.running_mean", "backbone.layer4.1.bn2.running_var"),
    ),
    "kernels_transposed": (
        "Height and width of the kernels change places on the way to another layout.",
        "eval/stem",
        _kernels(".swapaxes(2, 3)"),
    ),
    "kernels_flipped": (
        "A convolution is taken for a correlation, or the other way round.",
        "eval/stem",
        _kernels("[:, :, ::-1, ::-1]"),
    ),
    "kernels_in_and_out_swapped": (
        "(in, out) is taken for (out, in); only square tensors let it pass.",
        "eval/layer1.0",
        _kernels(".swapaxes(0, 1)", "array.ndim == 4 and array.shape[0] == array.shape[1]"),
    ),
    "kernel_reshaped_to_layout": (
        "A kernel is reshaped to the other layout where it should be transposed.",
        "eval/stem",
        _kernels(".transpose(2, 3, 1, 0).reshape(array.shape)"),
    ),
    "buffers_not_loaded": (
        "Only parameters are copied: running means and variances are no parameters.",
        "eval/stem",
        'array * 0 + name.endswith("var") if "running" in name else array',
    ),
    "final_bias_not_loaded": (
        "The source convolution is taken to have no bias, and zeros stay.",
        "eval/final_conv",
        'array * (name != "final_conv.bias")',
    ),
    "upsampling_bias_not_loaded": (
        "Bilinear upsampling has no bias, so a port forgets that this layer has one.",
        "eval/logits",
        'array * (name != "transpose_conv.bias")',
    ),
    "upsampling_weight_transposed": (
        "A rule for every convolution's layout is applied to the transposed one as well.",
        "eval/logits",
        _kernels(".swapaxes(0, 1)", 'name == "transpose_conv.weight"'),
    ),
    "weights_through_float32": (
        "Weights go through a file or a call that makes float32 of float64.",
        "eval/stem",
        'array.astype("float32")',
    ),
}
"""What is loaded under each name instead of its own array."""

MUTATIONS = [
    mutation(
        name,
        why,
        expected,
        start(
            "weights.import_weights",
            f"weights = {{name: {loaded} for name, array in weights.items()}}",
        ),
    )
    for name, (why, expected, loaded) in _LOADED.items()
]
