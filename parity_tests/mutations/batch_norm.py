"""Mistakes in batch normalisation."""

import textwrap

from parity_tests.mutations.apply import parse

_OPERATOR = "mxnet: without: its operator cannot be opened, and nobody writes it out by hand"


def _layer(forward: str, head: str) -> str:
    """A patch of `_batch_norm`: a layer of PyTorch or MXNet with another forward pass."""
    body = textwrap.indent(textwrap.dedent(forward).strip("\n"), " " * 16)
    return f"layers.batch_norm: ->\n        class Layer({head}:\n{body}"


def _torch(forward: str) -> str:
    """PyTorch: a BatchNorm whose forward pass is this body."""
    layer = _layer(forward, "nn.BatchNorm2d):\n            def forward(self, x)")
    return f"torch: {layer}\n    torch: layers.batch_norm: nn.BatchNorm2d(...) -> Layer(...)"


def _mxnet(forward: str) -> str:
    """MXNet: a BatchNorm whose graph is this body; `norm` is the usual one."""
    layer = _layer(
        f"norm, statistics = super().hybrid_forward, (running_mean, running_var)\n{forward}",
        "nn.BatchNorm):\n            def hybrid_forward(self, F, x, gamma, beta,"
        " running_mean, running_var)",
    )
    return f"mxnet: {layer}\n    mxnet: layers.batch_norm: nn.BatchNorm(...) -> Layer(...)"


def _by_hand(training: str = "pass", scale: str = "(var + self.eps).rsqrt()") -> str:
    """PyTorch: a normalisation written out; the buffers are as they should be."""
    return _torch(f"""
super().forward(x)
mean, var = self.running_mean, self.running_var
if self.training:
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    {training}
scale, shape = self.weight * {scale}, (1, -1, 1, 1)
return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)
""")


