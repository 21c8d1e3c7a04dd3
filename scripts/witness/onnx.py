"""The network in ONNX, computed by ONNX Runtime on the CPU, float32, eval mode.

    python -m scripts.witness.onnx --weights W --batches B --out T.safetensors [--onnx FILE]

The graph is PyTorch's export; what computes it is a fourth program with kernels of its own. One
file serves any batch size and any height and width that are multiples of 32.
"""

import importlib.metadata
import json
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from common.config import Dtype
from common.files import sha256
from common.network.grid import image_size, pad_images
from common.parity.traces import FORMAT, read_batches
from common.protocol import Array, Arrays
from common.weights.checkpoint import read_weights, write_tensors
from scripts.shared.cli import CanonicalOption, ForceOption, console, main, new_app
from scripts.shared.evaluation import config_of
from scripts.shared.outputs import ONNX, check_places
from scripts.shared.weights_files import SAFETENSORS

app = new_app()


def onnx_trace(path: Path, images: Array) -> Arrays:
    """Each `eval/<layer>` float32 and `eval/mask` (N, H, W) uint8 of images (N, 3, H, W).

    The images are padded to multiples of 32, and logits and mask cropped back, as everywhere.
    """
    import onnxruntime  # here: the help does without

    from scripts.shared.onnx import INPUT

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
    force: ForceOption = False,
) -> None:
    """Write the layers that ONNX Runtime computes, in eval mode and float32, as a trace."""
    from scripts.shared.onnx import export_onnx

    places = (out, SAFETENSORS), (onnx_file, ONNX)
    check_places(*places, reads=[weights, batches], force=force)
    start = read_weights(weights)
    config = config_of(start)
    images = read_batches(batches, start.num_classes, steps=1).image[0]
    with tempfile.TemporaryDirectory() as folder:
        graph = onnx_file or Path(folder) / "network.onnx"
        export_onnx(graph, start.arrays, config, {})
        arrays = onnx_trace(graph, images)
    packages = ("onnxruntime", "onnx", "torch", "numpy")
    metadata = FORMAT | {
        "backend": "onnxruntime",
        "versions": json.dumps({name: importlib.metadata.version(name) for name in packages}),
        "device": "cpu",
        "dtype": Dtype.float32,
        "architecture": config.architecture,
        "head": config.head,
        "num_classes": str(config.num_classes),
        "weights_sha256": sha256(weights),
        "batches_sha256": sha256(batches),
        "groups": "eval",
    }
    write_tensors(out, arrays, metadata)
    console.print(f"{out}: {len(arrays)} arrays, onnxruntime, {Dtype.float32}", soft_wrap=True)


if __name__ == "__main__":
    main(app)
