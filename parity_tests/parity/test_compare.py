"""`compare` on small traces of our own making: what it must notice, name and refuse."""

import json
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from common.config import Dtype
from common.errors import InputError
from common.network.tensors import tensors
from common.parity.compare import compare, ulps
from common.parity.order import AFTER, execution_order, layer_of
from common.parity.report import Report
from common.parity.tolerances import ABSOLUTE_FLOOR, TOLERANCES
from common.parity.traces import Trace, read_trace
from common.weights.checkpoint import write_tensors

CLASSES, STEPS = 3, 4
ORDER = [n for n in execution_order("resnet18", CLASSES, STEPS) if n not in AFTER]
RATE = 0.0625
Command = Callable[..., tuple[int, str, str]]
Change = Callable[[np.ndarray], np.ndarray]


def make(label: str, **metadata: str) -> Trace:
    """A whole trace with every name, its values random, its arrays small; always the same."""
    random = np.random.default_rng(0)
    dtype = metadata.get("dtype", "float64")
    arrays = {}
    for name in ORDER:
        if name == "eval/logits":
            arrays[name] = random.normal(size=(2, CLASSES, 4, 5))
        elif not name.startswith(("loss", "eval/mask")):
            arrays[name] = random.normal(size=(4, 3))
    for name in list(arrays):  # as SGD does it, with a decay of 0.1 on weights of 1
        if name.startswith("update/"):
            arrays[name] = -RATE * (arrays[name.replace("update/", "grad/")] + 0.1)
    arrays["loss"] = random.uniform(1, 2, STEPS)
    arrays = {name: array.astype(Dtype(dtype).storage) for name, array in arrays.items()}
    arrays["eval/mask"] = arrays["eval/logits"].argmax(axis=1).astype(np.uint8)
    told = {"format": "rosetta-trace", "schema": "1", "backend": label, "dtype": "float64"}
    told |= {"architecture": "resnet18", "num_classes": str(CLASSES), "steps": str(STEPS)}
    told |= {"weights_sha256": "a" * 64, "batches_sha256": "b" * 64, "learning_rate": str(RATE)}
    return Trace(label, arrays, told | {"versions": json.dumps({label: "1.0"})} | metadata)


def changed(trace: Trace, **changes: Change) -> Trace:
    return changed_all(trace, changes)


def changed_all(trace: Trace, changes: Mapping[str, Change]) -> Trace:
    arrays = dict(trace.arrays)
    for name, change in changes.items():
        arrays[name] = change(arrays[name].copy())
    return Trace(trace.label, arrays, trace.metadata)


def worse(by: float) -> Change:
    return lambda array: array * (1 + by)


def report_of(*changes: str, by: float = 1e-3) -> Report:
    """A good trace against one in which these values are wrong."""
    bad = changed_all(make("bad"), {name: worse(by) for name in changes})
    return compare([make("good"), bad])


def statuses(report: Report) -> dict[str, str]:
    return {d.name: d.status for d in report.differences if d.parted}


def test_order_of_execution() -> None:
    place = ORDER.index
    assert len(set(ORDER)) == len(ORDER)
    assert place("eval/stem") < place("eval/layer1.0") < place("eval/logits") < place("eval/mask")
    assert place("eval/mask") < place("train/stem") < place("train/logits") < place("loss[0]")
    assert place("loss[0]") < place("grad/transpose_conv.bias") < place("grad/final_conv.weight")
    assert place("grad/final_conv.weight") < place("grad/backbone.layer4.1.bn2.bias")
    assert place("grad/backbone.layer1.0.conv1.weight") < place("grad/backbone.conv1.weight")
    assert place("grad/backbone.conv1.weight") < place("update/backbone.conv1.weight")
    assert place("update/transpose_conv.bias") < place("buffer/backbone.bn1.running_mean")
    assert place("buffer/backbone.bn1.running_mean") < place("loss[1]") < place("loss[3]")
    assert place("loss[3]") < place("momentum/backbone.conv1.weight")
    assert place("momentum/transpose_conv.bias") < place("final/backbone.conv1.weight")


