"""MXNet: the processes that share a run, joined by a KVStore, its servers and its scheduler."""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import nd
from numpy.typing import NDArray

from common.errors import WorkerError
from common.machine import end_if_stuck


class Group:
    """The processes that share a run: see `common.protocol.ProcessGroup`.

    `store` is where the servers add up what all processes push; `seconds` the longest wait for it.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        store: mx.kv.KVStore | None = None,
        seconds: float = threading.TIMEOUT_MAX,
    ) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._store, self._seconds = store, seconds
        self._keys: set[str] = set()

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        if self._store is None:
            return values
        total = nd.array(values.reshape(-1), dtype="float64")
        self.reduce_small([total])
        found: NDArray[Any] = total.asnumpy().reshape(values.shape).astype(values.dtype)
        return found

    def reduce(self, arrays: Mapping[str, nd.NDArray]) -> None:
        """Sums each over the processes, in place, when it and its turn have come."""
        if self._store is None:
            return
        for k, (name, array) in enumerate(arrays.items()):
            # differs: in most runs the servers add in float32, float64 too, and say nothing.
            exact = array.dtype == np.float64
            sent = self._in_slots(array) if exact else array
            self._know(name, sent)
            self._store.push(name, sent, priority=-k)
            self._store.pull(name, sent, priority=-k)
            if exact:
                array[:] = _sum_of_slots(sent).reshape(array.shape)

    def reduce_small(self, arrays: Sequence[nd.NDArray]) -> None:
        """Sums each over the processes, in place and at once; one message for all."""
        if self._store is None:
            return
        flat = nd.concat(*(array.reshape(-1) for array in arrays), dim=0)
        flat.wait_to_read()  # what is waited for from here on is the others'
        # differs: MXNet waits for ever for a process that is gone
        with end_if_stuck(self._seconds, "mxnet"):
            self.reduce({f"{flat.size} {np.dtype(flat.dtype)}": flat})
            flat.wait_to_read()
        start = 0
        for array in arrays:
            array[:] = flat[start : start + array.size].reshape(array.shape)
            start += array.size

    def leave(self) -> None:
        if self._store is not None:
            with end_if_stuck(self._seconds, "mxnet"):
                self._store._barrier()
            self._store = None  # which ends the servers

    def _in_slots(self, array: nd.NDArray) -> nd.NDArray:
        """float64 as three float32 that add up to it, in this process's slot; zeros in others'.

        So the servers have nothing to round: each sum has one term that is not 0.
        """
        slots, rest = nd.zeros((self.size, 3, array.size)), array.reshape(-1)
        for k in range(3):
            slots[self.rank, k] = rest.astype("float32")
            rest = rest - slots[self.rank, k].astype("float64")
        return slots

    def _know(self, name: str, array: nd.NDArray) -> None:
        """Has the servers make room for an array, when every process has come to this."""
        assert self._store is not None
        if name not in self._keys:
            self._keys.add(name)
            with end_if_stuck(self._seconds, "mxnet"):
                self._store.init(name, nd.zeros_like(array))
                self._store._barrier()  # who pushed before would be overwritten


def _sum_of_slots(slots: nd.NDArray) -> nd.NDArray:
    """The sum over the processes of what `_in_slots` has made, float64, in the order of ranks."""
    total = 0
    for terms in slots.astype("float64"):
        total = total + (terms[0] + terms[1] + terms[2])
    return total


def join(seconds: float) -> Group:
    """Joins the processes that MXNet's launcher, or who sets the same DMLC_ variables, has started.

    After so many seconds of waiting for another process this one ends.

    Raises:
        WorkerError: they cannot come together.
    """
    try:
        with end_if_stuck(seconds, "mxnet"):
            store = mx.kv.create("dist_sync")
    except mx.MXNetError as error:
        raise WorkerError(f"mxnet: the processes have not met: {error}") from error
    # The scheduler numbers the processes in any order; a launcher may have done so before.
    rank = int(os.environ.get("DMLC_TASK_ID", store.rank))
    local = int(os.environ.get("DMLC_LOCAL_RANK", "0"))
    return Group(rank, store.num_workers, local, store, seconds)
