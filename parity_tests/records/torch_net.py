"""A network with what a recorder and a matcher meet, in PyTorch."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from common.config import Config


class Net(nn.Module):
    """Of images (N, 3, 8, 8): `classes` (N, 5) and `vector` (N, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8, momentum=1 - Config.bn_decay)
        self.rectify = nn.ReLU(inplace=True)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 8, 2, stride=2, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1)
        self.drop = nn.Dropout(0.5)
        self.heads = nn.ModuleList([nn.Linear(6, 6, bias=False) for _ in range(3)])
        self.flat = nn.Linear(6 * 8 * 8, 5)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        x = self.rectify(self.norm(self.stem(x)))
        x = functional.relu(self.shared(self.shared(x)) + x)
        x = self.drop(self.up(self.down(x)))
        pooled = x.mean((2, 3))
        query, key, value = (head(pooled) for head in self.heads)
        vector = query * key.softmax(1) + value
        return {"classes": self.flat(x.flatten(1)), "vector": vector}


def loss(output: dict[str, Any]) -> torch.Tensor:
    return output["classes"].square().mean() + output["vector"].sum()
