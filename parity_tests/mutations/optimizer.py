"""Mistakes in the backward pass's scale, the optimizer and the learning rate.

Seen in a loss after the second update, the first that a kept momentum buffer takes part in, or,
where the effect is too small for a loss, in the buffer itself. The rate falls in each step.
"""

from parity_tests.mutations.apply import parse

MUTATIONS = parse("""
at grad/transpose_conv.bias or update/backbone.conv1.weight
gradient_times_batch: Gradients are summed over the devices or the batch, not averaged.
    torch: train.Trainer._backward: (loss * __n).backward() -> (loss * len(images)).backward()
    mxnet: train.Trainer._backward:
        loss.backward() -> loss.backward(nd.ones_like(loss) * len(images))
    jax: train._update: transform.update(gradients, ...) ->
        transform.update(jax.tree.map(lambda g: g * 2, gradients), ...)
gradient_averaged_twice: Gluon's trainer.step(batch_size) divides what is a mean already.
    torch: train.Trainer._backward: (loss * __n).backward() -> (loss / len(images)).backward()
    mxnet: optimizer._SGD.update: mx.nd.sgd_mom_update(weight, grad, ...) ->
        mx.nd.sgd_mom_update(weight, grad / 2, ...)
    jax: train._update: transform.update(gradients, ...) ->
        transform.update(jax.tree.map(lambda g: g / 2, gradients), ...)
gradient_clipped: A recipe's clipping of the gradient's norm comes along.
    torch: train.Trainer.step: self.optimizer.step() ->
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        self.optimizer.step()
    mxnet: optimizer._SGD.update: mx.nd.sgd_mom_update(weight, grad, ...) ->
        mx.nd.sgd_mom_update(weight, grad.clip(-1e-4, 1e-4), ...)
    jax: train._update: transform.update(gradients, ...) ->
        transform.update(optax.clip_by_global_norm(0.1).update(gradients, None)[0], ...)
gradient_clipped_at_500: A clipping that ordinary batches never reach.
    torch: train.Trainer.step: self.optimizer.step() ->
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 500)
        self.optimizer.step()
    mxnet: optimizer._SGD.update: mx.nd.sgd_mom_update(weight, grad, ...) ->
        mx.nd.sgd_mom_update(weight, grad * min(1, 400 / grad.norm().asscalar()), ...)
    jax: train._update: transform.update(gradients, ...) ->
        transform.update(optax.clip_by_global_norm(500).update(gradients, None)[0], ...)
    setting: loud

at loss[2]
gradient_not_cleared: zero_grad is forgotten, or grad_req='add' left on: gradients add up.
    torch: train.Trainer.step: self.optimizer.zero_grad() -> pass
    mxnet: train.Trainer.__init__: self.optimizer = __new ->
        for parameter in trained_tensors(self.model).values():
            parameter.grad_req = "add"
        self.optimizer = __new
    jax: without: a gradient is a function's value: there is nothing to clear

at update/backbone.conv1.weight
decay_missing: Weight decay is an argument of the loss there and of the optimizer here: lost.
    optimizer.build_optimizer: config.weight_decay -> 0.0
decay_doubled: decay * ||w||^2 in the loss has the gradient 2 * decay * w.
    optimizer.build_optimizer: config.weight_decay -> 2 * config.weight_decay
decay_in_double: The decay is used as written, not rounded to float32.
    torch, jax: optimizer.build_optimizer: config.weight_decay -> 1e-2
    mxnet: without: its operator keeps the decay in float32
momentum_nesterov: nesterov=True comes along from a recipe.
    torch: optimizer.build_optimizer:
        torch.optim.SGD(...) -> torch.optim.SGD(..., nesterov=True)
    mxnet: optimizer._SGD.update: weight -= __rate * state ->
        weight -= __rate * (self.momentum * state + grad + self._get_wd(index) * weight)
    jax: optimizer._sgd: optax.trace(...) -> optax.trace(..., nesterov=True)
rate_in_double: The rate is not rounded to float32: 0.01 is off by 2.2e-8.
    train.Trainer.step: -> rate, head_rate = float(str(np.float32(rate))), None
weights_stored_in_float32: The updated weights are kept in float32.
    train.Trainer.step: return __told ->
        import_weights(self.model, {k: w.astype("float32") for k, w in self.weights().items()})
        return __told

at update/backbone.bn1.weight
decay_not_on_norm_and_bias: A common recipe leaves vectors (gamma, beta, biases) out of the decay.
    optimizer.build_optimizer: decayed_tensors(config) ->
        {k for k, t in trained_tensors(model).items() if len(t.shape) == 4}

at update/backbone.bn1.bias
decay_not_on_biases: MXNet's optimizers decay by name: what does not end in weight or gamma is not.
    optimizer.build_optimizer: decayed_tensors(config) ->
        {k for k in decayed_tensors(config) if not k.endswith("bias")}

at update/final_conv.weight
rate_larger_for_the_head: A fine-tuning recipe lets the new layer learn ten times as fast.
    torch: optimizer.build_optimizer: return torch.optim.SGD(groups, ...) ->
        one = {"weight_decay": config.weight_decay, "in_head": False}
        groups = [
            one | {"params": [p], "factor": 10 if "final" in k else 1} for k, p in trained.items()
        ]
        return torch.optim.SGD(groups, ...)
    torch: train.Trainer.step: group["lr"] = __rate -> group["lr"] = __rate * group["factor"]
    mxnet: optimizer._SGD.update: weight -= __rate * state ->
        weight -= (10 if "final" in index else 1) * __rate * state
    jax: train._update: -__rate * v ->
        -__rate * v * (10 if "final" in name else 1)

at update/transpose_conv.weight
upsampling_not_trained: The kernel stays the bilinear one: no optimizer has it.
    torch: optimizer.build_optimizer: trained_tensors(model) ->
        {k: p for k, p in trained_tensors(model).items() if k != "transpose_conv.weight"}
    mxnet: train.Trainer.step: self.optimizer(...) ->
        name == "transpose_conv.weight" or self.optimizer(...)
    jax: train._update: -__rate * v ->
        -__rate * v * (not name.startswith("transpose_conv.weight"))

at update/backbone.conv1.weight or loss[2]
momentum_averages: v = m * v + (1 - m) * g: dampening; PyTorch's begins at the second step.
    torch: optimizer.build_optimizer:
        torch.optim.SGD(...) -> torch.optim.SGD(..., dampening=config.momentum)
    mxnet: optimizer._SGD.update: mx.nd.sgd_mom_update(..., lr=-1) ->
        mx.nd.sgd_mom_update(..., lr=self.momentum - 1)
    jax: optimizer._sgd: optax.add_decayed_weights(...) ->
        optax.chain(optax.add_decayed_weights(...), optax.scale(1 - momentum))

at loss[2] or loss[3] or momentum/*
decay_decoupled: Decay acts on the weight itself, as in AdamW, and does not enter the buffer.
    torch: optimizer.build_optimizer: config.weight_decay -> 0
    torch: train.Trainer.step: self.optimizer.step() ->
        for p in self.model.parameters():
            p.data *= 1 - rate * self.config.weight_decay
        self.optimizer.step()
    mxnet: optimizer._SGD.update: mx.nd.sgd_mom_update(..., wd=__) ->
        mx.nd.sgd_mom_update(..., wd=0)
    mxnet: optimizer._SGD.update:
        __rate * state -> __rate * (state + self._get_wd(index) * weight)
    jax: optimizer._sgd: optax.chain(__decay, __trace) -> optax.chain(__trace, __decay)
    jax: optimizer.export_momentum: optimizer.state[1] -> optimizer.state[0]
momentum_in_double: The momentum is 0.9, not float32(0.9): 2.6e-8 apart.
    torch, jax: optimizer.build_optimizer: config.momentum -> 0.9
    mxnet: without: its operator keeps the momentum in float32
momentum_missing: SGD's momentum is 0 by default.
    optimizer.build_optimizer: config.momentum -> 0.0
momentum_forgotten_between_steps: The optimizer, or its state, is made anew in every step.
    train.Trainer.step: -> self.optimizer = build_optimizer(self.model, self.config)

at loss[2]
rate_inside_momentum: v = m * v + rate * g, as MXNet's own SGD: equal until the rate changes.
    train.Trainer.step: ->
        scale, self.rate = getattr(self, "rate", rate) / rate, rate
        self.load_momentum({k: v * scale for k, v in self.momentum().items()})
rate_of_the_step_before: The schedule is advanced after the step that should have used it.
    train.Trainer.step: ->
        rate, self.rate = getattr(self, "rate", rate), rate
        head_rate = None
rate_never_changes: The rate is a constant of the compiled step, or nobody asks the schedule.
    train.Trainer.step: -> rate, head_rate = self.__dict__.setdefault("first", rate), None

at loss[151]
rate_drops_after_150_steps: A recipe's step schedule is left on beside the other.
    train.Trainer.step: ->
        self.k = getattr(self, "k", 0) + 1
        rate, head_rate = (r * (0.1 if self.k > 150 else 1) for r in (rate, head_rate))
    setting: long

at update/backbone.conv1.weight
rate_of_the_step_after: The schedule is advanced before the step: k runs at the rate of k + 1.
    train.Trainer.step: ->
        from common.network.schedule import learning_rates
        self.k = getattr(self, "k", 0) + 1
        rate, head_rate = learning_rates(self.config, self.k, 4)

at loss[2]
void_batch_skipped: Where there is nothing to learn no step is taken: neither decay nor momentum.
    train.Trainer.step: -> rate, head_rate = rate * bool((labels != 255).any()), None
    setting: portrait

at final/backbone.bn1.running_mean
buffers_frozen_after_10_steps: A fine-tuning recipe freezes the statistics once they have settled.
    train.Trainer.step: return __told ->
        told = __told
        self.k, weights = getattr(self, "k", 0) + 1, self.weights()
        if self.k == 10:
            self.kept = {k: a for k, a in weights.items() if "running" in k}
        if self.k > 10:
            import_weights(self.model, {**weights, **self.kept})
        return told
    setting: long
""")
