"""MXNet: a training step, and the network on whole images."""

from collections.abc import Mapping
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, nd
from numpy.typing import NDArray

from backends.mxnet.device import images_to_device, select_device, to_device, to_numpy
from backends.mxnet.loss import cross_entropy
from backends.mxnet.model import assemble, build_model
from backends.mxnet.optimizer import build_optimizer, export_momentum, import_momentum
from backends.mxnet.weights import export_weights, import_weights, named_tensors, trained_tensors
from common.config import Config, Dtype
from common.errors import InputError
from common.memory import keep_pages
from common.network.grid import image_size, label_cells, padded_size
from common.network.tensors import activation_names, tensors

Array = NDArray[Any]


class Trainer:
    """The network and its optimizer on one device: see `common.protocol.Trainer`."""

    def __init__(self, config: Config, weights: Mapping[str, Array]) -> None:
        keep_pages()  # differs: JAX does without
        # differs: MXNet's convolution takes bfloat16; no network is built around it here.
        if config.dtype == Dtype.bfloat16:
            raise InputError(
                f"--dtype bfloat16: mxnet {mx.__version__} trains in float32 and float64 alone"
            )
        self.config = config
        self.device = select_device(config.device)
        self.model = build_model(config)
        self.model.initialize(ctx=self.device)
        import_weights(self.model, weights)
        self.optimizer = build_optimizer(self.model, config)

    def predict(self, images: Array) -> NDArray[np.uint8]:
        cells = self._evaluate(images, traced=False)
        classes = nd.argmax(cells, axis=-1).astype("uint8").expand_dims(-1)
        return to_numpy(self._assemble(classes, images)[:, 0])

    def logits(self, images: Array) -> nd.NDArray:
        logits = self._assemble(self._evaluate(images, traced=False), images)
        logits.wait_to_read()  # differs: MXNet computes in the background
        return logits

    def activations(self, images: Array) -> dict[str, Array]:
        return self._export(self._evaluate(images, traced=True), images)

    def step(self, images: Array, labels: Array, rate: float) -> float:
        loss, _ = self._step(images, labels, rate, traced=False)
        return float(loss.asscalar())

    def traced_step(
        self, images: Array, labels: Array, rate: float
    ) -> tuple[float, dict[str, Array], dict[str, Array]]:
        loss, activations = self._step(images, labels, rate, traced=True)
        # differs: grad() holds the gradient, without decay, until the next backward overwrites it.
        gradients = {
            name: to_numpy(parameter.grad())
            for name, parameter in trained_tensors(self.model).items()
        }
        return float(loss.asscalar()), self._export(activations, images), gradients

    def layer(self, name: str, x: Array, gradient: Array) -> tuple[Array, Array, dict[str, Array]]:
        specs = tensors(self.config.architecture, self.config.num_classes)
        own = {k: p for k, p in trained_tensors(self.model).items() if specs[k].layer == name}
        source, by_output = self._to_device(x), self._to_device(gradient)
        source.attach_grad()
        with autograd.record():
            output = self.model.layer(name, source)
        output.backward(by_output)
        by_weight = {k: to_numpy(p.grad()) for k, p in own.items()}
        return to_numpy(output), to_numpy(source.grad), by_weight

    def weights(self) -> dict[str, Array]:
        return export_weights(self.model)

    def momentum(self) -> dict[str, Array]:
        return export_momentum(self.model, self.optimizer)

    def load_momentum(self, arrays: Mapping[str, Array]) -> None:
        import_momentum(self.model, self.optimizer, arrays)

    def _export(self, activations: list[nd.NDArray], images: Array) -> dict[str, Array]:
        *layers, cells = activations
        names = activation_names(self.config.architecture)
        arrays = map(to_numpy, [*layers, self._assemble(cells, images)])
        return dict(zip(names, arrays, strict=True))

    def _to_device(self, array: Array) -> nd.NDArray:
        return to_device(array, self.device, self.config.dtype.storage)

    def _assemble(self, cells: nd.NDArray, images: Array) -> nd.NDArray:
        """Cells as pictures, cropped to the images' own size."""
        height, width = image_size(images)
        return assemble(cells, *padded_size(images))[:, :, :height, :width]

    def _evaluate(self, images: Array, *, traced: bool) -> Any:
        # differs: outside autograd.record() a block is in eval mode.
        self.model.trace(traced)
        return self.model(images_to_device(images, self.device, self.config))

    def _step(
        self, images: Array, labels: Array, rate: float, *, traced: bool
    ) -> tuple[nd.NDArray, list[nd.NDArray]]:
        self.model.trace(traced)
        running_vars = self._running_vars()
        x = images_to_device(images, self.device, self.config)
        if self.config.architecture == "resnet18_v2":
            # differs: backward, which updates the buffers, stops before what has no gradient to
            # give; the first BatchNorm would never learn the images' mean and variance.
            x.attach_grad()
        truth = self._to_device(label_cells(labels))
        with autograd.record():
            output = self.model(x)
            activations = output if traced else [output]
            loss = cross_entropy(activations[-1], truth)
        loss.backward()
        self._unbias(running_vars, x.shape)
        self.optimizer.optimizer.set_learning_rate(rate)
        for name, parameter in trained_tensors(self.model).items():
            self.optimizer(name, parameter.grad(), parameter.data())
        nd.waitall()  # differs: MXNet computes in the background; a step ends when it is done
        return loss, activations

    def _running_vars(self) -> dict[str, nd.NDArray]:
        tensors = named_tensors(self.model)
        return {k: p.data().copy() for k, p in tensors.items() if k.endswith("running_var")}

    def _unbias(self, before: Mapping[str, nd.NDArray], shape: tuple[int, ...]) -> None:
        """Turns the biased variances that went into the running ones into unbiased ones.

        MXNet on a CPU has set new = d * old + (1 - d) * biased. With n values a channel the
        unbiased variance is biased * n / (n - 1), so (new - d * old) / (n - 1) is missing.
        """
        # differs: PyTorch's running variance is unbiased, Flax's is written out in `model.py`.
        config = self.config
        specs = tensors(config.architecture, config.num_classes)
        for name, parameter in named_tensors(self.model).items():
            if name in before:
                n = shape[0] * shape[2] * shape[3] // specs[name].stride ** 2
                new = parameter.data()
                parameter.set_data(new + (new - config.bn_decay * before[name]) / (n - 1))
