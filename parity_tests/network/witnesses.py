"""Programs of others that tests hold ours against: torchvision and GluonCV.

Both need help to be imported beside what is pinned here. Each function returns the module.
"""

import importlib
import importlib.util
import sys
import types
from typing import Any

from backends import load_backend


def _forget(package: str) -> None:
    for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
        del sys.modules[name]


def import_torchvision() -> Any:
    """`torchvision`, also beside a PyTorch that its operators were not built for."""
    from backends.torch.weights import _import_torchvision

    return _import_torchvision()


def import_gluoncv_resnet() -> Any:
    """`gluoncv.model_zoo.resnetv1b`, whose `resnet18_v1b` is shaped like torchvision's resnet18."""
    return import_gluoncv("resnetv1b")


def import_gluoncv(module: str) -> Any:
    """A module of `gluoncv.model_zoo`.

    GluonCV's `__init__` refuses PyTorch 2, and that of its model zoo imports every model. The
    module itself needs MXNet alone, so empty packages stand in for the two while it is imported.
    """
    load_backend("mxnet")  # MXNet 1.9.1 needs our help as well
    spec = importlib.util.find_spec("gluoncv")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("gluoncv is not installed", name="gluoncv")
    before = {n: module for n, module in sys.modules.items() if n.split(".")[0] == "gluoncv"}
    folders = list(spec.submodule_search_locations)
    _forget("gluoncv")
    try:
        for name in ("gluoncv", "gluoncv.model_zoo"):
            package = types.ModuleType(name)
            package.__path__ = folders
            sys.modules[name] = package
            folders = [f"{folder}/model_zoo" for folder in folders]
        return importlib.import_module(f"gluoncv.model_zoo.{module}")
    finally:
        _forget("gluoncv")
        sys.modules.update(before)
