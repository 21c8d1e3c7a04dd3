"""PyTorch: the processes that share a run, joined by torch.distributed."""

import datetime
import ipaddress
import os
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from common.errors import WorkerError


class Group:
    """The processes that share a run: see `common.protocol.ProcessGroup`."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        if self.size == 1:
            return values
        total = torch.from_numpy(np.array(values))
        distributed.all_reduce(total)
        return total.numpy()

    def reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sums each over the processes, in place; one message for all."""
        if self.size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            distributed.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def leave(self) -> None:
        if self.size > 1:
            distributed.barrier()  # who left before the others would seem lost to them
            distributed.destroy_process_group()


def join(seconds: float) -> Group:
    """Joins the processes that torchrun, or what sets the same variables, has started.

    They find one another at MASTER_ADDR and MASTER_PORT. After so many seconds of waiting for
    another process an operation fails.

    Raises:
        WorkerError: they have not come together.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    timeout = datetime.timedelta(seconds=seconds)
    kind = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(
            kind, store=_store(rank, size, timeout), rank=rank, world_size=size, timeout=timeout
        )
    except RuntimeError as error:
        raise WorkerError(f"torch.distributed: the processes have not met: {error}") from error
    return Group(rank, size, int(os.environ.get("LOCAL_RANK", "0")))


def _store(rank: int, size: int, timeout: datetime.timedelta) -> TCPStore:
    """Where the processes leave one another their addresses: rank 0's, or torchrun's.

    PyTorch's own would listen to every network even where all processes are on one machine.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    theirs = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    here = rank == 0 and not theirs
    listener = None
    if here and ipaddress.ip_address(socket.gethostbyname(host)).is_loopback:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise WorkerError(f"{host}:{port}: {error.strerror}") from error
    return TCPStore(
        host,
        port,
        size,
        here,
        timeout,
        wait_for_workers=False,
        master_listen_fd=None if listener is None else listener.detach(),
        use_libuv=True,
    )
