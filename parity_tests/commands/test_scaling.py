"""`bench --processes`: its arithmetic, its model, and that processes take turns together."""

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import distributed

from backends import load_backend
from backends.torch.model import build_model
from common.config import Config
from common.errors import InputError
from common.network.tensors import gradient_shapes
from scripts.bench.forecast import (
    BUCKET,
    FIRST_BUCKET,
    Message,
    Wire,
    backward_share,
    in_buckets,
    one_by_one,
    ring,
    servers,
    step_seconds,
)
from scripts.bench.scaling import Scaling, forecast, make_jobs, make_rows
from scripts.shared.speed.turns import Measured, check_processes, together
from scripts.shared.speed.worker import Job, build, make_batch
from scripts.shared.workers import keep_to_cores

Command = Callable[..., tuple[int, str, str]]
AT = Job("torch", "ours", "train", batch_size=4, height=64, width=96)
CONFIG = Config()
BYTES = 51_974_568


def rows_of(scaling: Scaling, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Rows of two processes; the candidates' seconds by form, `ours` by all threads together."""
    measured = []
    for job in make_jobs(AT, scaling, [1, 2]):
        form = f"{job.processes} x {job.threads}" if job.form == "ours" else job.form
        took = [{"seconds": s, "cpu_seconds": s, "peak_mb": 100.0} for s in seconds[form]]
        measured.append(Measured(job, turns=took))
    return make_rows(measured, scaling)


def test_what_is_timed() -> None:
    def told(jobs: list[Job]) -> list[tuple[Any, ...]]:
        return [(job.form, job.processes, job.threads, job.batch_size) for job in jobs]

    assert told(make_jobs(AT, "weak", [1, 2])) == [
        ("ours", 1, 1, 4),
        *((form, 2, 1, 8) for form in ("ours", "apart", "sum")),
        ("ours", 1, 2, 8),
    ]
    strong = told(make_jobs(AT, "strong", [2, 4]))
    assert {batch for *_, batch in strong} == {4}
    assert [processes for _, processes, _, _ in strong] == [1, 2, 2, 2, 1, 4, 4, 4, 1]


def test_shares_are_medians_of_each_rounds_ratio() -> None:
    # the ratios of the medians would be others
    seconds = {
        "1 x 1": [1.0, 3.0, 8.0],
        "2 x 1": [2.0, 4.0, 10.0],
        "apart": [1.5, 2.0, 9.0],
        "sum": [1.0, 4.0, 2.0],
        "1 x 2": [2.0, 3.0, 30.0],
    }
    one, two, threads = rows_of("weak", seconds)
    assert (one["share_of_perfect"], one["sum_seconds"], one["model_seconds"]) == (1.0, None, None)
    assert two["share_of_perfect"] == 0.75  # of 0.5, 0.75, 0.8
    assert two["speedup_over_threads"] == 1.0  # of 1, 0.75, 3
    assert two["share_added"] == pytest.approx(0.25)  # of 0.25, 0.5, 0.1
    assert two["share_hidden"] == pytest.approx(0.5)  # of 0.5, 0.5, 0.5
    assert two["sum_seconds"] == 2.0
    assert (two["images_per_second"], two["spread"]) == (2.0, [2.0, 10.0])
    assert threads["share_of_perfect"] == 0.5  # of 0.5, 1, 0.27
    assert (threads["processes"], threads["threads"]) == (1, 2)
    # half the images each: perfect is half the time
    assert rows_of("strong", seconds)[1]["share_of_perfect"] == 0.375


def test_processes_take_as_long_as_the_slowest_and_as_much_as_all() -> None:
    answers = [{"seconds": s, "cpu_seconds": 1.0, "peak_mb": s, "gpu": None} for s in (1.0, 3.0)]
    expected = {"seconds": 3.0, "cpu_seconds": 2.0, "peak_mb": 4.0, "gpu": None}
    assert together(answers) == expected


def test_numbers_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.shared.speed.turns.cores", lambda: 4)
    assert check_processes([4, 1, 2, 2], [4, 8]) == [1, 2, 4]
    with pytest.raises(InputError, match="--processes 5: each takes a core, and there are 4"):
        check_processes([1, 5], [5])
    with pytest.raises(InputError, match="--processes 3: does not divide --batch-size 4"):
        check_processes([3], [6, 4])


def test_each_process_has_cores_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6, 9})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: kept.append(list(cores)))
    for count, rank in ((2, 0), (1, 1), (1, 3), (2, 1)):
        keep_to_cores(count, rank)
    assert kept == [[3, 5], [5], [9], [6, 9]]


def test_a_process_apart_takes_its_share_and_waits_for_nobody(backend: str) -> None:
    job = Job(backend, "apart", "train", batch_size=4, height=32, width=64, processes=2)
    assert make_batch(job)[0].shape == (2, 32, 64, 3)
    with build(job)() as call:
        assert math.isfinite(float(str(call())))


class Alone:
    """A group whose sum is counted."""

    local_rank = 0

    def __init__(self) -> None:
        self.summed = 0

    def reduce(self, arrays: dict[str, Any]) -> None:
        self.summed += sum(array.size for array in arrays.values())