def test_layer_of_each_value() -> None:
    assert layer_of("eval/mask") == "logits"
    assert layer_of("train/layer2.0") == "layer2.0"
    assert layer_of("grad/backbone.layer2.0.downsample.1.bias") == "layer2.0"
    assert layer_of("buffer/backbone.bn1.running_mean") == "stem"
    assert layer_of("final/transpose_conv.weight") == "logits"
    assert layer_of("loss[0]") is None


def test_the_same_trace_twice_passes_to_the_bit() -> None:
    report = compare([make("good"), make("bad")])
    assert report.passed
    assert {d.status for d in report.differences} == {"equal"}
    assert report.verdict() == f"bad equals good to the last bit, {len(ORDER)} values."
    assert [d.name for d in report.differences] == ORDER


@pytest.mark.parametrize("name", ["eval/stem", "train/logits", "loss", "grad/final_conv.bias",
                                  "update/backbone.bn1.weight", "final/final_conv.bias",
                                  "buffer/backbone.bn1.running_var"])  # fmt: skip
def test_an_error_just_above_a_tolerance_parts_and_just_below_does_not(name: str) -> None:
    value = name.replace("loss", "loss[1]")
    stage = next(d.stage for d in report_of(name).differences if d.name == value)
    assert report_of(name, by=0.4 * min(TOLERANCES["forward"], TOLERANCES[stage])).passed
    beyond = report_of(name, by=2 * TOLERANCES[stage])
    assert not beyond.passed
    first = beyond.first("bad")
    assert first is not None
    assert first.tolerance is not None
    assert first.margin == pytest.approx(first.tolerance.limit / first.error)


@pytest.mark.parametrize(
    "wrong, first, new",
    [
        # a layer, and the next one that is made from it
        (("eval/layer2.0", "eval/layer2.1"), "eval/layer2.0", ["eval/layer2.0"]),
        # the running statistics: eval mode alone; train mode's error further down is its own
        (("eval/stem", "train/layer3.0"), "eval/stem", ["eval/stem"]),
        (("train/layer3.0", "eval/layer3.1"), "eval/layer3.1", ["eval/layer3.1", "train/layer3.0"]),
        # backward order: the head comes first
        (("grad/backbone.conv1.weight", "grad/backbone.layer4.1.conv2.weight"),
         "grad/backbone.layer4.1.conv2.weight", ["grad/backbone.layer4.1.conv2.weight"]),
        # a buffer follows from its own layer and those before it, not from later ones
        (("train/layer1.0", "buffer/backbone.layer4.0.bn1.running_mean"), "train/layer1.0",
         ["train/layer1.0"]),
        (("train/layer4.0", "buffer/backbone.bn1.running_var"), "train/layer4.0",
         ["train/layer4.0", "buffer/backbone.bn1.running_var"]),
        (("momentum/final_conv.bias", "final/final_conv.bias"), "momentum/final_conv.bias",
         ["momentum/final_conv.bias"]),
    ],
)  # fmt: skip
def test_first_divergence_and_what_follows(
    wrong: tuple[str, ...], first: str, new: list[str]
) -> None:
    report = report_of(*wrong)
    found = statuses(report)
    assert sorted(found) == sorted(wrong)
    divergence = report.first("bad")
    assert divergence is not None
    assert divergence.name == first
    assert [name for name, status in found.items() if status == "new"] == new
    assert first in report.verdict()


def test_an_update_follows_from_its_gradient_or_is_wrong_by_itself() -> None:
    name = "final_conv.weight"
    good = make("good")
    gradient = good.arrays[f"grad/{name}"]
    changes = {f"grad/{name}": worse(1e-3), f"update/{name}": lambda u: u - 1e-3 * RATE * gradient}
    explained = changed_all(make("bad"), changes)
    found = statuses(compare([good, explained]))
    assert found[f"update/{name}"] == "follows"
    without_decay = changed_all(
        make("bad"), {f"grad/{name}": worse(1e-3), f"update/{name}": lambda u: -RATE * gradient}
    )
    assert statuses(compare([good, without_decay]))[f"update/{name}"] == "new"


