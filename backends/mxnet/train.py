"""MXNet: a training step, and the network on whole images."""

from collections.abc import Callable, Mapping
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, nd
from mxnet.gluon import HybridBlock
from numpy.typing import NDArray

from backends.mxnet.device import images_to_device, select_device, to_device, to_numpy
from backends.mxnet.loss import cross_entropy
from backends.mxnet.model import FCN, build_model
from backends.mxnet.optimizer import build_optimizer, export_momentum, import_momentum
from backends.mxnet.processes import Group
from backends.mxnet.weights import (
    export_weights,
    freeze_tensors,
    import_weights,
    named_tensors,
    trained_tensors,
)
from common.config import Config, Dtype, Freeze
from common.errors import InputError
from common.machine import keep_pages
from common.network.architecture import DESIGNS
from common.network.grid import image_size, label_cells, parts_of, valid_pixels
from common.network.tensors import config_tensors, frozen_tensors

Array = NDArray[Any]


class _Cells(HybridBlock):
    """The network up to the logits in cells: (N, 3, H, W) -> (N, h+1, w+1, s, s, classes)."""

    # differs: what is hybridized is compiled, the network forward and backward, and not the step.

    def __init__(self, model: FCN) -> None:
        super().__init__()
        self.model = model

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.model.transpose_conv.cells(self.model.scores(x))


