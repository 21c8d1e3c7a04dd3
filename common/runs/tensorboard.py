"""Curves for TensorBoard, by tensorboardX."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# tensorboardX imports PyTorch where it is installed, to know its tensors. It gets floats here, and
# a framework that was not asked for is not imported: None makes the import fail, which it expects.
_hidden = "torch" not in sys.modules
if _hidden:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import RecordWriter
    from tensorboardX.summary import scalar
finally:
    if _hidden:
        del sys.modules["torch"]


class Board:
    """An event file of a run that starts at, or goes on from, step `first`.

    Written in this thread: tensorboardX's own SummaryWriter has one that ends at a full disk with
    a traceback, and leaves its owner waiting.

    Raises:
        OSError: the file cannot be made; so the methods, where it cannot be written.
    """

    def __init__(self, folder: Path, first: int) -> None:
        folder.mkdir(exist_ok=True)
        # TensorBoard reads the files in the order of their names
        self._file = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}.{first}"))
        self._write(file_version="brain.Event:2")
        # what an earlier file has from this step on did not last
        self._write(session_log=SessionLog(status=SessionLog.START), step=first)

    def add(self, group: str, values: Mapping[str, float], step: int) -> None:
        """A point of each curve `group/key`."""
        for key, value in values.items():
            self._write(summary=scalar(f"{group}/{key}", value), step=step)

    def flush(self) -> None:
        """Brings all points to the disk."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, **event: Any) -> None:
        self._file.write(Event(wall_time=time.time(), **event).SerializeToString())
