"""What `parity --hard` runs in a process of its own: every setting in one backend."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backends import load_backend
from common.config import Device, Dtype
from common.files import sha256
from common.parity.order import group_of
from common.parity.settings import SETTINGS
from common.parity.traces import make_trace, read_batches, trace_metadata
from common.weights.checkpoint import read_weights, write_tensors
from scripts.shared.workers import Say, serve


@dataclasses.dataclass(frozen=True)
class Job:
    """Writes each setting's trace, of the files that `write_settings` has left in `folder`.

    It is `<folder>/<setting>/<backend>.safetensors`.

    A `reference` computes in float64 whatever a setting says.
    """

    backend: str
    folder: str
    settings: Sequence[str]
    reference: bool = False


def run(job: Job, say: Say) -> None:
    """Says the name of each setting that is done."""
    backend = load_backend(job.backend)
    for name in job.settings:
        setting = SETTINGS[name]
        folder = Path(job.folder) / name
        weights, batches = folder / "W.safetensors", folder / "B.safetensors"
        config = setting.config.replace(device=Device.cpu)
        dtypes = {job.backend: config.dtype}
        if job.reference and config.dtype != Dtype.float64:
            dtypes["reference"] = Dtype.float64
        for label, dtype in dtypes.items():
            config = config.replace(dtype=dtype)
            trainer = backend.Trainer(config, read_weights(weights).arrays)
            data = read_batches(batches, config.num_classes, setting.steps)
            arrays = make_trace(backend.Probe(trainer), data, config, setting.rates, after=True)
            metadata = trace_metadata(job.backend, backend, config, setting.steps)
            metadata |= {"weights_sha256": sha256(weights), "batches_sha256": sha256(batches)}
            if setting.groups:
                metadata["groups"] = ",".join(setting.groups)
                arrays = {k: a for k, a in arrays.items() if setting.holds(group_of(k))}
            write_tensors(folder / f"{label}.safetensors", arrays, metadata)
        say(name)


def work(job: dict[str, Any], say: Say) -> None:
    """Does the job."""
    run(Job(**job), say)


if __name__ == "__main__":
    serve(work)
