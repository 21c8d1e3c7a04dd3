"""Mistakes in batch normalisation."""

from parity_tests.mutations.apply import Fault, Patch, fault

_MEAN = "buffer/backbone.bn1.running_mean"
_VARIANCE = "buffer/backbone.bn1.running_var"
_OPERATOR = "its operator cannot be opened, and nobody writes it out by hand"


def _m(old: str, new: str, count: int = 1) -> Patch:
    return Patch("model", old, new, count)


def _torch(forward: str) -> tuple[Patch, Patch]:
    """A BatchNorm whose forward pass is this body, indented by 8."""
    return (
        _m(
            "def _batch_norm(",
            "class _BatchNorm(nn.BatchNorm2d):\n"
            "    def forward(self, x):\n"
            f"{forward}\n\n\n"
            "def _batch_norm(",
        ),
        _m("return nn.BatchNorm2d(", "return _BatchNorm("),
    )


def _mxnet(forward: str) -> tuple[Patch, Patch]:
    """A BatchNorm whose graph is this body, indented by 8; `norm` is the usual one."""
    return (
        _m(
            "def _batch_norm(",
            "class _BatchNorm(nn.BatchNorm):\n"
            "    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):\n"
            "        norm = super().hybrid_forward\n"
            f"{forward}\n\n\n"
            "def _batch_norm(",
        ),
        _m("return nn.BatchNorm(", "return _BatchNorm("),
    )


_BY_HAND = """\
        y = super().forward(x)
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        shape = (1, -1, 1, 1)
"""
"""PyTorch: the statistics that normalise; the buffers are as they should be."""

_TORCH_EPS, _MXNET_EPS, _JAX_EPS = ", config.bn_eps,", "epsilon=config.bn_eps", "= config.bn_eps,"
_TORCH_MOMENTUM, _MXNET_MOMENTUM = "momentum=1 - config.bn_decay", "momentum=config.bn_decay"
_JAX_MOMENTUM = "config.bn_eps, config.bn_decay"
_JAX_STATISTICS = "jnp.mean(x, axis=(0, 1, 2)), jnp.var(x, axis=(0, 1, 2))"
_JAX_STEP = """\
        self.model.train()
        structure, parameters, buffers = nnx.split(self.model, nnx.Param, nnx.BatchStat)
        loss,"""


def _eps(name: str, why: str, expected: str, value: str, setting: str = "generic") -> Fault:
    return fault(
        name,
        why,
        expected,
        torch=_m(_TORCH_EPS, f", {value},"),
        mxnet=_m(_MXNET_EPS, f"epsilon={value}"),
        jax=_m(_JAX_EPS, f"= {value},"),
        setting=setting,
    )


def _momentum(name: str, why: str, torch: str, mxnet: str, jax: str) -> Fault:
    return fault(
        name,
        why,
        _MEAN,
        torch=_m(_TORCH_MOMENTUM, f"momentum={torch}"),
        mxnet=_m(_MXNET_MOMENTUM, f"momentum={mxnet}"),
        jax=_m(_JAX_MOMENTUM, f"config.bn_eps, {jax}"),
    )


