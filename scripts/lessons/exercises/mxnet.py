"""The solutions in MXNet Gluon."""

import math

import mxnet as mx
import numpy as np
from mxnet import autograd, nd
from mxnet.gluon import Block, nn

from backends.mxnet.layers import batch_norm
from backends.mxnet.loss import cross_entropy
from backends.mxnet.model import FCN, BasicBlock
from common.config import Config, Dtype
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
