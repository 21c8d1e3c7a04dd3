"""The benchmark: its arithmetic, what it writes, its way out. Nothing here depends on speed."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from backends import load_backend
from common.config import Config, Device, Dtype, Head
from common.data.augment import normalize
from common.errors import InputError, WorkerError
from common.network.flops import forward_flops, training_flops
from common.network.tensors import config_tensors
from parity_tests.conftest import new_config, new_trainer, weights
from scripts.bench.__main__ import NUMBERS, app, make_jobs, read_sizes
from scripts.bench.table import fastest_product, limit_turns, make_rows, product_rate
from scripts.shared.cli import main
from scripts.shared.onnx import export_classes
from scripts.shared.speed import worker as bench_worker
from scripts.shared.speed.chain import POOLED, Convolve, follow
from scripts.shared.speed.data import draw_pictures, endless_batches
from scripts.shared.speed.runtime import predictor
from scripts.shared.speed.turns import Measured, take_turns
from scripts.shared.speed.worker import SIDE, Job, build, make_batch, measure

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
JOB = Job("torch", "ours", "train", batch_size=4, height=64, width=96)
TORCH_FIRST = ["torch", *(pytest.param(name, marks=pytest.mark.full) for name in ("mxnet", "jax"))]
"""The real network, in one framework quickly and in all in full."""
FORMS = ["ours", "convolutions", "bilinear", "book", "limit"]
ROW_KEYS = {
    *("backend", "form", "mode", "dtype", "batch_size", "height", "width", "seconds", "spread"),
    *("cpu_seconds", "first_seconds", "peak_mb", "images_per_second", "share_of_limit"),
    *("share_of_convolutions", "speedup_over_book"),
}


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def measured(backend: str, form: str, *seconds: float, **changes: Any) -> Measured:
    """A candidate whose turns took so long."""
    job = Job(backend, form, "train", batch_size=4, height=64, width=96, **changes)
    turns = [{"seconds": s, "cpu_seconds": 2 * s, "peak_mb": 100 + s} for s in seconds]
    return Measured(job, {"seconds": 7.0}, turns)


def test_flops_of_a_layer_by_hand() -> None:
    flops = forward_flops("resnet18", 21, 320, 480)
    # 128 filters of 3x3x64 at each of 40x60 places; 21x21 kernels of 64x64 on each of 10x15 pixels
    assert flops["backbone.layer2.0.conv1.weight"] == 2 * 128 * 9 * 64 * 40 * 60
    assert flops["transpose_conv.weight"] == 2 * 21 * 21 * 64 * 64 * 10 * 15
    backbone = sum(count for name, count in flops.items() if name.startswith("backbone"))
    assert backbone == pytest.approx(11.10e9, rel=1e-3)
    assert sum(flops.values()) == pytest.approx(11.65e9, rel=1e-3)
    assert forward_flops("resnet18", 21, 289, 449) == flops  # computed at 320x480


def test_flops_of_a_training_step_are_threefold_but_for_the_images_gradient() -> None:
    forward, training = (count("resnet18", 21, 64, 96) for count in (forward_flops, training_flops))
    assert training["backbone.conv1.weight"] == 2 * forward["backbone.conv1.weight"]
    assert training["final_conv.weight"] == 3 * forward["final_conv.weight"]
    first = forward["backbone.conv1.weight"]
    assert sum(training.values()) == 3 * sum(forward.values()) - first


def test_flops_are_those_that_pytorch_counts() -> None:
    book = importlib.import_module("scripts.shared.speed.torch").Trainer(Config(device=Device.cpu))
    images, labels = np.zeros((2, 3, 64, 96), np.float32), np.zeros((2, 64, 96), np.uint8)
    for work, count in (
        (lambda: book.predict(images), forward_flops),
        (lambda: book.step(images, labels), training_flops),
    ):
        with FlopCounterMode(display=False) as counter:
            work()
        assert counter.get_total_flops() == 2 * sum(count("resnet18", 21, 64, 96).values())


def test_rows_are_medians_over_the_rounds() -> None:
    taken = [measured("torch", "ours", 2.0, 9.0, 1.0), measured("torch", "book", 4.0, 4.0, 4.0)]
    ours, book = make_rows(taken)
    assert set(ours) == ROW_KEYS
    assert (ours["seconds"], ours["spread"], ours["cpu_seconds"]) == (2.0, [1.0, 9.0], 4.0)
    assert (ours["first_seconds"], ours["peak_mb"], ours["images_per_second"]) == (7.0, 109.0, 2.0)
    assert ours["share_of_limit"] is None  # no product was taken
    assert book["speedup_over_book"] == 1.0


def test_speedup_is_the_median_of_each_rounds_ratio() -> None:
    # the ratio of the medians would be 3 / 2
    taken = [measured("jax", "ours", 0.5, 4.0, 2.0), measured("jax", "book", 1.0, 3.0, 10.0)]
    assert make_rows(taken)[0]["speedup_over_book"] == 2.0


def test_a_share_of_convolutions_is_the_median_of_each_rounds_ratio() -> None:
    ours, alone, book, limit = make_rows(
        [
            measured("jax", "ours", 4.0, 1.0, 8.0),
            measured("jax", "convolutions", 3.0, 0.5, 2.0),
            measured("jax", "book", 4.0, 5.0, 8.0),
            measured("jax", "limit", 0.1, 0.1, 0.1),
        ]
    )
    assert ours["share_of_convolutions"] == 0.5  # of 0.75, 0.5, 0.25
    assert alone["share_of_convolutions"] == 1.0
    assert book["share_of_convolutions"] == 0.25
    assert limit["share_of_convolutions"] == pytest.approx(2.0 / limit["seconds"])
    assert alone["share_of_limit"] == pytest.approx(limit["seconds"] / 2.0)


def test_a_share_of_convolutions_is_of_the_same_backend_and_type() -> None:
    rows = make_rows(
        [
            measured("torch", "ours", 2.0, dtype="bfloat16"),
            measured("torch", "convolutions", 1.0, dtype="bfloat16"),
            measured("torch", "book", 4.0),
            measured("mxnet", "ours", 8.0),
            measured("mxnet", "convolutions", 2.0),
            measured("mxnet", "book", 8.0),
        ]
    )
    shares = [row["share_of_convolutions"] for row in rows]
    assert shares == [0.5, 1.0, None, 0.25, 1.0, 0.25]


def test_limit_is_the_work_at_the_rate_of_the_fastest_backend() -> None:
    work = 4 * sum(training_flops("resnet18", 21, 64, 96).values())
    product = 2 * SIDE["cpu"] ** 3
    taken = [
        measured("torch", "ours", 2.0, 2.0, 2.0, dtype="bfloat16"),
        measured("torch", "book", 3.0, 3.0, 3.0),
        measured("torch", "limit", 0.5, 0.1, 0.6, dtype="bfloat16"),
        measured("mxnet", "ours", 2.0, 1.0, 2.0, dtype="bfloat16"),
        measured("mxnet", "book", 1.0, 1.0, 1.0),
        measured("jax", "ours", 1.0, 1.0, 1.0, dtype="bfloat16"),
        measured("jax", "book", 1.0, 1.0, 1.0),
        measured("jax", "limit", 0.3, 0.4, 0.2, dtype="bfloat16"),
        measured("jax", "limit", 0.8, 0.8, 0.8),
    ]
    fastest = fastest_product(taken, "bfloat16")
    assert fastest is not None
    assert fastest.job.backend == "jax"
    assert product_rate(fastest) == pytest.approx(product / 0.3 / 1e9)
    assert limit_turns(fastest)[1]["seconds"] == pytest.approx(0.4 * work / product)

    rows = make_rows(taken)
    assert [row["form"] for row in rows] == ["ours", "book", "limit"] * 3
    limits = rows[2::3]
    assert [row["backend"] for row in limits] == ["torch", "mxnet", "jax"]  # mxnet has no product
    for row in limits:
        assert set(row) == ROW_KEYS
        assert row["dtype"] == "bfloat16"
        assert row["seconds"] == pytest.approx(0.3 * work / product)
        assert row["spread"] == pytest.approx([0.2 * work / product, 0.4 * work / product])
        assert row["cpu_seconds"] is row["first_seconds"] is row["peak_mb"] is None
    assert limits[0]["speedup_over_book"] == pytest.approx(3.0 / limits[0]["seconds"])
    for row in rows:
        seconds = {"bfloat16": 0.3, "float32": 0.8}[row["dtype"]] * work / product
        assert row["share_of_limit"] == pytest.approx(seconds / row["seconds"])


def test_the_book_is_float32_and_mxnet_computes_nothing_in_bfloat16() -> None:
    jobs = make_jobs(Job(None, "", "eval", 1, 32, 64, dtype="bfloat16"), ["torch", "mxnet"])
    assert [(job.backend, job.form, job.dtype) for job in jobs] == [
        ("torch", "ours", "bfloat16"),
        ("torch", "convolutions", "bfloat16"),
        ("torch", "bilinear", "float32"),
        ("torch", "book", "float32"),
        ("torch", "limit", "bfloat16"),
        ("torch", "limit", "float32"),
        ("mxnet", "ours", "bfloat16"),
        ("mxnet", "bilinear", "float32"),
        ("mxnet", "book", "float32"),
        ("mxnet", "limit", "float32"),
    ]
    for mode in ("train", "eval", "predict"):
        single = make_jobs(Job(None, "", mode, 1, 32, 64), ["mxnet"])
        assert [job.form for job in single] == FORMS
    reading = make_jobs(Job(None, "", "data", 1, 32, 64), ["torch", "mxnet"])
    assert [(job.backend, job.form) for job in reading] == [(None, "ours"), (None, "book")]


def test_other_heads_stand_beside_ours() -> None:
    at = Job(None, "", "train", 1, 32, 64)
    jobs = make_jobs(at, ["torch"], [Head.fcn16s, Head.fcn8s])
    assert [job.form for job in jobs] == ["ours", "fcn16s", "fcn8s", *FORMS[1:]]
    for job in jobs[:3]:
        config = job.config()
        assert config.head == (job.form if job.form != "ours" else Head.fcn32s)
        pictures, _ = make_batch(job)
        assert pictures.dtype == "uint8"
    with build(dataclasses.replace(jobs[2], mode="predict"))() as call:
        assert np.asarray(call()).shape == (1, 32, 64)


def test_sizes_are_pairs() -> None:
    assert read_sizes([160, 256, 320, 480, 160, 256]) == [(160, 256), (320, 480)]


def test_both_forms_get_the_same_pictures() -> None:
    pictures, labels = make_batch(JOB)
    assert (pictures.shape, pictures.dtype) == ((4, 64, 96, 3), "uint8")
    assert (labels.shape, labels.max()) == ((4, 64, 96), 20)
    images, same = make_batch(Job("torch", "book", "train", 4, 64, 96))
    assert (images.shape, images.dtype) == ((4, 3, 64, 96), "float32")
    assert (images[3] == normalize(pictures[3], Config())).all()
    assert (same == labels).all()


def test_flops_of_a_head_with_skips_by_hand() -> None:
    flops = forward_flops("resnet18", 21, 320, 480, Head.fcn8s)
    plain = forward_flops("resnet18", 21, 320, 480)
    assert flops["up_layer4.weight"] == 2 * 21 * 21 * 4 * 4 * 10 * 15
    assert flops["up_layer3.weight"] == 2 * 21 * 21 * 4 * 4 * 20 * 30
    assert flops["score_layer3.weight"] == 2 * 21 * 256 * 20 * 30
    assert flops["score_layer2.weight"] == 2 * 21 * 128 * 40 * 60
    # the kernel is 16 times smaller, and is laid 16 times as often
    assert flops["transpose_conv.weight"] == plain["transpose_conv.weight"]


@pytest.mark.parametrize("mode", ["train", "eval", "predict"])
@pytest.mark.parametrize("form", ["ours", "bilinear", "book"])
def test_what_a_candidate_computes(form: str, mode: str) -> None:
    job = Job("torch", form, mode, batch_size=2, height=32, width=64)
    with build(job)() as call:
        result: Any = call()
    if mode == "train":
        assert 0 < result < 20
    elif mode == "eval":
        assert (result.shape, result.dtype) == ((2, 21, 32, 64), torch.float32)
    else:
        assert isinstance(result, np.ndarray)
        assert result.shape == (2, 32, 64)
        assert result.max() < 21
    taken = measure(job, build(job), 2)
    assert taken["seconds"] > 0
    assert taken["cpu_seconds"] > 0
    assert taken["peak_mb"] > 100


@pytest.mark.parametrize("backend", TORCH_FIRST)
def test_the_bilinear_head_interpolates_between_centres(backend: str) -> None:
    book = importlib.import_module(f"scripts.shared.speed.{backend}")
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 96), np.float32)
    logits = book.Trainer(Config(device=Device.cpu), bilinear=True).logits(images)
    logits = load_backend(backend).to_numpy(logits)
    if backend == "jax":
        logits = logits.transpose(0, 3, 1, 2)
    assert logits.shape == (1, 21, 64, 96)
    # the outermost 16 pixels lie beyond the centres of the scores, and repeat them
    assert np.ptp(logits[..., :16], axis=-1).max() < 1e-6
    between = logits[..., 17:47]
    assert np.abs(np.diff(between, n=2)).max() < 1e-5 < np.ptp(between)


def test_the_convolutions_are_those_of_the_network(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"scripts.shared.speed.{backend}")
    # a seed of its own, so that nothing is compiled yet
    config = Config(device=Device.cpu, batch_size=2, crop=(64, 96), seed=5)
    specs, flops = config_tensors(config), forward_flops("resnet18", 21, 64, 96)
    found = {}

    def recording(config: Config, convolve: Convolve, images: Any, pooled: Any) -> list[Any]:
        def record(x: Any, name: str, stride: int, padding: int) -> Any:
            y = convolve(x, name, stride, padding)
            assert x.shape[0] == y.shape[0] == 2
            places = np.prod(y.shape) // (2 * specs[name].shape[0])
            found[name] = 2 * np.prod(specs[name].shape) * places
            return y

        return follow(config, record, images, pooled)

    monkeypatch.setattr(module, "follow", recording)
    alone = module.Convolutions(config)
    if backend == "mxnet":
        alone.net.hybridize(False)  # a graph's symbols have no shape
    *_, cells = alone.forward()
    del flops["transpose_conv.weight"]
    assert found == flops
    assert cells.shape == (2, 3, 4, 32, 32, 21)


@pytest.mark.parametrize("training", [False, True])
def test_the_convolutions_flops_are_those_that_pytorch_counts(training: bool) -> None:
    config = Config(device=Device.cpu, batch_size=2, crop=(64, 96))
    alone = importlib.import_module("scripts.shared.speed.torch").Convolutions(config)
    with FlopCounterMode(display=False) as counter:
        (alone.gradients if training else alone.forward)()
    counted = {"convolution": 0, "product": 0}
    for operator, flops in counter.get_flop_counts()["Global"].items():
        counted["convolution" if "convolution" in str(operator) else "product"] += flops
    expected = (training_flops if training else forward_flops)("resnet18", 21, 64, 96)
    # a pixel of the scores reaches 4 cells, and those at the edges are whole
    head = expected.pop("transpose_conv.weight") * (3 * 4) // (2 * 3)
    assert counted == {"convolution": 2 * sum(expected.values()), "product": 2 * head}


def convolution_gradients(backend: str) -> dict[str, np.ndarray]:
    """In the canonical layouts, of a thin network in float64."""
    config = new_config(device=Device.cpu, dtype=Dtype.float64, batch_size=2, crop=(64, 96))
    alone = importlib.import_module(f"scripts.shared.speed.{backend}").Convolutions(config)
    found = {name: load_backend(backend).to_numpy(g) for name, g in alone.gradients().items()}
    if backend == "jax":
        moved = {POOLED: (0, 3, 1, 2), "transpose_conv.weight": (0, 1, 2, 3)}
        found = {k: v.transpose(moved.get(k, (3, 2, 0, 1))) for k, v in found.items()}
    return found


def test_the_convolutions_have_a_gradient_by_every_weight(backend: str) -> None:
    gradients, expected = convolution_gradients(backend), convolution_gradients("torch")
    config = new_config()
    specs = config_tensors(config).values()
    weights = {spec.name: spec.shape for spec in specs if spec.role == "weight"}
    assert {name: g.shape for name, g in gradients.items()} == {
        **weights,
        POOLED: (2, config.width, 16, 24),
    }
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("mode", ["train", "eval", "predict"])
def test_the_convolutions_are_a_candidate(backend: str, mode: str) -> None:
    job = Job(backend, "convolutions", mode, batch_size=1, height=32, width=64)
    with build(job)() as call:
        result: Any = call()
    assert len(result) == (23 if mode == "train" else 5)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_convolutions_compute_in_the_run_s_type(backend: str) -> None:
    job = Job(backend, "convolutions", "train", 1, 32, 64, dtype="bfloat16")
    with build(job)() as call:
        result: Any = call()
    assert {str(gradient.dtype).removeprefix("torch.") for gradient in result.values()} == {
        "bfloat16"
    }


def test_a_product_is_taken_to_its_end(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_worker, "SIDE", {"cpu": 64})
    job = Job(backend, "limit", "eval", 1, 32, 32)
    assert measure(job, build(job), 2)["seconds"] > 0


def test_synthetic_pictures_have_vocs_size_or_the_crops(tmp_path: Path) -> None:
    assert draw_pictures(tmp_path / "set", 3, [(320, 512)]) == (375, 512)
    paths = list(tmp_path.glob("set/*/train_*"))
    assert len(paths) == 6
    for path in paths:
        with Image.open(path) as picture:
            assert picture.size == (512, 375), path
    config = Config(crop=(64, 96), batch_size=2, workers=0)
    for form in ("ours", "book"):
        batches = endless_batches(form, tmp_path / "set", config)
        for _ in range(3):  # more than an epoch
            images, labels = next(batches)
            assert len(images) == len(labels) == 2
            assert labels.shape[1:] == (64, 96)
            assert set(np.unique(labels)) <= {*range(6), 255}


@pytest.mark.full
def test_ours_compiled_ahead_of_time_computes_the_same() -> None:
    """From another seed's weights each step would differ; here not a bit does."""
    found = {}
    for form in ("ours", "compiled"):
        job = Job("jax", form, "train", batch_size=1, height=32, width=64)
        trainer = bench_worker._trainer(job, None)
        images, labels = make_batch(job)
        found[form] = [trainer.predict(images)]
        found[form] += [trainer.step(images, labels, rate=0.1) for _ in range(2)]
        found[form] += [trainer.predict(images)]
    for ours, compiled in zip(found["ours"], found["compiled"], strict=True):
        np.testing.assert_array_equal(ours, compiled)


