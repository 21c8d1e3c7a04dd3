"""Mistakes in batch normalisation."""

import textwrap

from parity_tests.mutations.apply import Mutation, Patch, above, after, mutation, start, swap

_MEAN = "buffer/backbone.bn1.running_mean"
_VARIANCE = "buffer/backbone.bn1.running_var"
_OPERATOR = "its operator cannot be opened, and nobody writes it out by hand"


def _built(old: str, new: str) -> Patch:
    """PyTorch and MXNet: the layer made otherwise."""
    return swap("model._batch_norm", old, new)


def _torch(forward: str) -> list[Patch]:
    """PyTorch: a BatchNorm whose forward pass is this body."""
    body = textwrap.indent(textwrap.dedent(forward), " " * 8)
    text = f"class _BatchNorm(nn.BatchNorm2d):\n    def forward(self, x):\n{body}"
    return [above("model._batch_norm", text), _built("nn.BatchNorm2d(...)", "_BatchNorm(...)")]


def _mxnet(forward: str) -> list[Patch]:
    """MXNet: a BatchNorm whose graph is this body; `norm` is the usual one."""
    body = textwrap.indent(textwrap.dedent(forward), " " * 8)
    text = (
        "class _BatchNorm(nn.BatchNorm):\n"
        "    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):\n"
        f"        norm = super().hybrid_forward\n{body}"
    )
    return [above("model._batch_norm", text), _built("nn.BatchNorm(...)", "_BatchNorm(...)")]


def _jax(old: str, new: str) -> Patch:
    """JAX: what is computed in the layer."""
    return swap("model._BatchNorm.forward", old, new)


def _jax_statistics(new: str) -> Patch:
    """JAX: other statistics that normalise; the buffers are as they should be."""
    return after("model._BatchNorm.forward", "self.var[...] = __", new)


def _by_hand(
    before: str = "", after: str = "", eps: str = "(var + self.eps).sqrt()"
) -> list[Patch]:
    """PyTorch: a normalisation written out; the buffers are as they should be."""
    return _torch(
        f"""
y = super().forward(x)
mean, var = self.running_mean, self.running_var
if self.training:
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    {before or "pass"}
{after}
shape = (1, -1, 1, 1)
scale = self.weight / {eps}
return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)
"""
    )


def _eps(name: str, why: str, value: str, setting: str = "generic") -> Mutation:
    patch = _built("config.bn_eps", value)
    jax = swap("model._BatchNorm.__init__", "config.bn_eps", value)
    return mutation(name, why, "eval/stem", torch=patch, mxnet=patch, jax=jax, setting=setting)


def _momentum(name: str, why: str, torch: str, mxnet: str | None, others: str) -> Mutation:
    """The decay replaced: PyTorch is told the weight of the new value, the others of the old."""
    return mutation(
        name,
        why,
        _MEAN,
        torch=_built("1 - config.bn_decay", torch),
        mxnet=mxnet or _built("config.bn_decay", others),
        jax=swap("model._BatchNorm.__init__", "config.bn_decay", others),
    )


_UNBIASED = "__variance * (n / (n - 1))"
_RELU_OF_NORM = "__relu(self.bn1(self.conv1(x)))"

