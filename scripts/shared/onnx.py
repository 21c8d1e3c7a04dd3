"""PyTorch's network as an ONNX file."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch

from backends.torch import FCN, build_model, find_layer, import_weights
from common.config import OUTPUT_STRIDE, Config, Dtype
from common.files import write_whole
from common.network.tensors import layer_sources
from common.protocol import Array

INPUT = "image"
"""The graph's one input, (batch, 3, height, width) float32; its outputs are the layers by name."""


class _Classes(torch.nn.Module):
    """The most likely class of each pixel, found in the cells as `Trainer.predict` does."""

    def __init__(self, network: FCN) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        head = self.network.transpose_conv
        classes = head.cells(self.network.scores(x)).argmax(dim=-1, keepdim=True).to(torch.uint8)
        assembled: torch.Tensor = head.assemble(classes)[:, 0]
        return assembled


class _Layers(torch.nn.Module):
    """The network as ONNX sees it: the layers as a tuple, in order of execution."""

    def __init__(self, network: FCN) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = {"image": x}
        layers = layer_sources(self.network.architecture, self.network.head)
        for name, sources in layers.items():
            layer = find_layer(self.network, name)
            outputs[name] = layer(*(outputs[source] for source in sources))
        return tuple(outputs[name] for name in layers)


def export_onnx(
    path: Path, weights: Mapping[str, Array], config: Config, metadata: Mapping[str, str]
) -> None:
    """Writes the network in eval mode, float32, as an ONNX file that `onnx.checker` accepts.

    `weights` are canonical arrays, checked by the caller; `metadata` becomes the model's
    properties. Input `image` (N, 3, H, W), outputs each layer by its name; N, H and W are free,
    H and W multiples of 32.

    Raises:
        InputError: the file cannot be written.
    """
    layers = list(layer_sources(config.architecture, config.head))
    axes = {name: {0: "batch", 2: f"{name}_height", 3: f"{name}_width"} for name in layers}
    _export(path, _Layers(_network(weights, config)), axes, metadata)


def export_classes(path: Path, weights: Mapping[str, Array], config: Config) -> None:
    """The same with one output, `classes` (N, H, W) uint8: what a server needs.

    Raises:
        InputError: the file cannot be written.
    """
    axes = {"classes": {0: "batch", 1: "classes_height", 2: "classes_width"}}
    _export(path, _Classes(_network(weights, config)), axes, {})


def _network(weights: Mapping[str, Array], config: Config) -> FCN:
    network = build_model(config.replace(dtype=Dtype.float32))
    import_weights(network, weights)
    return network


def _export(
    path: Path,
    module: torch.nn.Module,
    axes: Mapping[str, dict[int, str]],
    metadata: Mapping[str, str],
) -> None:
    """`axes` names each output's free axes."""
    example = torch.zeros(2, 3, 2 * OUTPUT_STRIDE, 3 * OUTPUT_STRIDE)
    free = {INPUT: {0: "batch", 2: f"{INPUT}_height", 3: f"{INPUT}_width"}}

    def write(temporary: Path) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter by tracing is on its way out; its successor needs another package. It
            # tries to fold the slices of shapes too, and warns of those that it leaves as they are.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message="Constant folding", category=UserWarning)
            torch.onnx.export(
                module.eval(),
                (example,),
                str(temporary),
                dynamo=False,
                input_names=[INPUT],
                output_names=list(axes),
                dynamic_axes=free | dict(axes),
            )
        model = onnx.load(temporary)
        onnx.helper.set_model_props(model, dict(metadata))
        onnx.save(model, temporary)
        onnx.checker.check_model(str(temporary), full_check=True)

    write_whole(path, write)