def test_later_losses_are_named_by_their_step() -> None:
    late = np.array([0, 0, 0, 1e-6])
    report = compare([make("good"), changed(make("bad"), loss=lambda loss: loss + late)])
    first = report.first("bad")
    assert first is not None
    assert (first.name, first.stage, first.layer) == ("loss[3]", "steps", None)


def test_largest_difference_and_where() -> None:
    def one(array: np.ndarray) -> np.ndarray:
        array[1, 2, 3, 4] += 0.5
        return array

    bad = changed_all(make("bad"), {"eval/logits": one})
    d = next(d for d in compare([make("good"), bad]).differences if d.name == "eval/logits")
    assert d.where == (1, 2, 3, 4)
    assert d.largest == pytest.approx(0.5)
    assert d.error == pytest.approx(0.5 / np.linalg.norm(make("good").arrays["eval/logits"]))


def test_who_is_odd() -> None:
    bad = changed_all(make("b"), {"train/layer2.0": worse(1e-3)})
    for traces in ([make("a"), bad, make("c")], [bad, make("a"), make("c")]):
        report = compare(traces)
        assert report.odd == ["b"]
        assert report.reference == "a"
        assert "a and c agree to the end" in report.verdict()
        assert "Odd one out: b" in report.verdict()
    # all three part, one of them earlier than the other two from each other
    later = changed(make("c"), loss=lambda loss: loss + np.array([0, 0, 1e-3, 0]))
    report = compare([make("a"), bad, later])
    assert report.odd == ["b"]
    assert "agree up to loss[2]" in report.reason
    # no two agree
    other = changed_all(make("c"), {"train/layer2.0": worse(-1e-3)})
    report = compare([make("a"), bad, other])
    assert report.odd == []
    assert "no two agree" in report.reason
    # two cannot say, a truth can
    assert "cannot be said" in compare([make("a"), bad]).reason
    report = compare([bad, make("c")], make("truth"))
    assert report.odd == ["b"]
    assert report.reference == "truth"


def test_the_reference_is_a_trace_that_holds_the_most() -> None:
    part = make("part", groups="eval")
    part = Trace("part", {k: a for k, a in part.arrays.items() if "eval" in k}, part.metadata)
    bad = changed_all(make("b"), {"train/layer2.0": worse(1e-3)})
    assert compare([part, make("a"), make("b")]).reference == "a"
    report = compare([part, make("a"), bad])
    assert report.reference == "a"
    assert not report.passed
    # what a trace does not hold it cannot judge; what it holds it can
    assert report.odd == []
    assert "no third trace holds train/layer2.0" in report.reason
    assert compare([part, make("a"), changed_all(bad, {"eval/stem": worse(1e-3)})]).odd == ["b"]


def test_four_traces_two_against_two_is_not_agreement() -> None:
    pair = [changed_all(make(n), {"eval/stem": worse(1e-3)}) for n in ("c", "d")]
    report = compare([make("a"), make("b"), *pair])
    assert not report.passed
    assert report.odd == []
    assert "a and b agree to the end, and so do c and d" in report.reason


@pytest.mark.parametrize("key", ["weights_sha256", "batches_sha256"])
def test_other_inputs_are_refused(key: str) -> None:
    what = key.split("_")[0]
    with pytest.raises(InputError, match=f"bad: made from other {what} than good"):
        compare([make("good"), make("bad", **{key: "c" * 64})])


def test_other_networks_are_refused() -> None:
    with pytest.raises(InputError, match=r"other networks: .*3 .*, bad resnet18 fcn32s with 4"):
        compare([make("good"), make("bad", num_classes="4")])
    with pytest.raises(InputError, match=r"bad resnet18 fcn8s with 3 classes: nothing to compare"):
        compare([make("good"), make("bad", head="fcn8s")])


def test_of_frozen_weights_nothing_is_missing_and_nothing_wanted() -> None:
    made = make("good", freeze="batch_norm")
    arrays = dict(made.arrays)
    specs = tensors("resnet18", CLASSES)
    norms = {n for n, s in specs.items() if s.role in ("gamma", "beta")}
    for name in norms:
        for group in ("grad", "update", "momentum"):
            del arrays[f"{group}/{name}"]
    good = Trace("good", arrays, made.metadata)
    assert compare([good, good]).passed
    whole = make("whole", freeze="batch_norm")
    findings = compare([good, whole]).findings
    assert {f.name.partition("/")[2] for f in findings} == norms
    assert "is not part of a trace" in findings[0].text
    other = compare([good, make("other", freeze="none")])
    assert "freeze: batch_norm (good), none (other)" in other.notes
    assert other.passed


