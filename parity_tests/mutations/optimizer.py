"""Mistakes in the backward pass's scale, the optimizer and the learning rate."""

from parity_tests.mutations.apply import Fault, Patch, Patches, fault

_FIRST = "update/backbone.conv1.weight"
_LATER = ("loss[2]", "loss[3]", "momentum/*")
"""Seen in a loss after the second update, the first that a kept v takes part in, or, where the
effect is too small for a loss, in v itself."""


def _o(old: str, new: str, count: int = 1) -> Patch:
    return Patch("optimizer", old, new, count)


def _t(old: str, new: str, count: int = 1) -> Patch:
    return Patch("train", old, new, count)


_TORCH_STEP = "        self.optimizer.step()\n"
_TORCH_RATE = 'group["lr"] = rate\n'
_TORCH_GROUPS = "        groups,\n"
_TORCH_MOMENTUM = "momentum=max(config.momentum, math.ulp(0.0))"
_MXNET_DECAY = "        state += self._get_wd(index) * weight\n"
_MXNET_STEP = "        weight -= self.lr * state\n"
_MXNET_RATE = "        self.optimizer.optimizer.set_learning_rate(rate)\n"
_MXNET_LOOP = "self.optimizer(name, parameter.grad(), parameter.data())\n"
_JAX_RATE = "self._to_device(np.asarray(rate)),"
_JAX_UPDATE = "jax.tree.map(lambda v: -rate * v, updates)"
_JAX_DECAY = "optax.add_decayed_weights(weight_decay, mask)"
_JAX_CALL = "        loss, parameters, buffers, self.optimizer.state, trace = _step(\n"


def _by_name(condition: str) -> Patch:
    """PyTorch: no decay for the tensors whose name `k` and tensor `p` do not meet a condition."""
    return _o(
        "decayed_tensors(config)",
        f"{{k for k, p in trained_tensors(model).items() if {condition}}}",
    )


def _gradients(name: str, why: str, torch: Patches, mxnet: Patches, jax: Patches) -> Fault:
    return fault(
        name,
        why,
        ("grad/transpose_conv.bias", _FIRST),
        torch=torch,
        mxnet=mxnet,
        jax=jax,
    )


def _jax_gradients(expression: str) -> Patch:
    return _t("transform.update(gradients,", f"transform.update({expression},")