@pytest.mark.needs("torch", "mxnet")
def test_the_sum_is_of_as_many_numbers_as_there_are_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = []
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: counts.append(tensor.numel()))
    for name in ("torch", "mxnet"):
        group = Alone()
        load_backend(name)
        sum_job = dataclasses.replace(AT, backend=name, form="sum", processes=2)
        with build(sum_job, group)() as call:
            call()
        counts += [group.summed] if group.summed else []
    assert counts == [BYTES // 4] * 2


def test_bytes_that_travel() -> None:
    shapes = gradient_shapes(CONFIG)
    assert 4 * sum(map(math.prod, shapes.values())) == BYTES
    messages = one_by_one(CONFIG)
    assert sum(message.size for message in messages) == BYTES
    # the head's two biases and weights, a BatchNorm's beta and gamma, 512 channels from 512 by 3x3
    first = [21, 21 * 21 * 64 * 64, 21, 21 * 512, 512, 512, 512 * 512 * 9]
    assert [message.size // 4 for message in messages[:7]] == first
    assert [m.ready for m in messages] == sorted(m.ready for m in messages)
    assert messages[-1] == Message(4 * 64 * 3 * 7 * 7, 1.0)
    assert len(messages) == len(shapes)


def test_backward_is_the_share_of_operations_that_is_not_forward() -> None:
    # twice as much as forward but for the images' gradient, which is as much as conv1
    assert backward_share(CONFIG) == pytest.approx((2 * 11.65 - 0.72) / (3 * 11.65 - 0.72), 1e-3)


def test_buckets_are_pytorch_s() -> None:
    """As DistributedDataParallel deals them out, once it has seen a backward pass."""
    parameters = [*build_model(CONFIG).parameters()][::-1]
    dealt, _ = distributed._compute_bucket_assignment_by_size(  # type: ignore[attr-defined]
        parameters, [FIRST_BUCKET, BUCKET]
    )
    sizes = [sum(4 * parameters[k].numel() for k in bucket) for bucket in dealt]
    assert [message.size for message in in_buckets(one_by_one(CONFIG))] == sizes
    assert len(sizes) == 3


def test_one_message_is_one_message() -> None:
    assert in_buckets(one_by_one(CONFIG), first=math.inf) == [Message(BYTES, 1.0)]


def test_a_ring_by_hand() -> None:
    wire = Wire(rate=100.0, latency=0.5)
    assert ring(1, wire)(800) == 0
    assert ring(2, wire)(800) == 800 / 100 + 2 * 0.5
    # seven hops of a hundred bytes to add up, seven to pass the sums on
    assert ring(8, wire)(800) == pytest.approx(14 * (1 + 0.5))


def test_servers_by_hand() -> None:
    wire = Wire(rate=100.0, latency=0.5)
    # one server sends the sum to the seven that it is not beside
    assert servers(8, 1, wire)(800) == 7 * 8 + 1
    # seven eighths go to other servers, and an eighth to each of seven processes
    assert servers(8, 8, wire)(800) == 14 + 1
    assert servers(1, 1, wire)(800) == 1


def test_a_step_by_hand() -> None:
    def transfer(size: int) -> float:
        return size / 10

    early, late = Message(10, 0.5), Message(20, 1.0)
    # forward ends at 4 of 10; the first message is ready at 7 and there at 8, the last at 10
    assert step_seconds(10, [early, late], transfer, 0.6) == 12
    assert step_seconds(10, [early], transfer, 0.6) == 10
    # the wire is slower than backward: the last one waits until 7 + 4
    assert step_seconds(10, [Message(40, 0.5), late], transfer, 0.6) == 13


def test_what_the_forecast_says() -> None:
    crop = (320, 480)
    rows = forecast(crop)
    keys = ("engine", "processes", "gbit_per_second", "compute_seconds")
    shares = {tuple(row[key] for key in keys): row["share_of_perfect"] for row in rows}
    assert len(shares) == len(rows) == 4 * 2 * 2 * 8
    # all after backward: 2 * 7/8 of the bytes at 1.25e9 a second, and 14 latencies
    exposed = 1.75 * BYTES / 1.25e9 + 14 * 50e-6
    assert shares["jax", 8, 10, 0.1] == pytest.approx(0.1 / (0.1 + exposed))
    for (engine, count, gbit, compute), share in shares.items():
        assert 0 < share <= 1
        assert share <= shares[engine, 8, gbit, compute]
        assert share <= shares[engine, count, 100, compute]
    assert shares["torch", 8, 10, 0.2] > shares["jax", 8, 10, 0.2]  # it overlaps


@pytest.mark.full
def test_two_processes_take_turns(backend: str, tmp_path: Path, run_command: Command) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two processes take two cores")
    path, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    code, out, err = run_command(
        *("bench", "--processes", 1, 2, "--backend", backend, "--size", 32, 64),
        *("--batch-size", 2, "--rounds", 1, "--json", path, "--plot", picture),
    )
    assert code == 0, err
    result = json.loads(path.read_text())
    told = [(r["scaling"], r["processes"], r["threads"], r["batch_size"]) for r in result["rows"]]
    assert told == [
        *(("weak", 1, 1, 2), ("weak", 2, 1, 4), ("weak", 1, 2, 4)),
        *(("strong", 1, 1, 2), ("strong", 2, 1, 2), ("strong", 1, 2, 2)),
    ]
    for row in result["rows"]:
        assert row["seconds"] > 0
        assert (row["sum_seconds"] is None) == (row["processes"] == 1)
    assert result["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert max(map(len, out.splitlines())) <= 100
    assert "\N{HORIZONTAL ELLIPSIS}" not in out  # nothing is cut off
    with Image.open(picture) as image:
        assert image.size[0] > 1000