def test_settings_and_versions_that_differ_are_said() -> None:
    bad = make("bad", learning_rate="0.5", versions='{"numpy": "2.0"}', bn_eps="1e-3")
    notes = compare([make("good", versions='{"numpy": "1.26"}', bn_eps="1e-05"), bad]).notes
    assert "learning_rate: 0.0625 (good), 0.5 (bad)" in notes
    assert "bn_eps: 1e-05 (good), 1e-3 (bad)" in notes
    assert "numpy: 1.26 (good), 2.0 (bad)" in notes
    silent = make("silent")
    silent = Trace(
        "silent", silent.arrays, {k: v for k, v in silent.metadata.items() if "sha" not in k}
    )
    assert any("does not say which weights" in n for n in compare([make("good"), silent]).notes)


def test_names_shapes_and_dtypes_are_findings() -> None:
    bad = changed_all(
        make("bad"),
        {
            "eval/stem": lambda a: a[:2],
            "grad/final_conv.bias": lambda a: a.astype(np.float32),
        },
    )
    arrays = {k: a for k, a in bad.arrays.items() if k != "update/final_conv.bias"}
    arrays["grad/fc.weight"] = np.zeros(3)
    report = compare([make("good"), Trace("bad", arrays, bad.metadata)])
    assert not report.passed
    assert sorted(f.text for f in report.findings) == [
        "eval/stem is (2, 3), not (4, 3) as in good",
        "grad/fc.weight is not part of a trace",
        "grad/final_conv.bias is float32, not float64",
        "update/final_conv.bias is missing",
    ]


def test_a_trace_that_says_it_holds_some_groups_misses_nothing() -> None:
    whole = make("part", groups="eval, loss")
    arrays = {k: a for k, a in whole.arrays.items() if k.startswith(("eval", "loss"))}
    report = compare([make("good"), Trace("part", arrays, whole.metadata)])
    assert report.passed
    assert "part: holds eval, loss alone" in report.notes
    del arrays["eval/layer1.1"]
    report = compare([make("good"), Trace("part", arrays, whole.metadata)])
    assert [f.text for f in report.findings] == ["eval/layer1.1 is missing"]


@pytest.mark.parametrize("value, kind", [(np.nan, "NaN"), (np.inf, "infinity")])
def test_the_first_value_that_is_not_finite_is_named(value: float, kind: str) -> None:
    def spoil(array: np.ndarray) -> np.ndarray:
        array.flat[1] = value
        return array

    bad = changed_all(make("bad"), dict.fromkeys(["train/layer3.0", "train/layer1.1"], spoil))
    report = compare([make("good"), bad])
    assert [f.text for f in report.findings] == [f"{kind} first in train/layer1.1, 1 of 12 values"]
    assert not report.passed
    assert not compare([bad, Trace("bad2", bad.arrays, bad.metadata)]).passed  # in both alike


def test_a_vanishing_tensor_is_held_to_the_absolute_floor() -> None:
    name, floor = "grad/backbone.bn1.bias", ABSOLUTE_FLOOR["float64"]
    good = changed_all(make("good"), {name: np.zeros_like})
    for value, passes in ((0.5 * floor, True), (2 * floor, False)):
        bad = changed_all(make("bad"), {name: lambda a, v=value: np.full_like(a, v)})
        report = compare([good, bad])
        assert report.passed == passes
        json.loads(json.dumps(report.to_dict(), allow_nan=False))


def test_ulps() -> None:
    a = np.array([1.0, 0.0, -1.0, 2.0**-149, 1.0], np.float32)
    b = np.array([np.nextafter(np.float32(1), np.float32(2)), -0.0, -1.0, -(2.0**-149), 2.0],
                 np.float32)  # fmt: skip
    assert ulps(a, b).tolist() == [1, 0, 0, 2, 2**23]


