"""The solutions in MXNet Gluon."""

import math
import tempfile
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, nd
from mxnet.gluon import Block, Parameter, Trainer, nn
from mxnet.gluon.loss import L2Loss

from backends.mxnet.layers import batch_norm
from backends.mxnet.loss import cross_entropy
from backends.mxnet.model import FCN, BasicBlock
from common.config import VOID, Config, Dtype
from common.data.voc import VOC_CLASSES
from common.network.architecture import BACKBONE_OUTPUTS
from common.network.bilinear import bilinear_weight
from scripts.lessons.exercises import Answers

# 1 to 7: arrays to loss


def picture_to_channels() -> Answers:
    """To move the channels is to transpose: a reshape has the right shape and mixes pixels."""
    picture = nd.arange(18, dtype="int32").reshape((2, 3, 3))  # (H, W, RGB)
    transposed, reshaped = picture.transpose((2, 0, 1)), picture.reshape((3, 2, 3))
    return {
        "transposed": transposed[0].asnumpy().ravel().tolist(),
        "reshaped": reshaped[0].asnumpy().ravel().tolist(),
    }


def write_behind_views() -> Answers:
    """A row is a view of x and sees what is written into it; a transpose is a copy. (differs)"""
    x = nd.array([[1, 2], [3, 4]], dtype="int32")
    transpose, row = x.T, x[0]
    x[0, 0] = 9
    read = {"x": x[0, 0], "x.T": transpose[0, 0], "x[0]": row[0]}
    return {name: int(value.asscalar()) for name, value in read.items()}


def same_is_shifted() -> Answers:
    """At stride 2, SAME is a pixel after and none before; padding 1 is one on each side."""
    x, kernel = nd.ones((1, 1, 8, 8)), nd.ones((1, 1, 3, 3))
    options = {"kernel": (3, 3), "stride": (2, 2), "num_filter": 1, "no_bias": True}
    after = nd.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 0, 1, 0, 1))
    same = nd.Convolution(after, kernel, **options)
    padded = nd.Convolution(x, kernel, pad=(1, 1), **options)
    first = {"SAME": same[0, 0, 0], "padding 1": padded[0, 0, 0]}
    return {name: row.asnumpy().tolist() for name, row in first.items()}


def in_and_out_swapped() -> Answers:
    """With as many channels in as out, a kernel with the two exchanged fits and is wrong."""
    layer = nn.Conv2D(2, 3, use_bias=False, in_channels=2)
    layer.initialize()
    weight = nd.arange(36).reshape((2, 2, 3, 3))  # (out, in, kh, kw)
    x = nd.stack(nd.ones((3, 3)), nd.zeros((3, 3))).expand_dims(0)
    layer.weight.set_data(weight)
    right = layer(x)
    layer.weight.set_data(weight.swapaxes(0, 1))
    found = {"right": right, "swapped": layer(x)}
    return {name: y.asnumpy().ravel().tolist() for name, y in found.items()}


def bn_two_batches() -> Answers:
    """After backward, n / (n - 1) is made up for; momentum is what is kept of the old."""
    layer = nn.BatchNorm(momentum=0.75, in_channels=1)
    layer.initialize()
    mean, var = layer.running_mean, layer.running_var
    for batch in ([[1.0], [3.0]], [[3.0], [5.0]]):
        old, n = var.data().copy(), len(batch)
        with autograd.record():
            y = layer(nd.array(batch))
        y.backward()
        var.set_data(var.data() + (var.data() - 0.75 * old) / (n - 1))
    return {"mean": float(mean.data().asscalar()), "variance": float(var.data().asscalar())}


def bn_beside_another() -> Answers:
    """In train mode an output depends on the whole batch, in eval mode on its own input alone."""
    layer = batch_norm(1, Config(dtype=Dtype.float64))
    layer.initialize()

    def first_of(*values: float) -> float:
        x = nd.array(values, dtype="float64").reshape((-1, 1, 1, 1))
        return float(layer(x)[0, 0, 0, 0].asscalar())

    in_eval = [first_of(1, 3, 5), first_of(1, 3, 11)]
    with autograd.train_mode():
        return {"eval": in_eval, "train": [first_of(1, 3, 5), first_of(1, 3, 11)]}


def tensors_of_a_block() -> Answers:
    """All are parameters; those that are kept and not trained ask for no gradient. (differs)"""
    parameters = BasicBlock(2, 4, 2, Config()).collect_params().values()
    trained = sum(parameter.grad_req != "null" for parameter in parameters)
    return {"trained": trained, "kept": len(parameters) - trained}


