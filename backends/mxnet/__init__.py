"""The network in MXNet Gluon."""

from backends.mxnet.device import (
    images_to_device,
    select_device,
    threads,
    to_device,
    to_numpy,
    versions,
)
from backends.mxnet.loss import cross_entropy
from backends.mxnet.model import (
    FCN,
    BasicBlock,
    PreActBlock,
    ResNet18,
    ResNet18V2,
    TransposeConv,
    assemble,
    build_model,
)
from backends.mxnet.optimizer import build_optimizer, export_momentum, import_momentum
from backends.mxnet.train import Trainer
from backends.mxnet.weights import (
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