MUTATIONS = parse(f"""
at eval/stem
eps_1e-3: 1e-3 is the default of MXNet's raw operator and of Keras.
    torch, mxnet: layers.batch_norm: config.bn_eps -> 1e-3
    jax: layers._BatchNorm: config.bn_eps -> 1e-3
eps_1.1e-5: 1.1e-5 is hidden in old Keras models, for cuDNN refused 1e-5.
    torch, mxnet: layers.batch_norm: config.bn_eps -> 1.1e-5
    jax: layers._BatchNorm: config.bn_eps -> 1.1e-5
eps_1e-6: 1e-6 is the default of many JAX code bases.
    torch, mxnet: layers.batch_norm: config.bn_eps -> 1e-6
    jax: layers._BatchNorm: config.bn_eps -> 1e-6
eps_in_double: 1e-5 as a double, where the definition rounds it to float32: off by 2.5e-13.
    torch, mxnet: layers.batch_norm: config.bn_eps -> 1e-5
    jax: layers._BatchNorm: config.bn_eps -> 1e-5
eps_outside_the_root: sqrt(variance) + eps, as in Adam, instead of sqrt(variance + eps).
    {_by_hand(scale="(1 / (var.sqrt() + self.eps))")}
    {_OPERATOR}
    jax: layers._BatchNorm: lax.rsqrt(var + self.eps) -> 1 / (jnp.sqrt(var) + self.eps)
norm_in_float32: BatchNorm stays in float32 when the model is cast, as Gluon's cast once did.
    {_torch("return super().forward(x.float().to(x.dtype))")}
    {
    _mxnet('''
x = x.astype("float32").astype(self.gamma.dtype)
return norm(F, x, gamma, beta, *statistics)
''')
}
    jax: layers._BatchNorm.forward: -> x = x.astype(jnp.float32).astype(x.dtype)
gamma_missing: fix_gamma, on by default in MXNet's raw operator, puts 1 for gamma.
    {_by_hand(scale="(1 / self.weight / (var + self.eps).sqrt())")}
    mxnet: layers.batch_norm:
        nn.BatchNorm(..., scale=affine) -> nn.BatchNorm(..., scale=False)
    jax: layers._BatchNorm: __root * scale -> __root
beta_missing: center=False, right where another bias follows, leaves beta out.
    {_torch("return super().forward(x) - self.bias.view(1, -1, 1, 1)")}
    {_mxnet("return norm(F, x, gamma, F.zeros_like(beta), *statistics)")}
    jax: layers._BatchNorm: __normalised + bias -> __normalised
norm_after_relu: The stem's BatchNorm and ReLU change places.
    model.ResNet.stem: __relu(self.bn1(self.conv1(x))) -> self.bn1(__relu(self.conv1(x)))
train_mode_in_eval: Nobody calls eval(): prediction normalises by its own batch.
    torch, jax: train.Trainer x 2: self.model.eval() -> self.model.train()
    jax: probe.Probe: trainer.model.eval() -> trainer.model.train()
    mxnet: train.Trainer x 2: cells = self.cells(__images) ->
        with autograd.train_mode():
            cells = self.cells(__images)
    mxnet: probe.Probe.activations: return __told ->
        with autograd.train_mode():
            return __told

at eval/layer1.0
first_norm_used_twice: Copy and paste leaves the first BatchNorm's name on the second.
    model.BasicBlock.forward: self.bn2(...) -> self.bn1(...)
second_norm_missing: A block is ported without its second BatchNorm.
    model.BasicBlock.forward: self.bn2(__convolved) -> __convolved

at train/stem
eval_mode_in_training: The model is left in eval mode, or use_running_average is on.
    torch, jax: train.Trainer: self.model.train() -> self.model.eval()
    mxnet: train.Trainer: autograd.record() -> autograd.record(train_mode=False)
normalised_by_the_unbiased_variance: torch.var and many libraries divide by n - 1.
    {_by_hand("var = x.var((0, 2, 3))")}
    {_OPERATOR}
    jax: layers._BatchNorm: _normalise(...) -> _plain_normalise(...)
    jax: layers._plain_normalise: __centred * (lax.rsqrt(var + eps) * scale) ->
        __centred * (lax.rsqrt(jnp.var(x, axis=(0, 1, 2), ddof=1) + eps) * scale)
statistics_of_each_image: Data parallelism normalises each device's share by itself.
    {_torch("return torch.cat([nn.BatchNorm2d.forward(self, i) for i in x.split(1)])")}
    {
    _mxnet('''
halves = F.split(x, num_outputs=2, axis=0)
return F.concat(*[norm(F, i, gamma, beta, *statistics) for i in halves], dim=0)
''')
}
    jax: layers._BatchNorm: _normalise(...) -> _plain_normalise(...)
    jax: layers._plain_normalise: (x - mean) * (lax.rsqrt(var + eps) * scale) ->
        (x - x.mean((1, 2), keepdims=True)) * (
            lax.rsqrt(x.var((1, 2), keepdims=True) + eps) * scale
        )
statistics_in_float32: Flax's and autocast's BatchNorm takes its statistics in float32.
    {_by_hand("mean, var = mean.float().to(x.dtype), var.float().to(x.dtype)")}
    {_OPERATOR}
    jax: layers._BatchNorm: _normalise(...) -> _plain_normalise(...)
    jax: layers._plain_normalise: jnp.mean(x, ...) -> jnp.mean(x.astype(jnp.float32), ...)
    jax: layers._plain_normalise: jnp.var(x, ...) -> jnp.var(x.astype(jnp.float32), ...)

at train/layer2.0
variance_in_one_pass: E[x^2] - E[x]^2, Flax's default, has no digits left for a large mean.
    {_by_hand("var = (x * x).mean((0, 2, 3)) - mean * mean")}
    {_OPERATOR}
    jax: layers._BatchNorm: _normalise(...) -> _plain_normalise(...)
    jax: layers._plain_normalise:
        jnp.var(x, ...) -> jnp.mean(x * x, ...) - jnp.mean(x, ...) ** 2
    setting: large_mean

at grad/backbone.layer4.1.bn2.weight
gamma_frozen: Gamma is loaded and used, but made a constant, as scale=False would.
    torch: layers.batch_norm: return __norm ->
        norm = __norm
        norm.weight.requires_grad_(False)
        return norm
    {_mxnet("return norm(F, x, F.BlockGrad(gamma), beta, *statistics)")}
    jax: layers._BatchNorm: _normalise(__x, scale, ...) ->
        _normalise(__x, lax.stop_gradient(scale), ...)

at grad/backbone.layer4.1.conv2.weight
gradient_not_through_the_statistics: A BatchNorm by hand takes its statistics for constants.
    {_by_hand("mean, var = mean.detach(), var.detach()")}
    {_OPERATOR}
    jax: layers._BatchNorm: _normalise(...) -> _plain_normalise(...)
    jax: layers._plain_normalise: mean, var = __statistics ->
        mean, var = lax.stop_gradient(__statistics)

norm_gradient_lacks_a_term: By hand: the way through the variance is forgotten in the backward pass.
    torch, mxnet: without: its layer brings its own backward pass
    jax: layers._normalise_backward: gradient - through_mean - through_var ->
        gradient - through_mean
norm_gradient_over_n_less_1: By hand: the sums of the backward pass are divided by n - 1.
    torch, mxnet: without: its layer brings its own backward pass
    jax: layers._normalise_backward: x.size // x.shape[-1] -> x.size // x.shape[-1] - 1

at buffer/backbone.bn1.running_mean
norm_decay_0.99: 0.99 is Flax's and Keras's default decay of the running statistics.
    torch: layers.batch_norm: 1 - config.bn_decay -> 0.01
    mxnet: layers.batch_norm: config.bn_decay -> 0.99
    jax: layers._BatchNorm: config.bn_decay -> 0.99
norm_decay_and_its_complement_swapped: PyTorch's momentum weighs the new value, not the old.
    torch: layers.batch_norm: 1 - config.bn_decay -> config.bn_decay
    mxnet: layers.batch_norm: config.bn_decay -> 1 - config.bn_decay
    jax: layers._BatchNorm: config.bn_decay -> 1 - config.bn_decay
norm_decay_in_double: 0.1 is written where the definition has 1 - float32(0.9).
    torch: layers.batch_norm: 1 - config.bn_decay -> 0.1
    mxnet: without: its operator keeps the decay in float32: 0.9 is float32(0.9)
    jax: layers._BatchNorm: config.bn_decay -> 0.9
buffers_not_updated: The new statistics are thrown away, as Flax's mutated state easily is.
    torch: layers.batch_norm: 1 - config.bn_decay -> 0.0
    mxnet: layers.batch_norm: config.bn_decay -> 1.0
    jax: layers._BatchNorm: self.mean[...] = __ -> pass
    jax: layers._BatchNorm: self.var[...] = __ -> pass
buffers_updated_twice: A training step runs the network twice, once to look at it.
    torch: train.Trainer._backward: cells = __forward ->
        cells = __forward
        __forward
    mxnet: train.Trainer: loss.backward() ->
        loss.backward(retain_graph=True)
        loss.backward()
    jax: train._loss_of: -> model.scores(images)

at buffer/backbone.bn1.running_var
running_variance_biased: MXNet and Flax put the variance over n into the buffer, not n - 1.
    {
    _torch('''
old = self.running_var.clone()
y = super().forward(x)
if self.training:
    n = x.numel() // x.shape[1]
    self.running_var.data -= (self.running_var - (1 - self.momentum) * old) / n
return y
''')
}
    mxnet: train.Trainer: self._unbias(...) -> pass
    jax: layers._BatchNorm: __variance * (n / (n - 1)) -> __variance

at train/stem
statistics_of_two_images: Ghost batches: each pair of images is normalised by itself.
    {_torch("return torch.cat([nn.BatchNorm2d.forward(self, i) for i in x.split(2)])")}
    mxnet: without: a symbol does not know how many pairs there are
    jax: layers._BatchNorm: _normalise(...) -> _plain_normalise(...)
    jax: layers._plain_normalise: (x - mean) * (lax.rsqrt(var + eps) * scale) ->
        ((pairs := x.reshape(-1, 2, *x.shape[1:])) - pairs.mean((1, 2, 3), keepdims=True)).reshape(
            x.shape
        ) * (lax.rsqrt(
            pairs.var((1, 2, 3), keepdims=True).repeat(2, 1).reshape(-1, 1, 1, x.shape[-1]) + eps
        ) * scale)
    setting: portrait
variance_at_least_1e-3: A floor under the variance keeps a division from growing.
    {_by_hand("var = var.clamp(min=1e-3)")}
    {_OPERATOR}
    jax: layers._BatchNorm: _normalise(...) -> _plain_normalise(...)
    jax: layers._plain_normalise: jnp.var(x, ...) -> jnp.maximum(jnp.var(x, ...), 1e-3)
    setting: faint
""")