def zero_block_passes_on() -> Answers:
    """A block whose kernels are 0 is a ReLU; through any number of them the gradient stays 1."""
    block = BasicBlock(1, 1, 1, Config())
    block.initialize(mx.init.Zero())  # BatchNorm's gamma has its own initializer
    x = nd.array([-1, 2]).reshape((1, 1, 1, 2))
    x.attach_grad()
    with autograd.record(train_mode=False):
        y = block(block(block(x)))
    y.backward()
    return {"output": y.asnumpy().ravel().tolist(), "gradient": x.grad.asnumpy().ravel().tolist()}


def shapes_without_numbers() -> Answers:
    """A block called with a symbol gives a graph, whose shapes are inferred without computing."""
    model, x = FCN(Config()), mx.sym.var("x")
    outputs = mx.sym.Group([*model.backbone(x), model(x)])
    _, shapes, _ = outputs.infer_shape(x=(1, 3, 320, 480))
    names = (*BACKBONE_OUTPUTS, "logits")
    return {name: list(shape[1:]) for name, shape in zip(names, shapes, strict=True)}


def half_the_width() -> Answers:
    """Half the width is a quarter of the backbone; the upsampling's kernel keeps its size."""

    def size(block: Block) -> int:
        trained = [p for p in block.collect_params().values() if p.grad_req != "null"]
        return int(sum(np.prod(parameter.shape) for parameter in trained))

    whole, half = FCN(Config()), FCN(Config(width=32))
    return {
        "width 64": size(whole),
        "width 32": size(half),
        "upsampling": size(half.transpose_conv),
    }


def fading_border() -> Answers:
    """A pixel at the border is reached by fewer input pixels than one inside."""
    kernel = nd.array(bilinear_weight(1, 4), dtype="float64")
    options = {"kernel": (4, 4), "stride": (2, 2), "pad": (1, 1), "num_filter": 1}
    y = nd.Deconvolution(nd.ones((1, 1, 3, 3), dtype="float64"), kernel, **options)
    y = y[0, 0].asnumpy()
    return {"corner": y[0, 0].item(), "edge": y[0, 2].item(), "middle": y[2, 2].item()}


def gradient_of_a_convolution() -> Answers:
    """What a convolution's backward does to a gradient is the transposed convolution of it."""
    x, kernel = nd.zeros((1, 1, 5, 5)), nd.arange(1, 10).reshape((1, 1, 3, 3))
    y = nd.array([[1, 2], [3, 4]]).reshape((1, 1, 2, 2))
    options = {"kernel": (3, 3), "stride": (2, 2), "num_filter": 1, "no_bias": True}
    x.attach_grad()
    with autograd.record():
        output = nd.Convolution(x, kernel, **options)
    output.backward(y)
    found = {"gradient": x.grad, "transposed": nd.Deconvolution(y, kernel, **options)}
    return {name: values[0, 0, 0].asnumpy().tolist() for name, values in found.items()}


def mean_of_means() -> Answers:
    """A mean of the images' means weighs pixels of an image with much void more than others."""
    logits = nd.array([math.log(3), 0], dtype="float64").reshape((1, 2, 1, 1))
    logits = logits.broadcast_to((2, 2, 1, 4))
    labels = nd.array([[[1, 255, 255, 255]], [[0, 0, 0, 0]]], dtype="float64")
    means = [cross_entropy(logits[n : n + 1], labels[n : n + 1]).asscalar() for n in range(2)]
    whole = cross_entropy(logits, labels).asscalar()
    return {"over pixels": float(whole), "of means": float(sum(means) / 2)}


def gradient_of_void() -> Answers:
    """A gradient is (softmax - one-hot) / count where a label is valid, and 0 where it is void."""
    logits = nd.zeros((3, 2), dtype="float64")
    logits.attach_grad()
    with autograd.record():
        loss = cross_entropy(logits, nd.array([0, 1, 255], dtype="float64"))
    loss.backward()
    nothing = cross_entropy(logits, nd.array([255, 255, 255], dtype="float64"))
    return {
        "class 0": logits.grad[0].asnumpy().tolist(),
        "void": logits.grad[2].asnumpy().tolist(),
        "loss, all void": float(nothing.asscalar()),
    }


# 8 to 14: gradients to processes


def gradient_after_two_backwards() -> Answers:
    """MXNet writes over the gradient that is there, unless it was asked to add. (differs)"""

    def gradient(times: int, request: str) -> float:
        w = nd.array([3.0])
        w.attach_grad(grad_req=request)
        for _ in range(times):
            with autograd.record():
                loss = w.square()
            loss.backward()
        return float(w.grad.asscalar())

    return {
        "once": gradient(1, "write"),
        "twice": gradient(2, "write"),
        "twice, the other way": gradient(2, "add"),
    }


