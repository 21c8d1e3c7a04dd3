"""Mistakes in how canonical weights get into the model."""

from parity_tests.mutations.apply import Fault, Patch, everywhere, fault


def _loaded(expression: str) -> Patch:
    """What is copied into the tensor `name`, in place of `weights[name]`."""
    return Patch("weights", "weights[name]", expression)


def _twins(a: str, b: str) -> Patch:
    return _loaded(f'weights[{{"{a}": "{b}", "{b}": "{a}"}}.get(name, name)]')


def _layout(change: str, condition: str = "weights[name].ndim == 4") -> Patch:
    return _loaded(f"(weights[name]{change}.copy() if {condition} else weights[name])")


FAULTS: list[Fault] = [
    everywhere(
        "twin_convolutions_swapped",
        "Tensors of the same shape are matched by shape, or by a wrong order.",
        "eval/layer1.0",
        _twins("backbone.layer1.0.conv1.weight", "backbone.layer1.0.conv2.weight"),
    ),
    everywhere(
        "twin_blocks_swapped",
        "A renaming rule counts blocks from the wrong end.",
        "eval/layer3.0",
        _twins("backbone.layer3.0.conv2.weight", "backbone.layer3.1.conv1.weight"),
    ),
    everywhere(
        "shortcut_norm_swapped",
        "Frameworks list the shortcut's BatchNorm before or after the block's second one.",
        "eval/layer2.0",
        _loaded(
            "weights[\n"
            '            name.replace("0.bn2", "0.downsample.1")\n'
            '            if "layer2.0.bn2" in name\n'
            '            else name.replace("2.0.downsample.1", "2.0.bn2")\n'
            "        ]"
        ),
    ),
    everywhere(
        "gamma_and_beta_swapped",
        "BatchNorm's two vectors are loaded in the other order.",
        "eval/stem",
        _twins("backbone.bn1.weight", "backbone.bn1.bias"),
    ),
    everywhere(
        "mean_and_variance_swapped",
        "BatchNorm's two buffers are loaded in the other order.",
        "eval/layer4.1",
        _twins("backbone.layer4.1.bn2.running_mean", "backbone.layer4.1.bn2.running_var"),
    ),
    everywhere(
        "kernels_transposed",
        "Height and width of the kernels change places on the way to another layout.",
        "eval/stem",
        _layout(".swapaxes(2, 3)"),
    ),
    everywhere(
        "kernels_flipped",
        "A convolution is taken for a correlation, or the other way round.",
        "eval/stem",
        _layout("[:, :, ::-1, ::-1]"),
    ),
    everywhere(
        "kernels_in_and_out_swapped",
        "(in, out) is taken for (out, in); only square tensors let it pass.",
        "eval/layer1.0",
        _layout(
            ".swapaxes(0, 1)",
            "weights[name].ndim == 4 and weights[name].shape[0] == weights[name].shape[1]",
        ),
    ),
    everywhere(
        "kernel_reshaped_to_layout",
        "A kernel is reshaped to the other layout where it should be transposed.",
        "eval/stem",
        _layout(".transpose(2, 3, 1, 0).reshape(weights[name].shape)"),
    ),
    everywhere(
        "buffers_not_loaded",
        "Only parameters are copied: running means and variances are no parameters.",
        "eval/stem",
        _loaded(
            '(weights[name] * 0 + name.endswith("var") if "running" in name else weights[name])'
        ),
    ),
    everywhere(
        "final_bias_not_loaded",
        "The source convolution is taken to have no bias, and zeros stay.",
        "eval/final_conv",
        _loaded('weights[name] * (name != "final_conv.bias")'),
    ),
    everywhere(
        "upsampling_bias_not_loaded",
        "Bilinear upsampling has no bias, so a port forgets that this layer has one.",
        "eval/logits",
        _loaded('weights[name] * (name != "transpose_conv.bias")'),
    ),
    everywhere(
        "weights_through_float32",
        "Weights go through a file or a call that makes float32 of float64.",
        "eval/stem",
        _loaded('weights[name].astype("float32")'),
    ),
    fault(
        "upsampling_weight_transposed",
        "A rule for every convolution's layout is applied to the transposed one as well.",
        "eval/logits",
        torch=Patch(
            "weights",
            "weights[name]",
            '(weights[name].swapaxes(0, 1) if name == "transpose_conv.weight" else weights[name])',
        ),
        mxnet=Patch(
            "weights",
            "weights[name]",
            '(weights[name].swapaxes(0, 1).copy() if name == "transpose_conv.weight"'
            " else weights[name])",
        ),
        jax=Patch(
            "weights",
            "array = weights[name]\n",
            "array = weights[name]\n"
            '        array = array.swapaxes(0, 1) if name == "transpose_conv.weight" else array\n',
        ),
    ),
]
