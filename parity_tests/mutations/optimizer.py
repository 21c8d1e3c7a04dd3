"""Mistakes in the backward pass's scale, the optimizer and the learning rate."""

from parity_tests.mutations.apply import Patch, Patches, after, before, mutation, start, swap

_FIRST = "update/backbone.conv1.weight"
_LATER = ("loss[2]", "loss[3]", "momentum/*")
"""Seen in a loss after the second update, the first that a kept momentum buffer takes part in, or,
where the effect is too small for a loss, in the buffer itself."""
_GRADIENT = ("grad/transpose_conv.bias", _FIRST)

_STEPS = {"torch": "step", "mxnet": "_step_through", "jax": "_step_through"}
"""The method that is a training step."""


def _at_step(text: str) -> dict[str, Patches]:
    """Statements at the start of a training step, which has the argument `rate`."""
    return {backend: start(f"train.Trainer.{name}", text) for backend, name in _STEPS.items()}


def _built(old: str, new: str) -> Patch:
    return swap("optimizer.build_optimizer", old, new)


def _groups(groups: str, arguments: str = "...") -> Patch:
    """PyTorch: the optimizer made with other groups of tensors, or other arguments."""
    return _built("torch.optim.SGD(groups, ...)", f"torch.optim.SGD({groups}, {arguments})")


def _torch_step(old: str, new: str) -> Patch:
    return swap("train.Trainer.step", old, new)


def _sgd(*changes: tuple[str, str]) -> list[Patch]:
    """MXNet: statements of the update replaced."""
    return [swap("optimizer._SGD.update", old, new) for old, new in changes]


def _chain(old: str, new: str) -> Patch:
    """JAX: a link of the transformation replaced."""
    return swap("optimizer._sgd", old, new)


def _gradients(expression: str) -> Patch:
    """JAX: what is given to the optimizer as the gradients."""
    return swap(
        "train._update", "transform.update(gradients, ...)", f"transform.update({expression}, ...)"
    )


def _steps_by_path(factor: str) -> Patch:
    """JAX: each tensor's step of the weights by a factor that depends on its path, `at`."""
    return swap(
        "train._update",
        "jax.tree.map(lambda v: -rate * v, updates)",
        "jax.tree_util.tree_map_with_path(lambda path, v:"
        f" -rate * v * (lambda at: {factor})(jax.tree_util.keystr(path)), updates)",
    )


_DECAY, _STEP = "state += self._get_wd(index) * weight", "weight -= self.lr * state"
_GRAD, _TORCH_STEP = "state += grad", "self.optimizer.step()"

_TOLD = {
    "decay_missing": (
        "Weight decay is an argument of the loss there and of the optimizer here: lost.",
        _FIRST,
        ("config.weight_decay", "0.0"),
    ),
    "decay_doubled": (
        "decay * ||w||^2 in the loss has the gradient 2 * decay * w.",
        _FIRST,
        ("config.weight_decay", "2 * config.weight_decay"),
    ),
    "decay_in_double": (
        "The decay is used as written, not rounded to float32.",
        _FIRST,
        ("config.weight_decay", "1e-2"),
    ),
    "decay_not_on_norm_and_bias": (
        "A common recipe leaves vectors (gamma, beta, biases) out of the decay.",
        "update/backbone.bn1.weight",
        (
            "decayed_tensors(config)",
            "{k for k, t in trained_tensors(model).items() if len(t.shape) == 4}",
        ),
    ),
    "decay_not_on_biases": (
        "MXNet's optimizers decay by name: what does not end in weight or gamma is left out.",
        "update/backbone.bn1.bias",
        (
            "decayed_tensors(config)",
            '{k for k in decayed_tensors(config) if not k.endswith("bias")}',
        ),
    ),
    "momentum_in_double": (
        "The momentum is 0.9, not float32(0.9): 2.6e-8 apart.",
        _LATER,
        ("config.momentum", "0.9"),
    ),
    "momentum_missing": ("SGD's momentum is 0 by default.", _LATER, ("config.momentum", "0.0")),
}
"""What the optimizer is told when it is built."""

_RATES = {
    "rate_of_the_step_before": (
        "The schedule is advanced after the step that should have used it.",
        "loss[3]",
        'rate, self.rate = getattr(self, "rate", rate), rate',
    ),
    "rate_of_the_step_after": (
        "The schedule is advanced before the step: step k runs at the rate of k + 1.",
        "loss[2]",
        """
        self.k = getattr(self, "k", 0) + 1
        rate = rate * (0.1 if self.k == 2 else 1)
        """,
    ),
    "rate_never_changes": (
        "The rate is a constant of the compiled step, or the schedule is never asked.",
        "loss[3]",
        "rate = self.config.learning_rate",
    ),
    "rate_in_double": (
        "The rate is not rounded to float32: 0.01 is off by 2.2e-8.",
        _FIRST,
        "rate = float(str(np.float32(rate)))",
    ),
    "rate_inside_momentum": (
        "v = m * v + rate * g, as MXNet's own SGD: equal until the rate changes.",
        "loss[3]",
        """
        scale, self.rate = getattr(self, "rate", rate) / rate, rate
        self.load_momentum({k: v * scale for k, v in self.momentum().items()})
        """,
    ),
    "momentum_forgotten_between_steps": (
        "The optimizer, or its state, is made anew in every step.",
        _LATER,
        "self.optimizer = build_optimizer(self.model, self.config)",
    ),
}
"""What a training step begins with; the rates are `run.RATES`."""

