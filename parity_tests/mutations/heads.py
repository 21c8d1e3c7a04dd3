"""Mistakes in the skip connections of FCN-16s and FCN-8s, seen on the latter."""

from parity_tests.mutations.apply import parse

MUTATIONS = parse("""
at eval/fuse16
skip_multiplied: Scores are fused by a product, as attention gates are.
    model.FCN.fuse16: __up + __score -> __up * __score
    setting: fcn8s
skip_averaged: The mean of the two scores replaces their sum.
    model.FCN.fuse16: __up + __score -> (__up + __score) / 2
    setting: fcn8s
skip_scaled_as_at_once: Caffe's FCN-8s trained at once scales pool4 by 0.01 before its scores.
    model.FCN.fuse16: self.score_layer3(layer3) -> self.score_layer3(layer3 * 0.01)
    setting: fcn8s
skip_upsampled_by_repeating: Pixels are repeated; the learnt kernel between the scores is lost.
    torch: model.FCN.fuse16: self.up_layer4(x) -> x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    mxnet: model.FCN.fuse16: self.up_layer4(x) -> x.repeat(2, axis=2).repeat(2, axis=3)
    jax: model.FCN.fuse16: self.up_layer4(x) -> x.repeat(2, axis=1).repeat(2, axis=2)
    setting: fcn8s
skip_of_the_block_before: The stage's output is taken from a hook on its first block.
    torch: model.ResNet.forward: outputs["layer3"] = x = self.layer3(x) ->
        outputs["layer3"] = self.layer3[0](x)
        x = self.layer3(x)
    mxnet: model.ResNet.forward: outputs.append((x := self.layer3(x))) ->
        outputs.append(self.layer3[0](x))
        x = self.layer3(x)
    jax: model.ResNet.forward: outputs["layer3"] = x = self.layer3(x) ->
        outputs["layer3"] = self.layer3.layers[0](x)
        x = self.layer3(x)
    setting: fcn8s
skip_kernels_swapped: A file counts the upsamplings from the image, the code from the scores.
    weights.import_weights: ->
        up4, up3 = weights["up_layer4.weight"], weights["up_layer3.weight"]
        weights = {**weights, "up_layer4.weight": up3, "up_layer3.weight": up4}
    setting: fcn8s

at eval/fuse8
skip_left_out: The second skip is forgotten: FCN-16s with one more upsampling.
    model.FCN.fuse8: __up + __score -> __up
    setting: fcn8s

at grad/backbone.layer3.1.bn2.bias
skip_gradient_stopped: The stage's output is detached on its way into the skip.
    torch: model.FCN.fuse16: self.score_layer3(layer3) -> self.score_layer3(layer3.detach())
    mxnet: model.FCN.fuse16: ->
        import mxnet
        kind = mxnet.nd if isinstance(layer3, mxnet.nd.NDArray) else mxnet.sym
        layer3 = kind.BlockGrad(layer3)
    jax: model.FCN.fuse16: self.score_layer3(layer3) ->
        self.score_layer3(jax.lax.stop_gradient(layer3))
    setting: fcn8s
""")
