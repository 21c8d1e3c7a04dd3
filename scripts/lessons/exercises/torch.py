"""The solutions in PyTorch."""

import math

import torch
from torch import nn
from torch.nn import functional

from backends.torch.layers import batch_norm
from backends.torch.loss import cross_entropy
from backends.torch.model import FCN, BasicBlock
from common.config import VOID, Config, Dtype
from common.data.voc import VOC_CLASSES
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


def gradient_after_two_backwards() -> Answers:
    """PyTorch adds to the gradient that is there, unless it is cleared. (differs)"""

    def gradient(times: int, clear: bool) -> float:
        w = torch.tensor(3.0, requires_grad=True)
        for _ in range(times):
            if clear:
                w.grad = None
            w.square().backward()
        assert w.grad is not None
        return w.grad.item()

    return {
        "once": gradient(1, clear=False),
        "twice": gradient(2, clear=False),
        "twice, the other way": gradient(2, clear=True),
    }


def gradient_through_the_statistics() -> Answers:
    """The outputs' sum is 0 whatever x is; with constant statistics it has a gradient."""
    x = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64, requires_grad=True)
    mean, var = x.mean(), x.var(correction=0)

    def gradient(mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(((x - mean) / var.sqrt()).sum(), x, retain_graph=True)[0]

    through, constant = gradient(mean, var), gradient(mean.detach(), var.detach())
    return {
        "through the statistics": round(through.abs().max().item(), 12),
        "statistics as constants": constant.tolist(),
    }


def fall_after_the_rate_drops() -> Answers:
    """PyTorch's buffer does not hold the rate, so another rate is all there is to set."""
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    w.grad = torch.ones_like(w)
    optimizer = torch.optim.SGD([w], lr=1.0, momentum=0.5)
    falls = []
    for rate in (1.0, 1.0, 1.0, 0.125):
        optimizer.param_groups[0]["lr"] = rate
        before = w.item()
        optimizer.step()
        falls.append(before - w.item())
    return {"falls": falls}


def decay_of_an_unused_weight() -> Answers:
    """PyTorch passes over a weight that has no gradient; one of 0 decays. (differs)"""

    def fall(in_loss: bool) -> float:
        used, unused = (torch.ones(1, requires_grad=True) for _ in range(2))
        optimizer = torch.optim.SGD([used, unused], lr=0.5, weight_decay=0.5)
        loss = 2 * used + 0 * unused if in_loss else 2 * used
        loss.backward()
        optimizer.step()
        return 1 - unused.item()

    return {"not in the loss": fall(False), "in it, times 0": fall(True)}


def plain_loop() -> Answers:
    """Clear the gradients, record as always, go back, and let the optimizer change the weights."""
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    model = nn.Linear(2, 1, dtype=torch.float64)
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=1 / 32, momentum=0.5)
    losses = []
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        loss = functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses}


def runs_of_the_python() -> Answers:
    """Eager, PyTorch runs the Python in every call. (differs)"""
    runs = []

    def double(x: torch.Tensor) -> torch.Tensor:
        runs.append(x.shape)
        return 2 * x

    counts = []
    for sizes in ((3, 3, 3), (4, 4)):
        for size in sizes:
            double(torch.ones(size))
        counts.append(len(runs))
    return {"after three calls": counts[0], "after two of another size": counts[1]}


def number_read_while_tracing() -> Answers:
    """Eager, PyTorch reads the number anew in every call. (differs)"""
    rate, w = 2.0, torch.ones(1)

    def step(w: torch.Tensor) -> torch.Tensor:
        return rate * w

    def step_at(w: torch.Tensor, rate: float) -> torch.Tensor:
        return rate * w

    found = {"rate 2": step(w).item()}
    rate = 3.0
    return {**found, "rate 3": step(w).item(), "rate 3, an argument": step_at(w, rate).item()}


def two_draws_of_one_seed() -> Answers:
    """A generator is a state that each draw moves on. (differs)"""
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randn(1, generator=random) for _ in range(2))
    again = torch.randn(1, generator=random.manual_seed(0))
    return {
        "first number": first.item(),
        "second draw equals it": torch.equal(first, second),
        "first draw of another start": torch.equal(first, again),
    }


