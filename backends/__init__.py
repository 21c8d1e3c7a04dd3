"""The three backends by name. A framework is imported when its backend is loaded, never before."""

import importlib
import importlib.util
from typing import cast

from common.errors import InputError
from common.machine import thread_limit
from common.protocol import Backend

BACKENDS = ("torch", "mxnet", "jax")

_PACKAGES = {"torch": ("torch",), "mxnet": ("mxnet",), "jax": ("jax", "flax", "optax")}


def missing_packages(name: str) -> list[str]:
    """The packages that backend `name` needs and that are not installed; imports nothing."""
    return [package for package in _PACKAGES[name] if importlib.util.find_spec(package) is None]


def load_backend(name: str) -> Backend:
    """The module `backends.<name>`, prepared; imports its framework and no other.

    Raises:
        InputError: there is no such backend, or its framework is not installed or cannot be
            imported here, or OMP_NUM_THREADS is no number.
    """
    if name not in BACKENDS:
        raise InputError(f"--backend {name}: no such backend, have {', '.join(BACKENDS)}")
    missing = missing_packages(name)
    if missing:
        raise InputError(
            f"--backend {name}: {', '.join(missing)} not installed;"
            f" install with: pip install '.[{name}]'"
        )
    thread_limit()
    try:
        module = importlib.import_module(f"backends.{name}")
    except (ImportError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"--backend {name}: installed, but cannot be imported: {reason}"
        ) from error
    backend = cast(Backend, module)
    backend.prepare()
    return backend
