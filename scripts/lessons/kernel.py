"""The notebook, executed in each backend by a kernel of this Python."""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from backends import BACKENDS
from scripts.shared.workers import QUIET, ROOT

NOTEBOOK = ROOT / "docs/fcn.ipynb"


def set_variable(notebook: nbformat.NotebookNode, name: str, value: str | int) -> None:
    """Gives a variable another value, in the one line that sets it."""
    line = re.compile(rf"^{name} = .*$", re.M)
    (cell,) = (c for c in notebook.cells if c.cell_type == "code" and line.search(c.source))
    cell.source = line.sub(f"{name} = {json.dumps(value)}", cell.source)


def _run(notebook: nbformat.NotebookNode, folder: str) -> None:
    """Runs every cell, in the folder of the notebook; `folder` is for the kernel's own files."""
    kernel = AsyncKernelManager(
        # without the kernels that are installed, `python3` is that of this Python
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        connection_file=f"{folder}/kernel.json",
        transport="ipc",
    )
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=None,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    )
    client.execute(env=os.environ | QUIET | {"IPYTHONDIR": folder}, cleanup_kc=True)


def execute(backend: str, **variables: str | int) -> nbformat.NotebookNode:
    """The notebook with its outputs, and nothing that tells when or where it was run.

    `variables` get other values than it gives them: `STEPS=2`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell has failed.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    metadata = notebook.metadata.copy()
    for name, value in {"BACKEND": backend, **variables}.items():
        set_variable(notebook, name, value)
    with tempfile.TemporaryDirectory() as folder:
        _run(notebook, folder)
    notebook.metadata = metadata  # the kernel has told its version
    return notebook


def result_path(folder: Path, backend: str) -> Path:
    """Where the notebook is kept as it was executed in a backend."""
    return folder / f"notebook_{backend}.ipynb"


def renew(folder: Path) -> None:
    """Executes the notebook in each backend; that of PyTorch is what readers find in docs."""
    for backend in BACKENDS:
        result_path(folder, backend).write_text(nbformat.writes(execute(backend)) + "\n")
    shutil.copyfile(result_path(folder, BACKENDS[0]), NOTEBOOK)
