"""What the pitfalls are called, why they are there and what to write instead; no framework here.

Each is measured by the function of its name in `torch.py`, `mxnet.py` and `jax.py`.
"""

import dataclasses
from typing import Any

from common.errors import InputError

Measured = dict[str, Any]
"""What one framework does: a number, flag, word or list of numbers by the quantity's name."""


@dataclasses.dataclass(frozen=True)
class Pitfall:
    """A difference between the frameworks that changes a result, mostly without a word."""

    name: str
    title: str
    why: str
    instead: dict[str, str]


def _pitfall(name: str, title: str, why: str, *, torch: str, mxnet: str, jax: str) -> Pitfall:
    return Pitfall(name, title, " ".join(why.split()), {"torch": torch, "mxnet": mxnet, "jax": jax})


PITFALLS = (
    _pitfall(
        "bn_momentum",
        "BatchNorm's momentum means opposite things",
        """PyTorch's momentum is the weight of the new batch; MXNet's and Flax's is that of the old
        value. The same number copied over makes the running mean follow every batch, or hardly any.
        Flax's default, 0.99, forgets ten times as slowly as the other two.""",
        torch="BatchNorm2d(c, momentum=1 - decay)",
        mxnet="BatchNorm(momentum=decay)",
        jax="nnx.BatchNorm(c, momentum=decay, rngs=rngs), decay given",
    ),
    _pitfall(
        "bn_running_variance",
        "The running variance is unbiased in PyTorch alone",
        """All three normalise with the biased variance (divided by n). PyTorch stores the unbiased
        one (divided by n - 1), MXNet on a CPU and Flax store the biased one. With few values a
        channel, as in the deepest layers of a small batch, the evaluation differs visibly.""",
        torch="as it is; this is the one to agree on",
        mxnet="after backward: var += (var - decay * old_var) / (n - 1)",
        jax="a BatchNorm of your own that stores var * n / (n - 1)",
    ),
    _pitfall(
        "bn_update",
        "BatchNorm's buffers change in forward, in backward, or only if returned",
        """PyTorch writes them in forward. MXNet on a CPU writes them in backward: a pass in train
        mode that only means to refresh them does nothing. A Flax NNX module changes in the call,
        but under jax.jit it is a copy that changes, lost unless it is returned.""",
        torch="read the buffers any time after forward",
        mxnet="read them after loss.backward()",
        jax="nnx.jit, or return nnx.state(model, nnx.BatchStat) from jax.jit",
    ),
    _pitfall(
        "bn_batch_variance",
        "Flax's fast variance is zero for a batch far from zero",
        """Flax takes E[x^2] - E[x]^2 in one pass: at mean 1000 the squares are near 1e6, where
        float32 has steps of 0.06, and a variance of 1e-4 becomes 0. The output is then divided by
        sqrt(eps) alone. PyTorch and MXNet take two passes. PyTorch's third digit is lost elsewhere:
        on a CPU it computes x * a + b, with both terms near 1e5 here.""",
        torch="nothing; bring the data near zero if digits count",
        mxnet="nothing",
        jax="nnx.BatchNorm(..., use_fast_variance=False)",
    ),
    _pitfall(
        "bn_eps",
        "MXNet's raw BatchNorm has another eps, and sets gamma to 1",
        """Gluon's layer uses 1e-5 as the other two do. The operator under it, nd.BatchNorm, has eps
        1e-3 and fix_gamma=True, which leaves gamma out and overwrites the array that was passed
        with ones.""",
        torch="eps given: BatchNorm2d(c, eps=eps)",
        mxnet="nd.BatchNorm(..., eps=eps, fix_gamma=False)",
        jax="epsilon given: nnx.BatchNorm(c, epsilon=eps, rngs=rngs)",
    ),
    _pitfall(
        "conv_layout",
        "Convolution: another weight layout, and SAME padding by default",
        """PyTorch and MXNet keep weights as (out, in, kh, kw) and pad by 0 unless told. Flax keeps
        (kh, kw, in, out) and pads SAME, which at stride 2 on an even size pads one pixel more after
        than before. The output has the expected size and is shifted: 5 rows are seen, not 4.""",
        torch="Conv2d(..., padding=3)",
        mxnet="Conv2D(..., padding=3)",
        jax="nnx.Conv(..., padding=((3, 3), (3, 3))); weight.transpose(2, 3, 1, 0)",
    ),
    _pitfall(
        "conv_transpose",
        "Transposed convolution: JAX counts padding from the other side, and does not flip",
        """Where PyTorch's padding crops the full output, JAX's pads the stretched input: k - 1 - p
        for p. JAX's default then slides the kernel unflipped, which is not the gradient of a
        convolution; transpose_kernel=True flips it, and swaps its two channel axes.""",
        torch="ConvTranspose2d(i, o, 64, 32, 16)",
        mxnet="Conv2DTranspose(o, 64, 32, 16, in_channels=i)",
        jax="padding=((47, 47), (47, 47)), transpose_kernel=True, weight.transpose(2, 3, 1, 0)",
    ),
    _pitfall(
        "bilinear_init",
        "MXNet's init.Bilinear mixes the classes",
        """It writes the bilinear kernel into every pair of channels, as a depthwise layer needs. In
        a full transposed convolution each class map then receives the sum of all of them. The other
        two have no bilinear initializer.""",
        torch="weight.copy_(torch.from_numpy(bilinear_weight(c, k)))",
        mxnet="weight.set_data(nd.array(bilinear_weight(c, k)))",
        jax="jnp.asarray(bilinear_weight(c, k)), transposed to your layout",
    ),
    _pitfall(
        "label_255",
        "Void, 255: an exception, the last class, or NaN",
        """PyTorch raises, unless ignore_index names the value. MXNet's pick clips an index, so void
        trains the last class. Optax's integer loss reads outside the array, which JAX fills with
        NaN; with one-hot labels void adds 0, but is counted in the mean.""",
        torch="cross_entropy(..., ignore_index=255)",
        mxnet="(losses * (labels != 255)).sum() / (labels != 255).sum()",
        jax="one-hot losses, summed, over (labels != 255).sum()",
    ),
    _pitfall(
        "label_outside",
        "Labels that are no class: most losses stay finite",
        """PyTorch raises. MXNet clips, to the last class or to the first. In JAX an index past the
        end gives NaN, but -1 is Python's -1: the last class. Only what is checked before the
        framework sees it is caught in all three.""",
        torch="nothing on a CPU: it raises IndexError",
        mxnet="check first: np.isin(labels, [*range(classes), 255]).all()",
        jax="check first: np.isin(labels, [*range(classes), 255]).all()",
    ),
    _pitfall(
        "sgd_momentum",
        "MXNet keeps the learning rate inside the momentum",
        """PyTorch and Optax keep v = m v + g and step by rate * v. MXNet keeps v = m v - rate * g.
        At a fixed rate the two are equal. After a tenfold drop MXNet goes on with steps of the old
        size, here five times as large, until its buffer has forgotten them.""",
        torch="SGD(parameters, lr=rate, momentum=m)",
        mxnet="an optimizer of your own: v *= m; v += g; w -= rate * v",
        jax="optax.sgd(rate, momentum=m)",
    ),
    _pitfall(
        "weight_decay",
        "Weight decay: coupled in two, absent from optax.sgd",
        """PyTorch and MXNet add decay * w to the gradient, before the momentum, and for every
        parameter: gamma, beta and biases too. optax.sgd has no decay. add_decayed_weights must
        stand before it; after it the term has neither the rate nor the minus sign, and weights
        grow.""",
        torch="SGD(parameters, lr=rate, weight_decay=wd)",
        mxnet='Trainer(parameters, "sgd", {"wd": wd})',
        jax="optax.chain(optax.add_decayed_weights(wd), optax.sgd(rate))",
    ),
    _pitfall(
        "lr_schedule",
        "MXNet's schedules start at update 1",
        """MXNet counts an update before it asks the schedule, so the first one sees 1. PyTorch and
        Optax begin at 0. Every rate comes one update early, and a schedule that ends at 0 wastes
        the last update.""",
        torch="LambdaLR(optimizer, f)",
        mxnet="set_learning_rate(f(step)) before each update",
        jax="optax.sgd(f)",
    ),
    _pitfall(
        "float32_hyperparameters",
        "MXNet rounds hyper-parameters to float32, for float64 arrays too",
        """Rate, decay and momentum of the fused updates, and BatchNorm's momentum, are C++ floats.
        BatchNorm's eps and scalar operands are doubles. A float64 comparison stops at 5e-8, which
        looks like a bug in the mathematics and is none.""",
        torch="float(np.float32(0.1)), when compared with MXNet",
        mxnet="float(np.float32(0.1)), so that what is used is what is written",
        jax="float(np.float32(0.1)), when compared with MXNet",
    ),
    _pitfall(
        "relu_at_zero",
        "max(x, 0) has three derivatives at 0",
        """relu has 0 everywhere. maximum shares the gradient between equal arguments in PyTorch and
        JAX, and gives all of it to the first in MXNet. clip passes it whole in PyTorch and MXNet,
        half in JAX. Exact zeros are common: dead channels, padding, zero images.""",
        torch="functional.relu(x)",
        mxnet="nd.relu(x)",
        jax="nnx.relu(x)",
    ),
    _pitfall(
        "max_pool_ties",
        "Ties: max-pool agrees, max() does not",
        """Max-pool gives the gradient to the first of equal values in all three. The reduction over
        all elements divides it among them in PyTorch and JAX; MXNet gives each the whole, so the
        gradient grows with the ties.""",
        torch="max_pool2d, or x.max(dim) for a single winner",
        mxnet="divide by the number of ties, or take nd.pick at nd.argmax",
        jax="nnx.max_pool; take_along_axis at argmax for a single winner",
    ),
    _pitfall(
        "nan",
        "MXNet's activation and max-pool swallow NaN",
        """In float32 on a CPU MXNet's Activation and Pooling compare in a way that NaN loses: it
        becomes 0, or the largest of the others. The loss stays finite while the weights are
        broken. Activation in float64 and the operator relu let it through; max-pool never.""",
        torch="nothing: NaN reaches the loss",
        mxnet="look at the gradients or weights as well as the loss; nd.relu, not Activation",
        jax="nothing; jax.config.jax_debug_nans names the operator",
    ),
    _pitfall(
        "float64_arrays",
        "Float64 arrays become float32",
        """MXNet's nd.array makes float32 of every array unless told. JAX has no 64-bit types at all
        until they are turned on for the process. PyTorch keeps an array's type, and makes float32
        of Python's floats. Flax keeps BatchNorm's buffers in float32 whatever its dtype arguments
        say.""",
        torch="torch.tensor(array, dtype=torch.float64)",
        mxnet='nd.array(array, dtype="float64")',
        jax='jax.config.update("jax_enable_x64", True), first of all',
    ),
    _pitfall(
        "resize",
        "Bilinear resizing: corners, pixel centres, antialiasing",
        """MXNet aligns the corner pixels by default, PyTorch and JAX the pixels' areas. JAX smooths
        when it shrinks, PyTorch and MXNet pick two neighbours and skip what lies between. Three
        defaults, three results.""",
        torch="interpolate(..., align_corners=False, antialias=False)",
        mxnet="BilinearResize2D(..., align_corners=False)",
        jax="jax.image.resize(..., antialias=False)",
    ),
    _pitfall(
        "tf32",
        "TF32: ten bits of mantissa on newer GPUs",
        """On NVIDIA GPUs since Ampere, float32 products may be computed in TF32. PyTorch does so
        in convolutions and not in matrix products; JAX (None: the fastest) and MXNet (unless the
        variable is 0) in both. The values are the switches as they are found; nothing here is
        computed on a GPU.""",
        torch="torch.backends.cudnn.allow_tf32 = False, and cuda.matmul.allow_tf32",
        mxnet='os.environ["NVIDIA_TF32_OVERRIDE"] = "0", before the first use of the GPU',
        jax='jax.config.update("jax_default_matmul_precision", "highest")',
    ),
    _pitfall(
        "safetensors_transpose",
        "safetensors saves a transposed NumPy array wrongly",
        """safetensors.numpy writes an array's memory in the order in which it lies, and the shape
        as it is seen: the file has the right shape and shuffled values. Of the three only PyTorch
        hands out a transpose as a view; MXNet and JAX copy. safetensors.torch refuses to save it.
        A transpose made in NumPy is a view whoever made the array.""",
        torch="np.ascontiguousarray(tensor.numpy()) or tensor.contiguous()",
        mxnet="np.ascontiguousarray on every transpose made in NumPy",
        jax="np.ascontiguousarray on every transpose made in NumPy",
    ),
    _pitfall(
        "sgd_without_momentum",
        "Momentum 0 leaves no buffer, except in Optax",
        """PyTorch and MXNet skip the buffer when the momentum is exactly 0; optax.sgd keeps one for
        0.0 and none for None. A checkpoint or a comparison that expects v for every weight finds
        none. The smallest positive number keeps it and changes no value.""",
        torch="SGD(parameters, lr=rate, momentum=max(m, math.ulp(0.0)))",
        mxnet="SGD(learning_rate=rate, momentum=max(m, math.ulp(0.0)))",
        jax="optax.sgd(rate, momentum=0.0)",
    ),
    _pitfall(
        "late_errors",
        "MXNet's errors come later than their cause",
        """MXNet computes in the background: a call returns at once, and what fails in it is raised
        where a result is first read, maybe in another function. It is also why a timer must wait.
        JAX computes in the background too and checks no values: it returns -1.""",
        torch="nothing on a CPU",
        mxnet="nd.waitall() before a timer stops and when an error is being located",
        jax="jax.block_until_ready(x) before a timer stops; check values in NumPy",
    ),
    _pitfall(
        "channels_last",
        "PyTorch's channels_last is still NCHW",
        """In PyTorch channels_last changes the strides and not the shape: dimension 1 is still the
        channels, and the array in NumPy is a non-contiguous view. In MXNet and JAX the layout is
        the shape: (N, H, W, C).""",
        torch="tensor.contiguous().numpy() before it leaves PyTorch",
        mxnet="x.transpose((0, 3, 1, 2)) back to NCHW",
        jax="x.transpose(0, 3, 1, 2) back to NCHW",
    ),
    _pitfall(
        "argmax_dtype",
        "argmax returns int64, float32 or int32",
        """MXNet's indices are float32, exact up to 2**24 and no further: too few for a flat index
        into a large array. JAX's are int32, and int64 with 64-bit types on. Ties go to the first,
        and NaN counts as the largest, in all three.""",
        torch="x.argmax(1).to(torch.uint8)",
        mxnet='nd.argmax(x, axis=1).astype("uint8")',
        jax="jnp.argmax(x, axis=1).astype(jnp.uint8)",
    ),
)


def find(name: str) -> Pitfall:
    """The pitfall of that name.

    Raises:
        InputError: there is none.
    """
    for pitfall in PITFALLS:
        if pitfall.name == name:
            return pitfall
    raise InputError(f"{name}: no such pitfall, have {', '.join(p.name for p in PITFALLS)}")
