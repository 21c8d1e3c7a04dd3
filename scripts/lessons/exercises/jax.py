"""The solutions in JAX and Flax NNX."""

import functools
import math

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from backends.jax.layers import batch_norm
from backends.jax.loss import cross_entropy
from backends.jax.model import FCN, BasicBlock
from common.config import VOID, Config, Dtype
from common.data.voc import VOC_CLASSES
from common.network.architecture import BACKBONE_OUTPUTS
from common.network.bilinear import bilinear_weight
from scripts.lessons.exercises import Answers

# 1 to 7: arrays to loss


def picture_to_channels() -> Answers:
    """To move the channels is to transpose: a reshape has the right shape and mixes pixels."""
    picture = jnp.arange(18).reshape(2, 3, 3)  # (H, W, RGB)
    transposed, reshaped = picture.transpose(2, 0, 1), picture.reshape(3, 2, 3)
    return {
        "transposed": transposed[0].ravel().tolist(),
        "reshaped": reshaped[0].ravel().tolist(),
    }


def write_behind_views() -> Answers:
    """An array never changes: `at[].set` makes another, and x stays as it is. (differs)"""
    x = jnp.array([[1, 2], [3, 4]])
    transpose, row = x.T, x[0]
    x.at[0, 0].set(9)
    return {"x": x[0, 0].item(), "x.T": transpose[0, 0].item(), "x[0]": row[0].item()}


def same_is_shifted() -> Answers:
    """At stride 2, SAME is a pixel after and none before; padding 1 is one on each side."""
    x, kernel = jnp.ones((1, 1, 8, 8)), jnp.ones((1, 1, 3, 3))
    same = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME")
    padded = jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)))
    return {"SAME": same[0, 0, 0].tolist(), "padding 1": padded[0, 0, 0].tolist()}


def in_and_out_swapped() -> Answers:
    """With as many channels in as out, a kernel with the two exchanged fits and is wrong."""
    layer = nnx.Conv(2, 2, (3, 3), padding="VALID", use_bias=False, rngs=nnx.Rngs(0))
    weight = jnp.arange(36, dtype=jnp.float32).reshape(2, 2, 3, 3)  # (out, in, kh, kw)
    x = jnp.stack([jnp.ones((3, 3)), jnp.zeros((3, 3))], axis=-1)[None]
    layer.kernel[...] = weight.transpose(2, 3, 1, 0)
    right = layer(x)
    layer.kernel[...] = weight.transpose(2, 3, 0, 1)
    return {"right": right.ravel().tolist(), "swapped": layer(x).ravel().tolist()}


def bn_two_batches() -> Answers:
    """After the call, n / (n - 1) is made up for; momentum is what is kept of the old."""
    layer = nnx.BatchNorm(1, momentum=0.75, rngs=nnx.Rngs(0))
    for batch in ([[1], [3]], [[3], [5]]):
        old, n = layer.var[...], len(batch)
        layer(jnp.float32(batch))
        layer.var[...] += (layer.var[...] - 0.75 * old) / (n - 1)
    return {"mean": layer.mean[...].item(), "variance": layer.var[...].item()}


def bn_beside_another() -> Answers:
    """In train mode an output depends on the whole batch, in eval mode on its own input alone."""
    layer = batch_norm(1, Config(dtype=Dtype.float64))

    def first_of(*values: float) -> float:
        return float(layer(jnp.float64(values).reshape(-1, 1, 1, 1))[0].item())

    layer.eval()
    in_eval = [first_of(1, 3, 5), first_of(1, 3, 11)]
    layer.train()
    return {"eval": in_eval, "train": [first_of(1, 3, 5), first_of(1, 3, 11)]}


def tensors_of_a_block() -> Answers:
    """What is trained and what is kept are two types of variable. (differs)"""
    block = nnx.eval_shape(lambda: BasicBlock(2, 4, 2, Config()))
    trained, kept = (nnx.state(block, kind) for kind in (nnx.Param, nnx.BatchStat))
    return {"trained": len(jax.tree.leaves(trained)), "kept": len(jax.tree.leaves(kept))}


