"""The network in ONNX, computed by ONNX Runtime on the CPU, float32, eval mode.

    python -m scripts.witness.onnx --weights W --batches B --out T.safetensors [--onnx FILE]

The graph is PyTorch's export; what computes it is a fourth program with kernels of its own. One
file serves any batch size and any height and width that are multiples of 32.
"""

import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import torch
import typer

from backends.torch import FCN, build_model, import_weights
from common.checkpoint import read_weights, sha256, write_tensors, write_whole
from common.config import OUTPUT_STRIDE, Config, Dtype
from common.names import layer_names
from common.protocol import Array, Arrays
from common.traces import FORMAT, read_batches
from common.transforms import image_size, pad_images
from scripts.cli import CanonicalOption, console, main, new_app

INPUT = "image"
"""The graph's one input, (batch, 3, height, width) float32; its outputs are the layers by name."""

app = new_app()


class _Layers(torch.nn.Module):
    """The network as ONNX sees it: the layers as a tuple, in order of execution."""

    def __init__(self, network: FCN) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        layers = []
        for name in layer_names(self.network.architecture):
            x = self.network.layer(name, x)
            layers.append(x)
        return tuple(layers)


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
    layers = layer_names(config.architecture)
    network = build_model(config.replace(dtype=Dtype.float32))
    import_weights(network, weights)
    example = torch.zeros(2, 3, 2 * OUTPUT_STRIDE, 3 * OUTPUT_STRIDE)

    def write(temporary: Path) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter by tracing is on its way out; its successor needs another package. It
            # tries to fold the slices of shapes too, and warns of those that it leaves as they are.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message="Constant folding", category=UserWarning)
            torch.onnx.export(
                _Layers(network).eval(),
                (example,),
                str(temporary),
                dynamo=False,
                input_names=[INPUT],
                output_names=list(layers),
                dynamic_axes={
                    name: {0: "batch", 2: f"{name}_height", 3: f"{name}_width"}
                    for name in (INPUT, *layers)
                },
            )
        model = onnx.load(temporary)
        onnx.helper.set_model_props(model, dict(metadata))
        onnx.save(model, temporary)
        onnx.checker.check_model(str(temporary), full_check=True)

    write_whole(path, write)


def onnx_trace(path: Path, images: Array) -> Arrays:
    """Each `eval/<layer>` float32 and `eval/mask` (N, H, W) uint8 of images (N, 3, H, W).

    The images are padded to multiples of 32, and logits and mask cropped back, as everywhere.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {INPUT: pad_images(images).astype(np.float32)})
    layers = dict(zip(names, outputs, strict=True))
    height, width = image_size(images)
    layers["logits"] = np.ascontiguousarray(layers["logits"][:, :, :height, :width])
    trace = {f"eval/{name}": array for name, array in layers.items()}
    trace["eval/mask"] = layers["logits"].argmax(axis=1).astype(np.uint8)
    return trace


@app.command()
def trace(
    weights: CanonicalOption,
    batches: Annotated[
        Path, typer.Option(help="Safetensors: image (steps, N, 3, H, W), label (steps, N, H, W).")
    ],
    out: Annotated[Path, typer.Option(help="The trace of the first batch, a safetensors file.")],
    onnx_file: Annotated[
        Path | None, typer.Option("--onnx", metavar="FILE", help="Keep the graph as this file.")
    ] = None,
) -> None:
    """Write the layers that ONNX Runtime computes, in eval mode and float32, as a trace."""
    start = read_weights(weights)
    config = Config(architecture=start.architecture, num_classes=start.num_classes)
    images = read_batches(batches, start.num_classes, steps=1).image[0]
    with tempfile.TemporaryDirectory() as folder:
        graph = onnx_file or Path(folder) / "network.onnx"
        export_onnx(graph, start.arrays, config, {})
        arrays = onnx_trace(graph, images)
    packages = {"onnxruntime": onnxruntime, "onnx": onnx, "torch": torch, "numpy": np}
    metadata = FORMAT | {
        "backend": "onnxruntime",
        "versions": json.dumps({name: module.__version__ for name, module in packages.items()}),
        "device": "cpu",
        "dtype": Dtype.float32,
        "architecture": config.architecture,
        "num_classes": str(config.num_classes),
        "weights_sha256": sha256(weights),
        "batches_sha256": sha256(batches),
        "groups": "eval",
    }
    write_tensors(out, arrays, metadata)
    console.print(f"{out}: {len(arrays)} arrays, onnxruntime, {Dtype.float32}")


if __name__ == "__main__":
    main(app)
