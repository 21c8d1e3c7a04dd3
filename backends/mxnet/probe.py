"""MXNet: what the laboratory sees of a network that is trained, or of a layer alone."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mxnet import autograd, nd, symbol
from mxnet.gluon import HybridBlock
from numpy.typing import NDArray

from backends.mxnet.device import images_to_device, to_device, to_numpy
from backends.mxnet.model import FCN
from backends.mxnet.record import watched
from backends.mxnet.train import Trainer
from backends.mxnet.weights import find_module, trained_tensors
from common.network.grid import image_size
from common.network.tensors import activation_names, config_tensors, watched_modules
from common.parity.watching import Watcher

Array = NDArray[Any]


def find_layer(model: FCN, name: str) -> Callable[..., nd.NDArray]:
    """One of `common.network.tensors.layer_names` by itself: what makes its output of its inputs.

    Those are `common.network.tensors.layer_sources`.
    """
    if name == "logits":
        return model.transpose_conv
    if name.startswith("layer"):
        return find_module(model, f"backbone.{name}")
    owner = model.backbone if name in ("stem", "norm") else model
    layer: Callable[..., nd.NDArray] = getattr(owner, name)
    return layer


@contextlib.contextmanager
def activations_of(model: FCN) -> Iterator[dict[str, Any]]:
    """While it is entered, a pass leaves `common.network.tensors.activation_names`; cells last."""
    places = watched_modules(model.architecture, model.head)
    modules = {path: find_module(model, path) for path, _ in places.values()}
    modules["transpose_conv"] = model.transpose_conv.cells
    activations: dict[str, Any] = {}
    watcher = Watcher(_is_value, lambda value: value)
    with watched(modules, watcher):
        yield activations
    for name, (path, side) in places.items():
        activations[name] = watcher.values[f"{path}:{side}"]


def _is_value(value: Any) -> bool:
    """An array or, while a graph is compiled, a symbol."""
    return isinstance(value, nd.NDArray | symbol.Symbol)


class _Activations(HybridBlock):
    """The network as `train.py` compiles it, with all activations as outputs, the cells last."""

    # differs: a compiled graph calls its blocks once, while it is made; what is to be
    # seen must be an output of it.

    def __init__(self, model: FCN) -> None:
        super().__init__()
        self.model = model

    def hybrid_forward(self, F: Any, x: Any) -> list[Any]:
        with activations_of(self.model) as activations:
            self.model.transpose_conv.cells(self.model.scores(x))
        return list(activations.values())


class Probe:
    """A trainer that is looked at: see `common.protocol.Probe`."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.compiled = _Activations(trainer.model)
        self.compiled.hybridize()

    def activations(self, images: Array) -> dict[str, Array]:
        x = images_to_device(images, self.trainer.device, self.trainer.config)
        return self._export(self.compiled(x), images)

    def traced_step(
        self, images: Array, labels: Array, rate: float, head_rate: float | None = None
    ) -> tuple[float, dict[str, Array], dict[str, Array]]:
        outputs: list[nd.NDArray] = []

        def forward(x: nd.NDArray) -> nd.NDArray:
            outputs.extend(self.compiled(x))
            return outputs[-1]

        loss = self.trainer._step_through(forward, images, labels, rate, head_rate)
        # differs(gradient_not_cleared): grad() holds it, without decay, until the next backward.
        gradients = {
            name: to_numpy(parameter.grad())
            for name, parameter in trained_tensors(self.trainer.model).items()
        }
        return loss, self._export(outputs, images), gradients

    def layer(
        self, name: str, inputs: Sequence[Array], gradient: Array
    ) -> tuple[Array, list[Array], dict[str, Array]]:
        model, specs = self.trainer.model, config_tensors(self.trainer.config)
        own = {k: p for k, p in trained_tensors(model).items() if specs[k].layer == name}
        sources = [self._to_device(x) for x in inputs]
        for source in sources:
            source.attach_grad()
        with autograd.record():
            output = find_layer(model, name)(*sources)
        output.backward(self._to_device(gradient))
        by_weight = {k: to_numpy(p.grad()) for k, p in own.items()}
        return to_numpy(output), [to_numpy(source.grad) for source in sources], by_weight

    def _to_device(self, array: Array) -> nd.NDArray:
        return to_device(array, self.trainer.device, self.trainer.config.dtype.storage)

    def _export(self, outputs: list[nd.NDArray], images: Array) -> dict[str, Array]:
        height, width = image_size(images)
        names = activation_names(self.trainer.config.architecture, self.trainer.config.head)
        if len(outputs) > len(names):  # of each part of a batch
            passes = (outputs[k : k + len(names)] for k in range(0, len(outputs), len(names)))
            outputs = [nd.concat(*layer, dim=0) for layer in zip(*passes, strict=True)]
        *layers, cells = outputs
        logits = self.trainer.model.transpose_conv.assemble(cells)[:, :, :height, :width]
        arrays = map(to_numpy, [*layers, logits])
        return dict(zip(names, arrays, strict=True))
