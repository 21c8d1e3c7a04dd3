"""JAX: the processes that share a run, joined by jax.distributed."""

import functools
import ipaddress
import os
import socket
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from common.errors import WorkerError

SHARED = "processes"
"""The axis of the mesh along which a batch is shared."""


@functools.partial(jax.jit, static_argnames="mesh")
def _sum(rows: jax.Array, mesh: Mesh) -> jax.Array:
    return lax.with_sharding_constraint(rows.sum(axis=0), NamedSharding(mesh, PartitionSpec()))


class Group:
    """The processes that share a run: see `common.protocol.ProcessGroup`."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.mesh: Mesh | None = None
        self.spread(jax.default_backend())

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        if self.mesh is None:
            return values
        row = jax.device_put(values[None], self.mesh.local_devices[0])
        return np.array(_sum(self.shard(row), self.mesh))

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


def join(seconds: float) -> Group:
    """Joins the processes that srun, mpirun or the like has started.

    Or whoever sets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. After so many
    seconds of waiting for all of them it fails, and later for one that is gone.

    Raises:
        WorkerError: they have not come together.
    """
    told: dict[str, Any] = {}
    if "JAX_PROCESS_ID" in os.environ:
        address = os.environ["JAX_COORDINATOR_ADDRESS"]
        told = {
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
        jax.distributed.initialize(**told, initialization_timeout=max(1, round(seconds)))
    except RuntimeError as error:
        raise WorkerError(f"jax.distributed: the processes have not met: {error}") from error
    local = int(os.environ.get("JAX_LOCAL_PROCESS_ID", "0"))
    return Group(jax.process_index(), jax.process_count(), local)
