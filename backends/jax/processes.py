"""JAX: the processes that share a run, joined by jax.distributed."""

import contextlib
import inspect
import ipaddress
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from common.errors import WorkerError

SHARED = "processes"
"""The axis of the mesh along which a batch is shared."""

GRACE = 5
"""Seconds by which JAX, which aborts, waits longer than we do."""


class Group:
    """The processes that share a run: see `common.protocol.ProcessGroup`.

    `seconds` is the longest wait for the others' numbers.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        seconds: float = threading.TIMEOUT_MAX,
    ) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._seconds = seconds
        self.mesh: Mesh | None = None

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        if self.size == 1:
            return values
        with _waiting(self._seconds):
            total: NDArray[Any] = multihost_utils.process_allgather(values).sum(axis=0)
        return total

    def spread(self, platform: str) -> None:
        """Makes the mesh of each process's device of a platform, which is its only one."""
        if self.size > 1:
            self.mesh = Mesh(np.array(jax.devices(platform)), (SHARED,))

    def shard(self, array: jax.Array) -> jax.Array:
        """Each process's array, on its device, as its share of one, along the first axis."""
        if self.mesh is None:
            return array
        shape = (self.size * array.shape[0], *array.shape[1:])
        sharding = NamedSharding(self.mesh, PartitionSpec(SHARED))
        return jax.make_array_from_single_device_arrays(shape, sharding, [array])

    def replicate(self, arrays: Any) -> Any:
        """Arrays that every process has, on its device, as ones of all."""
        if self.mesh is None:
            return arrays
        sharding = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(
            lambda a: jax.make_array_from_single_device_arrays(a.shape, sharding, [a]), arrays
        )

    def leave(self) -> None:
        if self.size > 1:
            jax.distributed.shutdown()  # waits until all have come to it


@contextlib.contextmanager
def _waiting(seconds: float) -> Iterator[None]:
    # differs: JAX aborts in the end, and says why in five lines. Nothing else wakes it.
    timer = threading.Timer(seconds, _give_up, [seconds])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(seconds: float) -> None:
    os.write(2, f"error: jax has waited {seconds:g} s for another process\n".encode())
    os._exit(2)


def join(seconds: float) -> Group:
    """Joins the processes that srun, mpirun or the like has started.

    Or whoever sets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. After so many
    seconds of waiting for all of them it fails, and later for one that is gone.

    Raises:
        WorkerError: they have not come together.
    """
    told: dict[str, Any] = {"initialization_timeout": round(seconds) + GRACE}
    if "heartbeat_timeout_seconds" in inspect.signature(jax.distributed.initialize).parameters:
        told["heartbeat_timeout_seconds"] = round(seconds) + GRACE  # JAX 0.6: 100, as it is
    if "JAX_PROCESS_ID" in os.environ:
        address = os.environ["JAX_COORDINATOR_ADDRESS"]
        told |= {
            "local_device_ids": int(os.environ.get("JAX_LOCAL_PROCESS_ID", "0")),
            "coordinator_address": address,
            "num_processes": int(os.environ["JAX_NUM_PROCESSES"]),
            "process_id": int(os.environ["JAX_PROCESS_ID"]),
            "cluster_detection_method": "deactivate",
        }
        host, _, port = address.rpartition(":")
        if ipaddress.ip_address(socket.gethostbyname(host)).is_loopback:
            # else it would listen to every network
            told["coordinator_bind_address"] = f"127.0.0.1:{port}"
    try:
        with _waiting(seconds):
            jax.distributed.initialize(**told)
    except RuntimeError as error:
        raise WorkerError(f"jax.distributed: the processes have not met: {error}") from error
    local = int(os.environ.get("JAX_LOCAL_PROCESS_ID", "0"))
    return Group(jax.process_index(), jax.process_count(), local, seconds)
