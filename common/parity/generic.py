"""Values of weights that show a mistake, and those that hide one."""

import math
from collections.abc import Mapping

import numpy as np

from common.parity.records import Tensor
from common.parity.subject import Subject
from common.protocol import Array, Arrays


def generic_values(subject: Subject, seed: int) -> Arrays:
    """Random values away from the defaults, which hide mistakes: for each tensor its own.

    What is 1 everywhere, as a scale or a variance is, becomes 0.5 to 1.5, and where it is trained
    one in four is negative; what is 0, as a bias or a mean is, becomes normal with deviation 0.2.
    Any other weight becomes normal, with variance 1 / fan-in; any other buffer is moved by up to a
    half. So they depend on the seed, and not on what a fresh network has drawn.
    """
    values = {}
    for number, (name, array) in enumerate(subject.weights.items()):
        draw = np.random.default_rng([seed, number])
        tensor, factor = subject.tensors[name], draw.uniform(0.5, 1.5, array.shape)
        if array.size and (array == 1).all():
            sign = np.where(draw.random(array.shape) < 0.25, -1, 1) if tensor.trained else 1
            values[name] = factor * sign
        elif (array == 0).all() or (tensor.trained and array.ndim < 2):
            values[name] = draw.normal(0, 0.2, array.shape)
        elif tensor.trained:
            values[name] = draw.normal(0, 1, array.shape) / math.sqrt(_fan_in(tensor))
        else:
            values[name] = array * factor
    return values


def _fan_in(tensor: Tensor) -> int:
    """How many values each value made is a sum over; 1 of a table, from which one is picked."""
    axes = tensor.axes.split() or ["o", *"i" * (len(tensor.shape) - 1)]
    sizes = [n for axis, n in zip(axes, tensor.shape, strict=True) if axis[0] not in "ov"]
    return math.prod(sizes)


def symmetric_tensors(weights: Mapping[str, Array]) -> list[str]:
    """Tensors whose values are too much alike to show a mistake."""

    def alike(array: Array) -> bool:
        if array.size < 2:
            return False
        constant = bool((array == array.flat[0]).all())
        square = array.ndim > 1 and array.shape[0] == array.shape[1] > 1
        return constant or (square and np.array_equal(array, array.swapaxes(0, 1)))

    return [name for name, array in weights.items() if alike(array)]
