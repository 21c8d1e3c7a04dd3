"""The solutions in MXNet Gluon."""

from mxnet import autograd, nd
from mxnet.gluon import nn

from backends.mxnet.layers import batch_norm
from common.config import Config, Dtype
from scripts.lessons.exercises import Answers

# 1 to 7: arrays to loss


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


# 8 to 14: gradients to processes
