"""The network in JAX and Flax."""

from backends.jax.device import (
    images_to_device,
    select_device,
    threads,
    to_device,
    to_numpy,
    versions,
)
from backends.jax.loss import cross_entropy
from backends.jax.model import (
    FCN,
    BasicBlock,
    PreActBlock,
    ResNet18,
    ResNet18V2,
    TransposeConv,
    assemble,
    build_model,
)
from backends.jax.optimizer import build_optimizer, export_momentum, import_momentum
from backends.jax.train import Trainer
from backends.jax.weights import (
    export_weights,
    imagenet_weights,
    import_weights,
    named_tensors,
    read_arrays,
    trained_tensors,
    write_arrays,
)

__all__ = [
    "FCN",
    "BasicBlock",
    "PreActBlock",
    "ResNet18",
    "ResNet18V2",
    "Trainer",
    "TransposeConv",
    "assemble",
    "build_model",
    "build_optimizer",
    "cross_entropy",
    "export_momentum",
    "export_weights",
    "imagenet_weights",
    "images_to_device",
    "import_momentum",
    "import_weights",
    "named_tensors",
    "read_arrays",
    "select_device",
    "threads",
    "to_device",
    "to_numpy",
    "trained_tensors",
    "versions",
    "write_arrays",
]