def zero_block_passes_on() -> Answers:
    """A block whose kernels are 0 is a ReLU; through any number of them the gradient stays 1."""
    block = BasicBlock(1, 1, 1, Config())
    block.eval()
    block.conv1.kernel[...] = block.conv2.kernel[...] = jnp.zeros((3, 3, 1, 1), jnp.float32)
    x = jnp.float32([-1, 2]).reshape(1, 1, 2, 1)
    y, gradient_of = jax.vjp(lambda x: block(block(block(x))), x)
    (gradient,) = gradient_of(jnp.ones_like(y))
    return {"output": y.ravel().tolist(), "gradient": gradient.ravel().tolist()}


def shapes_without_numbers() -> Answers:
    """`eval_shape` follows shapes and types through a function, and computes nothing."""

    def outputs() -> dict[str, jax.Array]:
        model, x = FCN(Config()), jnp.zeros((1, 320, 480, 3), jnp.float32)
        return model.backbone(x) | {"logits": model(x).transpose(0, 2, 3, 1)}

    shapes = jax.eval_shape(outputs)
    sizes = {name: shapes[name].shape for name in (*BACKBONE_OUTPUTS, "logits")}
    return {name: [c, h, w] for name, (_, h, w, c) in sizes.items()}


def half_the_width() -> Answers:
    """Half the width is a quarter of the backbone; the upsampling's kernel keeps its size."""

    def size(module: nnx.Module) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))

    configs = Config(), Config(width=32)
    whole, half = (nnx.eval_shape(functools.partial(FCN, config)) for config in configs)
    return {
        "width 64": size(whole),
        "width 32": size(half),
        "upsampling": size(half.transpose_conv),
    }


def fading_border() -> Answers:
    """A pixel at the border is reached by fewer input pixels than one inside."""
    kernel, x = jnp.asarray(bilinear_weight(1, 4)), jnp.ones((1, 1, 3, 3))
    edge = 4 - 1 - 1  # kernel - 1 - padding
    both, axes = ((edge, edge), (edge, edge)), ("NCHW", "OIHW", "NCHW")
    y = jax.lax.conv_transpose(
        x, kernel, (2, 2), both, dimension_numbers=axes, transpose_kernel=True
    )[0, 0]
    return {"corner": y[0, 0].item(), "edge": y[0, 2].item(), "middle": y[2, 2].item()}


def gradient_of_a_convolution() -> Answers:
    """What a convolution's backward does to a gradient is the transposed convolution of it."""
    x, kernel = jnp.zeros((1, 1, 5, 5)), jnp.arange(1.0, 10).reshape(1, 1, 3, 3)
    y = jnp.array([[1.0, 2], [3, 4]]).reshape(1, 1, 2, 2)
    _, backward = jax.vjp(lambda x: jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID"), x)
    (gradient,), axes = backward(y), ("NCHW", "OIHW", "NCHW")
    transposed = jax.lax.conv_transpose(
        y, kernel, (2, 2), "VALID", dimension_numbers=axes, transpose_kernel=True
    )
    return {"gradient": gradient[0, 0, 0].tolist(), "transposed": transposed[0, 0, 0].tolist()}


def mean_of_means() -> Answers:
    """A mean of the images' means weighs pixels of an image with much void more than others."""
    logits = jnp.broadcast_to(jnp.array([math.log(3), 0]).reshape(1, 2, 1, 1), (2, 2, 1, 4))
    labels = jnp.array([[[1, 255, 255, 255]], [[0, 0, 0, 0]]])
    means = [cross_entropy(logits[n : n + 1], labels[n : n + 1]).item() for n in range(2)]
    return {"over pixels": cross_entropy(logits, labels).item(), "of means": sum(means) / 2}


def gradient_of_void() -> Answers:
    """A gradient is (softmax - one-hot) / count where a label is valid, and 0 where it is void."""
    logits = jnp.zeros((3, 2))
    gradient = jax.grad(cross_entropy)(logits, jnp.array([0, 1, 255]))
    nothing = cross_entropy(logits, jnp.array([255, 255, 255]))
    return {
        "class 0": gradient[0].tolist(),
        "void": gradient[2].tolist(),
        "loss, all void": nothing.item(),
    }


# 8 to 14: gradients to processes


def gradient_after_two_backwards() -> Answers:
    """In JAX a gradient is what a function returns; who wants a sum adds. (differs)"""
    gradient = jax.grad(jnp.square)
    once, again = gradient(3.0), gradient(3.0)
    return {
        "once": once.item(),
        "twice": again.item(),
        "twice, the other way": (once + again).item(),
    }


def gradient_through_the_statistics() -> Answers:
    """The outputs' sum is 0 whatever x is; with constant statistics it has a gradient."""
    x = jnp.array([1.0, 2.0, 6.0])

    def total(x: jax.Array, constant: bool) -> jax.Array:
        mean, var = x.mean(), x.var()
        if constant:
            mean, var = jax.lax.stop_gradient((mean, var))
        return ((x - mean) / jnp.sqrt(var)).sum()

    through, constant = (jax.grad(total)(x, constant) for constant in (False, True))
    return {
        "through the statistics": round(jnp.abs(through).max().item(), 12),
        "statistics as constants": constant.tolist(),
    }


def fall_after_the_rate_drops() -> Answers:
    """Optax's buffer does not hold the rate, which is a part of the state where it is injected."""
    gradient = jnp.array(1.0)
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=1.0, momentum=0.5)
    state = optimizer.init(gradient)
    falls = []
    for rate in (1.0, 1.0, 1.0, 0.125):
        state.hyperparams["learning_rate"] = jnp.array(rate)
        update, state = optimizer.update(gradient, state)
        falls.append(-update.item())
    return {"falls": falls}