MUTATIONS = [
    mutation(
        "gradient_times_batch",
        "Gradients are summed over the devices or the batch where they should be averaged.",
        _GRADIENT,
        torch=_torch_step("loss.backward()", "(loss * len(images)).backward()"),
        mxnet=swap(
            "train.Trainer._step_through",
            "loss.backward()",
            "loss.backward(nd.ones_like(loss) * len(images))",
        ),
        jax=_gradients("jax.tree.map(lambda g: g * len(images), gradients)"),
    ),
    mutation(
        "gradient_averaged_twice",
        "Gluon's trainer.step(batch_size) divides by the batch what is a mean already.",
        _GRADIENT,
        torch=_torch_step("loss.backward()", "(loss / len(images)).backward()"),
        mxnet=_sgd((_GRAD, "state += grad / 2")),
        jax=_gradients("jax.tree.map(lambda g: g / len(images), gradients)"),
    ),
    mutation(
        "gradient_clipped",
        "A recipe's clipping of the gradient's norm comes along.",
        _GRADIENT,
        torch=before(
            "train.Trainer.step",
            _TORCH_STEP,
            "torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)",
        ),
        mxnet=_sgd((_GRAD, "state += grad.clip(-1e-4, 1e-4)")),
        jax=_gradients("optax.clip_by_global_norm(0.1).update(gradients, None)[0]"),
    ),
    mutation(
        "gradient_not_cleared",
        "zero_grad is forgotten, or grad_req='add' left on: gradients add up over the steps.",
        "loss[2]",
        torch=_torch_step("self.optimizer.zero_grad()", "pass"),
        mxnet=before(
            "train.Trainer.__init__",
            "build_optimizer(...)",
            """
            for parameter in trained_tensors(self.model).values():
                parameter.grad_req = "add"
            """,
        ),
        jax="a gradient is a function's value: there is nothing to clear",
    ),
    *(
        mutation(name, why, expected, _built(*change))
        for name, (why, expected, change) in _TOLD.items()
    ),
    mutation(
        "decay_decoupled",
        "Decay acts on the weight itself, as in AdamW, and does not enter the momentum buffer.",
        _LATER,
        torch=[
            _built("config.weight_decay", "0"),
            before(
                "train.Trainer.step",
                _TORCH_STEP,
                """
                for p in self.model.parameters():
                    p.data *= 1 - rate * self.config.weight_decay
                """,
            ),
        ],
        mxnet=_sgd(
            (_DECAY, "pass"), (_STEP, "weight -= self.lr * (state + self._get_wd(index) * weight)")
        ),
        jax=[
            _chain("optax.chain(__decay, __momentum)", "optax.chain(__momentum, __decay)"),
            swap("optimizer.export_momentum", "optimizer.state[1]", "optimizer.state[0]"),
        ],
    ),
    mutation(
        "momentum_nesterov",
        "nesterov=True comes along from a recipe.",
        _FIRST,
        torch=_groups("groups", "..., nesterov=True"),
        mxnet=_sgd(
            (
                _STEP,
                "weight -= self.lr * (self.momentum * state + grad + self._get_wd(index) * weight)",
            )
        ),
        jax=_chain("optax.trace(...)", "optax.trace(..., nesterov=True)"),
    ),
    mutation(
        "momentum_averages",
        "v = m * v + (1 - m) * g: dampening; PyTorch's begins at the second step.",
        (_FIRST, "loss[2]"),
        torch=_groups("groups", "..., dampening=config.momentum"),
        mxnet=_sgd(
            (_GRAD, "state += (1 - self.momentum) * grad"),
            (_DECAY, "state += (1 - self.momentum) * self._get_wd(index) * weight"),
        ),
        jax=_chain(
            "optax.add_decayed_weights(...)",
            "optax.chain(optax.add_decayed_weights(...), optax.scale(1 - momentum))",
        ),
    ),
    *(
        mutation(name, why, expected, _at_step(text))
        for name, (why, expected, text) in _RATES.items()
    ),
    mutation(
        "rate_larger_for_the_head",
        "A fine-tuning recipe lets the new layer learn ten times as fast.",
        "update/final_conv.weight",
        torch=[
            _groups(
                '[{"params": [p], "factor": 10 if "final" in k else 1} for k, p in trained.items()]'
            ),
            _torch_step('group["lr"] = rate', 'group["lr"] = rate * group["factor"]'),
        ],
        mxnet=_sgd((_STEP, 'weight -= (10 if "final" in index else 1) * self.lr * state')),
        jax=_steps_by_path('10 if "final" in at else 1'),
    ),
    mutation(
        "upsampling_not_trained",
        "The transposed convolution is kept at its bilinear kernel: no optimizer has it.",
        "update/transpose_conv.weight",
        torch=_groups(
            '[{**group, "params": [p for p in group["params"]'
            " if p is not model.transpose_conv.weight]} for group in groups]"
        ),
        mxnet=swap(
            "train.Trainer._step_through",
            "self.optimizer(...)",
            'name == "transpose_conv.weight" or self.optimizer(...)',
        ),
        jax=_steps_by_path("\"['transpose_conv']['weight']\" not in at"),
    ),
    mutation(
        "weights_stored_in_float32",
        "The updated weights are kept in float32.",
        _FIRST,
        {
            backend: after(
                f"train.Trainer.{_STEPS[backend]}",
                last,
                """
                stored = {k: v.astype(np.float32) for k, v in self.weights().items()}
                import_weights(self.model, stored)
                """,
            )
            for backend, last in {
                "torch": _TORCH_STEP,
                "mxnet": "nd.waitall()",
                "jax": "nnx.update(...)",
            }.items()
        },
    ),
]
