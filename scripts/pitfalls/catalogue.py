"""What the pitfalls are called and measure, why they are there and what to write instead.

No framework here: `torch.py`, `mxnet.py` and `jax.py` have a function of each one's name, which
returns the values of its rows.
"""

from typing import Any, NamedTuple

from common.errors import InputError

Values = list[Any]
"""One framework's values of a pitfall's rows, in their order: numbers, flags, words, tensors.

The last rows may be missing: not every framework has them all.
"""


class Pitfall(NamedTuple):
    """A difference between the frameworks that changes a result, mostly silently."""

    name: str
    title: str
    why: str
    case: str
    """The case in which it is measured, and what its inputs are."""
    rows: tuple[str, ...]
    """The quantities that are measured in it."""
    torch: str
    """What to write instead in each framework."""
    mxnet: str
    jax: str


PITFALLS = (
    Pitfall(
        "bn_momentum",
        "BatchNorm's momentum means opposite things",
        """PyTorch's momentum is the weight of the new batch; MXNet's and Flax's is that of the old
        value. The same number copied over makes the running mean follow every batch, or hardly any.
        Flax's default, 0.99, forgets ten times as slowly as the other two.""",
        case="The running mean, 0 at first, after one batch of mean 10.",
        rows=(
            "momentum, default",
            "running mean after a batch of mean 10",
            "the same, momentum=0.9",
        ),
        torch="BatchNorm2d(c, momentum=1 - decay)",
        mxnet="BatchNorm(momentum=decay)",
        jax="nnx.BatchNorm(c, momentum=decay, rngs=rngs), decay given",
    ),
    Pitfall(
        "bn_running_variance",
        "The running variance is unbiased in PyTorch alone",
        """All three normalise with the biased variance (divided by n). PyTorch stores the unbiased
        one (divided by n - 1), MXNet on a CPU and Flax store the biased one. With few values a
        channel, as in the deepest layers of a small batch, the evaluation differs visibly.""",
        case="What the batch [1, 3] leaves when nothing of the old value is kept.",
        rows=("running variance after the batch 1, 3", "output for the 3"),
        torch="as it is; this is the one to agree on",
        mxnet="after backward: var += (var - decay * old_var) / (n - 1)",
        jax="a BatchNorm of your own that stores var * n / (n - 1)",
    ),
    Pitfall(
        "bn_update",
        "BatchNorm's buffers change in forward, in backward, or only if returned",
        """PyTorch writes them in forward. MXNet on a CPU writes them in backward: a pass in train
        mode that only means to refresh them does nothing. A Flax NNX module changes in the call,
        but under jax.jit it is a copy that changes, lost unless it is returned.""",
        case="The running mean, 0 at first, as a batch of mean 2 passes.",
        rows=(
            "running mean after forward",
            "running mean after backward",
            "after forward under jit, state not returned",
        ),
        torch="read the buffers any time after forward",
        mxnet="read them after loss.backward()",
        jax="nnx.jit, or return nnx.state(model, nnx.BatchStat) from jax.jit",
    ),
    Pitfall(
        "bn_batch_variance",
        "Flax's fast variance is zero for a batch far from zero",
        """Flax takes E[x^2] - E[x]^2 in one pass: at mean 1000 the squares are near 1e6, where
        float32 has steps of 0.06, and a variance of 1e-4 becomes 0. The output is then divided by
        sqrt(eps) alone. PyTorch and MXNet take two passes. PyTorch's third digit is lost elsewhere:
        on a CPU it computes x * a + b, with both terms near 1e5 here.""",
        case="A float32 batch far from zero: mean 1000, standard deviation 0.01.",
        rows=("largest output (exact: 0.9535)", "the same, use_fast_variance=False"),
        torch="nothing; bring the data near zero if digits count",
        mxnet="nothing",
        jax="nnx.BatchNorm(..., use_fast_variance=False)",
    ),
    Pitfall(
        "bn_eps",
        "MXNet's raw BatchNorm has another eps, and sets gamma to 1",
        """Gluon's layer uses 1e-5 as the other two do. The operator under it, nd.BatchNorm, has eps
        1e-3 and fix_gamma=True, which leaves gamma out and overwrites the array that was passed
        with ones.""",
        case="A batch whose variance is 1e-4, with gamma 2: the layer and the raw operator.",
        rows=(
            "eps of the layer, default",
            "layer's output (exact: 1.907)",
            "raw operator's output, default",
            "the same, fix_gamma=False, eps=1e-5",
            "gamma after the default (was 2)",
        ),
        torch="eps given: BatchNorm2d(c, eps=eps)",
        mxnet="nd.BatchNorm(..., eps=eps, fix_gamma=False)",
        jax="epsilon given: nnx.BatchNorm(c, epsilon=eps, rngs=rngs)",
    ),
    Pitfall(
        "conv_layout",
        "Convolution: another weight layout, and SAME padding by default",
        """PyTorch and MXNet keep weights as (out, in, kh, kw) and pad by 0 unless told. Flax keeps
        (kh, kw, in, out) and pads SAME, which at stride 2 on an even size pads one pixel more after
        than before. The output has the expected size and is shifted: 5 rows are seen, not 4.""",
        case="A 7x7 convolution with stride 2 on 8x8 ones, all weights 1.",
        rows=(
            "weight, 3 channels to 8",
            "output's height, default padding",
            "first output, default padding",
            "output's height, padding 3",
            "first output, padding 3",
        ),
        torch="Conv2d(..., padding=3)",
        mxnet="Conv2D(..., padding=3)",
        jax="nnx.Conv(..., padding=((3, 3), (3, 3))); weight.transpose(2, 3, 1, 0)",
    ),
    Pitfall(
        "conv_transpose",
        "Transposed convolution: JAX counts padding from the other side, and does not flip",
        """Where PyTorch's padding crops the full output, JAX's pads the stretched input: k - 1 - p
        for p. JAX's default then slides the kernel unflipped, which is not the gradient of a
        convolution; transpose_kernel=True flips it, and swaps its two channel axes.""",
        case="Kernel 64, stride 32, padding 16 on 2x2 pixels: the first is 1, the rest 0.",
        rows=(
            "weight, 2 channels to 3",
            "output's height, padding=16",
            "output's height, padding=47",
            "first output (tap 16, 16 is 1040)",
            "the same, transpose_kernel=True",
        ),
        torch="ConvTranspose2d(i, o, 64, 32, 16)",
        mxnet="Conv2DTranspose(o, 64, 32, 16, in_channels=i)",
        jax="padding=((47, 47), (47, 47)), transpose_kernel=True, weight.transpose(2, 3, 1, 0)",
    ),
    Pitfall(
        "bilinear_init",
        "MXNet's init.Bilinear mixes the classes",
        """It writes the bilinear kernel into every pair of channels, as a depthwise layer needs. In
        a full transposed convolution each class map then receives the sum of all of them. The other
        two have no bilinear initializer.""",
        case="Two class maps, all 1 and all 0, upsampled twice: the middle of each.",
        rows=(
            "bilinear initializer",
            "common.network.bilinear, class maps 1 and 0",
            "its own, class maps 1 and 0",
        ),
        torch="weight.copy_(torch.from_numpy(bilinear_weight(c, k)))",
        mxnet="weight.set_data(nd.array(bilinear_weight(c, k)))",
        jax="jnp.asarray(bilinear_weight(c, k)), transposed to your layout",
    ),
    Pitfall(
        "label_255",
        "Void, 255: an exception, the last class, or NaN",
        """PyTorch raises, unless ignore_index names the value. MXNet's pick clips an index, so void
        trains the last class. Optax's integer loss reads outside the array, which JAX fills with
        NaN; with one-hot labels void adds 0, but is counted in the mean.""",
        case="Two pixels, logits 2, 1, 0, labels 0 and 255 (void). One loss alone is 0.4076.",
        rows=(
            "loss of the pixel labelled 255",
            "mean over both, default",
            "mean with void left out (exact: 0.4076)",
            "one-hot: loss of the pixel labelled 255",
            "one-hot: mean over both",
        ),
        torch="cross_entropy(..., ignore_index=255)",
        mxnet="(losses * (labels != 255)).sum() / (labels != 255).sum()",
        jax="one-hot losses, summed, over (labels != 255).sum()",
    ),
    Pitfall(
        "label_outside",
        "Labels that are no class: most losses stay finite",
        """PyTorch raises. MXNet clips, to the last class or to the first. In JAX an index past the
        end gives NaN, but -1 is Python's -1: the last class. Only what is checked before the
        framework sees it is caught in all three.""",
        case="Labels that are no class: logits 2, 1, 0, whose losses are 0.4076, 1.4076, 2.4076.",
        rows=("loss, label 200", "loss, label -1"),
        torch="nothing on a CPU: it raises IndexError",
        mxnet="check first: np.isin(labels, [*range(classes), 255]).all()",
        jax="check first: np.isin(labels, [*range(classes), 255]).all()",
    ),
    Pitfall(
        "sgd_momentum",
        "MXNet keeps the learning rate inside the momentum",
        """PyTorch and Optax keep v = m v + g and step by rate * v. MXNet keeps v = m v - rate * g.
        At a fixed rate the two are equal. After a tenfold drop MXNet goes on with steps of the old
        size, here five times as large, until its buffer has forgotten them.""",
        case="Momentum 0.9, gradient 1 in both steps, from weight 0.",
        rows=(
            "buffer after a step, rate 0.1",
            "w falls by, rates 0.1, 0.1",
            "w falls by, rates 0.1, 0.01",
        ),
        torch="SGD(parameters, lr=rate, momentum=m)",
        mxnet="an optimizer of your own: v *= m; v += g; w -= rate * v",
        jax="optax.sgd(rate, momentum=m)",
    ),
    Pitfall(
        "weight_decay",
        "Weight decay: coupled in two, absent from optax.sgd",
        """PyTorch and MXNet add decay * w to the gradient, before the momentum, and for every
        parameter: gamma, beta and biases too. optax.sgd has no decay. add_decayed_weights must
        stand before it; after it the term has neither the rate nor the minus sign, and weights
        grow.""",
        case="Weight 1, gradient 0, rate 0.1, decay 0.5: what two steps take off.",
        rows=(
            "w falls by, no momentum",
            "w falls by, momentum 0.9",
            "BatchNorm's gamma, 1, falls by",
            "w falls by, optax.sgd alone",
            "w falls by, decay after sgd",
        ),
        torch="SGD(parameters, lr=rate, weight_decay=wd)",
        mxnet='Trainer(parameters, "sgd", {"wd": wd})',
        jax="optax.chain(optax.add_decayed_weights(wd), optax.sgd(rate))",
    ),
    Pitfall(
        "lr_schedule",
        "MXNet's schedules start at update 1",
        """MXNet counts an update before it asks the schedule, so the first one sees 1. PyTorch and
        Optax begin at 0. Every rate comes one update early, and a schedule that ends at 0 wastes
        the last update.""",
        case="A schedule 1 - n / 4 over three updates with gradient 1.",
        rows=("n in the first update", "rates of updates 1 to 3"),
        torch="LambdaLR(optimizer, f)",
        mxnet="set_learning_rate(f(step)) before each update",
        jax="optax.sgd(f)",
    ),
    Pitfall(
        "float32_hyperparameters",
        "MXNet rounds hyper-parameters to float32, for float64 arrays too",
        """Rate, decay and momentum of the fused updates, and BatchNorm's momentum, are C++ floats.
        BatchNorm's eps and scalar operands are doubles. A float64 comparison stops at 5e-8, which
        looks like a bug in the mathematics and is none.""",
        case="Errors of float64 computations whose hyper-parameters are no float32 numbers.",
        rows=(
            "error of a step, rate 0.1",
            "error of a step, momentum 0.9",
            "error of a step, weight decay 0.1",
            "error of a running mean, decay 0.9",
            "error of an output, eps 1e-5",
            "error of x * 0.1",
        ),
        torch="float(np.float32(0.1)), when compared with MXNet",
        mxnet="float(np.float32(0.1)), so that what is used is what is written",
        jax="float(np.float32(0.1)), when compared with MXNet",
    ),
    Pitfall(
        "relu_at_zero",
        "max(x, 0) has three derivatives at 0",
        """relu has 0 everywhere. maximum shares the gradient between equal arguments in PyTorch and
        JAX, and gives all of it to the first in MXNet. clip passes it whole in PyTorch and MXNet,
        half in JAX. Exact zeros are common: dead channels, padding, zero images.""",
        case="The derivative at 0 of three ways to write max(x, 0).",
        rows=("gradient of relu(0)", "gradient of maximum(0, 0)", "gradient of clip(0, 0, 6)"),
        torch="functional.relu(x)",
        mxnet="nd.relu(x)",
        jax="nnx.relu(x)",
    ),
    Pitfall(
        "max_pool_ties",
        "Ties: max-pool agrees, max() does not",
        """Max-pool gives the gradient to the first of equal values in all three. The reduction over
        all elements divides it among them in PyTorch and JAX; MXNet gives each the whole, so the
        gradient grows with the ties.""",
        case="Four equal values: which one takes the gradient.",
        rows=("gradient of max-pool", "gradient of max()"),
        torch="max_pool2d, or x.max(dim) for a single winner",
        mxnet="divide by the number of ties, or take nd.pick at nd.argmax",
        jax="nnx.max_pool; take_along_axis at argmax for a single winner",
    ),
    Pitfall(
        "nan",
        "MXNet's activation and max-pool swallow NaN",
        """In float32 on a CPU MXNet's Activation and Pooling compare in a way that NaN loses: it
        becomes 0, or the largest of the others. The loss stays finite while the weights are
        broken. Activation in float64 and the operator relu let it through; max-pool never.""",
        case="What NaN becomes, in float32.",
        rows=(
            "activation layer, relu",
            "activation layer, float64",
            "operator relu",
            "max-pool of 1, NaN, 2, 3",
            "max() of the same",
        ),
        torch="nothing: NaN reaches the loss",
        mxnet="look at the gradients or weights as well as the loss; nd.relu, not Activation",
        jax="nothing; jax.config.jax_debug_nans names the operator",
    ),
    Pitfall(
        "float64_arrays",
        "Float64 arrays become float32",
        """MXNet's nd.array makes float32 of every array unless told. JAX has no 64-bit types at all
        until they are turned on for the process. PyTorch keeps an array's type, and makes float32
        of Python's floats. Flax keeps BatchNorm's buffers in float32 whatever its dtype arguments
        say.""",
        case="What becomes of NumPy's float64 and of Python's floats.",
        rows=(
            "array of a float64 array",
            "array of [0.1]",
            "(1 + 1e-9) - 1",
            "the same, float64 asked for",
            "BatchNorm's buffers, float64 layer",
            "x64 on: array of a float64 array",
            "x64 on: array of [0.1]",
        ),
        torch="torch.tensor(array, dtype=torch.float64)",
        mxnet='nd.array(array, dtype="float64")',
        jax='jax.config.update("jax_enable_x64", True), first of all',
    ),
    Pitfall(
        "resize",
        "Bilinear resizing: corners, pixel centres, antialiasing",
        """MXNet aligns the corner pixels by default, PyTorch and JAX the pixels' areas. JAX smooths
        when it shrinks, PyTorch and MXNet pick two neighbours and skip what lies between. Three
        defaults, three results.""",
        case="Bilinear resizing of one row of pixels.",
        rows=(
            "0, 1 to four pixels, default",
            "0, 1 to four pixels, half-pixel",
            "0 to 7 to two pixels, default",
            "0 to 7 to two, half-pixel, no antialias",
        ),
        torch="interpolate(..., align_corners=False, antialias=False)",
        mxnet="BilinearResize2D(..., align_corners=False)",
        jax="jax.image.resize(..., antialias=False)",
    ),
    Pitfall(
        "tf32",
        "TF32: ten bits of mantissa on newer GPUs",
        """On NVIDIA GPUs since Ampere, float32 products may be computed in TF32. PyTorch does so
        in convolutions and not in matrix products; JAX (None: the fastest) and MXNet (unless the
        variable is 0) in both. The values are the switches as they are found; nothing here is
        computed on a GPU.""",
        case="The switches of torch.backends as they stand when PyTorch has been imported.",
        rows=(
            "matrix products: switch",
            "matrix products: value",
            "convolutions: switch",
            "convolutions: value",
        ),
        torch="torch.backends.cudnn.allow_tf32 = False, and cuda.matmul.allow_tf32",
        mxnet='os.environ["NVIDIA_TF32_OVERRIDE"] = "0", before the first use of the GPU',
        jax='jax.config.update("jax_default_matmul_precision", "highest")',
    ),
    Pitfall(
        "safetensors_transpose",
        "safetensors saves a transposed NumPy array wrongly",
        """safetensors.numpy writes an array's memory in the order in which it lies, and the shape
        as it is seen: the file has the right shape and shuffled values. Of the three only PyTorch
        hands out a transpose as a view; MXNet and JAX copy. safetensors.torch refuses to save it.
        A transpose made in NumPy is a view whoever made the array.""",
        case="The transpose of [[0, 1, 2], [3, 4, 5]], saved and read back.",
        rows=(
            "w.T as an array: contiguous",
            "first row read back (exact: 0, 3)",
            "the same, ascontiguousarray",
            "the same, safetensors' own save",
        ),
        torch="np.ascontiguousarray(tensor.numpy()) or tensor.contiguous()",
        mxnet="np.ascontiguousarray on every transpose made in NumPy",
        jax="np.ascontiguousarray on every transpose made in NumPy",
    ),
    Pitfall(
        "sgd_without_momentum",
        "Momentum 0 leaves no buffer, except in Optax",
        """PyTorch and MXNet skip the buffer when the momentum is exactly 0; optax.sgd keeps one for
        0.0 and none for None. A checkpoint or a comparison that expects v for every weight finds
        none. The smallest positive number keeps it and changes no value.""",
        case="Whether there is a momentum buffer after a step.",
        rows=("buffer, momentum not given", "buffer, momentum=0.0", "buffer, momentum=5e-324"),
        torch="SGD(parameters, lr=rate, momentum=max(m, math.ulp(0.0)))",
        mxnet="SGD(learning_rate=rate, momentum=max(m, math.ulp(0.0)))",
        jax="optax.sgd(rate, momentum=0.0)",
    ),
    Pitfall(
        "late_errors",
        "MXNet's errors come later than their cause",
        """MXNet computes in the background: a call returns at once, and what fails in it is raised
        where a result is first read, maybe in another function. It is also why a timer must wait.
        JAX computes in the background too and checks no values: it returns -1.""",
        case="When a draw from a Poisson distribution with rate -1 fails.",
        rows=("Poisson(-1) fails",),
        torch="nothing on a CPU",
        mxnet="nd.waitall() before a timer stops and when an error is being located",
        jax="jax.block_until_ready(x) before a timer stops; check values in NumPy",
    ),
    Pitfall(
        "channels_last",
        "PyTorch's channels_last is still NCHW",
        """In PyTorch channels_last changes the strides and not the shape: dimension 1 is still the
        channels, and the array in NumPy is a non-contiguous view. In MXNet and JAX the layout is
        the shape: (N, H, W, C).""",
        case="A 1x3x4x5 image, channels last.",
        rows=("shape", "strides, in elements", "as an array: contiguous"),
        torch="tensor.contiguous().numpy() before it leaves PyTorch",
        mxnet="x.transpose((0, 3, 1, 2)) back to NCHW",
        jax="x.transpose(0, 3, 1, 2) back to NCHW",
    ),
    Pitfall(
        "argmax_dtype",
        "argmax returns int64, float32 or int32",
        """MXNet's indices are float32, exact up to 2**24 and no further: too few for a flat index
        into a large array. JAX's are int32, and int64 with 64-bit types on. Ties go to the first,
        and NaN counts as the largest, in all three.""",
        case="The type of an index, the index of a tie and of NaN.",
        rows=(
            "type of an index",
            "argmax of 3, 3",
            "argmax of 1, NaN, 2",
            "x64 on: type of an index",
        ),
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