FAULTS: list[Fault] = [
    _gradients(
        "gradient_times_batch",
        "Gradients are summed over the devices or the batch where they should be averaged.",
        _t("        loss.backward()\n", "        (loss * len(images)).backward()\n"),
        _t(
            "        loss.backward()\n", "        loss.backward(nd.ones_like(loss) * len(images))\n"
        ),
        _jax_gradients("jax.tree.map(lambda g: g * len(images), gradients)"),
    ),
    _gradients(
        "gradient_averaged_twice",
        "Gluon's trainer.step(batch_size) divides by the batch what is a mean already.",
        _t("        loss.backward()\n", "        (loss / len(images)).backward()\n"),
        _o("        state += grad\n", "        state += grad / 2\n"),
        _jax_gradients("jax.tree.map(lambda g: g / len(images), gradients)"),
    ),
    _gradients(
        "gradient_clipped",
        "A recipe's clipping of the gradient's norm comes along.",
        _t(
            _TORCH_STEP,
            "        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)\n" + _TORCH_STEP,
        ),
        _o("        state += grad\n", "        state += grad.clip(-1e-4, 1e-4)\n"),
        _jax_gradients("optax.clip_by_global_norm(0.1).update(gradients, None)[0]"),
    ),
    fault(
        "gradient_not_cleared",
        "zero_grad is forgotten, or grad_req='add' left on: gradients add up over the steps.",
        "loss[2]",
        torch=_t("        self.optimizer.zero_grad()\n", ""),
        mxnet=_t(
            "        self.optimizer = build",
            "        for parameter in trained_tensors(self.model).values():\n"
            '            parameter.grad_req = "add"\n'
            "        self.optimizer = build",
        ),
        jax="a gradient is a function's value: there is nothing to clear",
    ),
    fault(
        "decay_missing",
        "Weight decay is an argument of the loss there and of the optimizer here: lost.",
        _FIRST,
        torch=_o("weight_decay=config.weight_decay", "weight_decay=0"),
        mxnet=_o(_MXNET_DECAY, ""),
        jax=_o(_JAX_DECAY, "optax.identity()"),
    ),
    fault(
        "decay_doubled",
        "decay * ||w||^2 in the loss has the gradient 2 * decay * w.",
        _FIRST,
        torch=_o("weight_decay=config.weight_decay", "weight_decay=2 * config.weight_decay"),
        mxnet=_o(_MXNET_DECAY, _MXNET_DECAY.replace("+= ", "+= 2 * ")),
        jax=_o(_JAX_DECAY, "optax.add_decayed_weights(2 * weight_decay)"),
    ),
    fault(
        "decay_decoupled",
        "Decay acts on the weight itself, as in AdamW, and does not enter v.",
        _LATER,
        torch=(
            _o("weight_decay=config.weight_decay", "weight_decay=0"),
            _t(
                _TORCH_STEP,
                "        for p in self.model.parameters():\n"
                "            p.data *= 1 - rate * self.config.weight_decay\n" + _TORCH_STEP,
            ),
        ),
        mxnet=(
            _o(_MXNET_DECAY, ""),
            _o(_MXNET_STEP, "        weight -= self.lr * (state + self.wd * weight)\n"),
        ),
        jax=(
            _o(
                f"optax.chain({_JAX_DECAY}, optax.trace(momentum))",
                f"optax.chain(optax.trace(momentum), {_JAX_DECAY})",
            ),
            _o("optimizer.state[1].trace", "optimizer.state[0].trace"),
        ),
    ),
    fault(
        "decay_not_on_norm_and_bias",
        "A common recipe leaves vectors (gamma, beta, biases) out of the decay.",
        "update/backbone.bn1.weight",
        torch=_by_name("p.ndim == 4"),
        mxnet=_o(_MXNET_DECAY, "        state += self.wd * (weight.ndim == 4) * weight\n"),
        jax=_o(_JAX_DECAY, "optax.add_decayed_weights(weight_decay, _kernels)"),
    ),
    fault(
        "decay_not_on_biases",
        "MXNet's optimizers decay by name: what does not end in weight or gamma is left out.",
        "update/backbone.bn1.bias",
        torch=_by_name('not k.endswith("bias")'),
        mxnet=_o(
            _MXNET_DECAY,
            '        state += self.wd * (not index.endswith("bias")) * weight\n',
        ),
        jax=_o(
            _JAX_DECAY,
            "optax.add_decayed_weights(weight_decay, lambda tree:"
            " jax.tree_util.tree_map_with_path(lambda path, a:"
            ' "bias" not in jax.tree_util.keystr(path), tree))',
        ),
    ),
    fault(
        "decay_in_double",
        "The decay is used as written, not rounded to float32.",
        _FIRST,
        torch=_o("weight_decay=config.weight_decay", "weight_decay=1e-2"),
        mxnet=_o("wd=config.weight_decay", "wd=1e-2"),
        jax=_o("_sgd(config.momentum, config.weight_decay,", "_sgd(config.momentum, 1e-2,"),
    ),
    fault(
        "momentum_in_double",
        "The momentum is 0.9, not float32(0.9): 2.6e-8 apart.",
        _LATER,
        torch=_o(_TORCH_MOMENTUM, "momentum=0.9"),
        mxnet=_o("_SGD(config.momentum,", "_SGD(0.9,"),
        jax=_o("_sgd(config.momentum,", "_sgd(0.9,"),
    ),
    fault(
        "momentum_missing",
        "SGD's momentum is 0 by default.",
        _LATER,
        torch=_o(_TORCH_MOMENTUM, "momentum=math.ulp(0.0)"),
        mxnet=_o("state *= self.momentum", "state *= 0"),
        jax=_o("_sgd(config.momentum,", "_sgd(0.0,"),
    ),
    fault(
        "momentum_forgotten_between_steps",
        "The optimizer, or its state, is made anew in every step.",
        _LATER,
        torch=_t(
            "        self.optimizer.zero_grad()\n",
            "        self.optimizer = build_optimizer(self.model, self.config)\n"
            "        self.optimizer.zero_grad()\n",
        ),
        mxnet=_t(
            _MXNET_RATE,
            "        self.optimizer = build_optimizer(self.model, self.config)\n" + _MXNET_RATE,
        ),
        jax=_t(
            _JAX_CALL,
            "        self.optimizer = build_optimizer(self.model, self.config)\n" + _JAX_CALL,
        ),
    ),
    fault(
        "momentum_nesterov",
        "nesterov=True comes along from a recipe.",
        _FIRST,
        torch=_o(_TORCH_MOMENTUM, "momentum=config.momentum, nesterov=True"),
        mxnet=_o(
            _MXNET_STEP,
            "        weight -= self.lr * (self.momentum * state + grad + self.wd * weight)\n",
        ),
        jax=_o("optax.trace(momentum)", "optax.trace(momentum, nesterov=True)"),
    ),
    fault(
        "momentum_averages",
        "v = m * v + (1 - m) * g: dampening; PyTorch's begins at the second step.",
        (_FIRST, "loss[2]"),
        torch=_o(_TORCH_MOMENTUM, "momentum=config.momentum, dampening=config.momentum"),
        mxnet=(
            _o("        state += grad\n", "        state += (1 - self.momentum) * grad\n"),
            _o(_MXNET_DECAY, _MXNET_DECAY.replace("+= ", "+= (1 - self.momentum) * ")),
        ),
        jax=_o(_JAX_DECAY, f"optax.chain({_JAX_DECAY}, optax.scale(1 - momentum))"),
    ),
    fault(
        "rate_inside_momentum",
        "v = m * v + rate * g, as MXNet's own SGD: equal until the rate changes.",
        "loss[3]",
        torch=_t(
            _TORCH_RATE,
            'old, group["lr"] = group["lr"], rate\n'
            '            for p in group["params"]:\n'
            '                if "momentum_buffer" in self.optimizer.state[p]:\n'
            '                    self.optimizer.state[p]["momentum_buffer"] *= old / rate\n',
        ),
        mxnet=(
            _o("        state += grad\n", "        state += self.lr * grad\n"),
            _o(_MXNET_DECAY, _MXNET_DECAY.replace("+= ", "+= self.lr * ")),
            _o(_MXNET_STEP, "        weight -= state\n"),
        ),
        jax=_t(
            _JAX_CALL,
            '        scale, self.rate = getattr(self, "rate", rate) / rate, rate\n'
            "        state = jax.tree.map(lambda v: v * scale, self.optimizer.state)\n"
            "        self.optimizer.state = state\n" + _JAX_CALL,
        ),
    ),
    fault(
        "rate_of_the_step_before",
        "The schedule is advanced after the step that should have used it.",
        "loss[3]",
        torch=(
            _t(_TORCH_RATE, "pass\n"),
            _t(
                _TORCH_STEP,
                _TORCH_STEP + "        for group in self.optimizer.param_groups:\n"
                '            group["lr"] = rate\n',
            ),
        ),
        mxnet=(
            _t(_MXNET_RATE, ""),
            _t("        nd.waitall()", _MXNET_RATE + "        nd.waitall()"),
        ),
        jax=_t(
            _JAX_CALL,
            '        rate, self.rate = getattr(self, "rate", rate), rate\n' + _JAX_CALL,
        ),
    ),
    fault(
        "rate_of_the_step_after",
        "The schedule is advanced before the step: step k runs at the rate of k + 1.",
        "loss[2]",
        torch=_t(
            _TORCH_RATE,
            'self.k = getattr(self, "k", 0) + 1\n'
            '            group["lr"] = rate * (0.1 if self.k == 2 else 1)\n',
        ),
        mxnet=_t(
            _MXNET_RATE,
            '        self.k = getattr(self, "k", 0) + 1\n'
            + _MXNET_RATE.replace("rate)", "rate * (0.1 if self.k == 2 else 1))"),
        ),
        jax=_t(
            _JAX_CALL,
            '        self.k = getattr(self, "k", 0) + 1\n'
            "        rate = rate * (0.1 if self.k == 2 else 1)\n" + _JAX_CALL,
        ),
    ),
    fault(
        "rate_never_changes",
        "The rate is a constant of the compiled step, or the schedule is never asked.",
        "loss[3]",
        torch=_t(_TORCH_RATE, "pass\n"),
        mxnet=_t(_MXNET_RATE, ""),
        jax=_t(_JAX_RATE, "self._to_device(np.asarray(self.config.learning_rate)),"),
    ),
    fault(
        "rate_in_double",
        "The rate is not rounded to float32: 0.01 is off by 2.2e-8.",
        _FIRST,
        torch=_t(_TORCH_RATE, 'group["lr"] = float(str(np.float32(rate)))\n'),
        mxnet=_t(_MXNET_RATE, _MXNET_RATE.replace("rate)", "float(str(np.float32(rate))))")),
        jax=_t(_JAX_RATE, "self._to_device(np.asarray(float(str(np.float32(rate))))),"),
    ),
    fault(
        "rate_larger_for_the_head",
        "A fine-tuning recipe lets the new layer learn ten times as fast.",
        "update/final_conv.weight",
        torch=(
            _o(
                _TORCH_GROUPS,
                '        [{"params": [p], "factor": 10 if "final" in k else 1}'
                " for k, p in trained.items()],\n",
            ),
            _t(_TORCH_RATE, 'group["lr"] = rate * group["factor"]\n'),
        ),
        mxnet=_o(
            _MXNET_STEP,
            _MXNET_STEP.replace("self.lr", '(10 if "final" in index else 1) * self.lr'),
        ),
        jax=_t(
            _JAX_UPDATE,
            "jax.tree_util.tree_map_with_path(lambda path, v: -rate * v"
            ' * (10 if "final" in jax.tree_util.keystr(path) else 1), updates)',
        ),
    ),
    fault(
        "upsampling_not_trained",
        "The transposed convolution is kept at its bilinear kernel: no optimizer has it.",
        "update/transpose_conv.weight",
        torch=_o(
            _TORCH_GROUPS,
            '        [p for k, p in trained.items() if k != "transpose_conv.weight"],\n',
        ),
        mxnet=_t(
            _MXNET_LOOP,
            f'if name != "transpose_conv.weight":\n                {_MXNET_LOOP}',
        ),
        jax=_t(
            _JAX_UPDATE,
            "jax.tree_util.tree_map_with_path(lambda path, v: -rate * v * ("
            "\"['transpose_conv']['weight']\" not in jax.tree_util.keystr(path)), updates)",
        ),
    ),
    fault(
        "weights_stored_in_float32",
        "The updated weights are kept in float32.",
        _FIRST,
        torch=_t(
            _TORCH_STEP,
            _TORCH_STEP + "        for p in self.model.parameters():\n"
            "            p.data = p.data.float().to(p.dtype)\n",
        ),
        mxnet=_o(_MXNET_STEP, _MXNET_STEP + '        weight[:] = weight.astype("float32")\n'),
        jax=_t(
            f"optax.apply_updates(parameters, {_JAX_UPDATE})",
            "jax.tree.map(lambda w, v: (w - rate * v).astype(jnp.float32).astype(w.dtype),"
            " parameters, updates)",
        ),
    ),
]
