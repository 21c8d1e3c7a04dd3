"""Mistakes in the network's layers, batch normalisation and upsampling apart."""

from parity_tests.mutations.apply import parse

MUTATIONS = parse("""
at eval/stem
stem_same_padding: SAME, Flax's and TensorFlow's default, pads the 7x7/2 stem by 2 and 3.
    model.ResNet: conv(3, ..., padding=3) -> conv(3, ..., padding=0)
    torch: model.ResNet.stem: self.conv1(x) -> self.conv1(nn.functional.pad(x, (2, 3, 2, 3)))
    mxnet: model.ResNet.stem: self.conv1(x) ->
        self.conv1(x.pad(mode="constant", pad_width=(0, 0, 0, 0, 2, 3, 2, 3)))
    jax: model.ResNet.stem: self.conv1(x) ->
        self.conv1(jnp.pad(x, ((0, 0), (2, 3), (2, 3), (0, 0))))
stem_reflects: A padding layer that mirrors the image stands where zeros should.
    model.ResNet: conv(3, ..., padding=3) -> conv(3, ..., padding=0)
    torch: model.ResNet.stem: self.conv1(x) ->
        self.conv1(nn.functional.pad(x, (3, 3, 3, 3), mode="reflect"))
    mxnet: model.ResNet.stem: self.conv1(x) ->
        self.conv1(x.pad(mode="reflect", pad_width=(0, 0, 0, 0, 3, 3, 3, 3)))
    jax: model.ResNet.stem: self.conv1(x) ->
        self.conv1(jnp.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)), "reflect"))
pool_padded_after: SAME, or Caffe's ceil mode, gives the same size and pads after only.
    torch: layers.max_pool: nn.MaxPool2d(...) -> nn.MaxPool2d(3, 2, 0, ceil_mode=True)
    mxnet: layers.max_pool: nn.MaxPool2D(...) -> nn.MaxPool2D(3, 2, 0, ceil_mode=True)
    jax: model.ResNet.stem: self.maxpool(x) ->
        nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
pool_averages: Average pooling stands where max pooling should.
    torch: layers.max_pool: nn.MaxPool2d(...) -> nn.AvgPool2d(...)
    mxnet: layers.max_pool: nn.MaxPool2D(...) -> nn.AvgPool2D(...)
    jax: model.ResNet.stem: self.maxpool(x) ->
        nnx.avg_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
relu_missing_in_stem: The stem's activation is forgotten, an argument of the convolution there.
    model.ResNet.stem: __relu(self.bn1(self.conv1(x))) -> self.bn1(self.conv1(x))

at eval/stem or train/stem
pool_before_norm: The stem pools before it normalises: where gamma > 0 no eval pass shows it.
    model.ResNet.stem: __relu(self.bn1(self.conv1(x))) -> self.conv1(x)
    torch, mxnet: model.ResNet.stem: return __pooled -> return self.relu(self.bn1(__pooled))
    jax: model.ResNet.stem: return __pooled -> return nnx.relu(self.bn1(__pooled))

at eval/layer1.0
relu_missing_inside: The ReLU between a block's two convolutions is forgotten.
    model.BasicBlock.forward: __relu(self.bn1(...)) -> self.bn1(...)
relu_leaky: A leaky ReLU stands inside the blocks.
    torch: model.BasicBlock.forward:
        __relu(self.bn1(...)) -> nn.functional.leaky_relu(self.bn1(...))
    mxnet: model.BasicBlock.forward:
        __relu(self.bn1(...)) -> F.LeakyReLU(self.bn1(...), act_type="leaky", slope=0.01)
    jax: model.BasicBlock.forward: __relu(self.bn1(...)) -> nnx.leaky_relu(self.bn1(...))
relu_before_sum: The ReLU stands before the shortcut is added, not after.
    model.BasicBlock.forward: __relu(x + shortcut) -> __relu(x) + shortcut
relu_once_too_often: Every BatchNorm is given its ReLU, the block's second one too.
    model.BasicBlock.forward: __relu(x + shortcut) -> __relu(__relu(x) + shortcut)
relu_missing_after_sum: The ReLU after the sum is forgotten.
    model.BasicBlock.forward: __relu(x + shortcut) -> x + shortcut
shortcut_dropped: The sum with the shortcut is lost.
    model.BasicBlock.forward: __relu(x + shortcut) -> __relu(x)

at eval/layer2.0
block_same_padding: SAME pads a 3x3 convolution of stride 2 by 0 before and 1 after.
    model.BasicBlock: self.conv1 = conv(..., padding=1) ->
        self.conv1, self.before = conv(..., padding=0), 2 - stride
    torch: model.BasicBlock.forward: self.conv1(x) ->
        self.conv1(nn.functional.pad(x, (self.before, 1) * 2))
    mxnet: model.BasicBlock.forward: self.conv1(x) ->
        self.conv1(F.pad(x, mode="constant", pad_width=(0, 0, 0, 0) + (self.before, 1) * 2))
    jax: model.BasicBlock.forward: self.conv1(x) ->
        self.conv1(jnp.pad(x, ((0, 0), (self.before, 1), (self.before, 1), (0, 0))))
stride_in_second_convolution: The block's stride is put on its second convolution.
    model.BasicBlock: self.conv1 = conv(__in, __out, 3, stride, ...) ->
        self.conv1 = conv(__in, __out, 3, ...)
    model.BasicBlock: self.conv2 = conv(__in, __out, 3, ...) ->
        self.conv2 = conv(__in, __out, 3, stride, ...)
shortcut_averages: resnet18d's shortcut averages 2x2 pixels, resnet18's takes every second one.
    torch: model.BasicBlock.forward: self.downsample(x) ->
        self.downsample(nn.functional.interpolate(nn.functional.avg_pool2d(x, 2), scale_factor=2))
    mxnet: model.BasicBlock.forward: self.downsample(x) ->
        self.downsample(F.UpSampling(
            F.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="avg"),
            scale=2, sample_type="nearest",
        ))
    jax: model.BasicBlock.forward: self.downsample(x) ->
        self.downsample(nnx.avg_pool(x, (2, 2), strides=(2, 2)).repeat(2, 1).repeat(2, 2))
shortcut_takes_odd_pixels: Padding before the shortcut's convolution shifts what it takes.
    torch: model.BasicBlock.forward: self.downsample(x) ->
        self.downsample(x.roll((-1, -1), (2, 3)))
    mxnet: model.BasicBlock.forward: self.downsample(x) ->
        self.downsample(
            F.pad(x, mode="edge", pad_width=(0, 0, 0, 0, 0, 1, 0, 1))
            .slice(begin=(None, None, 1, 1), end=(None, None, None, None))
        )
    jax: model.BasicBlock.forward: self.downsample(x) ->
        self.downsample(jnp.roll(x, (-1, -1), (1, 2)))
shortcut_not_normalised: The shortcut's convolution is ported without its BatchNorm.
    torch, mxnet: model.BasicBlock.forward: self.downsample(x) -> self.downsample[0](x)
    jax: model.BasicBlock.forward: self.downsample(x) -> self.downsample.layers[0](x)

at eval/layer3.1 or eval/layer4.0
activation_in_float32: One call between stages makes float32 of float64, nd.array for one.
    torch: model.ResNet.forward: self.layer4(x) -> self.layer4(x.float().to(x.dtype))
    mxnet: model.ResNet.forward: self.layer4(x) ->
        self.layer4(x.astype("float32").astype(self.bn1.gamma.dtype))
    jax: model.ResNet.forward: self.layer4(x) ->
        self.layer4(x.astype(jnp.float32).astype(x.dtype))

at eval/layer2.0
strided_slice_off_by_one: By hand: a 1x1 convolution at stride 2 takes the other pixels.
    torch, mxnet: without: its layer strides by itself
    jax: layers._convolution: lax.slice(x, (0, 0, 0, 0), __, __) ->
        lax.slice(x, (0, stride - 1, stride - 1, 0), x.shape, (1, stride, stride, 1))

at eval/final_conv or eval/logits
relu_after_head: A loop over layers adds an activation after the last convolution too.
    torch, mxnet: model.FCN.scores: self.final_conv(__out) -> self.final_conv(__out).relu()
    jax: model.FCN.scores: self.final_conv(__out) -> nnx.relu(self.final_conv(__out))

at train/final_conv
dropout_left_in: torchvision's FCN head has a dropout of 0.1 before its last convolution.
    torch, mxnet: model.FCN: self.final_conv = __layer ->
        self.final_conv, self.dropout = __layer, nn.Dropout(0.1)
    torch, mxnet: model.FCN.scores: self.final_conv(__out) -> self.final_conv(self.dropout(__out))
    jax: model.FCN.scores: self.final_conv(__out) ->
        self.final_conv(__out if self.backbone.bn1.use_running_average else jnp.where(
            jax.random.bernoulli(jax.random.key(0), 0.9, __out.shape), __out / 0.9, 0
        ))

at grad/backbone.layer2.1.bn2.bias
gradient_stopped_between_stages: A detach, or a trip through NumPy, cuts the gradient off.
    torch: model.ResNet.forward: self.layer3(x) -> self.layer3(x.detach())
    mxnet: model.ResNet.forward: self.layer3(x) -> self.layer3(F.BlockGrad(x))
    jax: model.ResNet.forward: self.layer3(x) -> self.layer3(jax.lax.stop_gradient(x))

at grad/backbone.layer4.0.downsample.1.bias
gradient_stopped_in_shortcut: The shortcut is stored detached, and has no gradient.
    torch: model.BasicBlock.forward: x + shortcut -> x + shortcut.detach()
    mxnet: model.BasicBlock.forward: x + shortcut -> x + F.BlockGrad(shortcut)
    jax: model.BasicBlock.forward: x + shortcut -> x + jax.lax.stop_gradient(shortcut)

at grad/backbone.layer4.1.bn2.bias
backbone_without_gradient: The backbone is run as a fixed feature extractor.
    torch: model.ResNet.forward: self.norm(x) -> self.norm(x).detach()
    mxnet: model.ResNet.forward: self.norm(x) -> F.BlockGrad(self.norm(x))
    jax: model.ResNet.forward: self.norm(x) -> jax.lax.stop_gradient(self.norm(x))

at grad/backbone.layer4.1.conv2.weight
kernel_gradient_a_row_off: By hand: a kernel's gradient takes the row beside.
    torch, mxnet: without: its layer brings its own backward pass
    jax: layers._kernel_gradient_from_strips: jnp.pad(x, __) ->
        jnp.pad(x, ((0, 0), (padding + 1, padding - 1), (0, 0), (0, 0)))

at grad/backbone.bn1.bias
pool_gradient_a_column_off: By hand: a pooling window's gradient goes to the pixel beside.
    torch, mxnet: without: its layer brings its own backward pass
    jax: layers._max_pool_backward: left(won(3)) -> won(3)

at grad/backbone.layer4.1.bn1.bias
relu_derivative_at_zero: max(x, 0) lets the gradient of a tie through, all of it or half.
    torch: model.BasicBlock.forward: __relu(self.bn1(...)) -> self.bn1(...).clamp(min=0)
    mxnet: model.BasicBlock.forward: __relu(self.bn1(...)) -> F.maximum(self.bn1(...), 0)
    jax: model.BasicBlock.forward: __relu(self.bn1(...)) -> jnp.maximum(self.bn1(...), 0)
    setting: ties

at grad/backbone.bn1.weight
pool_shares_among_equals: A maximum over a stacked axis gives each of the equals its share.
    torch: model.ResNet.stem: self.maxpool(__x) ->
        (nn.functional.pad(__x, (1, 1, 1, 1), value=float("-inf"))
         .unfold(2, 3, 2).unfold(3, 3, 2).flatten(-2).amax(-1))
    mxnet: without: its windows cannot be stacked in one line
    jax: model.ResNet.stem: self.maxpool(x) ->
        jnp.max(jnp.stack([
            jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
            [:, a : a + x.shape[1] - 1 : 2, b : b + x.shape[2] - 1 : 2]
            for a in range(3) for b in range(3)
        ]), axis=0)
    setting: ties
pool_takes_the_last_of_equals: By hand: the window is searched from its end.
    torch, mxnet: without: its layer brings its own backward pass
    jax: layers._max_pool_forward: tap > largest -> tap >= largest
    setting: ties

at eval/stem
products_in_tf32: A GPU's default for float32: inputs of products have 10 bits of mantissa.
    torch: model.ResNet.stem: self.conv1(x) ->
        self.conv1(x.half().float() if x.dtype is torch.float32 else x)
    mxnet: model.ResNet.stem: self.conv1(x) ->
        self.conv1(
            x if "64" in str(self.bn1.gamma.dtype) else x.astype("float16").astype("float32")
        )
    jax: model.ResNet.stem: self.conv1(x) ->
        self.conv1(x.astype(jnp.float16).astype(x.dtype) if x.dtype == jnp.float32 else x)
    setting: single
""")
