"""Dropout with the same masks in every framework."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from common.parity.records import Layer, Tensor
from common.protocol import Array


class Masks:
    """What each call of dropout in a pass lets through, a function of a seed and its number.

    An activation's mask is made with the channels first, and turned: where they are is told by the
    convolutions of the network that read or make as many. Any other mask is made in the order in
    which the values lie in memory.
    """

    def __init__(
        self, seed: int, layers: Mapping[str, Layer], tensors: Mapping[str, Tensor]
    ) -> None:
        self.seed, self.number = seed, 0
        self.channels: dict[tuple[int, int], int] = {}
        for layer in layers.values():
            for tensor in (tensors[name] for name in layer.tensors.values()):
                axes = tensor.axes.split()
                if layer.channels is None or "w" not in axes:
                    continue
                for name, size in zip(axes, tensor.shape, strict=True):
                    if name in "oi":
                        self.channels[len(axes), size] = layer.channels

    def next(self, shape: Sequence[int], rate: float, shared: Collection[int] = ()) -> Array:
        """1 / (1 - rate), or 0, for each value of `shape`; the axes `shared` are one wide."""
        random = np.random.default_rng([self.seed, self.number])
        self.number += 1
        axes = {*self.channels.values()}
        axis = next((k for k in axes if self.channels.get((len(shape), shape[k])) == k), None)
        wide = [1 if k in shared else size for k, size in enumerate(shape)]
        if axis is None:
            kept = random.random(wide) >= rate
        else:
            wide.insert(1, wide.pop(axis))
            kept = np.moveaxis(random.random(wide) >= rate, 1, axis)
        return kept * (1 / (1 - rate) if rate < 1 else 0.0)