class Trainer:
    """The network and its optimizer on one device: see `common.protocol.Trainer`."""

    def __init__(
        self, config: Config, weights: Mapping[str, Array], group: Group | None = None
    ) -> None:
        keep_pages()  # fast: JAX does without
        if config.dtype == Dtype.bfloat16:
            raise InputError(
                f"--dtype bfloat16: mxnet {mx.__version__} trains in float32 and float64 alone"
            )
        self.config = config
        self.group = group or Group()
        self.device = select_device(config.device, self.group.local_rank)
        self.model = build_model(config)
        self.model.initialize(ctx=self.device)
        import_weights(self.model, weights)
        freeze_tensors(self.model, frozen_tensors(config))
        self.cells = _Cells(self.model)
        self.cells.hybridize()
        self.optimizer = build_optimizer(self.model, config)
        if config.parts > 1:
            for parameter in trained_tensors(self.model).values():
                parameter.grad_req = "add"

    def predict(self, images: Array) -> NDArray[np.uint8]:
        # differs(eval_mode_in_training): outside autograd.record() a block is in eval mode.
        cells = self.cells(images_to_device(images, self.device, self.config))
        classes = nd.argmax(cells, axis=-1).astype("uint8").expand_dims(-1)
        height, width = image_size(images)
        return to_numpy(self.model.transpose_conv.assemble(classes)[:, 0, :height, :width])

    def logits(self, images: Array) -> nd.NDArray:
        cells = self.cells(images_to_device(images, self.device, self.config))
        height, width = image_size(images)
        logits = self.model.transpose_conv.assemble(cells)[:, :, :height, :width]
        logits.wait_to_read()  # differs(late_errors): MXNet computes in the background
        return logits

    def step(
        self, images: Array, labels: Array, rate: float, head_rate: float | None = None
    ) -> float:
        return self._step_through(self.cells, images, labels, rate, head_rate)

    def _step_through(
        self,
        forward: Callable[[nd.NDArray], nd.NDArray],
        images: Array,
        labels: Array,
        rate: float,
        head_rate: float | None,
    ) -> float:
        """`step`, whose logits in cells `forward` computes."""
        if self.config.parts == 1:
            loss = self._backward(forward, images, labels)
        else:
            loss = self._backward_in_parts(forward, images, labels)
        self.optimizer.optimizer.set_learning_rate(rate)
        self.optimizer.optimizer.head_rate = rate if head_rate is None else head_rate
        for name, parameter in trained_tensors(self.model).items():
            self.optimizer(name, parameter.grad(), parameter.data())
        nd.waitall()  # differs(late_errors): a step ends when it is done
        return float(loss.asscalar())

    def _backward(
        self,
        forward: Callable[[nd.NDArray], nd.NDArray],
        images: Array,
        labels: Array,
        count: nd.NDArray | None = None,
    ) -> nd.NDArray:
        """The loss of a batch; or that of a part, whose gradients it adds to those there are."""
        x = images_to_device(images, self.device, self.config)
        frozen = self.config.freeze != Freeze.none
        if DESIGNS[self.config.architecture].pre_activation and not frozen:
            # differs: backward, which updates buffers, stops before a layer that has no gradient
            # to give. The first BatchNorm would never learn the images' statistics.
            x.attach_grad()
        truth = self._to_device(label_cells(labels, self.config))
        running_vars = {} if frozen else self._running_vars()
        with autograd.record():
            cells = forward(x)
            logits, truth = cells.reshape((-1, self.config.num_classes)), truth.reshape(-1)
            loss = cross_entropy(logits, truth, count)
        loss.backward()
        self._unbias(running_vars, x.shape)
        return loss.detach()

    def _backward_in_parts(
        self, forward: Callable[[nd.NDArray], nd.NDArray], images: Array, labels: Array
    ) -> nd.NDArray:
        """The same of a batch in parts, some of which are other processes'.

        The running statistics take the mean of what each part would have made of them.
        """
        config, group, trained = self.config, self.group, trained_tensors(self.model)
        count = self._to_device(group.sum(np.array([valid_pixels(labels)])))
        buffers = {} if config.freeze != Freeze.none else self._buffers()
        before = {name: buffer.copy() for name, buffer in buffers.items()}
        changes = {name: nd.zeros_like(buffer) for name, buffer in buffers.items()}
        loss = nd.zeros_like(count)
        for parameter in trained.values():
            parameter.zero_grad()
        for part in zip(parts_of(images, config), parts_of(labels, config), strict=True):
            for name, buffer in buffers.items():
                buffer[:] = before[name]
            loss = loss + self._backward(forward, *part, count)
            for name, buffer in buffers.items():
                changes[name] += (buffer - before[name]) / config.parts
        # differs: the servers add, and average nothing.
        group.reduce({name: parameter.grad() for name, parameter in trained.items()})
        group.reduce_small([loss, *changes.values()])
        for name, change in changes.items():
            buffers[name][:] = before[name] + change
        return loss

    def weights(self) -> dict[str, Array]:
        return export_weights(self.model)

    def momentum(self) -> dict[str, Array]:
        return export_momentum(self.model, self.optimizer)

    def load_momentum(self, arrays: Mapping[str, Array]) -> None:
        import_momentum(self.model, self.optimizer, arrays)

    def _to_device(self, array: Array) -> nd.NDArray:
        return to_device(array, self.device, self.config.dtype.storage)

    def _buffers(self) -> dict[str, nd.NDArray]:
        specs, tensors = config_tensors(self.config), named_tensors(self.model)
        return {k: p.data() for k, p in tensors.items() if not specs[k].trainable}

    def _running_vars(self) -> dict[str, nd.NDArray]:
        return {k: a.copy() for k, a in self._buffers().items() if k.endswith("running_var")}

    def _unbias(self, before: Mapping[str, nd.NDArray], shape: tuple[int, ...]) -> None:
        """Turns the biased variances that went into the running ones into unbiased ones.

        MXNet on a CPU has set new = d * old + (1 - d) * biased. With n values a channel the
        unbiased variance is biased * n / (n - 1), so (new - d * old) / (n - 1) is missing.
        """
        specs, tensors = config_tensors(self.config), named_tensors(self.model)
        for name, old in before.items():
            n = shape[0] * shape[2] * shape[3] // specs[name].stride ** 2
            new = tensors[name].data()
            tensors[name].set_data(new + (new - self.config.bn_decay * old) / (n - 1))
