"""Mistakes in how canonical weights get into the model."""

from parity_tests.mutations.apply import parse

MUTATIONS = parse("""
at eval/layer1.0
twin_convolutions_swapped: Tensors of the same shape are matched by shape, or by a wrong order.
    weights.import_weights: ->
        a, b = "backbone.layer1.0.conv1.weight", "backbone.layer1.0.conv2.weight"
        weights = {**weights, a: weights[b], b: weights[a]}
kernels_in_and_out_swapped: (in, out) is taken for (out, in); only square tensors let it pass.
    weights.import_weights: ->
        square = {k for k, a in weights.items() if a.ndim == 4 and a.shape[0] == a.shape[1]}
        weights = {k: a.swapaxes(0, 1).copy() if k in square else a for k, a in weights.items()}

at eval/layer3.0
twin_blocks_swapped: A renaming rule counts blocks from the wrong end.
    weights.import_weights: ->
        a, b = "backbone.layer3.0.conv2.weight", "backbone.layer3.1.conv1.weight"
        weights = {**weights, a: weights[b], b: weights[a]}

at eval/layer2.0
shortcut_norm_swapped: Frameworks list the shortcut's BatchNorm before or after the second one.
    weights.import_weights: ->
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            a, b = f"backbone.layer2.0.bn2.{leaf}", f"backbone.layer2.0.downsample.1.{leaf}"
            weights = {**weights, a: weights[b], b: weights[a]}

at eval/layer4.1
mean_and_variance_swapped: BatchNorm's two buffers are loaded in the other order.
    weights.import_weights: ->
        a, b = (f"backbone.layer4.1.bn2.running_{leaf}" for leaf in ("mean", "var"))
        weights = {**weights, a: weights[b], b: weights[a]}

at eval/stem
gamma_and_beta_swapped: BatchNorm's two vectors are loaded in the other order.
    weights.import_weights: ->
        a, b = "backbone.bn1.weight", "backbone.bn1.bias"
        weights = {**weights, a: weights[b], b: weights[a]}
kernels_transposed: Height and width of the kernels change places on the way to another layout.
    weights.import_weights: ->
        weights = {k: a.swapaxes(-1, -2).copy() if a.ndim == 4 else a for k, a in weights.items()}
kernels_flipped: A convolution is taken for a correlation, or the other way round.
    weights.import_weights: ->
        flip = (..., slice(None, None, -1), slice(None, None, -1))
        weights = {k: a[flip].copy() if a.ndim == 4 else a for k, a in weights.items()}
kernel_reshaped_to_layout: A kernel is reshaped to the other layout, not transposed.
    weights.import_weights: ->
        for k, a in weights.items():
            loaded = a.transpose(2, 3, 1, 0).reshape(a.shape) if a.ndim == 4 else a
            weights = {**weights, k: loaded}
buffers_not_loaded: Only parameters are copied: running means and variances are no parameters.
    weights.import_weights: ->
        fresh = {k: 0 * a + k.endswith("var") for k, a in weights.items() if "running" in k}
        weights = {**weights, **fresh}
weights_through_float32: Weights go through a file or a call that makes float32 of float64.
    weights.import_weights: -> weights = {k: a.astype("float32") for k, a in weights.items()}

at eval/final_conv
final_bias_not_loaded: The source convolution is taken to have no bias, and zeros stay.
    weights.import_weights: ->
        weights = {**weights, "final_conv.bias": 0 * weights["final_conv.bias"]}

at eval/logits
upsampling_bias_not_loaded: Bilinear upsampling has no bias, so a port forgets this layer's.
    weights.import_weights: ->
        weights = {**weights, "transpose_conv.bias": 0 * weights["transpose_conv.bias"]}
upsampling_weight_transposed: A rule for every convolution's layout is applied to this one too.
    weights.import_weights: ->
        transposed = weights["transpose_conv.weight"].swapaxes(0, 1).copy()
        weights = {**weights, "transpose_conv.weight": transposed}
""")
