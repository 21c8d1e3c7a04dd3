"""Weights to start from: the usual initial values, and generic ones for comparison."""

import zlib

import numpy as np
from numpy.typing import NDArray

from common.config import Config, UpsampleInit
from common.network.bilinear import bilinear_weight
from common.network.tensors import TensorSpec, tensors


def _generator(seed: int, name: str) -> np.random.Generator:
    """A stream of its own for each tensor: no value depends on what else the network holds."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _initial(spec: TensorSpec, seed: int, upsample_init: UpsampleInit) -> NDArray[np.float64]:
    if spec.transposed and upsample_init == UpsampleInit.bilinear:
        return bilinear_weight(spec.shape[0], spec.shape[2])
    if spec.role in ("gamma", "running_var"):
        return np.ones(spec.shape)
    if spec.role != "weight" or spec.name.startswith("score_"):
        return np.zeros(spec.shape)
    out_channels, in_channels, height, width = spec.shape
    random = _generator(seed, spec.name)
    fan_in, fan_out = in_channels * height * width, out_channels * height * width
    if not spec.name.startswith("backbone."):  # Xavier uniform (Glorot and Bengio, 2010)
        bound = np.sqrt(6 / (fan_in + fan_out))
        return random.uniform(-bound, bound, spec.shape)
    return random.normal(0, np.sqrt(2 / fan_out), spec.shape)  # Kaiming normal (He et al., 2015)


def initial_weights(
    architecture: str,
    num_classes: int,
    seed: int,
    upsample_init: UpsampleInit = Config.upsample_init,
    width: int = Config.width,
    head: str = Config.head,
) -> dict[str, NDArray[np.float32]]:
    """What training starts from, by canonical name, float32; the same for every backend.

    Backbone: Kaiming normal (fan-out), gamma 1, beta 0, mean 0, variance 1. Head: `final_conv`
    Xavier uniform, transposed convolutions bilinear on the channel diagonal or Xavier uniform, a
    stage's scores and biases 0.
    """
    return {
        name: _initial(spec, seed, upsample_init).astype(np.float32)
        for name, spec in tensors(architecture, num_classes, width, head).items()
    }


def generic_weights(
    architecture: str,
    num_classes: int,
    seed: int,
    width: int = Config.width,
    head: str = Config.head,
) -> dict[str, NDArray[np.float64]]:
    """Weights and buffers without any symmetry, float64, for comparing implementations.

    The usual initial values hide bugs: gamma 1 and beta 0 hide a swap of the two, a symmetric
    kernel hides a flip, fresh buffers hide swapped mean and variance. Here every tensor is
    random, on a scale that keeps activations near 1.
    """
    arrays = {}
    for name, spec in tensors(architecture, num_classes, width, head).items():
        random = _generator(seed, "generic " + name)
        if spec.role in ("gamma", "running_var"):
            arrays[name] = random.uniform(0.5, 1.5, spec.shape)
        elif spec.role == "weight":
            fan_in = spec.shape[1] * spec.shape[2] * spec.shape[3]
            if spec.transposed:  # four taps of the kernel reach a pixel
                fan_in = 4 * spec.shape[0]
            arrays[name] = random.normal(0, np.sqrt(2 / fan_in), spec.shape)
        else:
            arrays[name] = random.normal(0, 0.3, spec.shape)
    return arrays
