"""The network of `torch_net.py` in Gluon."""

from typing import Any

from mxnet.gluon import HybridBlock, nn


class Net(HybridBlock):
    """Of images (N, 3, 8, 8): `classes` (N, 5) and `vector` (N, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(8, 3, padding=1, in_channels=3)
        self.norm = nn.BatchNorm(in_channels=8)
        self.shared = nn.Conv2D(8, 3, padding=1, in_channels=8)
        self.down = nn.Conv2D(8, 2, strides=2, groups=8, in_channels=8)
        self.up = nn.Conv2DTranspose(6, 4, strides=2, padding=1, in_channels=8)
        self.drop = nn.Dropout(0.5)
        self.query = nn.Dense(6, use_bias=False, in_units=6)
        self.key = nn.Dense(6, use_bias=False, in_units=6)
        self.value = nn.Dense(6, use_bias=False, in_units=6)
        self.flat = nn.Dense(5, in_units=6 * 8 * 8)
        self.unused = nn.Dense(2, in_units=2)
        self.initialize()

    def hybrid_forward(self, F: Any, x: Any) -> list[Any]:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.shared(self.shared(x)) + x)
        x = self.drop(self.up(self.down(x)))
        pooled = F.mean(x, axis=(2, 3))
        vector = self.query(pooled) * F.softmax(self.key(pooled), axis=1) + self.value(pooled)
        return [self.flat(x), vector]


def loss(output: list[Any]) -> Any:
    classes, vector = output
    return (classes**2).mean() + vector.sum()
