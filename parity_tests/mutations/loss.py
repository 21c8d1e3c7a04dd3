"""Mistakes in the loss."""

from parity_tests.mutations.apply import Patch, Patches, after, mutation, swap

_TORCH = "functional.cross_entropy(...)"
_TORCH_LOGITS = "functional.cross_entropy(logits, ...)"
_MXNET_LOG, _JAX_LOG = "nd.log_softmax(...)", "jax.nn.log_softmax(...)"


def _loss(old: str, new: str) -> Patch:
    return swap("loss.cross_entropy", old, new)


_SEAMS = {
    "torch": "train.Trainer.step",
    "mxnet": "train.Trainer._step_through",
    "jax": "train._loss_of",
}
"""Where the loss is called, with the images at hand."""


def _calls(new: str) -> dict[str, Patches]:
    old = "cross_entropy(__cells, __labels)"
    return {backend: swap(seam, old, new) for backend, seam in _SEAMS.items()}


_EACH = (
    "sum(cross_entropy(c, t) for c, t in zip("
    "__cells.reshape(len(cells), -1, cells.shape[-1]), __labels.reshape(len(cells), -1)"
    ")) / len(cells)"
)
_WHOLE = "cross_entropy(__cells, __labels) * (__labels != 255).sum() / images[0, 0].size"

MUTATIONS = [
    mutation(
        "loss_over_all_pixels",
        "Void adds nothing to the sum but is counted in the mean.",
        "loss[0]",
        _loss("total / __", "total / len(labels)"),
    ),
    mutation(
        "loss_mean_of_images",
        "The mean is taken image by image, and images with little void weigh less.",
        "loss[0]",
        _calls(_EACH),
    ),
    mutation(
        "loss_sum_over_images",
        "The book's loss: the mean over an image's pixels, summed over the batch.",
        "loss[0]",
        _calls(_WHOLE),
    ),
    mutation(
        "loss_not_divided",
        "reduction='sum', and the division is forgotten.",
        "loss[0]",
        _loss("total / __", "total"),
    ),
    mutation(
        "loss_void_is_the_last_class",
        "255 is clipped to the last class, which MXNet's pick does silently.",
        "loss[0]",
        torch=_loss(
            "functional.cross_entropy(logits, labels, ...)",
            "functional.cross_entropy(logits, labels.clamp(max=logits.shape[1] - 1), ...)",
        ),
        mxnet=_loss("log_probability * valid", "log_probability"),
        jax=_loss(
            "jax.nn.one_hot(labels, ...)",
            "jax.nn.one_hot(jnp.minimum(labels, logits.shape[1] - 1), ...)",
        ),
    ),
    mutation(
        "softmax_over_pixels",
        "The axis of the classes is taken for another one.",
        "loss[0]",
        torch=_loss(_TORCH_LOGITS, "functional.nll_loss(logits.log_softmax(0), ...)"),
        mxnet=_loss("nd.log_softmax(logits, axis=1)", "nd.log_softmax(logits, axis=0)"),
        jax=_loss("jax.nn.log_softmax(logits, axis=1)", "jax.nn.log_softmax(logits, axis=0)"),
    ),
    mutation(
        "softmax_twice",
        "The network ends in a softmax, and the loss takes another.",
        "loss[0]",
        torch=_loss(_TORCH_LOGITS, "functional.cross_entropy(logits.softmax(1), ...)"),
        mxnet=_loss(_MXNET_LOG, "nd.log_softmax(nd.softmax(...), axis=1)"),
        jax=_loss(_JAX_LOG, "jax.nn.log_softmax(jax.nn.softmax(...), axis=1)"),
    ),
    mutation(
        "logarithm_of_softmax",
        "log(softmax + 1e-8) by hand, instead of a log-softmax.",
        "loss[0]",
        torch=_loss(_TORCH_LOGITS, "functional.nll_loss((logits.softmax(1) + 1e-8).log(), ...)"),
        mxnet=_loss(_MXNET_LOG, "nd.log(nd.softmax(...) + 1e-8)"),
        jax=_loss(_JAX_LOG, "jnp.log(jax.nn.softmax(...) + 1e-8)"),
    ),
    mutation(
        "labels_smoothed",
        "A recipe's label smoothing of 0.1 comes along.",
        "loss[0]",
        torch=_loss(_TORCH, "functional.cross_entropy(..., label_smoothing=0.1)"),
        mxnet=after(
            "loss.cross_entropy",
            "log_probability = __",
            "log_probability = 0.9 * log_probability"
            " + 0.1 * nd.log_softmax(logits, axis=1).mean(axis=1)",
        ),
        jax=_loss(
            "truth * log_probability",
            "(0.9 * truth + 0.1 / logits.shape[1] * valid[:, None]) * log_probability",
        ),
    ),
    mutation(
        "loss_in_float32",
        "The logits are cast to float32 for the loss, a habit from mixed precision.",
        "loss[0]",
        torch=_loss(_TORCH_LOGITS, "functional.cross_entropy(logits.float(), ...)"),
        mxnet=_loss(
            "nd.log_softmax(logits, ...)",
            'nd.log_softmax(logits.astype("float32"), ...).astype(labels.dtype)',
        ),
        jax=_loss(
            "jax.nn.log_softmax(logits, ...)",
            "jax.nn.log_softmax(logits.astype(jnp.float32), ...).astype(logits.dtype)",
        ),
    ),
]
