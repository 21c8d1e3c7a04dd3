"""Mistakes in a batch that is computed in parts: what is a sum, a mean, or done once."""

from parity_tests.mutations.apply import parse

MUTATIONS = parse("""
at train/stem
parts_normalised_together: BatchNorm takes the statistics of the whole batch.
    train.Trainer.__init__: self.config = config -> self.config = config.replace(accumulate=1)
    setting: parts
parts_cut_in_turns: Image 0 goes to the first part, image 1 to the second, and so on.
    torch, mxnet: train.Trainer._backward_in_parts x 2: parts_of(__whole, config) ->
        [__whole[k :: config.accumulate] for k in range(config.accumulate)]
    jax: train.Trainer._step_through x 2: parts_of(__whole, self.config) ->
        [__whole[k :: self.config.accumulate] for k in range(self.config.accumulate)]
    setting: parts

at loss[0]
parts_mean_of_means: The loss is averaged over the parts: those with little void weigh less.
    torch: train.Trainer._backward_in_parts: backward(*part, count) -> backward(*part)
    torch: train.Trainer._backward: loss = __loss -> loss = __loss / self.config.parts
    mxnet: train.Trainer._backward_in_parts: self._backward(forward, *part, count) ->
        self._backward(forward, *part)
    mxnet: train.Trainer._backward: loss = __loss -> loss = __loss / self.config.parts
    jax: train._add_part: -> count = None
    jax: train._finish: loss, gradients, changes = __sums ->
        loss, gradients, changes = __sums
        loss, gradients = jax.tree.map(lambda a: a / parts, (loss, gradients))
    setting: parts
part_that_is_void_counts_one: Each part's number of valid pixels is at least 1.
    torch, mxnet: train.Trainer._backward_in_parts: valid_pixels(labels) ->
        sum(max(1, valid_pixels(part)) for part in parts_of(labels, config))
    jax: train.Trainer._step_through: valid_pixels(labels) ->
        sum(max(1, valid_pixels(part)) for part in parts_of(labels, self.config))
    setting: parts

at loss[1]
parts_sum_of_means: The division by the number of parts is forgotten.
    torch: train.Trainer._backward_in_parts: backward(*part, count) -> backward(*part)
    mxnet: train.Trainer._backward_in_parts: self._backward(forward, *part, count) ->
        self._backward(forward, *part)
    jax: train._add_part: -> count = None
    setting: parts

at grad/transpose_conv.bias
gradient_of_the_last_part: Each part's gradient takes the place of the one before.
    torch: train.Trainer._backward_in_parts: loss += __loss ->
        self.optimizer.zero_grad()
        loss += __loss
    mxnet: train.Trainer.__init__: parameter.grad_req = "add" -> pass
    jax: train._add_part: jax.tree.map(jnp.add, sums, __found) ->
        (sums[0] + loss, gradients, jax.tree.map(jnp.add, sums[2], changes))
    setting: parts

at buffer/backbone.bn1.running_mean
buffers_of_the_last_part: The running statistics are what the last part would make of them.
    torch: train.Trainer._backward_in_parts: change += (__new - __old) / __parts ->
        change[:] = __new - __old
    mxnet: train.Trainer._backward_in_parts: changes[name] += (__new - __old) / __parts ->
        changes[name] = __new - __old
    jax: train._add_part: jax.tree.map(jnp.add, sums, __found) ->
        (*jax.tree.map(jnp.add, sums[:2], (loss, gradients)), changes)
    jax: train._finish: change / parts -> change
    setting: parts
buffers_move_with_each_part: They take a step for each part, as in a plain loop.
    torch: train.Trainer._backward_in_parts: buffer.copy_(old) -> pass
    torch: train.Trainer._backward_in_parts: buffer.copy_(old + change) -> pass
    mxnet: train.Trainer._backward_in_parts: buffer[:] = before[name] -> pass
    mxnet: train.Trainer._backward_in_parts: buffers[name][:] = __ -> pass
    jax: train._add_part: batch = __batch ->
        old = buffers
        buffers = jax.tree.map(jnp.add, old, sums[2])
        batch = __batch
    jax: train._finish: change / parts -> change
    setting: parts

at buffer/backbone.bn1.running_var
running_variance_of_the_whole_batch: It is made unbiased by the whole batch's n.
    torch: without: its layer knows no other batch than the one it sees
    mxnet: train.Trainer._backward: self._unbias(__old, __shape) ->
        self._unbias(__old, (len(images) * self.config.parts, *__shape[1:]))
    jax: layers._BatchNorm.__init__: -> self.parts = config.parts
    jax: layers._BatchNorm.forward: n / (n - 1) -> self.parts * n / (self.parts * n - 1)
    setting: parts

at update/backbone.conv1.weight
decay_once_a_part: Each part's loss has the decay in it.
    optimizer.build_optimizer: config.weight_decay -> config.weight_decay * config.parts
    setting: parts
""")
