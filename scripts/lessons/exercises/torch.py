"""The solutions in PyTorch."""

import math

import torch
from torch import nn
from torch.nn import functional

from backends.torch.layers import batch_norm
from backends.torch.loss import cross_entropy
from backends.torch.model import FCN, BasicBlock
from common.config import Config, Dtype
from common.network.architecture import BACKBONE_OUTPUTS
from common.network.bilinear import bilinear_weight
from scripts.lessons.exercises import Answers

# 1 to 7: arrays to loss


def picture_to_channels() -> Answers:
    """To move the channels is to transpose: a reshape has the right shape and mixes pixels."""
    picture = torch.arange(18).view(2, 3, 3)  # (H, W, RGB)
    transposed, reshaped = picture.permute(2, 0, 1), picture.reshape(3, 2, 3)
    return {
        "transposed": transposed[0].flatten().tolist(),
        "reshaped": reshaped[0].flatten().tolist(),
    }


def write_behind_views() -> Answers:
    """A transpose and a row are views of x, and see what is written into it. (differs)"""
    x = torch.tensor([[1, 2], [3, 4]])
    transpose, row = x.T, x[0]
    x[0, 0] = 9
    return {"x": x[0, 0].item(), "x.T": transpose[0, 0].item(), "x[0]": row[0].item()}


def same_is_shifted() -> Answers:
    """At stride 2, SAME is a pixel after and none before; padding 1 is one on each side."""
    x, kernel = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3)
    same = functional.conv2d(functional.pad(x, (0, 1, 0, 1)), kernel, stride=2)
    padded = functional.conv2d(x, kernel, stride=2, padding=1)
    return {"SAME": same[0, 0, 0].tolist(), "padding 1": padded[0, 0, 0].tolist()}


def in_and_out_swapped() -> Answers:
    """With as many channels in as out, a kernel with the two exchanged fits and is wrong."""
    layer = nn.Conv2d(2, 2, 3, bias=False)
    weight = torch.arange(36.0).view(2, 2, 3, 3)  # (out, in, kh, kw)
    x = torch.stack([torch.ones(3, 3), torch.zeros(3, 3)])[None]
    layer.load_state_dict({"weight": weight})
    right = layer(x)
    layer.load_state_dict({"weight": weight.transpose(0, 1)})
    return {"right": right.flatten().tolist(), "swapped": layer(x).flatten().tolist()}


def bn_two_batches() -> Answers:
    """The layer's own statistics are the formula's: its momentum is what it takes of the new."""
    layer = nn.BatchNorm1d(1, momentum=0.25)
    for batch in ([[1.0], [3.0]], [[3.0], [5.0]]):
        layer(torch.tensor(batch))
    found = layer.state_dict()
    return {"mean": found["running_mean"].item(), "variance": found["running_var"].item()}


def bn_beside_another() -> Answers:
    """In train mode an output depends on the whole batch, in eval mode on its own input alone."""
    layer = batch_norm(1, Config(dtype=Dtype.float64))

    def first_of(*values: float) -> float:
        x = torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)
        return float(layer(x)[0].item())

    layer.eval()
    in_eval = [first_of(1, 3, 5), first_of(1, 3, 11)]
    layer.train()
    return {"eval": in_eval, "train": [first_of(1, 3, 5), first_of(1, 3, 11)]}


def tensors_of_a_block() -> Answers:
    """PyTorch keeps a counter of batches for each BatchNorm besides the statistics. (differs)"""
    block = BasicBlock(2, 4, 2, Config())
    trained = len(list(block.parameters()))
    return {"trained": trained, "kept": len(block.state_dict()) - trained}


def zero_block_passes_on() -> Answers:
    """A block whose kernels are 0 is a ReLU; through any number of them the gradient stays 1."""
    block = BasicBlock(1, 1, 1, Config()).eval()
    nn.init.zeros_(block.conv1.weight), nn.init.zeros_(block.conv2.weight)
    x = torch.tensor([-1.0, 2.0]).view(1, 1, 1, 2).requires_grad_()
    y = block(block(block(x)))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    return {"output": y.flatten().tolist(), "gradient": gradient.flatten().tolist()}


def shapes_without_numbers() -> Answers:
    """A tensor on the device `meta` has a shape and no values; nothing is computed."""
    with torch.device("meta"):
        model, x = FCN(Config()), torch.empty(1, 3, 320, 480)
    stages = model.backbone(x)
    shapes: Answers = {name: list(stages[name].shape[1:]) for name in BACKBONE_OUTPUTS}
    return shapes | {"logits": list(model(x).shape[1:])}


def half_the_width() -> Answers:
    """Half the width is a quarter of the backbone; the upsampling's kernel keeps its size."""

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    with torch.device("meta"):
        whole, half = FCN(Config()), FCN(Config(width=32))
    return {
        "width 64": size(whole),
        "width 32": size(half),
        "upsampling": size(half.transpose_conv),
    }


def fading_border() -> Answers:
    """A pixel at the border is reached by fewer input pixels than one inside."""
    kernel = torch.tensor(bilinear_weight(1, 4))
    x = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    y = functional.conv_transpose2d(x, kernel, stride=2, padding=1)[0, 0]
    return {"corner": y[0, 0].item(), "edge": y[0, 2].item(), "middle": y[2, 2].item()}


def gradient_of_a_convolution() -> Answers:
    """What a convolution's backward does to a gradient is the transposed convolution of it."""
    x, kernel = torch.zeros(1, 1, 5, 5, requires_grad=True), torch.arange(1.0, 10).view(1, 1, 3, 3)
    y = torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2)
    (gradient,) = torch.autograd.grad(functional.conv2d(x, kernel, stride=2), x, y)
    transposed = functional.conv_transpose2d(y, kernel, stride=2)
    return {"gradient": gradient[0, 0, 0].tolist(), "transposed": transposed[0, 0, 0].tolist()}


def mean_of_means() -> Answers:
    """A mean of the images' means weighs pixels of an image with much void more than others."""
    logits = torch.tensor([math.log(3), 0], dtype=torch.float64).view(1, 2, 1, 1).expand(2, 2, 1, 4)
    labels = torch.tensor([[[1, 255, 255, 255]], [[0, 0, 0, 0]]])
    means = [cross_entropy(logits[[n]], labels[[n]]).item() for n in range(2)]
    return {"over pixels": cross_entropy(logits, labels).item(), "of means": sum(means) / 2}


def gradient_of_void() -> Answers:
    """A gradient is (softmax - one-hot) / count where a label is valid, and 0 where it is void."""
    logits = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([0, 1, 255])), logits)
    nothing = cross_entropy(logits, torch.tensor([255, 255, 255]))
    return {
        "class 0": gradient[0].tolist(),
        "void": gradient[2].tolist(),
        "loss, all void": nothing.item(),
    }


# 8 to 14: gradients to processes
