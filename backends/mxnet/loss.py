"""MXNet: the loss."""

from mxnet import nd

from common.config import VOID


def cross_entropy(logits: nd.NDArray, labels: nd.NDArray) -> nd.NDArray:
    """Cross-entropy summed over the batch's valid pixels, divided by their number (at least 1).

    logits: (N, H, W, classes); labels: (N, H, W), a class or 255 (void, left out). Shape (1,).
    N pictures, or the cells of the upsampling, which hold the same pixels in another order.
    """
    # differs: `pick` takes 255 for the last class without a word, so void is masked by hand.
    valid = labels != VOID
    log_probability = nd.pick(nd.log_softmax(logits, axis=-1), labels, axis=-1)  # (N, H, W)
    total = -(log_probability * valid).sum()
    return total / nd.maximum(valid.sum(), 1)
