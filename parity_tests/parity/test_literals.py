"""Hyper-parameters as written against those that were rounded to float32: each is named."""

from collections.abc import Callable

import numpy as np
import pytest

from common.config import float32
from common.parity.compare import compare
from common.parity.literals import as_written
from common.parity.report import Report
from common.parity.settings import SETTINGS
from common.parity.traces import Trace, make_trace, trace_metadata
from parity_tests.mutations.apply import Mutation, parse, patched


def test_as_written() -> None:
    told = "0.01 as written, in the reference float32(0.01)"
    assert as_written(0.01, float32(0.01)) == told
    assert as_written(float32(0.01), 0.01) == "float32(0.01), in the reference 0.01 as written"
    assert as_written(0.01 * (1 + 1e-11), float32(0.01)) == told
    for other in (0.01, 0.010001, float32(0.01) * (1 + 1e-7), 0.02, float32(0.02)):
        assert as_written(0.01, other) is None
    assert as_written(0.5, 0.5) is None  # which float32 has


def _trace(setting: str, change: Mutation | None, label: str) -> Trace:
    own = SETTINGS[setting]
    weights, batches = own.make()
    with patched("torch", change) as backend:
        probe = backend.Probe(backend.Trainer(own.config, weights))
        arrays = make_trace(probe, batches, own.config, own.rates[:1])
        metadata = trace_metadata("torch", backend, own.config, 1)
    return Trace(label, arrays, metadata)


@pytest.fixture(scope="module")
def report_on() -> Callable[[str, str], Report]:
    """What `compare` says of PyTorch's backend with a patch, on a setting."""
    healthy = {name: _trace(name, None, "ours") for name in ("generic", "faint")}

    def report(setting: str, patch: str) -> Report:
        (change,) = parse(f"it: This.\n    torch: {patch}")
        return compare([healthy[setting], _trace(setting, change, "port")])

    return report


def _told(report: Report) -> dict[str, str]:
    return {d.name: d.cause for d in report.differences if d.cause}


@pytest.mark.parametrize(
    ("patch", "where", "what"),
    [
        (
            "train.Trainer.step: -> rate, head_rate = 0.01, None",
            "update/backbone.conv1.weight",
            "the rate is 0.01 as written, in the reference float32(0.01)",
        ),
        (
            "optimizer.build_optimizer: config.weight_decay -> 1e-2",
            "update/backbone.conv1.weight",
            "weight_decay is 0.01 as written, in the reference float32(0.01)",
        ),
        (
            "layers.batch_norm: 1 - config.bn_decay -> 0.1",
            "buffer/backbone.bn1.running_mean",
            "every running statistic is off by about 3e-08, and no layer: probably a decay of"
            " 0.9 as written (PyTorch's momentum=0.1) on one side, and float32(0.9) on the other",
        ),
        (
            "layers.batch_norm: config.bn_eps -> 1e-5",
            "eval/stem",
            "in eval/stem each channel is stretched about one value, as by an eps that is 3e-13"
            " larger: probably 1e-05 as written, and float32(1e-05)",
        ),
    ],
)
def test_a_literal_is_named_where_it_enters(
    report_on: Callable[[str, str], Report], patch: str, where: str, what: str
) -> None:
    report = report_on("generic", patch)
    first = report.first("port")
    assert first is not None
    assert first.name == where
    assert _told(report) == {where: what}


def test_a_literal_eps_is_named_at_the_stem_where_variances_are_small(
    report_on: Callable[[str, str], Report],
) -> None:
    told = _told(report_on("faint", "layers.batch_norm: config.bn_eps -> 1e-5"))
    assert "probably 1e-05 as written, and float32(1e-05)" in told["eval/stem"]


@pytest.mark.parametrize(
    "patch",
    [
        "train.Trainer.step: -> rate, head_rate = 0.011, None",
        "train.Trainer.step: -> rate, head_rate = 0.01 * (1 + 1e-7), None",
        "optimizer.build_optimizer: config.weight_decay -> 0.0",
        "optimizer.build_optimizer: config.weight_decay -> 2 * config.weight_decay",
        "layers.batch_norm: 1 - config.bn_decay -> 0.01",
        "layers.batch_norm: 1 - config.bn_decay -> 0.1 + 1e-6",
        "model.BasicBlock.forward: self.bn2(...) -> self.bn1(...)",
        "train.Trainer._backward: (loss * __n).backward() -> (loss * (1 + 3e-8)).backward()",
        "device.images_to_device: -> images = images * (1 + 1e-9)",
        "layers.batch_norm: config.bn_eps -> 1.1e-5",
        "model.ResNet.stem: self.bn1(__x) -> self.bn1(__x.float().to(__x.dtype))",
    ],
)
def test_what_is_another_number_is_not_taken_for_a_rounding(
    report_on: Callable[[str, str], Report], patch: str
) -> None:
    report = report_on("generic", patch)
    assert not report.passed
    assert not _told(report)


def test_buffers_that_were_stored_in_float32_are_not_a_decay() -> None:
    healthy = _trace("generic", None, "ours")
    arrays = {
        name: array.astype(np.float32).astype(np.float64) if name.startswith("buffer/") else array
        for name, array in healthy.arrays.items()
    }
    report = compare([healthy, Trace("port", arrays, healthy.metadata)])
    assert not report.passed
    assert not _told(report)


def test_traces_of_anyone_are_looked_at_without_a_word() -> None:
    healthy = _trace("generic", None, "ours")
    changed = {k: a * (1 + 1e-6) for k, a in healthy.arrays.items() if k != "eval/mask"}
    arrays = {**healthy.arrays, **changed}
    arrays["eval/stem"] = np.where(arrays["eval/stem"] > 1, np.inf, arrays["eval/stem"])
    arrays["update/backbone.conv1.weight"] = np.full_like(
        arrays["update/backbone.conv1.weight"], np.inf
    )
    for more in ({"weight_decay": "much"}, {"weight_decay": "nan"}, {"learning_rate": "inf"}):
        told = {**healthy.metadata, **more}
        traces = [Trace("ours", healthy.arrays, told), Trace("port", arrays, told)]
        assert not _told(compare(traces))