MUTATIONS = [
    _eps("eps_1e-3", "1e-3 is the default of MXNet's raw operator and of Keras.", "1e-3"),
    _eps("eps_1.1e-5", "1.1e-5 is hidden in old Keras models, for cuDNN refused 1e-5.", "1.1e-5"),
    _eps("eps_1e-6", "1e-6 is the default of many JAX code bases.", "1e-6"),
    _eps(
        "eps_in_double",
        "1e-5 as a double, where the definition rounds it to float32: off by 2.5e-13.",
        "1e-5",
        "low_contrast",
    ),
    mutation(
        "eps_outside_the_root",
        "sqrt(variance) + eps, as in Adam, instead of sqrt(variance + eps).",
        "eval/stem",
        torch=_by_hand(eps="(var.sqrt() + self.eps)"),
        mxnet=_OPERATOR,
        jax=_jax("jax.lax.rsqrt(var + self.eps)", "1 / (jnp.sqrt(var) + self.eps)"),
    ),
    _momentum(
        "norm_decay_0.99",
        "0.99 is Flax's and Keras's default decay of the running statistics.",
        "0.01",
        None,
        "0.99",
    ),
    _momentum(
        "norm_decay_and_its_complement_swapped",
        "PyTorch's momentum weighs the new value, everyone else's the old one.",
        "config.bn_decay",
        None,
        "1 - config.bn_decay",
    ),
    _momentum(
        "norm_decay_in_double",
        "0.1 is written where the definition has 1 - float32(0.9).",
        "0.1",
        "its operator keeps the decay in float32: 0.9 is float32(0.9)",
        "0.9",
    ),
    mutation(
        "running_variance_biased",
        "MXNet and Flax put the variance over n into the buffer, PyTorch over n - 1.",
        _VARIANCE,
        torch=_torch(
            """
            old = self.running_var.clone()
            y = super().forward(x)
            if self.training:
                kept = (1 - self.momentum) * old
                n = x.numel() // x.shape[1]
                self.running_var.data -= (self.running_var - kept) / n
            return y
            """
        ),
        mxnet=swap("train.Trainer", "self._unbias(...)", "pass"),
        jax=_jax(_UNBIASED, "__variance"),
    ),
    mutation(
        "normalised_by_the_unbiased_variance",
        "torch.var and many libraries divide by n - 1, batch normalisation by n.",
        "train/stem",
        torch=_by_hand("var = x.var((0, 2, 3))"),
        mxnet=_OPERATOR,
        jax=_jax_statistics("var = jnp.var(x, axis=(0, 1, 2), ddof=1)"),
    ),
    mutation(
        "variance_in_one_pass",
        "E[x^2] - E[x]^2, Flax's default, loses what a large mean leaves no digits for.",
        "train/layer2.0",
        torch=_by_hand("var = (x * x).mean((0, 2, 3)) - mean * mean"),
        mxnet=_OPERATOR,
        jax=_jax("jnp.var(x, ...)", "jnp.mean(x * x, ...) - jnp.mean(x, ...) ** 2"),
        setting="large_mean",
    ),
    mutation(
        "statistics_of_each_image",
        "Data parallelism without synchronisation normalises each device's share by itself.",
        "train/stem",
        torch=_torch("return torch.cat([nn.BatchNorm2d.forward(self, i) for i in x.split(1)])"),
        mxnet=_mxnet(
            """
            halves = F.split(x, num_outputs=2, axis=0)
            args = gamma, beta, running_mean, running_var
            return F.concat(*[norm(F, i, *args) for i in halves], dim=0)
            """
        ),
        jax=_jax_statistics(
            "mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)"
        ),
    ),
    mutation(
        "statistics_in_float32",
        "Flax's and autocast's BatchNorm takes its statistics in float32 whatever the type.",
        "train/stem",
        torch=_by_hand("mean, var = mean.float().to(x.dtype), var.float().to(x.dtype)"),
        mxnet=_OPERATOR,
        jax=[
            _jax(f"jnp.{name}(x, ...)", f"jnp.{name}(x.astype(jnp.float32), ...)")
            for name in ("mean", "var")
        ],
    ),
    mutation(
        "norm_in_float32",
        "BatchNorm stays in float32 when the model is cast, as Gluon's cast once did.",
        "eval/stem",
        torch=_torch("return super().forward(x.float().to(x.dtype))"),
        mxnet=_mxnet(
            """
            x = F.cast(F.cast(x, "float32"), self.gamma.dtype)
            return norm(F, x, gamma, beta, running_mean, running_var)
            """
        ),
        jax=start("model._BatchNorm.forward", "x = x.astype(jnp.float32).astype(x.dtype)"),
    ),
    mutation(
        "gamma_missing",
        "fix_gamma, on by default in MXNet's raw operator, puts 1 for gamma.",
        "eval/stem",
        torch=_torch(
            "return super().forward(x) / self.weight.view(1, -1, 1, 1)"
            " + (self.bias - self.bias / self.weight).view(1, -1, 1, 1)"
        ),
        mxnet=_built("nn.BatchNorm(..., scale=affine)", "nn.BatchNorm(..., scale=False)"),
        jax=_jax("__root * scale", "__root"),
    ),
    mutation(
        "beta_missing",
        "center=False, right where another bias follows, leaves beta out.",
        "eval/stem",
        torch=_torch("return super().forward(x) - self.bias.view(1, -1, 1, 1)"),
        mxnet=_mxnet("return norm(F, x, gamma, F.zeros_like(beta), running_mean, running_var)"),
        jax=_jax("__normalised + bias", "__normalised"),
    ),
    mutation(
        "gamma_frozen",
        "Gamma is loaded and used, but made a constant, as scale=False would.",
        "grad/backbone.layer4.1.bn2.weight",
        torch=_built(
            "return __norm",
            """
            norm = __norm
            norm.weight.requires_grad_(False)
            return norm
            """,
        ),
        mxnet=_mxnet("return norm(F, x, F.BlockGrad(gamma), beta, running_mean, running_var)"),
        jax=_jax("__root * scale", "__root * jax.lax.stop_gradient(scale)"),
    ),
    mutation(
        "gradient_not_through_the_statistics",
        "A BatchNorm written by hand takes the batch's mean and variance for constants.",
        "grad/backbone.layer4.1.conv2.weight",
        torch=_by_hand("mean, var = mean.detach(), var.detach()"),
        mxnet=_OPERATOR,
        jax=_jax_statistics("mean, var = jax.lax.stop_gradient((mean, var))"),
    ),
    mutation(
        "buffers_not_updated",
        "The new statistics are computed and thrown away, as Flax's mutated state easily is.",
        _MEAN,
        torch=_built("1 - config.bn_decay", "0.0"),
        mxnet=_built("config.bn_decay", "1.0"),
        jax=[_jax(f"self.{name}[...] = __", "pass") for name in ("mean", "var")],
    ),
    mutation(
        "buffers_updated_twice",
        "A training step runs the network twice, once to look at it.",
        _MEAN,
        torch=swap("train.Trainer.step", "cells = __forward", "cells = __forward\n__forward"),
        mxnet=swap(
            "train.Trainer",
            "loss.backward()",
            """
            loss.backward(retain_graph=True)
            loss.backward()
            """,
        ),
        jax=start("train._loss_of", "model.scores(images)"),
    ),
    mutation(
        "eval_mode_in_training",
        "The model is left in eval mode after a validation, or use_running_average is on.",
        "train/stem",
        torch=swap("train.Trainer", "self.model.train()", "self.model.eval()"),
        mxnet=swap("train.Trainer", "autograd.record()", "autograd.record(train_mode=False)"),
        jax=swap("train.Trainer", "self.model.train()", "self.model.eval()"),
    ),
    mutation(
        "train_mode_in_eval",
        "Nobody calls eval(): prediction normalises by its own batch.",
        "eval/stem",
        torch=swap("train.Trainer", "self.model.eval()", "self.model.train()", 2),
        mxnet=[
            swap(seam, old, f"with autograd.train_mode():\n    {old}", count)
            for seam, old, count in (
                ("train.Trainer", "cells = self.cells(__images)", 2),
                ("probe.Probe.activations", "return __told", 1),
            )
        ],
        jax=[
            swap("train.Trainer", "self.model.eval()", "self.model.train()", 2),
            swap("probe.Probe", "trainer.model.eval()", "trainer.model.train()"),
        ],
    ),
    mutation(
        "norm_after_relu",
        "The stem's BatchNorm and ReLU change places.",
        "eval/stem",
        swap("model.ResNet.stem", _RELU_OF_NORM, "self.bn1(__relu(self.conv1(x)))"),
    ),
    mutation(
        "first_norm_used_twice",
        "Copy and paste leaves the first BatchNorm's name on the second.",
        "eval/layer1.0",
        swap("model.BasicBlock.forward", "self.bn2(...)", "self.bn1(...)"),
    ),
    mutation(
        "second_norm_missing",
        "A block is ported without its second BatchNorm.",
        "eval/layer1.0",
        swap("model.BasicBlock.forward", "self.bn2(__convolved)", "__convolved"),
    ),
]
