"""Curves for TensorBoard, by tensorboardX."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

# tensorboardX imports PyTorch where it is installed, to know its tensors. It gets floats here, and
# a framework that was not asked for is not imported: None makes the import fail, which it expects.
_hidden = "torch" not in sys.modules
if _hidden:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
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
        self._writer = EventsWriter(str(folder / "events"), f".{first}")
        # what an earlier file has from this step on did not last
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(session_log=start, step=first, wall_time=time.time()))

    def add(self, group: str, values: Mapping[str, float], step: int) -> None:
        """A point of each curve `group/key`."""
        for key, value in values.items():
            summary = scalar(f"{group}/{key}", value)
            self._writer.write_event(Event(summary=summary, step=step, wall_time=time.time()))

    def flush(self) -> None:
        """Brings all points to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Brings all points to the disk and closes the file."""
        self._writer.close()
