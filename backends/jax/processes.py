"""JAX: the processes that share a run, joined by jax.distributed."""

import functools
import inspect
import ipaddress
import os
import socket
import threading
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from common.errors import WorkerError
from common.machine import end_if_stuck

SHARED = "processes"
"""The axis of the mesh along which a batch is shared."""

GRACE = 5
"""Seconds by which JAX, which aborts, waits longer than we do."""


@functools.partial(jax.jit, static_argnames="mesh", donate_argnames="rows")
def _sum(rows: Any, mesh: Mesh) -> Any:
    # differs: `psum` adds, `pmean` would divide by the processes.
    return jax.shard_map(
        lambda rows: lax.psum(jax.tree.map(lambda row: row[0], rows), SHARED),
        mesh=mesh,
        in_specs=PartitionSpec(SHARED),
        out_specs=PartitionSpec(),
        check_vma=False,
    )(rows)


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
        # differs: JAX aborts in the end, and says why in five lines
        with end_if_stuck(self._seconds, "jax"):
            total: NDArray[Any] = multihost_utils.process_allgather(values).sum(axis=0)
        return total

    def spread(self, platform: str) -> None:
        """Makes the mesh of each process's device of a platform, which is its only one."""
        if self.size > 1:
            self.mesh = Mesh(np.array(jax.devices(platform)), (SHARED,))

    def reduce(self, arrays: Any) -> Any:
        """Each summed over the processes; one program for all."""
        if self.mesh is None:
            return arrays
        rows = NamedSharding(self.mesh, PartitionSpec(SHARED))

        def share(array: jax.Array) -> jax.Array:
            shape = self.size, *array.shape
            return jax.make_array_from_single_device_arrays(shape, rows, [array[None]])

        total = _sum(jax.tree.map(share, arrays), self.mesh)
        return jax.tree.map(lambda array: array.addressable_data(0), total)

    def leave(self) -> None:
        if self.size > 1:
            jax.distributed.shutdown()  # waits until all have come to it


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
        with end_if_stuck(seconds, "jax"):
            jax.distributed.initialize(**told)
    except RuntimeError as error:
        raise WorkerError(f"jax.distributed: the processes have not met: {error}") from error
    local = int(os.environ.get("JAX_LOCAL_PROCESS_ID", "0"))
    return Group(jax.process_index(), jax.process_count(), local, seconds)
