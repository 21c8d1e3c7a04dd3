"""Mistakes in the loss."""

from parity_tests.mutations.apply import parse

MUTATIONS = parse("""
at loss[0]
loss_over_all_pixels: Void adds nothing to the sum but is counted in the mean.
    loss.cross_entropy: total / __ -> total / len(labels)
loss_not_divided: reduction='sum', and the division is forgotten.
    loss.cross_entropy: total / __ -> total
loss_mean_of_images: The mean is taken image by image, and those with little void weigh less.
    train: cross_entropy(__cells, __labels, count) ->
        sum(cross_entropy(c, t) for c, t in zip(
            __cells.reshape(len(cells), -1, cells.shape[-1]), __labels.reshape(len(cells), -1)
        )) / len(cells)
loss_sum_over_images: The book's loss: the mean over an image's pixels, summed over the batch.
    train: cross_entropy(__cells, __labels, count) ->
        cross_entropy(__cells, __labels) * (__labels != 255).sum() / images[0, 0].size
loss_void_is_the_last_class: 255 is clipped to the last class, as MXNet's pick silently does.
    torch: loss.cross_entropy: functional.cross_entropy(logits, labels, ...) ->
        functional.cross_entropy(logits, labels.clamp(max=logits.shape[1] - 1), ...)
    mxnet: loss.cross_entropy: log_probability * valid -> log_probability
    jax: loss.cross_entropy: jax.nn.one_hot(labels, ...) ->
        jax.nn.one_hot(jnp.minimum(labels, logits.shape[1] - 1), ...)
softmax_over_pixels: The axis of the classes is taken for another one.
    torch: loss.cross_entropy: functional.cross_entropy(logits, ...) ->
        functional.nll_loss(logits.log_softmax(0), ...)
    mxnet: loss.cross_entropy:
        nd.log_softmax(logits, axis=1) -> nd.log_softmax(logits, axis=0)
    jax: loss.cross_entropy:
        jax.nn.log_softmax(logits, axis=1) -> jax.nn.log_softmax(logits, axis=0)
softmax_twice: The network ends in a softmax, and the loss takes another.
    torch: loss.cross_entropy: -> logits = logits.softmax(1)
    mxnet: loss.cross_entropy: -> logits = nd.softmax(logits, axis=1)
    jax: loss.cross_entropy: -> logits = jax.nn.softmax(logits, axis=1)
logarithm_of_softmax: log(softmax + 1e-8) by hand, instead of a log-softmax.
    torch: loss.cross_entropy: functional.cross_entropy(logits, ...) ->
        functional.nll_loss((logits.softmax(1) + 1e-8).log(), ...)
    mxnet: loss.cross_entropy: nd.log_softmax(...) -> nd.log(nd.softmax(...) + 1e-8)
    jax: loss.cross_entropy: jax.nn.log_softmax(...) -> jnp.log(jax.nn.softmax(...) + 1e-8)
labels_smoothed: A recipe's label smoothing of 0.1 comes along.
    torch: loss.cross_entropy: functional.cross_entropy(...) ->
        functional.cross_entropy(..., label_smoothing=0.1)
    mxnet: loss.cross_entropy: log_probability * valid ->
        (0.9 * log_probability + 0.1 * nd.log_softmax(logits, axis=1).mean(axis=1)) * valid
    jax: loss.cross_entropy: truth * log_probability ->
        (0.9 * truth + 0.1 / logits.shape[1] * valid[:, None]) * log_probability
loss_in_float32: The logits are cast to float32 for the loss, a habit from mixed precision.
    torch: loss.cross_entropy: -> logits = logits.float()
    mxnet: loss.cross_entropy: nd.log_softmax(logits, ...) ->
        nd.log_softmax(logits.astype("float32"), ...).astype(labels.dtype)
    jax: loss.cross_entropy: jax.nn.log_softmax(logits, ...) ->
        jax.nn.log_softmax(logits.astype(jnp.float32), ...).astype(logits.dtype)
softmax_without_its_maximum: log(sum(exp(x))) as the formula has it, which overflows beyond 709.
    torch: loss.cross_entropy: functional.cross_entropy(logits, ...) ->
        functional.nll_loss(logits - logits.exp().sum(1, keepdim=True).log(), ...)
    mxnet: loss.cross_entropy: nd.log_softmax(logits, ...) ->
        nd.broadcast_sub(logits, nd.log(nd.exp(logits).sum(axis=1, keepdims=True)))
    jax: loss.cross_entropy: jax.nn.log_softmax(logits, ...) ->
        logits - jnp.log(jnp.sum(jnp.exp(logits), axis=1, keepdims=True))
    setting: loud
loss_clipped: Losses above 100 are taken for outliers, or a probability is at least 1e-38.
    torch: loss.cross_entropy: total / __ ->
        functional.cross_entropy(logits, labels, ignore_index=VOID, reduction="none").clamp(
            max=200
        ).sum() / number.clamp(min=1)
    mxnet: loss.cross_entropy: log_probability * valid -> nd.maximum(log_probability, -200) * valid
    jax: loss.cross_entropy: jnp.sum(losses, ...) -> jnp.sum(jnp.minimum(losses, 200), ...)
    setting: loud
labels_in_int8: Labels are stored as signed bytes: classes beyond 127 become negative.
    torch: loss.cross_entropy: -> labels = torch.where(labels > 127, VOID, labels)
    mxnet: loss.cross_entropy: ->
        labels = nd.where(labels > 127, nd.full(labels.shape, VOID, dtype=labels.dtype), labels)
    jax: loss.cross_entropy: -> labels = jnp.where(labels > 127, VOID, labels)
    setting: many_classes
valid_counted_in_16_bits: The number of valid pixels overflows beyond 65,535.
    torch: loss.cross_entropy: valid.sum() -> (valid.sum() % 65536)
    mxnet: loss.cross_entropy: number = __number -> number = (__number) % 65536
    jax: loss.cross_entropy: valid.sum() -> (valid.sum() % 65536)
    setting: large

at loss[1]
void_batch_divides_by_zero: The mean over no valid pixel is 0 / 0.
    torch: loss.cross_entropy: number.clamp(min=1) -> number
    mxnet: loss.cross_entropy: nd.maximum(number, 1) -> number
    jax: loss.cross_entropy: jnp.maximum(number, 1) -> number
    setting: portrait
""")