FAULTS: list[Fault] = [
    _eps(
        "eps_1e-3", "1e-3 is the default of MXNet's raw operator and of Keras.", "eval/stem", "1e-3"
    ),
    _eps(
        "eps_1.1e-5",
        "1.1e-5 is hidden in old Keras models, for cuDNN refused 1e-5.",
        "eval/stem",
        "1.1e-5",
    ),
    _eps("eps_1e-6", "1e-6 is the default of many JAX code bases.", "eval/stem", "1e-6"),
    _eps(
        "eps_in_double",
        "1e-5 as a double, where the definition rounds it to float32: off by 2.5e-13.",
        "eval/stem",
        "1e-5",
        "low_contrast",
    ),
    fault(
        "eps_outside_the_root",
        "sqrt(variance) + eps, as in Adam, instead of sqrt(variance + eps).",
        "eval/stem",
        torch=_torch(
            f"{_BY_HAND}"
            "        scale = self.weight / (var.sqrt() + self.eps)\n"
            "        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)"
        ),
        mxnet=_OPERATOR,
        jax=_m("jax.lax.rsqrt(var + self.eps)", "1 / (jnp.sqrt(var) + self.eps)"),
    ),
    _momentum(
        "norm_decay_0.99",
        "0.99 is Flax's and Keras's default decay of the running statistics.",
        "0.01",
        "0.99",
        "0.99",
    ),
    _momentum(
        "norm_decay_and_its_complement_swapped",
        "PyTorch's momentum weighs the new value, everyone else's the old one.",
        "config.bn_decay",
        "1 - config.bn_decay",
        "1 - config.bn_decay",
    ),
    fault(
        "norm_decay_in_double",
        "0.1 is written where the definition has 1 - float32(0.9).",
        _MEAN,
        torch=_m(_TORCH_MOMENTUM, "momentum=0.1"),
        mxnet="its operator keeps the decay in float32: 0.9 is float32(0.9)",
        jax=_m(_JAX_MOMENTUM, "config.bn_eps, 0.9"),
    ),
    fault(
        "running_variance_biased",
        "MXNet and Flax put the variance over n into the buffer, PyTorch over n - 1.",
        _VARIANCE,
        torch=_torch(
            "        old = self.running_var.clone()\n"
            "        y = super().forward(x)\n"
            "        if self.training:\n"
            "            kept = (1 - self.momentum) * old\n"
            "            n = x.numel() // x.shape[1]\n"
            "            self.running_var.data -= (self.running_var - kept) / n\n"
            "        return y"
        ),
        mxnet=Patch("train", "        self._unbias(running_vars, x.shape)\n", ""),
        jax=_m(" * var * (n / (n - 1))", " * var"),
    ),
    fault(
        "normalised_by_the_unbiased_variance",
        "torch.var and many libraries divide by n - 1, batch normalisation by n.",
        "train/stem",
        torch=_torch(
            f"{_BY_HAND}"
            "        if self.training:\n"
            "            var = x.var((0, 2, 3))\n"
            "        scale = self.weight / (var + self.eps).sqrt()\n"
            "        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)"
        ),
        mxnet=_OPERATOR,
        jax=(
            _m("jnp.var(x, axis=(0, 1, 2))", "jnp.var(x, axis=(0, 1, 2), ddof=1)"),
            _m(" * var * (n / (n - 1))", " * var"),
        ),
    ),
    fault(
        "variance_in_one_pass",
        "E[x^2] - E[x]^2, Flax's default, loses what a large mean leaves no digits for.",
        "train/layer2.0",
        torch=_torch(
            f"{_BY_HAND}"
            "        if self.training:\n"
            "            var = (x * x).mean((0, 2, 3)) - mean * mean\n"
            "        scale = self.weight / (var + self.eps).sqrt()\n"
            "        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)"
        ),
        mxnet=_OPERATOR,
        jax=_m(
            _JAX_STATISTICS,
            "jnp.mean(x, axis=(0, 1, 2)), jnp.mean(x * x, axis=(0, 1, 2))"
            " - jnp.mean(x, axis=(0, 1, 2)) ** 2",
        ),
        setting="large_mean",
    ),
    fault(
        "statistics_of_each_image",
        "Data parallelism without synchronisation normalises each device's share by itself.",
        "train/stem",
        torch=_torch(
            "        return torch.cat([nn.BatchNorm2d.forward(self, i) for i in x.split(1)])"
        ),
        mxnet=_mxnet(
            "        halves = F.split(x, num_outputs=2, axis=0)\n"
            "        args = gamma, beta, running_mean, running_var\n"
            "        return F.concat(*[norm(F, i, *args) for i in halves], dim=0)"
        ),
        jax=_m(
            "        x = (x - mean)",
            "            mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)\n"
            "        x = (x - mean)",
        ),
    ),
    fault(
        "statistics_in_float32",
        "Flax's and autocast's BatchNorm takes its statistics in float32 whatever the type.",
        "train/stem",
        torch=_torch(
            f"{_BY_HAND}"
            "        mean, var = mean.float().to(x.dtype), var.float().to(x.dtype)\n"
            "        if not self.training:\n"
            "            return y\n"
            "        scale = self.weight / (var + self.eps).sqrt()\n"
            "        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)"
        ),
        mxnet=_OPERATOR,
        jax=_m(
            _JAX_STATISTICS,
            "(f(x.astype(jnp.float32), axis=(0, 1, 2)) for f in (jnp.mean, jnp.var))",
        ),
    ),
    fault(
        "norm_in_float32",
        "BatchNorm stays in float32 when the model is cast, as Gluon's cast once did.",
        "eval/stem",
        torch=_torch("        return super().forward(x.float().to(x.dtype))"),
        mxnet=_mxnet(
            '        x = F.cast(F.cast(x, "float32"), self.gamma.dtype)\n'
            "        return norm(F, x, gamma, beta, running_mean, running_var)"
        ),
        jax=_m(
            "        mean, var = self.mean[...], self.var[...]\n",
            "        x = x.astype(jnp.float32).astype(x.dtype)\n"
            "        mean, var = self.mean[...], self.var[...]\n",
        ),
    ),
    fault(
        "gamma_missing",
        "fix_gamma, on by default in MXNet's raw operator, puts 1 for gamma.",
        "eval/stem",
        torch=_torch(
            "        return super().forward(x) / self.weight.view(1, -1, 1, 1)"
            " + (self.bias - self.bias / self.weight).view(1, -1, 1, 1)"
        ),
        mxnet=_m(
            "        scale=affine,\n",
            "        scale=False,\n",
        ),
        jax=_m("+ self.eps) * scale)", "+ self.eps))"),
    ),
    fault(
        "beta_missing",
        "center=False, right where another bias follows, leaves beta out.",
        "eval/stem",
        torch=_torch("        return super().forward(x) - self.bias.view(1, -1, 1, 1)"),
        mxnet=_mxnet(
            "        return norm(F, x, gamma, F.zeros_like(beta), running_mean, running_var)"
        ),
        jax=_m(" + bias\n        return x.astype", "\n        return x.astype"),
    ),
    fault(
        "gamma_frozen",
        "Gamma is loaded and used, but made a constant, as scale=False would.",
        "grad/backbone.layer4.1.bn2.weight",
        torch=(
            _m("return nn.BatchNorm2d(", "norm = nn.BatchNorm2d("),
            _m(
                "affine=affine)\n",
                "affine=affine)\n    norm.weight.requires_grad_(False)\n    return norm\n",
            ),
        ),
        mxnet=_mxnet(
            "        return norm(F, x, F.BlockGrad(gamma), beta, running_mean, running_var)"
        ),
        jax=_m("+ self.eps) * scale)", "+ self.eps) * jax.lax.stop_gradient(scale))"),
    ),
    fault(
        "gradient_not_through_the_statistics",
        "A BatchNorm written by hand takes the batch's mean and variance for constants.",
        "grad/backbone.layer4.1.conv2.weight",
        torch=_torch(
            f"{_BY_HAND}"
            "        scale = self.weight / (var.detach() + self.eps).sqrt()\n"
            "        x = x - mean.detach().view(shape)\n"
            "        return x * scale.view(shape) + self.bias.view(shape)"
        ),
        mxnet=_OPERATOR,
        jax=_m(
            "        x = (x - mean)",
            "            mean, var = jax.lax.stop_gradient((mean, var))\n        x = (x - mean)",
        ),
    ),
    fault(
        "buffers_not_updated",
        "The new statistics are computed and thrown away, as Flax's mutated state easily is.",
        _MEAN,
        torch=_m(_TORCH_MOMENTUM, "momentum=0.0"),
        mxnet=_m(_MXNET_MOMENTUM, "momentum=1.0"),
        jax=(
            _m("            self.mean[...] = ", "            new_mean = "),
            _m("            self.var[...] = ", "            new_var = "),
        ),
    ),
    fault(
        "buffers_updated_twice",
        "A training step runs the network twice, once to look at it.",
        _MEAN,
        torch=Patch(
            "train",
            "        loss = cross_entropy(",
            "        self._forward(images)\n        loss = cross_entropy(",
        ),
        mxnet=Patch(
            "train",
            "        loss.backward()\n",
            "        loss.backward(retain_graph=True)\n        loss.backward()\n",
        ),
        jax=Patch(
            "train",
            "        cells, activations = model(images",
            "        model(images.transpose(0, 2, 3, 1))\n"
            "        cells, activations = model(images",
        ),
    ),
    fault(
        "eval_mode_in_training",
        "The model is left in eval mode after a validation, or use_running_average is on.",
        "train/stem",
        torch=Patch(
            "train",
            "        self.model.train()\n        self.optimizer",
            "        self.model.eval()\n        self.optimizer",
        ),
        mxnet=Patch(
            "train",
            "        with autograd.record():\n            output = self.model(x)",
            "        with autograd.record(train_mode=False):\n            output = self.model(x)",
        ),
        jax=Patch("train", _JAX_STEP, _JAX_STEP.replace("train", "eval", 1)),
    ),
    fault(
        "train_mode_in_eval",
        "Nobody calls eval(): prediction normalises by its own batch.",
        "eval/stem",
        torch=Patch("train", "        self.model.eval()\n", "        self.model.train()\n"),
        mxnet=Patch(
            "train",
            "        return self.model(",
            "        with autograd.train_mode():\n            return self.model(",
        ),
        jax=Patch("train", "        self.model.eval()\n", "        self.model.train()\n"),
    ),
    fault(
        "norm_after_relu",
        "The stem's BatchNorm and ReLU change places.",
        "eval/stem",
        torch=_m(
            "self.relu(self.bn1(self.conv1(x)))  # (N", "self.bn1(self.relu(self.conv1(x)))  # (N"
        ),
        mxnet=_m(
            "self.relu(self.bn1(self.conv1(x)))  # (N", "self.bn1(self.relu(self.conv1(x)))  # (N"
        ),
        jax=_m(
            "nnx.relu(self.bn1(self.conv1(x)))  # (N", "self.bn1(nnx.relu(self.conv1(x)))  # (N"
        ),
    ),
    fault(
        "first_norm_used_twice",
        "Copy and paste leaves the first BatchNorm's name on the second.",
        "eval/layer1.0",
        torch=_m("self.bn2(self.conv2(x))", "self.bn1(self.conv2(x))"),
        mxnet=_m("self.bn2(self.conv2(inner))", "self.bn1(self.conv2(inner))"),
        jax=_m("self.bn2(self.conv2(inner))", "self.bn1(self.conv2(inner))"),
    ),
    fault(
        "second_norm_missing",
        "A block is ported without its second BatchNorm.",
        "eval/layer1.0",
        torch=_m("self.bn2(self.conv2(x))", "self.conv2(x)"),
        mxnet=_m("self.bn2(self.conv2(inner))", "self.conv2(inner)"),
        jax=_m("self.bn2(self.conv2(inner))", "self.conv2(inner)"),
    ),
]
