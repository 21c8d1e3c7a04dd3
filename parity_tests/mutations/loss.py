"""Mistakes in the loss."""

from parity_tests.mutations.apply import Fault, Patch, fault

_TORCH_TOTAL = 'functional.cross_entropy(logits, labels, ignore_index=VOID, reduction="sum")'
_TORCH_COUNT = "(labels != VOID).sum().clamp(min=1)"
_MXNET_LOG = "nd.log_softmax(logits, axis=-1)"
_MXNET_TOTAL = "-(log_probability * valid).sum()"
_MXNET_COUNT = "nd.maximum(valid.sum(), 1)"
_JAX_LOG = "jax.nn.log_softmax(logits, axis=1)"
_JAX_TOTAL = f"-jnp.sum(truth * {_JAX_LOG}, dtype=jnp.float64)"
_JAX_COUNT = "jnp.maximum(jnp.sum(labels != VOID), 1)"
_TORCH_CALL = "cross_entropy(self._forward(images), truth)"
_MXNET_CALL = "cross_entropy(activations[-1], truth)"
_JAX_CALL = "cross_entropy(cells, labels)"


def _loss(
    name: str, why: str, torch: dict[str, str], mxnet: dict[str, str], jax: dict[str, str]
) -> Fault:
    patches = [
        tuple(Patch("loss", old, new) for old, new in given.items())
        for given in (torch, mxnet, jax)
    ]
    return fault(name, why, "loss[0]", torch=patches[0], mxnet=patches[1], jax=patches[2])


def _call(name: str, why: str, torch: str, mxnet: str, jax: str) -> Fault:
    """The call of the loss replaced in `train.py`, which knows the pictures, not cells alone."""
    return fault(
        name,
        why,
        "loss[0]",
        torch=Patch("train", _TORCH_CALL, torch),
        mxnet=Patch("train", _MXNET_CALL, mxnet),
        jax=Patch("train", _JAX_CALL, jax),
    )


FAULTS: list[Fault] = [
    _loss(
        "loss_over_all_pixels",
        "Void adds nothing to the sum but is counted in the mean.",
        {_TORCH_COUNT: "labels.numel()"},
        {_MXNET_COUNT: "labels.size"},
        {_JAX_COUNT: "labels.size"},
    ),
    _call(
        "loss_mean_of_images",
        "The mean is taken image by image, and images with little void weigh less.",
        "sum(map(cross_entropy, self._forward(images).chunk(len(images)),"
        " truth.chunk(len(images)))) / len(images)",
        "sum(map(cross_entropy, nd.split(activations[-1], num_outputs=len(images), axis=0),"
        " nd.split(truth, num_outputs=len(images), axis=0))) / len(images)",
        "sum(map(cross_entropy, jnp.split(cells, len(images)),"
        " jnp.split(labels, len(images)))) / len(images)",
    ),
    _call(
        "loss_sum_over_images",
        "The book's loss: the mean over an image's pixels, summed over the batch.",
        f"{_TORCH_CALL} * (truth != 255).sum() / labels[0].size",
        f"{_MXNET_CALL} * (truth != 255).sum() / labels[0].size",
        f"{_JAX_CALL} * jnp.sum(labels != 255) / images[0, 0].size",
    ),
    _loss(
        "loss_not_divided",
        "reduction='sum', and the division is forgotten.",
        {f"total / {_TORCH_COUNT}": "total"},
        {f"total / {_MXNET_COUNT}": "total"},
        {f"total / {_JAX_COUNT}": "total"},
    ),
    _loss(
        "loss_void_is_the_last_class",
        "255 is clipped to the last class, which MXNet's pick does without a word.",
        {_TORCH_TOTAL: _TORCH_TOTAL.replace("labels", "labels.clamp(max=logits.shape[1] - 1)")},
        {_MXNET_TOTAL: "-log_probability.sum()"},
        {"one_hot(labels,": "one_hot(jnp.minimum(labels, logits.shape[1] - 1),"},
    ),
    _loss(
        "softmax_over_width",
        "The class axis is taken for the last one, or the second, in the other layout.",
        {
            "functional.cross_entropy(logits,": "functional.nll_loss(logits.log_softmax(3),",
        },
        {_MXNET_LOG: "nd.log_softmax(logits, axis=2)"},
        {_JAX_LOG: "jax.nn.log_softmax(logits, axis=3)"},
    ),
    _loss(
        "softmax_twice",
        "The network ends in a softmax, and the loss takes another.",
        {"functional.cross_entropy(logits,": "functional.cross_entropy(logits.softmax(1),"},
        {_MXNET_LOG: "nd.log_softmax(nd.softmax(logits, axis=-1), axis=-1)"},
        {_JAX_LOG: "jax.nn.log_softmax(jax.nn.softmax(logits, axis=1), axis=1)"},
    ),
    _loss(
        "logarithm_of_softmax",
        "log(softmax + 1e-8) by hand, instead of a log-softmax.",
        {
            "functional.cross_entropy(logits,": "functional.nll_loss("
            "(logits.softmax(1) + 1e-8).log(),",
        },
        {_MXNET_LOG: "nd.log(nd.softmax(logits, axis=-1) + 1e-8)"},
        {_JAX_LOG: "jnp.log(jax.nn.softmax(logits, axis=1) + 1e-8)"},
    ),
    _loss(
        "labels_smoothed",
        "A recipe's label smoothing of 0.1 comes along.",
        {'reduction="sum"': 'reduction="sum", label_smoothing=0.1'},
        {
            "    total = ": f"    log_probability = 0.9 * log_probability"
            f" + 0.1 * {_MXNET_LOG}.mean(axis=-1)\n    total = ",
        },
        {"truth * ": "(0.9 * truth + 0.1 / logits.shape[1] * (labels != VOID)[:, None]) * "},
    ),
    _loss(
        "loss_in_float32",
        "The logits are cast to float32 for the loss, a habit from mixed precision.",
        {"functional.cross_entropy(logits,": "functional.cross_entropy(logits.float(),"},
        {_MXNET_LOG: 'nd.log_softmax(logits.astype("float32"), axis=-1).astype(labels.dtype)'},
        {
            _JAX_LOG: "jax.nn.log_softmax(logits.astype(jnp.float32), axis=1).astype(logits.dtype)",
        },
    ),
]
