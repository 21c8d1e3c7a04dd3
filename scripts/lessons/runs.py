"""The short runs that the figures are drawn from."""

import base64
import io
import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backends import BACKENDS, load_backend
from common.config import Architecture, Config, Dtype
from common.data.batches import training_batches
from common.data.dataset import Dataset, open_dataset
from common.data.shapes import SHAPES_CLASSES, write_shapes
from common.network.initial import generic_weights, initial_weights
from common.network.schedule import learning_rates
from common.network.tensors import layer_names
from common.parity.compare import relative_l2
from common.parity.traces import generic_batches
from common.protocol import Arrays

STEPS, CROP, WIDTH = 125, (96, 128), 32
TRAIN, VAL = 200, 4
SIZE = (64, 96)
"""Of the image whose layers are compared, in the network of full width."""
SHOWN = 1
"""The validation image in the figures: it holds several shapes."""

CONFIG = Config(num_classes=len(SHAPES_CLASSES), width=WIDTH, steps=STEPS, crop=CROP, workers=0)


def measure_runs() -> dict[str, Any]:
    """Losses of each backend; errors by depth; the stages of an image, and its label."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "shapes"
        write_shapes(root, TRAIN, VAL, seed=0)
        train, val = open_dataset(root, "train"), open_dataset(root, "val")
        losses, weights = {}, {}
        for backend in BACKENDS:
            losses[backend], weights[backend] = _train(backend, train)
        image, label = val.read(SHOWN)
    return {
        "losses": losses,
        "depth": _depth(),
        "stages": _stages(weights["torch"], image),
        "label": _png(label),
    }


def _train(backend: str, train: Dataset) -> tuple[list[float], Arrays]:
    """The losses of a run from the initial weights, and the weights at its end."""
    start = initial_weights(CONFIG.architecture, CONFIG.num_classes, seed=0, width=WIDTH)
    trainer = load_backend(backend).Trainer(CONFIG, start)
    losses = []
    for step, batch in enumerate(training_batches(train, CONFIG)):
        rates = learning_rates(CONFIG, step, STEPS)
        losses.append(trainer.step(batch.image, batch.label, *rates))
    return losses, trainer.weights()


def _activations(backend: str, weights: Arrays, images: NDArray[Any], config: Config) -> Arrays:
    framework = load_backend(backend)
    return framework.Probe(framework.Trainer(config, weights)).activations(images)


def _depth() -> dict[str, Any]:
    """How far each layer of each backend is from PyTorch's float64, in both types."""
    config = Config(num_classes=len(SHAPES_CLASSES))
    weights = generic_weights(Architecture.resnet18, config.num_classes, seed=3)
    image = generic_batches(1, 1, *SIZE, config.num_classes, seed=4).image[0].astype(np.float32)
    found = {
        (dtype, backend): _activations(backend, weights, image, config.replace(dtype=dtype))
        for dtype, backend in itertools.product((Dtype.float64, Dtype.float32), BACKENDS)
    }
    truth = found.pop((Dtype.float64, "torch"))
    layers = list(layer_names(config.architecture))
    errors: dict[str, dict[str, list[float]]] = {"float64": {}, "float32": {}}
    for (dtype, backend), arrays in found.items():
        errors[dtype][backend] = [float(relative_l2(arrays[n], truth[n])) for n in layers]
    return {"layers": layers, **errors}


def _png(array: NDArray[np.uint8]) -> str:
    """A picture, (H, W, 3) or (H, W), as text."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _grey(plane: NDArray[Any]) -> str:
    """A plane as a picture, from black at its least to white at its greatest."""
    scaled = (plane - plane.min()) / max(float(np.ptp(plane)), 1e-30)
    return _png(np.rint(255 * scaled).astype(np.uint8))


def _stages(weights: Arrays, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """The image, then of each stage the mean over its channels, and the answer."""
    values = _activations("torch", weights, image[None], CONFIG)
    names = ("stem", "layer1.1", "layer2.1", "layer3.1", "layer4.1")
    shown = [
        {"name": name, "shape": list(values[name].shape[1:]), "picture": _grey(plane)}
        for name, plane in ((name, values[name][0].mean(axis=0)) for name in names)
    ]
    answer = values["logits"][0].argmax(axis=0).astype(np.uint8)
    first = {"name": "image", "shape": [3, *image.shape[:2]], "picture": _png(image)}
    last = {"name": "answer", "shape": [*answer.shape], "picture": _png(answer)}
    return [first, *shown, last]
