"""How much arithmetic the network is: counted from its shapes, layer by layer, for one image.

A multiplication and an addition are one each, so a weight of a convolution counts two at each place
it is laid. Only the convolutions are counted: what else there is (BatchNorm, ReLU, pooling, the
biases, the loss) is about a hundredth, and waits for memory rather than for arithmetic.
"""

import math

from common.config import OUTPUT_STRIDE, Config
from common.network.tensors import tensors


def forward_flops(
    architecture: str, num_classes: int, height: int, width: int, head: str = Config.head
) -> dict[str, int]:
    """Floating-point operations of a forward pass, by convolution weight, in order of execution.

    The image is counted as the network computes it, padded to multiples of 32. A transposed
    convolution lays its whole kernel on every pixel of its input.

    Raises:
        ValueError: as `common.network.tensors.tensors`.
    """
    rows, columns = (-(-side // OUTPUT_STRIDE) * OUTPUT_STRIDE for side in (height, width))
    flops = {}
    for name, spec in tensors(architecture, num_classes, head=head).items():
        if spec.role == "weight":
            stride = spec.stride * (spec.shape[-1] // 2 if spec.transposed else 1)
            places = (rows // stride) * (columns // stride)
            flops[name] = 2 * math.prod(spec.shape) * places
    return flops


def training_flops(
    architecture: str, num_classes: int, height: int, width: int, head: str = Config.head
) -> dict[str, int]:
    """`forward_flops` of a training step: forward, the gradient by the weights, that by the inputs.

    Each of the three is as much as the first; the images themselves need no gradient.
    """
    forward = forward_flops(architecture, num_classes, height, width, head)
    first = next(iter(forward))
    return {name: (2 if name == first else 3) * flops for name, flops in forward.items()}