def gradient_through_the_statistics() -> Answers:
    """The outputs' sum is 0 whatever x is; with constant statistics it has a gradient."""
    x = nd.array([1.0, 2.0, 6.0], dtype="float64")
    x.attach_grad()

    def gradient(constant: bool) -> Any:
        with autograd.record():
            mean = x.mean()
            var = (x - mean).square().mean()
            if constant:
                mean, var = mean.detach(), var.detach()
            total = ((x - mean) / var.sqrt()).sum()
        total.backward()
        return x.grad.asnumpy()

    return {
        "through the statistics": round(float(abs(gradient(constant=False)).max()), 12),
        "statistics as constants": gradient(constant=True).tolist(),
    }


def fall_after_the_rate_drops() -> Answers:
    """MXNet's buffer holds the rate, so it is scaled whenever the rate changes."""
    w, gradient = nd.zeros(1, dtype="float64"), nd.ones(1, dtype="float64")
    optimizer = mx.optimizer.SGD(learning_rate=1.0, momentum=0.5)
    state = optimizer.create_state(0, w)
    falls = []
    for rate in (1.0, 1.0, 1.0, 0.125):
        state *= rate / optimizer.learning_rate
        optimizer.set_learning_rate(rate)
        before = w.asscalar()
        optimizer.update(0, w, gradient, state)
        falls.append(float(before - w.asscalar()))
    return {"falls": falls}


def decay_of_an_unused_weight() -> Answers:
    """Gluon refuses a gradient that is not new, or passes over it; one of 0 decays. (differs)"""

    def fall(in_loss: bool) -> float:
        used, unused = (Parameter(name, shape=1) for name in ("used", "unused"))
        used.initialize(mx.init.One()), unused.initialize(mx.init.One())
        trainer = Trainer([used, unused], "sgd", {"learning_rate": 0.5, "wd": 0.5})
        with autograd.record():
            loss = 2 * used.data() + 0 * unused.data() if in_loss else 2 * used.data()
        loss.backward()
        trainer.step(1, ignore_stale_grad=True)
        return 1 - float(unused.data().asscalar())

    return {"not in the loss": fall(False), "in it, times 0": fall(True)}


def plain_loop() -> Answers:
    """Record the forward pass, go back, and let the trainer divide by the batch and step."""
    x = nd.array([[1, 2], [3, 4]], dtype="float64")
    y = nd.array([[1], [2]], dtype="float64")
    model = nn.Dense(1, in_units=2, dtype="float64", weight_initializer="zeros")
    model.initialize()
    measure = L2Loss(weight=2)  # which halves the square
    trainer = Trainer(model.collect_params(), "sgd", {"learning_rate": 1 / 32, "momentum": 0.5})
    losses = []
    for _ in range(3):
        with autograd.record():
            loss = measure(model(x), y)  # (N,)
        loss.backward()
        trainer.step(batch_size=2)
        losses.append(float(loss.mean().asscalar()))
    return {"losses": losses}


def runs_of_the_python() -> Answers:
    """A hybridized block runs the Python once: a symbol has no size. (differs)"""
    runs = []

    def double(F: Any, x: Any) -> Any:
        runs.append(F)
        return 2 * x

    block = nn.HybridLambda(double)
    block.hybridize()
    counts = []
    for sizes in ((3, 3, 3), (4, 4)):
        for size in sizes:
            block(nd.ones(size))
        counts.append(len(runs))
    return {"after three calls": counts[0], "after two of another size": counts[1]}


def number_read_while_tracing() -> Answers:
    """A hybridized block keeps the number that it found in its first call. (differs)"""
    rate, w = 2.0, nd.ones(1)
    step = nn.HybridLambda(lambda F, w: rate * w)
    step_at = nn.HybridLambda(lambda F, w, rate: F.broadcast_mul(rate, w))
    step.hybridize(), step_at.hybridize()
    found = {"rate 2": step(w)}
    step_at(w, nd.array([2.0]))
    rate = 3.0
    found |= {"rate 3": step(w), "rate 3, an argument": step_at(w, nd.array([3.0]))}
    return {name: float(array.asscalar()) for name, array in found.items()}


def two_draws_of_one_seed() -> Answers:
    """A generator is a state, the process's own, that each draw moves on. (differs)"""
    mx.random.seed(0)
    first, second = (float(nd.random.normal().asscalar()) for _ in range(2))
    mx.random.seed(0)
    again = float(nd.random.normal().asscalar())
    return {
        "first number": first,
        "second draw equals it": second == first,
        "first draw of another start": again == first,
    }