def decay_of_an_unused_weight() -> Answers:
    """In JAX every weight has a gradient, and one of 0 decays. (differs)"""

    def fall(in_loss: bool) -> float:
        weights = {"used": jnp.array(1.0), "unused": jnp.array(1.0)}
        optimizer = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.5))

        def loss(w: dict[str, jax.Array]) -> jax.Array:
            return 2 * w["used"] + 0 * w["unused"] if in_loss else 2 * w["used"]

        updates, _ = optimizer.update(jax.grad(loss)(weights), optimizer.init(weights), weights)
        return -float(updates["unused"])

    return {"not in the loss": fall(False), "in it, times 0": fall(True)}


def plain_loop() -> Answers:
    """Differentiate a function of the model, and let `nnx.jit` bring back what a step changes."""
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]], jnp.float64)
    y = jnp.array([[1.0], [2.0]], jnp.float64)
    zeros = nnx.initializers.zeros
    model = nnx.Linear(2, 1, param_dtype=jnp.float64, kernel_init=zeros, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(1 / 32, momentum=0.5), wrt=nnx.Param)

    def measure(model: nnx.Linear) -> jax.Array:
        return optax.losses.squared_error(model(x), y).mean()

    def step(model: nnx.Linear, optimizer: nnx.Optimizer[nnx.Linear]) -> jax.Array:
        loss, gradients = nnx.value_and_grad(measure)(model)
        optimizer.update(model, gradients)
        return loss

    compiled = nnx.jit(step)
    return {"losses": [float(compiled(model, optimizer)) for _ in range(3)]}


def runs_of_the_python() -> Answers:
    """JAX runs the Python once for each size. (differs)"""
    runs = []

    @jax.jit
    def double(x: jax.Array) -> jax.Array:
        runs.append(x.shape)
        return 2 * x

    counts = []
    for sizes in ((3, 3, 3), (4, 4)):
        for size in sizes:
            double(jnp.ones(size))
        counts.append(len(runs))
    return {"after three calls": counts[0], "after two of another size": counts[1]}


def number_read_while_tracing() -> Answers:
    """A compiled function keeps the number that it found when it was traced. (differs)"""
    rate, w = 2.0, jnp.ones(())

    @jax.jit
    def step(w: jax.Array) -> jax.Array:
        return rate * w

    @jax.jit
    def step_at(w: jax.Array, rate: float) -> jax.Array:
        return rate * w

    found = {"rate 2": step(w).item()}
    step_at(w, 2.0)
    rate = 3.0
    return {**found, "rate 3": step(w).item(), "rate 3, an argument": step_at(w, rate).item()}


