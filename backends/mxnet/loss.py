"""MXNet: the loss."""

from mxnet import nd

from common.config import VOID


def cross_entropy(
    logits: nd.NDArray, labels: nd.NDArray, count: nd.NDArray | None = None
) -> nd.NDArray:
    """Cross-entropy summed over the batch's valid pixels, divided by their number (at least 1).

    logits: (N, classes, ...); labels: (N, ...) of any type, a class or 255 (void, left out).
    Returns a scalar, shape (1,). N images of pixels, or N pixels: the sum is the same. Where they
    are a part of a batch, `count` (1,) is the number in all of it.
    """
    # differs(label_255): `pick` silently takes 255 for the last class; void is masked by hand.
    log_probability = nd.pick(nd.log_softmax(logits, axis=1), labels, axis=1)
    valid = labels != VOID
    total = -(log_probability * valid).sum()
    number = valid.sum() if count is None else count
    return total / nd.maximum(number, 1)