def test_bfloat16_is_told_and_not_judged(tmp_path: Path, run_command: Command) -> None:
    truth, mine = make("truth"), changed(make("mine", dtype="bfloat16"), **{"eval/stem": worse(1)})
    line = "bfloat16 has no tolerances: what it differs by is told, and nothing is proven"
    for report in (compare([mine], truth), compare([truth, mine]), compare([mine, make("b")])):
        assert not report.passed
        assert line in [finding.text for finding in report.findings]
        assert all(d.tolerance is None and d.status == "ungated" for d in report.differences)
        assert "within every tolerance" not in report.verdict()
        assert "to the last bit" not in report.verdict()
    assert compare([mine], truth).worst("mine")["forward"].error == pytest.approx(1)
    files = [write(tmp_path / f"{trace.label}.safetensors", trace) for trace in (truth, mine)]
    code, out, err = run_command(
        *("compare", files[1], "--truth", files[0]),
        *("--json", tmp_path / "r.json", "--html", tmp_path / "r.html"),
    )
    assert (code, err) == (1, "")
    assert f"finding: mine: {line}" in out
    assert "eval/stem" in out
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["stages"]["mine"]["forward"]["tensor"] == "eval/stem"
    assert found["gates"] == []


def single(label: str) -> Trace:
    return make(label, dtype="float32")


def test_float32_has_ulps_and_tolerances_of_its_own() -> None:
    truth, mine = make("truth"), single("mine")
    report = compare([mine], truth)
    assert report.passed
    by_name = {d.name: d for d in report.differences}
    assert by_name["eval/stem"].ulp_max == 0  # the reference rounded to float32
    assert by_name["eval/stem"].error > 1e-9
    assert by_name["final/final_conv.bias"].status == "ungated"
    off = changed_all(mine, {"eval/layer1.0": worse(1.5e-5), "final/final_conv.bias": worse(9.0)})
    assert list(statuses(compare([off], truth))) == ["eval/layer1.0"]
    assert by_name["eval/layer1.0"].ulp_median == 0
    # each of two float32 traces may be a tolerance away from the reference
    assert compare([mine, Trace("off", off.arrays, off.metadata)]).passed


def test_a_float32_update_may_be_off_by_the_rounding_of_its_weight() -> None:
    name = "update/final_conv.bias"
    truth = changed_all(make("truth"), {name: lambda u: u * 1e-4})
    mine = changed_all(single("mine"), {name: lambda u: u * 1e-4 * (1 + 1e-3)})
    assert compare([mine], truth).passed
    assert not compare([changed_all(mine, {name: worse(0.1)})], truth).passed


def test_two_dtypes_without_a_truth_are_a_finding() -> None:
    report = compare([make("double"), single("single")])
    assert any("dtypes differ" in f.text for f in report.findings)


def test_masks_count_where_the_best_class_is_clear() -> None:
    def tie(logits: np.ndarray) -> np.ndarray:
        logits[0, :, 0, 0] = (1.0, 1.0 + 1e-15, 0.0)
        logits[0, :, 0, 1] = (1.0, 2.0, 0.0)
        return logits

    def mask(*pixels: int) -> Change:
        def change(array: np.ndarray) -> np.ndarray:
            array[0, 0, :2] = pixels
            return array

        return change

    good = changed_all(make("good"), {"eval/logits": tie, "eval/mask": mask(1, 1)})
    unclear = changed_all(make("bad"), {"eval/logits": tie, "eval/mask": mask(0, 1)})
    report = compare([good, unclear])
    assert report.passed
    assert (report.masks["bad"].differ, report.masks["bad"].clear) == (1, 0)
    clear = changed_all(make("bad"), {"eval/logits": tie, "eval/mask": mask(1, 0)})
    report = compare([good, clear])
    assert statuses(report) == {"eval/mask": "new"}
    assert report.masks["bad"].clear == 1


def write(path: Path, trace: Trace) -> Path:
    write_tensors(path, trace.arrays, trace.metadata)
    return path