def two_draws_of_one_seed() -> Answers:
    """A key is a value, and draws the same numbers until another is made of it. (differs)"""
    key = jax.random.key(0)
    first, second = jax.random.normal(key), jax.random.normal(key)
    again = jax.random.normal(jax.random.split(key)[0])
    return {
        "first number": first.item(),
        "second draw equals it": bool(first == second),
        "first draw of another start": bool(first == again),
    }


def steps_until_apart() -> Answers:
    """Two orders of one sum, and a descent on w^4 / 4 - w^2 / 2 whose rate, 2, is too high."""
    steps = {}
    for dtype in ("float32", "float64"):
        a, b, c = jnp.array([0.2, 0.3, 0.4], dtype)
        w, gaps = jnp.stack([(a + b) + c, a + (b + c)]), []
        for _ in range(50):
            gaps.append(abs(w[0] - w[1]).item())
            w = w - 2 * (w * w * w - w)
        steps[dtype] = next(k for k, gap in enumerate(gaps) if gap > 0.1)
    return {**steps}


def what_a_batch_norm_keeps() -> Answers:
    """Flax tells two parameters and two statistics apart by their types. (differs)"""
    state = nnx.state(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    return {"kept": [*state], "trained": [*nnx.filter_state(state, nnx.Param)]}


def what_loading_notices() -> Answers:
    """Flax's `nnx.update` notices none of the three. (differs)"""
    layer = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def load(**changes: jax.Array | None) -> str:
        state = nnx.state(layer)
        for name, value in changes.items():
            if value is None:
                del state[name]
            else:
                state[name] = nnx.Param(value)
        try:
            nnx.update(layer, state)
        except (KeyError, ValueError) as error:
            return type(error).__name__
        return "nothing"

    return {
        "one missing": load(bias=None),
        "one too many": load(gamma=jnp.ones(3)),
        "another shape": load(bias=jnp.ones(1)),
    }


def colour_of_a_label() -> Answers:
    """Bit 3 k + c of a label is the k-th highest bit of the colour's channel c."""
    k, label, channel = jnp.arange(3)[:, None, None], jnp.array([[15], [VOID]]), jnp.arange(3)
    bits = label >> (3 * k + channel) & 1  # (k, label, channel)
    person, void = (bits << (7 - k)).sum(axis=0).tolist()
    return {"person": person, "void": void}


def mask_enlarged_two_ways() -> Answers:
    """Between background and person bilinear interpolation finds a bird and a table."""
    mask = jnp.array([0.0, 15.0])
    bilinear, nearest = (jax.image.resize(mask, (4,), how) for how in ("bilinear", "nearest"))

    def names(mask: jax.Array) -> list[str]:
        return [VOC_CLASSES[int(label)] for label in mask]

    return {"bilinear": names(bilinear), "nearest": names(nearest)}


def gradient_of_parts() -> Answers:
    """The mean of the parts' own gradients lowers the logit of the class that most pixels have."""
    bias = jnp.array([2.0, 1.0, 0.0])
    labels = jnp.array([0, 0, 0, 2, VOID, VOID])
    parts, count = jnp.split(labels, 2), (labels != VOID).sum()

    @jax.grad
    def gradient(bias: jax.Array, labels: jax.Array, count: jax.Array | None = None) -> jax.Array:
        return cross_entropy(jnp.broadcast_to(bias, (len(labels), 3)), labels, count)

    shares = jnp.stack([gradient(bias, part, count) for part in parts])
    own = jnp.stack([gradient(bias, part) for part in parts])
    return {
        "whole batch": gradient(bias, labels).tolist(),
        "sum of the parts' shares": shares.sum(axis=0).tolist(),
        "mean of the parts' own": own.mean(axis=0).tolist(),
    }


def statistics_of_parts() -> Answers:
    """The means of two parts have the whole batch's mean; their variances lack what is between."""
    x = jnp.array([1.0, 3, 5, 7]).reshape(4, 1, 1, 1)

    def running(part: jax.Array) -> jax.Array:
        layer = batch_norm(1, Config(dtype=Dtype.float64))
        layer(part)
        return jnp.concatenate(jax.tree.leaves(nnx.state(layer, nnx.BatchStat)))

    whole, parts = running(x), jnp.stack([running(p) for p in jnp.split(x, 2)]).mean(axis=0)
    return {"mean and variance, whole": whole.tolist(), "in two parts": parts.tolist()}