def steps_until_apart() -> Answers:
    """Two orders of one sum, and a descent on w^4 / 4 - w^2 / 2 whose rate, 2, is too high."""
    steps = {}
    for dtype in ("float32", "float64"):
        a, b, c = nd.array([0.2, 0.3, 0.4], dtype=dtype)
        w, gaps = nd.concat((a + b) + c, a + (b + c), dim=0), []
        for _ in range(50):
            gaps.append(abs(w[0] - w[1]).asscalar())
            w = w - 2 * (w * w * w - w)
        steps[dtype] = next(k for k, gap in enumerate(gaps) if gap > 0.1)
    return {**steps}


def what_a_batch_norm_keeps() -> Answers:
    """In Gluon all four are parameters, and two have no gradient. (differs)"""
    layer = nn.BatchNorm(in_channels=3)
    kept = {name.removeprefix(layer.prefix): p for name, p in layer.collect_params().items()}
    return {"kept": [*kept], "trained": [k for k, p in kept.items() if p.grad_req != "null"]}


def what_loading_notices() -> Answers:
    """Gluon notices all three, where the layer knows its shapes. (differs)"""
    layer = nn.BatchNorm(in_channels=3)
    layer.initialize()
    names = [name.removeprefix(layer.prefix) for name in layer.collect_params()]

    def load(**changes: nd.NDArray | None) -> str:
        state = {**{name: nd.ones(3) for name in names}, **changes}
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "layer.params")
            nd.save(file, {k: v for k, v in state.items() if v is not None})
            try:
                layer.load_parameters(file)
            except AssertionError as error:
                return type(error).__name__
        return "nothing"

    return {
        "one missing": load(beta=None),
        "one too many": load(bias=nd.ones(3)),
        "another shape": load(beta=nd.ones(1)),
    }


def colour_of_a_label() -> Answers:
    """Bit 3 k + c of a label is the k-th highest bit of the colour's channel c."""
    k, label, channel = nd.arange(3).reshape((3, 1, 1)), nd.array([[15], [VOID]]), nd.arange(3)
    # MXNet has no operators on bits.
    bits = nd.floor(label / 2 ** (3 * k + channel)) % 2  # (k, label, channel)
    person, void = (bits * 2 ** (7 - k)).sum(axis=0).astype("int32").asnumpy().tolist()
    return {"person": person, "void": void}


def mask_enlarged_two_ways() -> Answers:
    """Between background and person bilinear interpolation finds a bird and a table."""
    mask = nd.array([[[[0, 15]]]])
    bilinear = nd.contrib.BilinearResize2D(mask, height=1, width=4, align_corners=False)
    nearest = nd.UpSampling(mask, scale=2, sample_type="nearest")[:, :, 0]

    def names(mask: nd.NDArray) -> list[str]:
        return [VOC_CLASSES[int(label)] for label in mask.asnumpy().flatten()]

    return {"bilinear": names(bilinear), "nearest": names(nearest)}


def gradient_of_parts() -> Answers:
    """The mean of the parts' own gradients lowers the logit of the class that most pixels have."""
    bias = nd.array([[2.0, 1.0, 0.0]], dtype="float64")
    bias.attach_grad()
    labels = nd.array([0, 0, 0, 2, VOID, VOID], dtype="float64")
    parts, count = labels.split(2, axis=0), (labels != VOID).sum()

    def gradient(labels: nd.NDArray, count: nd.NDArray | None = None) -> Any:
        with autograd.record():
            loss = cross_entropy(bias.broadcast_to((len(labels), 3)), labels, count)
        loss.backward()
        return bias.grad[0].asnumpy()

    shares, own = [gradient(part, count) for part in parts], [gradient(part) for part in parts]
    return {
        "whole batch": gradient(labels).tolist(),
        "sum of the parts' shares": np.sum(shares, axis=0).tolist(),
        "mean of the parts' own": np.mean(own, axis=0).tolist(),
    }


def statistics_of_parts() -> Answers:
    """The means of two parts have the whole batch's mean; their variances lack what is between."""
    x, config = (
        nd.array([1, 3, 5, 7], dtype="float64").reshape((4, 1, 1, 1)),
        Config(dtype=Dtype.float64),
    )

    def running(part: nd.NDArray) -> Any:
        layer = batch_norm(1, config)
        layer.initialize()
        with autograd.record():
            y = layer(part)
        y.backward()
        mean, var = layer.running_mean.data(), layer.running_var.data()
        # It is 1 before, and what goes into it is biased.
        var = var + (var - config.bn_decay) / (part.size - 1)
        return nd.concat(mean, var, dim=0).asnumpy()

    whole, parts = running(x), np.mean([running(part) for part in x.split(2, axis=0)], axis=0)
    return {"mean and variance, whole": whole.tolist(), "in two parts": parts.tolist()}