def test_command(tmp_path: Path, run_command: Command) -> None:
    a, b, c = (write(tmp_path / f"{n}.safetensors", make(n)) for n in "abc")
    code, out, err = run_command("compare", a, b, c)
    assert (code, err) == (0, "")
    assert "PASSED" in out
    assert "83.3 x 1.2e-14" in out  # a tolerance's provenance
    bad = write(tmp_path / "bad.safetensors", changed_all(make("bad"), {"train/stem": worse(1e-3)}))
    code, out, err = run_command("compare", a, b, bad, "--json", tmp_path / "r.json")
    assert (code, err) == (1, "")
    assert "bad: first divergence at train/stem" in out
    assert "Odd one out: bad" in out
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["passed"] is False
    assert result["first"]["bad"]["name"] == "train/stem"
    assert result["first"]["b"] is None
    assert result["odd"] == ["bad"]
    row = next(r for r in result["tensors"] if r["trace"] == "bad" and r["name"] == "train/stem")
    assert row["gate"] == row["floor"] * row["multiplier"] == TOLERANCES["forward"]
    assert row["margin"] == pytest.approx(1e-9, rel=1e-3)
    assert row["status"] == "new"
    assert "PyTorch" in row["source"]
    code, _, _ = run_command("compare", b, "--truth", a)
    assert code == 0