def test_without_a_cpp_compiler_torch_compile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="no-such-compiler is not installed"):
        build(dataclasses.replace(JOB, form="compiled"))


def test_onnx_runtime_finds_the_classes_that_pytorch_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    export_classes(tmp_path / "net.onnx", weights(), new_config())
    images = np.random.default_rng(0).standard_normal((3, 3, 96, 64), np.float32)
    found = predictor(tmp_path / "net.onnx")(images)
    ours = new_trainer("torch", device=Device.cpu).predict(images)
    assert (found.shape, found.dtype) == ((3, 96, 64), "uint8")
    assert len(np.unique(ours)) > 2
    assert (found != ours).mean() < 1e-3


def test_what_may_be_missing_is_told_and_the_others_take_their_turns() -> None:
    odd, job = (Job(name, "ours", "predict", 1, 32, 32) for name in ("theano", "torch"))
    job = dataclasses.replace(job, new_size=True)
    missing, there = take_turns([odd, job], 2, optional=[odd])
    assert "no such backend" in str(missing.error) and not missing.turns
    assert there.error is None and len(there.turns) == 2
    seconds = [there.first[f"{part}_seconds"] for part in ("import", "build", "new_size")]
    assert seconds[0] > 0 and seconds[1] > 0 and abs(seconds[2]) < 60
    with pytest.raises(InputError, match="no such backend"):
        take_turns([odd], 1)


