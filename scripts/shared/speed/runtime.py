"""The form `onnxruntime`: ONNX Runtime on a CPU, which serves PyTorch's exported network."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def predictor(graph: Path) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """Images (N, 3, H, W) float32, normalised, sides multiples of 32 -> class maps (N, H, W).

    `graph` is a file of `scripts.shared.onnx.export_classes`.
    """
    import onnxruntime  # here: other forms do without

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    session = onnxruntime.InferenceSession(str(graph), options, ["CPUExecutionProvider"])
    [taken], [given] = session.get_inputs(), session.get_outputs()

    def predict(images: NDArray[Any]) -> NDArray[np.uint8]:
        [classes] = session.run([given.name], {taken.name: images})
        found: NDArray[np.uint8] = classes
        return found

    return predict
