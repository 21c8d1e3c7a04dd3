"""What tells one backbone from another: a row of a table for each architecture."""

from dataclasses import dataclass
from typing import NamedTuple

from common.config import Architecture, Head


@dataclass(frozen=True)
class Design:
    """A ResNet: how many blocks each of its four stages has, and of which kind they are.

    `pre_activation`: BatchNorm and ReLU stand before a block's convolutions (He et al., 2016), and
    two more BatchNorms before the first layer and behind the last; else they stand behind the
    convolutions (He et al., 2015).
    """

    blocks: tuple[int, int, int, int]
    pre_activation: bool = False


DESIGNS = {
    Architecture.resnet18: Design((2, 2, 2, 2)),
    Architecture.resnet34: Design((3, 4, 6, 3)),
    Architecture.resnet18_v2: Design((2, 2, 2, 2), pre_activation=True),
}

BACKBONE_OUTPUTS = ("layer1", "layer2", "layer3", "layer4", "out")
"""What a backbone returns, in order: the four stages' outputs, and what the head is given."""


class Skip(NamedTuple):
    """What a head adds to the scores behind it: scores of a stage, once those are as large.

    `up` doubles the size of the scores so far, `score` makes scores of the output of `stage`,
    `fuse` is their sum, all at `stride`.
    """

    up: str
    stage: str
    score: str
    fuse: str
    stride: int


SKIPS = (
    Skip("up_layer4", "layer3", "score_layer3", "fuse16", 16),
    Skip("up_layer3", "layer2", "score_layer2", "fuse8", 8),
)
"""In order of execution."""


def skips(head: Head) -> tuple[Skip, ...]:
    """Those of a head: none, the first, or both."""
    return tuple(skip for skip in SKIPS if skip.stride >= head.stride)


class Block(NamedTuple):
    """A residual block's channels in and out, and the stride of its first convolution."""

    in_channels: int
    channels: int
    stride: int


def stages(architecture: Architecture, width: int) -> list[list[Block]]:
    """The blocks of each of the four stages, of w, 2w, 4w and 8w channels.

    The first block of each stage but the first halves height and width.
    """
    found = []
    in_channels = width
    for stage, count in enumerate(DESIGNS[architecture].blocks):
        channels, stride = width * 2**stage, 1 if stage == 0 else 2
        first = Block(in_channels, channels, stride)
        found.append([first, *[Block(channels, channels, 1)] * (count - 1)])
        in_channels = channels
    return found