def test_a_candidate_that_dies_is_named() -> None:
    message = r"^torch \(ours\) ended with exit code 1: ValueError"
    with pytest.raises(WorkerError, match=message):
        take_turns([Job("torch", "ours", "train", 2, 32, 32, dtype="int")], 1)


@pytest.mark.full
def test_json_has_all_forms(tmp_path: Path) -> None:
    path, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    done = bench(
        *("--backend", "torch", "--size", 64, 64, "--batch-size", 2, "--rounds", 1),
        *("--with-data", "--json", path, "--plot", picture),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert [row["form"] for row in result["rows"]] == FORMS
    for row in result["rows"]:
        assert set(row) == ROW_KEYS
        assert row["seconds"] > 0
        assert row["share_of_convolutions"] > 0
        limit = result["rows"][4]["seconds"]
        assert row["share_of_limit"] == pytest.approx(limit / row["seconds"])
    assert result["rows"][1]["share_of_convolutions"] == 1.0
    assert result["rows"][3]["speedup_over_book"] == 1.0
    heading = next(line for line in done.stdout.splitlines() if "backend" in line)
    assert heading.split()[-6:] == ["img/s", "book", "limit", "conv", "MB", "MB"]
    assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout  # nothing is cut off
    facts = result["machine"]
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert set(facts["versions"]) == {"python", "torch", "numpy"}
    assert facts["gflop_per_image"]["64x64"]["train"] == pytest.approx(0.9126, rel=1e-3)
    assert facts["product_gflop_per_second"]["float32"]["torch"] > 0
    assert facts["pictures"] == "synthetic"
    assert max(map(len, done.stdout.splitlines())) <= 100
    with Image.open(picture) as image:
        assert image.size[0] > 500


def test_several_batch_sizes_and_sizes_of_reading(tmp_path: Path, run_command: Command) -> None:
    path, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    code, _, err = run_command(
        *("bench", "--mode", "data", "--size", 32, 64, "--size", 64, 96, "--batch-size", 1, 2),
        *("--rounds", 1, "--json", path, "--plot", picture),
    )
    assert code == 0, err
    rows = json.loads(path.read_text())["rows"]
    combinations = [(n, h, w) for n in (1, 2) for h, w in ((32, 64), (64, 96))]
    assert [(r["batch_size"], r["height"], r["width"]) for r in rows[::2]] == combinations
    for row in rows:
        assert (row["backend"], row["mode"]) == (None, "data")
        assert row["share_of_limit"] is row["share_of_convolutions"] is None
    with Image.open(picture) as image:
        assert image.size[0] > 1000


@pytest.mark.usefixtures("no_hang")
def test_a_candidate_of_several_processes(backend: str) -> None:
    """They find one another, and take their turn together."""
    size = {"batch_size": 2, "height": 32, "width": 32}
    (one,) = take_turns([Job(backend, "sum", "train", **size, processes=2, threads=1)], 1)
    assert one.error is None
    assert one.first["import_seconds"] > 0
    assert one.turns[0]["seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--backend", "theano"], "theano"),
        (["--size", "16", "480"], "32"),
        (["--size", "100", "96"], "multiples of 32"),
        (["--size", "96"], "width"),
        (["--rounds", "0"], "rounds"),
        (["--batch-size", "0"], "batch-size"),
        (["--batch-size", "4", "1", "--size", "32", "32"], "BatchNorm"),
        (["--json", "nowhere/bench.json"], "nowhere"),
        (["--plot", "nowhere/bench.png"], "nowhere"),
        (["--mode", "eval", "--with-data"], "--with-data"),
        (["--processes", "0"], "processes"),
        (["--processes", "100000"], "takes a core"),
        (["--processes", "2", "--mode", "eval"], "--mode train"),
        (["--processes", "2", "--with-data"], "--with-data"),
        (["--processes", "2", "--head", "fcn8s"], "--head"),
        (["--data", "."], "--with-data"),
        (["--mode", "data", "--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["scripts.bench", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main(app, NUMBERS)
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert word in err
    assert err.count("\n") == 1
    assert not out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_worker_s_bad_input_is_one_line_and_exit_code_2(run_command: Command) -> None:
    code, _, err = run_command("bench", "--backend", "torch", "--device", "gpu")
    assert (code, err) == (2, "error: --device gpu: torch sees no GPU\n")