def steps_until_apart() -> Answers:
    """Two orders of one sum, and a descent on w^4 / 4 - w^2 / 2 whose rate, 2, is too high."""
    steps = {}
    for dtype in (torch.float32, torch.float64):
        a, b, c = torch.tensor([0.2, 0.3, 0.4], dtype=dtype)
        w, gaps = torch.stack([(a + b) + c, a + (b + c)]), []
        for _ in range(50):
            gaps.append(abs(w[0] - w[1]).item())
            w = w - 2 * (w * w * w - w)
        steps[str(dtype).removeprefix("torch.")] = next(
            k for k, gap in enumerate(gaps) if gap > 0.1
        )
    return {**steps}


def what_a_batch_norm_keeps() -> Answers:
    """PyTorch's layer has two parameters, two buffers and a counter. (differs)"""
    layer = nn.BatchNorm2d(3)
    return {
        "kept": [*layer.state_dict()],
        "trained": [name for name, _ in layer.named_parameters()],
    }


def what_loading_notices() -> Answers:
    """PyTorch notices all three. (differs)"""
    layer = nn.BatchNorm2d(3)

    def load(**changes: torch.Tensor | None) -> str:
        state = {**layer.state_dict(), **changes}
        try:
            layer.load_state_dict({k: v for k, v in state.items() if v is not None})
        except RuntimeError as error:
            return type(error).__name__
        return "nothing"

    return {
        "one missing": load(bias=None),
        "one too many": load(gamma=torch.ones(3)),
        "another shape": load(bias=torch.ones(1)),
    }


def colour_of_a_label() -> Answers:
    """Bit 3 k + c of a label is the k-th highest bit of the colour's channel c."""
    k, label, channel = torch.arange(3).view(3, 1, 1), torch.tensor([[15], [VOID]]), torch.arange(3)
    bits = label >> (3 * k + channel) & 1  # (k, label, channel)
    person, void = (bits << (7 - k)).sum(0).tolist()
    return {"person": person, "void": void}


def mask_enlarged_two_ways() -> Answers:
    """Between background and person bilinear interpolation finds a bird and a table."""
    mask = torch.tensor([[[[0.0, 15.0]]]])
    bilinear = functional.interpolate(mask, size=(1, 4), mode="bilinear", align_corners=False)
    nearest = functional.interpolate(mask, size=(1, 4), mode="nearest")

    def names(mask: torch.Tensor) -> list[str]:
        return [VOC_CLASSES[int(label)] for label in mask.flatten()]

    return {"bilinear": names(bilinear), "nearest": names(nearest)}


def gradient_of_parts() -> Answers:
    """The mean of the parts' own gradients lowers the logit of the class that most pixels have."""
    bias = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 2, VOID, VOID])
    parts, count = labels.chunk(2), (labels != VOID).sum()

    def gradient(labels: torch.Tensor, count: torch.Tensor | None = None) -> torch.Tensor:
        loss = cross_entropy(bias.expand(len(labels), 3), labels, count)
        return torch.autograd.grad(loss, bias)[0]

    shares = torch.stack([gradient(part, count) for part in parts])
    own = torch.stack([gradient(part) for part in parts])
    return {
        "whole batch": gradient(labels).tolist(),
        "sum of the parts' shares": shares.sum(0).tolist(),
        "mean of the parts' own": own.mean(0).tolist(),
    }


def statistics_of_parts() -> Answers:
    """The means of two parts have the whole batch's mean; their variances lack what is between."""
    x = torch.tensor([1.0, 3, 5, 7], dtype=torch.float64).view(4, 1, 1, 1)

    def running(part: torch.Tensor) -> torch.Tensor:
        layer = batch_norm(1, Config(dtype=Dtype.float64)).train()
        layer(part)
        return torch.cat([*layer.buffers()][:2])

    whole, parts = running(x), torch.stack([running(part) for part in x.chunk(2)]).mean(0)
    return {"mean and variance, whole": whole.tolist(), "in two parts": parts.tolist()}
