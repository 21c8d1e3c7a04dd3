"""Float32 judged by ratio: decisions that change, what they touch, and who may be how far off."""

import numpy as np
import pytest

from common.network.tensors import activation_names, layer_names, relu_names
from common.parity.compare import compare
from common.parity.decisions import changes, decisions
from common.parity.judge import Result
from common.parity.ratio import FEW_EPS, Probe, make_probe, ratio_tolerances, touched
from common.parity.traces import Trace
from parity_tests.parity.test_compare import changed_all, make, single, worse

RANDOM = np.random.default_rng(1)


def active(architecture: str) -> dict[str, np.ndarray]:
    found = {name: RANDOM.normal(size=(1, 2, 4, 4)) for name in activation_names(architecture)}
    found["stem.bn1"] = RANDOM.normal(size=(1, 2, 8, 8))
    return {name: np.maximum(array, 0) for name, array in found.items()}


ACTIVE = active("resnet18")


def test_activations_are_in_order_of_execution() -> None:
    v1, v2 = activation_names("resnet18"), activation_names("resnet18_v2")
    assert v1[:4] == ("stem.bn1", "stem", "layer1.0.bn1", "layer1.0")
    assert v1[-3:] == ("layer4.1", "final_conv", "logits")
    assert v2[:5] == ("stem.bn1", "stem", "layer1.0.bn1", "layer1.0.bn2", "layer1.0")
    assert v2[-4:] == ("layer4.1", "norm", "final_conv", "logits")
    assert (len(v1), len(v2)) == (11 + 9, 12 + 17)
    assert [n for n in v2 if ".bn" not in n] == list(layer_names("resnet18_v2"))


def test_the_same_pass_flips_nothing() -> None:
    taken = decisions(ACTIVE, "resnet18")
    again = decisions({k: a.copy() for k, a in ACTIVE.items()}, "resnet18")
    assert changes(taken, again) == {}
    assert set(taken) == set(activation_names("resnet18")) - {"final_conv", "logits"}
    assert sum(array.size for array in taken.values()) == 2 * (
        64 + 16 * 8 + 16 * 8 + 16
    )  # stem.bn1, norms, blocks, windows


def test_the_sums_of_v2_decide_nothing() -> None:
    other = active("resnet18_v2")
    taken = decisions(other, "resnet18_v2")
    assert set(taken) == {"stem", *relu_names("resnet18_v2")}
    assert not set(taken) & {"layer1.0", "layer4.1"}
    assert sum(array.size for array in taken.values()) == 2 * (
        64 + 16 * 16 + 16 + 16
    )  # stem.bn1, norms, norm, windows
    changed = {**other, "layer3.0": -other["layer3.0"], "norm": other["norm"] * 0}
    changed = changes(decisions(changed, "resnet18_v2"), taken)
    assert changed == {"norm": np.count_nonzero(other["norm"])}


def test_a_relu_and_a_pool_winner_that_flip_are_counted() -> None:
    other = {k: a.copy() for k, a in ACTIVE.items()}
    other["layer2.0.bn1"].flat[3] = 0.5 if other["layer2.0.bn1"].flat[3] == 0 else 0
    taken = decisions(ACTIVE, "resnet18")
    assert changes(decisions(other, "resnet18"), taken) == {"layer2.0.bn1": 1}
    other = {k: a.copy() for k, a in ACTIVE.items()}
    other["stem.bn1"][0, 0, 4, 4] = 9.0  # in the windows of rows 3-5 and columns 3-5 alone
    found = changes(decisions(other, "resnet18"), taken)
    assert found["stem"] == 1


def test_the_winner_of_a_window_is_its_first_largest_value() -> None:
    flat = dict(ACTIVE) | {"stem.bn1": np.zeros((1, 1, 4, 4))}
    assert decisions(flat, "resnet18")["stem"].ravel().tolist() == [
        4,
        3,
        1,
        0,
    ]  # the first inside the image


@pytest.mark.parametrize(
    "name, change, expected",
    [
        ("grad/backbone.conv1.weight", "stem", True),
        ("grad/backbone.layer2.0.conv1.weight", "layer2.0.bn1", True),
        ("grad/backbone.layer2.1.conv1.weight", "layer2.0.bn1", False),
        ("update/backbone.layer1.1.bn2.bias", "layer2.0", True),
        ("grad/backbone.layer2.0.bn1.weight", "layer2.0.bn2", True),
        ("grad/backbone.bn2.weight", "norm", True),
        ("grad/backbone.bn2.weight", "layer4.1.bn2", False),
        ("grad/backbone.layer4.1.conv2.weight", "norm", True),
        ("grad/final_conv.weight", "layer4.1", False),
        ("train/layer1.0", "layer4.1", False),
        ("buffer/backbone.bn1.running_mean", "layer4.1", False),
    ],
)
def test_a_flip_touches_the_gradients_of_its_layer_and_before(
    name: str, change: str, expected: bool
) -> None:
    assert touched(name, {change: 1}) == expected
    assert not touched(name, {})