def test_many_traces_take_the_memory_of_a_few(tmp_path: Path, run_command: Command) -> None:
    large = {f"final/backbone.layer{k}.0.conv1.weight": np.ones((500, 250)) for k in (1, 2, 3, 4)}
    trace = changed_all(make("0"), {name: lambda _, a=a: a for name, a in large.items()})
    paths = [write(tmp_path / f"{k}.safetensors", trace) for k in range(12)]
    tracemalloc.start()
    code, _, err = run_command("compare", *paths[1:], "--truth", paths[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (code, err) == (0, "")
    assert peak < 4 * paths[0].stat().st_size


def test_bad_files_are_one_line(tmp_path: Path, run_command: Command) -> None:
    good = write(tmp_path / "good.safetensors", make("good"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-100])
    later = write(tmp_path / "later.safetensors", make("x", schema="3"))
    any_network = write(tmp_path / "any.safetensors", make("x", schema="2"))
    weights = write(tmp_path / "w.safetensors", Trace("w", make("w").arrays, {}))
    other = write(tmp_path / "other.safetensors", make("other", batches_sha256="0" * 64))
    nothing = write(tmp_path / "nothing.safetensors", Trace("n", {}, make("n").metadata))
    for path, text in (
        (cut, "cut.safetensors: not a readable safetensors file"),
        (later, "later.safetensors: a trace of schema 3; this program reads schema 1, and 2"),
        (any_network, "any.safetensors: its metadata do not describe a record"),
        (weights, "w.safetensors: not a trace"),
        (other, "other: made from other batches than good"),
        (nothing, "nothing.safetensors: holds no arrays"),
        (tmp_path / "none.safetensors", "none.safetensors: no such file"),
        (good, "given twice"),
    ):
        code, out, err = run_command("compare", good, path)
        assert (code, out) == (2, ""), path
        assert text in err
        assert err.count("\n") == 1
    code, _, err = run_command("compare", good)
    assert code == 2
    assert "one trace alone" in err
    arrays = dict(make("short").arrays)
    del arrays["grad/final_conv.bias"]
    short = write(tmp_path / "short.safetensors", Trace("short", arrays, make("short").metadata))
    code, out, _ = run_command("compare", good, short)
    assert code == 1
    assert "finding: short: grad/final_conv.bias is missing\n" in out


def test_labels_tell_files_of_the_same_name_apart(tmp_path: Path, run_command: Command) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "torch.safetensors", make("torch"))
    code, out, _ = run_command("compare", *sorted(tmp_path.glob("*/torch.safetensors")))
    assert code == 0
    assert "two/torch.safetensors equals" in out.replace("\n", "")


def test_odd_labels_and_settings_are_shown_as_they_are(
    tmp_path: Path, run_command: Command
) -> None:
    bad = changed_all(make("b", learning_rate="slow"), {"update/final_conv.bias": worse(1e-3)})
    a, b = write(tmp_path / "a.safetensors", make("a")), write(tmp_path / "[b].safetensors", bad)
    code, out, err = run_command("compare", a, b)
    assert (code, err) == (1, "")
    assert "differs: learning_rate: 0.0625 (a), slow ([b])" in out
    assert "[b]: first divergence at update/final_conv.bias" in out
    assert "[b] against a" in out


def test_of_classes_that_are_equal_to_the_bit_the_first_is_meant() -> None:
    def tie(logits: np.ndarray) -> np.ndarray:
        logits[0, :, 0, 0] = (0.0, 1.0, 1.0)
        return logits

    def first(mask: np.ndarray) -> np.ndarray:
        mask[0, 0, 0] = 1
        return mask

    def last(mask: np.ndarray) -> np.ndarray:
        mask[0, 0, 0] = 2
        return mask

    def nearly(logits: np.ndarray) -> np.ndarray:
        logits[0, :, 0, 0] = (0.0, 1.0, 1.0 + 1e-15)
        return logits

    good = changed_all(make("good"), {"eval/logits": tie, "eval/mask": first})
    bad = changed_all(make("bad"), {"eval/logits": tie, "eval/mask": last})
    assert statuses(compare([good, bad])) == {"eval/mask": "new"}
    rounded = changed_all(make("rounded"), {"eval/logits": nearly, "eval/mask": last})
    assert compare([good, rounded]).passed


def test_what_is_evaluated_after_training_may_be_there_and_comes_last() -> None:
    def with_after(label: str, by: float = 0.0) -> Trace:
        trace = make(label)
        logits = trace.arrays["eval/logits"] * 2
        more = {"after/logits": logits * (1 + by), "after/mask": logits.argmax(1).astype(np.uint8)}
        return Trace(label, {**trace.arrays, **more}, trace.metadata)

    assert compare([with_after("good"), make("without")]).passed
    assert compare([with_after("good"), with_after("bad", 5e-10)]).passed
    report = compare([with_after("good"), with_after("bad", 1e-8)])
    assert statuses(report) == {"after/logits": "new"}
    assert report.differences[-1].name == "after/mask"
    bad = with_after("bad", 1e-8)
    later = changed_all(bad, {"final/final_conv.bias": worse(1e-3)})
    assert statuses(compare([with_after("good"), later]))["after/logits"] == "follows"


def test_a_class_map_after_training_in_float32_has_no_tolerance_as_its_logits_have_none() -> None:
    traces = [make(name, dtype="float32") for name in ("good", "bad")]
    for trace, by in zip(traces, (0.0, 1e-3), strict=True):
        logits = trace.arrays["eval/logits"] * 2 + np.float32(by)
        mask = (logits.argmax(1) + (by > 0)).astype(np.uint8)
        trace.arrays.update({"after/logits": logits, "after/mask": mask})  # type: ignore[attr-defined]
    assert compare(traces).passed


def test_a_mask_that_is_not_of_the_logits_is_a_finding() -> None:
    cut = [changed_all(make(n), {"eval/logits": lambda a: a[..., :2]}) for n in "ab"]
    report = compare(cut)
    assert [f.text for f in report.findings] == [
        "eval/mask (2, 4, 5) is not of eval/logits, so no pixel can be called clear"
    ]


def test_read_trace_tells_what_is_wrong(tmp_path: Path) -> None:
    for metadata, text in (
        ({"architecture": "resnet50"}, "architecture 'resnet50' is unknown"),
        ({"dtype": "float16"}, "dtype 'float16' is unknown"),
        ({"num_classes": "many"}, "num_classes 'many' is not a number"),
        ({"num_classes": "\N{SUPERSCRIPT TWO}"}, "num_classes '.' is not a number"),
        ({"num_classes": "1000000000"}, "num_classes '1000000000' is not a number"),
        ({"num_classes": "9" * 5000}, "num_classes '9*...' is not a number"),
    ):
        path = write(
            tmp_path / "t.safetensors",
            Trace("t", make("t").arrays, {**make("t").metadata, **metadata}),
        )
        with pytest.raises(InputError, match=text):
            read_trace(path)
