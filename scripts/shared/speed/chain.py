"""The form `convolutions`: the network's convolutions one after another, nothing between them.

What one puts out the next takes: no BatchNorm, no ReLU, no addition, no pooling. So each has the
shapes, and its framework keeps the layouts, that it has in the network.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import Config
from common.network.architecture import stages
from common.network.initial import initial_weights
from common.network.tensors import block_names, config_tensors

Array = NDArray[np.float32]

POOLED = "pooled"
"""The name of what the first block takes: an array of its own, for there is no pooling."""

Convolve = Callable[[Any, str, int, int], Any]
"""(input, name of the weight, stride, padding) -> output."""


def follow(config: Config, convolve: Convolve, images: Any, pooled: Any) -> list[Any]:
    """Convolves from the images and from what stands for their pooled features.

    Returns what no convolution takes: the stem's output, the shortcuts', and last the scores
    (N, classes, H/32, W/32), which the transposed convolution takes.
    """
    specs = config_tensors(config)
    names = [name for name, spec in specs.items() if spec.role == "weight"]

    def after(x: Any, name: str, stride: int = 1) -> Any:
        return convolve(x, name, stride, specs[name].shape[-1] // 2)

    stem = names[0]
    outputs, x = [after(images, stem, specs[stem].stride)], pooled
    blocks = itertools.chain.from_iterable(stages(config.architecture, config.width))
    for at, block in zip(block_names(config.architecture), blocks, strict=True):
        conv1, conv2, *shortcuts = [name for name in names if name.startswith(f"backbone.{at}.")]
        outputs += [after(x, shortcut, block.stride) for shortcut in shortcuts]
        x = after(after(x, conv1, block.stride), conv2)
    return [*outputs, after(x, "final_conv.weight")]


def starting_arrays(config: Config) -> tuple[Array, dict[str, Array]]:
    """Images (N, 3, H, W), and all that a gradient is taken by: `POOLED` and the weights.

    `POOLED` is (N, width, H/4, W/4). The weights, those of convolutions alone, have canonical names
    and layouts; the transposed convolution's is one of them. There are no biases.
    """
    random = np.random.default_rng(config.seed)
    height, width = config.crop
    images = random.standard_normal((config.batch_size, 3, height, width), np.float32)
    shape = (config.batch_size, config.width, height // 4, width // 4)
    initial = initial_weights(
        config.architecture, config.num_classes, config.seed, width=config.width
    )
    specs = config_tensors(config)
    weights = {name: array for name, array in initial.items() if specs[name].role == "weight"}
    return images, {POOLED: random.standard_normal(shape, np.float32)} | weights