def named(label: str, *wrong: str, by: float = 0.0) -> Trace:
    trace = changed_all(single(label), {name: worse(by) for name in wrong})
    return Trace(label, trace.arrays, trace.metadata)


NAME = "eval/layer1.0"


@pytest.mark.parametrize("factor, held", [(1.9, True), (2.5, False)])
def test_no_further_than_twice_the_furthest_of_the_others(factor: float, held: bool) -> None:
    near, far = 1e-4, factor * 1e-4
    traces = [named("a", NAME, by=near), named("b"), named("c", NAME, by=far)]
    report = compare(traces, make("truth"))
    ratio_tolerances([(report, {})], {})
    assert (report.first("c") is None) == held
    assert report.first("a") is None
    tolerance = next(d for d in report.of("c") if d.name == NAME).tolerance
    assert tolerance is not None
    assert tolerance.limit == pytest.approx(2 * near + FEW_EPS, rel=1e-2)
    assert "the furthest of the others 1.0e-04" in tolerance.note


def test_no_further_than_its_own_noise() -> None:
    for noise, held in ((1e-3, True), (1e-5, False)):
        report = compare([named("a"), named("c", NAME, by=5e-4)], make("truth"))
        ratio_tolerances([(report, {})], {"c": {NAME: noise}})
        assert (report.first("c") is None) == held


def test_every_batch_counts_when_the_furthest_is_looked_for() -> None:
    reports = [
        compare([named("a", NAME, by=by), named("c", NAME, by=6e-4)], make("truth"))
        for by in (1e-6, 4e-4)
    ]
    ratio_tolerances([(report, {}) for report in reports], {})
    assert all(report.passed for report in reports)


def test_gradients_behind_a_flip_have_no_tolerance_and_all_others_keep_theirs() -> None:
    behind, before = "grad/backbone.layer1.0.conv1.weight", "grad/final_conv.weight"
    for wrong, held in ((behind, True), (before, False)):
        report = compare([named("a"), named("c", wrong, by=1e-2)], make("truth"))
        ratio_tolerances([(report, {"c": {"layer2.0": 1}})], {})
        assert report.passed == held
    assert next(d for d in report.of("c") if d.name == behind).status == "ungated"


def test_a_probe_takes_its_noise_from_where_nothing_flips() -> None:
    def first_step(label: str, **changes: float) -> Trace:
        arrays = {f"train/{name}": a.copy() for name, a in ACTIVE.items()}
        arrays["grad/backbone.conv1.weight"] = np.ones(3) * (1 + changes.get("grad", 0))
        if "change" in changes:
            arrays["train/layer1.0.bn1"] = arrays["train/layer1.0.bn1"] + 1
        metadata = dict(make(label).metadata) | {"groups": "train,grad"}
        return Trace(label, arrays, metadata)

    truth = first_step("truth")
    probe = make_probe("a", 0, first_step("a"), first_step("a", grad=1e-3), truth)
    assert probe.changes == {}
    assert probe.noise["grad/backbone.conv1.weight"] == pytest.approx(1e-3)
    changed = make_probe("a", 0, first_step("a"), first_step("a", grad=1e-3, change=1), truth)
    assert "grad/backbone.conv1.weight" not in changed.noise


def test_a_layer_that_does_not_hold_fails_the_result() -> None:
    row = {
        "backend": "b",
        "layer": "layer1.0",
        "direction": "forward",
        "error": 1e-3,
        "gate": 1e-12,
    }
    for held in (True, False):
        report = compare([make("a"), make("b")])
        result = Result("float64", 4, 0, report, [{**row, "held": held}], {})
        assert result.passed == held
        assert ("layer1.0 alone in b, forward: 1.0e-03" in result.verdict()) == (not held)


def test_a_gradient_that_no_batch_could_hold_fails_the_result() -> None:
    def probe(changes: dict[str, int], batch: int) -> Probe:
        report = compare([named("a")], make("truth"))
        found = Probe("a", batch, report, changes, 100, {})
        ratio_tolerances([(report, {"a": changes})], {})
        return found

    whole = compare([make("a"), make("b")])
    changed = [probe({"layer2.0": 1}, batch) for batch in (0, 1)]
    result = Result("float32", 4, 0, whole, [], {}, probes=changed)
    assert not result.passed
    assert "a: on every batch a decision changes that grad/backbone.layer2.0" in result.verdict()
    result = Result("float32", 4, 0, whole, [], {}, probes=[*changed, probe({}, 2)])
    assert result.passed
