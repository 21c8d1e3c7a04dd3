"""Writes every named value of a run in one backend, for comparison: see the README, Traces."""

from pathlib import Path
from typing import Annotated

import typer

from backends import load_backend
from common.config import Config, Dtype, Schedule
from common.files import sha256
from common.network.schedule import learning_rates
from common.parity.traces import make_trace, read_batches, trace_metadata, weights_size
from common.weights.checkpoint import read_weights, write_tensors
from scripts.shared.cli import (
    AccumulateOption,
    BackendOption,
    CanonicalOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    FreezeOption,
    HeadRateOption,
    ScheduleOption,
    main,
    new_app,
    progress,
    say,
    setting,
)
from scripts.shared.evaluation import config_of
from scripts.shared.outputs import check_places, check_room, size_in_words
from scripts.shared.weights_files import SAFETENSORS

app = new_app()


@app.command()
def trace(
    backend: BackendOption,
    weights: CanonicalOption,
    batches: Annotated[
        Path, typer.Option(help="Safetensors: image (steps, N, 3, H, W), label (steps, N, H, W).")
    ],
    out: Annotated[Path, typer.Option(help="The trace, a safetensors file.")],
    dtype: DtypeOption = Dtype.float64,
    steps: Annotated[int, typer.Option(min=1, help="Use the first so many batches.")] = 5,
    lr: Annotated[float, setting("learning_rate", "--lr")] = Config.learning_rate,
    momentum: Annotated[float, setting("momentum")] = Config.momentum,
    weight_decay: Annotated[float, setting("weight_decay")] = Config.weight_decay,
    head_rate: HeadRateOption = Config.head_rate,
    freeze: FreezeOption = Config.freeze,
    accumulate: AccumulateOption = Config.accumulate,
    schedule: ScheduleOption = Schedule.constant,
    after: Annotated[
        bool, typer.Option("--after", help="Evaluate the first batch after the last step too.")
    ] = False,
    device: DeviceOption = Config.device,
    force: ForceOption = False,
) -> None:
    """Write every named value of a training run in one backend to a safetensors file."""
    check_places((out, SAFETENSORS), reads=[weights, batches], force=force)
    start = read_weights(weights)
    config = config_of(
        start,
        dtype=dtype,
        device=device,
        learning_rate=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        head_rate=head_rate,
        freeze=freeze,
        accumulate=accumulate,
        schedule=schedule,
    )
    size = weights_size(config)
    check_room(out, size)
    data = read_batches(batches, start.num_classes, steps, accumulate)
    told = size_in_words(size)
    say(f"{out}: will hold {told} of weights, gradients, updates and momentum, and the layers")
    framework = load_backend(backend)
    probe = framework.Probe(framework.Trainer(config, start.arrays))
    with progress(f"trace {backend}") as bar:
        task = bar.add_task("", total=steps, status="")
        arrays = make_trace(
            probe,
            data,
            config,
            [learning_rates(config, step, steps) for step in range(steps)],
            lambda step, loss: bar.update(task, completed=step + 1, status=f"loss {loss:.6f}"),
            after=after,
        )
    metadata = trace_metadata(backend, framework, config, steps)
    metadata |= {"weights_sha256": sha256(weights), "batches_sha256": sha256(batches)}
    write_tensors(out, arrays, metadata)
    say(f"{out}: {len(arrays)} arrays, {backend}, {dtype}, {steps} steps")


if __name__ == "__main__":
    main(app)
