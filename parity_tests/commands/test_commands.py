"""The commands from end to end on a small set, in every backend; and their answers to bad input."""

import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.data.shapes import SHAPES_CLASSES, write_shapes
from common.data.voc import voc_palette
from common.evaluation.ahead import THREADS
from common.files import sha256
from common.network.initial import initial_weights
from common.parity.compare import relative_l2
from common.parity.traces import generic_batches
from common.runs.run_folder import run_files
from common.weights.checkpoint import (
    Weights,
    read_tensors,
    read_weights,
    write_tensors,
    write_weights,
)
from parity_tests.conftest import (
    NUM_CLASSES,
    V1,
    WIDTHS,
    start,
    start_of,
    trace,
    untimed,
    weights,
)

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, 6, 2, seed=0)
    return folder


@pytest.fixture
def initial() -> Path:
    return start()


def picture(path: Path) -> Image.Image:
    """A copy of a picture, its file closed."""
    with Image.open(path) as image:
        return image.copy()


SMALL = ("--steps", 3, "--batch-size", 2, "--crop", 32, 64, "--seed", 3)


@pytest.mark.parametrize("width", WIDTHS)
def test_train_evaluate_predict(
    backend: str, width: int, shapes: Path, tmp_path: Path, run_command: Command
) -> None:
    run = tmp_path / "run"
    code, out, err = run_command(
        "train", "--backend", backend, "--data", shapes, "--out", run, *SMALL, *start_of(width)
    )
    assert (code, err) == (0, "")
    assert "3 steps" in out
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert {path for path in run.iterdir() if path.is_file()} <= set(run_files(run))
    fields = {"step", "epoch", "loss", "lr", "backend", "seconds", "images_per_second", "peak_mb"}
    assert all(set(line) == fields for line in lines)
    config = json.loads((run / "config.json").read_text())
    assert (config["backend"], config["num_classes"], config["seed"]) == (backend, 6, 3)
    for name in ("curves", "classes", "confusion", "predictions"):
        assert picture(run / f"{name}.png").size[0] > 300
    found = json.loads((run / "metrics.json").read_text())
    assert found.pop("run")["backend"] == backend
    best, last = (read_weights(run / f"{name}.safetensors") for name in ("best", "last"))
    assert last.class_names == SHAPES_CLASSES
    assert len(last.momentum) == 64
    assert best.arrays.keys() == last.arrays.keys()

    checkpoint, result = run / "last.safetensors", tmp_path / "result.json"
    code, _, err = run_command(
        *("evaluate", "--backend", backend, "--weights", checkpoint, "--data", shapes),
        *("--split", "val", "--json", result, "--confusion", tmp_path / "confusion.png"),
    )
    assert (code, err) == (0, "")
    metrics = json.loads(result.read_text())
    assert set(metrics) == {
        *("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"),
        *("mean_iou_present", "classes_present", "trimap_mean_iou"),
        *("per_class", "confusion", "images"),
    }
    assert [row["name"] for row in metrics["per_class"]] == list(SHAPES_CLASSES)
    val = json.loads((run / "val.jsonl").read_text().splitlines()[-1])
    assert val["mean_iou"] == pytest.approx(metrics["mean_iou"], abs=1e-12)
    assert found == metrics
    assert picture(tmp_path / "confusion.png").size[0] > 300

    image = next((shapes / "JPEGImages").iterdir())
    Image.fromarray(np.zeros((45, 70, 3), np.uint8)).save(tmp_path / "odd.png")
    code, _, err = run_command(
        *("predict", "--backend", backend, "--weights", checkpoint, "--out", tmp_path / "pictures"),
        *(image, tmp_path / "odd.png"),
    )
    assert (code, err) == (0, "")
    for path in (image, tmp_path / "odd.png"):
        mask = picture(tmp_path / "pictures" / f"{path.stem}.png")
        assert (mask.mode, mask.size) == ("P", picture(path).size)
        assert mask.getpalette() == voc_palette().ravel().tolist()
        assert np.asarray(mask).max() < 6
        overlay = picture(tmp_path / "pictures" / f"{path.stem}.overlay.png")
        assert overlay.mode == "RGB"
        assert overlay.height > mask.height


@pytest.mark.parametrize("other", ["mxnet", pytest.param("jax", marks=pytest.mark.full)])
def test_backends_train_on_the_same_batches_from_the_same_weights(
    other: str, shapes: Path, tmp_path: Path, run_command: Command
) -> None:
    losses: list[list[float]] = []
    finals = []
    for backend in ("torch", other):
        run = tmp_path / backend
        data = ("--data", shapes, "--out", run, "--dtype", "float64", "--workers", len(losses))
        code, _, err = run_command(
            "train", "--backend", backend, *data, *SMALL, "--weights", start()
        )
        assert (code, err) == (0, "")
        text = (run / "log.jsonl").read_text()
        losses.append([json.loads(line)["loss"] for line in text.splitlines()])
        finals.append(read_weights(run / "last.safetensors").arrays)
    assert np.allclose(losses[1], losses[0], rtol=1e-9, atol=0)
    for name, array in finals[0].items():
        assert relative_l2(finals[1][name], array) < 1e-9, name


def test_trace(backend: str, tmp_path: Path, run_command: Command) -> None:
    w, b, t = (tmp_path / f"{name}.safetensors" for name in "WBT")
    write_tensors(w, weights(), {"architecture": V1, "num_classes": str(NUM_CLASSES)})
    data = generic_batches(3, 2, 64, 96, NUM_CLASSES, seed=0)
    write_tensors(b, {"image": data.image, "label": data.label}, {})
    code, _, err = run_command(
        *("trace", "--backend", backend, "--weights", w, "--batches", b, "--out", t),
        *("--dtype", "float64", "--steps", 2, "--lr", 0.01, "--weight-decay", 1e-3),
    )
    assert (code, err) == (0, "")
    arrays, metadata = read_tensors(t)
    assert arrays.keys() == trace("torch", "float64").keys()
    assert arrays["loss"].shape == (2,)
    assert (metadata["format"], metadata["schema"]) == ("rosetta-trace", "1")
    assert (metadata["backend"], metadata["dtype"]) == (backend, "float64")
    assert (metadata["weights_sha256"], metadata["batches_sha256"]) == (sha256(w), sha256(b))
    assert json.loads(metadata["versions"])[backend]
    assert float(metadata["learning_rate"]) == 0.01


def test_train_starts_from_weights(shapes: Path, tmp_path: Path, run_command: Command) -> None:
    initial = tmp_path / "W.safetensors"
    arrays = initial_weights(V1, len(SHAPES_CLASSES), seed=0)
    write_weights(initial, Weights(arrays, V1, SHAPES_CLASSES))
    base = ("train", "--backend", "torch", "--data", shapes, "--steps", 1, "--batch-size", 2)
    base += ("--crop", 32, 64)
    seeded, given = tmp_path / "seeded", tmp_path / "given"
    assert run_command(*base, "--out", seeded, "--seed", 0)[0] == 0
    assert run_command(*base, "--out", given, "--weights", initial)[0] == 0
    assert untimed(seeded / "log.jsonl") == untimed(given / "log.jsonl")


def bad_arguments(
    kind: str, tmp_path: Path, shapes: Path, initial: Path
) -> tuple[list[object], str]:
    """A command line with one fault, and what its answer must say."""
    train = ["train", "--backend", "torch", "--data", shapes, "--out", tmp_path / "run"]
    evaluate = ["evaluate", "--backend", "torch", "--data", shapes, "--weights"]
    predict = ["predict", "--backend", "torch", "--weights", initial, "--out", tmp_path / "out"]
    half, cut = tmp_path / "half.safetensors", tmp_path / "cut.jpg"
    half.write_bytes(initial.read_bytes()[:-100])
    image = next((shapes / "JPEGImages").iterdir())
    cut.write_bytes(image.read_bytes()[:400])
    return {
        "backend": (
            ["evaluate", "--backend", "caffe", "--data", shapes, "--weights", initial],
            "caffe",
        ),
        "gpu": ([*evaluate, initial, "--device", "gpu"], "--device gpu: torch sees no GPU"),
        "dtype": ([*evaluate, initial, "--dtype", "float16"], "float16"),
        "no such option": ([*evaluate, initial, "--batch", "2"], "--batch"),
        "steps": ([*train, "--steps", 0], "--steps"),
        "weights before images": (
            [*predict[:4], half, *predict[5:], image, cut],
            "half.safetensors",
        ),
        "same name": ([*predict, image, image], "would overwrite"),
        "same name in a folder": ([*predict, tmp_path, tmp_path / "a.png"], "would overwrite"),
        "over the image": ([*predict[:-1], tmp_path, tmp_path / "a.png"], "would overwrite"),
        "background": ([*train, "--void", "white"], "white"),
    }[kind]


BAD_ARGUMENTS = (
    "backend, gpu, dtype, no such option, steps, weights before images, same name,"
    " same name in a folder, over the image, background"
)


@pytest.mark.parametrize("kind", BAD_ARGUMENTS.split(", "))
def test_bad_input_is_one_line_and_nothing_is_written(
    kind: str, shapes: Path, initial: Path, tmp_path: Path, run_command: Command
) -> None:
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    arguments, message = bad_arguments(kind, tmp_path, shapes, initial)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    code, _, err = run_command(*arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_predict_does_a_folder_and_reports_what_is_broken(
    shapes: Path, initial: Path, tmp_path: Path, run_command: Command
) -> None:
    folder, out, result = (tmp_path / name for name in ("in", "out", "result.json"))
    (folder / "inner").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "inner/e.png"):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / name)
    for name in ("notes.txt", ".hidden.png", "aa.png"):
        (folder / name).write_text("no picture")
    image = next((shapes / "JPEGImages").iterdir())
    arguments = ("--weights", initial, "--out", out, "--json", result, tmp_path / "z.png", folder)
    code, said, err = run_command("predict", "--backend", "torch", *arguments, image)
    assert code == 2
    left_out, missing, broken = err.splitlines()
    assert left_out.startswith("note: 1 file left out")
    assert left_out.endswith("notes.txt")
    assert missing == f"error: {tmp_path / 'z.png'}: no such file"
    assert broken.startswith(f"error: {folder / 'aa.png'}: no image, or a damaged one")
    assert f"3 of 5 images done, in {out}" in said
    items = json.loads(result.read_text())
    given = [tmp_path / "z.png", *(folder / name for name in ("a.JPG", "aa.png", "b.png")), image]
    assert [item["image"] for item in items] == list(map(str, given))
    assert items[0] == {"image": str(tmp_path / "z.png"), "error": "no such file"}
    assert items[2] == {"image": str(folder / "aa.png"), "error": broken.split(": ", 2)[2]}
    assert sum(items[1]["pixels"].values()) == 20 * 30
    written = {
        f"{stem}{end}" for stem in ("a", "b", image.stem) for end in (".png", ".overlay.png")
    }
    assert {path.name for path in out.iterdir()} == written


def test_predict_makes_no_folder_where_every_image_is_broken(
    initial: Path, tmp_path: Path, run_command: Command
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).touch()
    out = ("--out", tmp_path / "new" / "out", "--json", tmp_path / "result.json")
    code, _, err = run_command("predict", "--backend", "torch", "--weights", initial, *out, folder)
    assert code == 2
    lines = [f"error: {folder / name}: the file is empty" for name in ("a.png", "b.png")]
    assert err.splitlines() == lines
    assert not (tmp_path / "new").exists()
    assert [item["error"] for item in json.loads((tmp_path / "result.json").read_text())] == [
        "the file is empty"
    ] * 2


@pytest.mark.parametrize("slow", ["network", "disk"])
def test_predict_holds_few_of_many_images_and_prints_few(
    slow: str, initial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: Command
) -> None:
    """Decoding does not run away from the network, nor the network from what writes."""
    most = 2 * THREADS + 4
    images, alive, too_many = [], [], threading.Event()
    pauses = iter([0.3] * THREADS)  # each writer is held up once; the network may be twice

    def read(path: Path) -> np.ndarray:
        image = np.zeros((4, 6, 3), np.uint8)
        images.append(weakref.ref(image))
        alive.append(sum(reference() is not None for reference in images))
        if alive[-1] > most:
            too_many.set()
        return image

    def hold_up(place: str) -> None:
        if place == slow:
            too_many.wait(next(pauses, 0))

    class Trainer:
        def __init__(self, *_: object) -> None: ...

        def predict(self, images: np.ndarray) -> np.ndarray:
            hold_up("network")
            return np.zeros((1, 4, 6), np.uint8)

    def overlay(image: np.ndarray, *_: object) -> Image.Image:
        hold_up("disk")
        return Image.fromarray(image)

    monkeypatch.setattr(
        "scripts.shared.evaluation.load_backend", lambda name: SimpleNamespace(Trainer=Trainer)
    )
    monkeypatch.setattr("scripts.predict.read_image", read)
    monkeypatch.setattr("scripts.predict.overlay", overlay)
    (tmp_path / "in").mkdir()
    for k in range(40):
        (tmp_path / "in" / f"{7 * k % 40:02}.png").touch()
    options = ("--weights", initial, "--out", tmp_path / "out", "--json", tmp_path / "result.json")
    code, out, err = run_command("predict", "--backend", "torch", *options, tmp_path / "in")
    assert (code, err) == (0, "")
    assert len(alive) == 40
    assert max(alive) <= most
    lines = out.splitlines()
    assert len(lines) < 15
    assert sum(".png: " in line for line in lines) == 10
    assert "... and 30 more" in lines
    items = json.loads((tmp_path / "result.json").read_text())
    assert [Path(item["mask"]).name for item in items] == [f"{k:02}.png" for k in range(40)]


def test_void_as_background_needs_a_background(tmp_path: Path, run_command: Command) -> None:
    write_shapes(tmp_path / "set", 3, 1, seed=0)
    (tmp_path / "set" / "class_names.txt").write_text("sky\nb\nc\nd\ne\nf\n")
    out = ("--out", tmp_path / "run", "--void", "background")
    code, _, err = run_command(
        "train", "--backend", "torch", "--data", tmp_path / "set", *out, *SMALL
    )
    assert code == 2
    assert "class 0 is sky, not background" in err


TRACE_FAULTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "more steps": ({}, 4, "holds 3 batches, --steps asks for 4"),
    "label": (
        {"label": np.full((3, 2, 32, 32), NUM_CLASSES, np.uint8)},
        2,
        f"label {NUM_CLASSES} is neither",
    ),
    "label type": ({"label": np.zeros((3, 2, 32, 32), np.int64)}, 2, "label is int64, not uint8"),
    "label shape": ({"label": np.zeros((3, 2, 32, 31), np.uint8)}, 2, "label is (3, 2, 32, 31)"),
    "image shape": ({"image": np.zeros((3, 2, 32, 32, 3))}, 2, "not (steps, N, 3, H, W)"),
    "image type": ({"image": np.zeros((3, 2, 3, 32, 32), np.float16)}, 2, "image is float16"),
    "nan": ({"image": np.full((3, 2, 3, 32, 32), np.nan)}, 2, "image holds NaN"),
    "no label": ({"label": None}, 2, "has no array label"),
    "one value": (
        {"image": np.zeros((3, 1, 3, 32, 32)), "label": np.zeros((3, 1, 32, 32), np.uint8)},
        2,
        "one value a channel",
    ),
}


@pytest.mark.parametrize("fault", TRACE_FAULTS)
def test_trace_refuses_bad_batches(fault: str, tmp_path: Path, run_command: Command) -> None:
    change, steps, message = TRACE_FAULTS[fault]
    w, b, t = (tmp_path / f"{name}.safetensors" for name in "WBT")
    write_tensors(w, weights(), {"architecture": V1, "num_classes": str(NUM_CLASSES)})
    data = generic_batches(3, 2, 32, 32, NUM_CLASSES, seed=0)
    arrays = {"image": data.image, "label": data.label} | change
    write_tensors(b, {name: a for name, a in arrays.items() if a is not None}, {})
    options = ("--weights", w, "--batches", b, "--out", t, "--steps", steps)
    code, _, err = run_command("trace", "--backend", "torch", *options)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err
    assert not t.exists()


def test_a_command_as_a_person_types_it(tmp_path: Path) -> None:
    """In a process of its own: exit code 2, one line, no traceback."""
    command = [sys.executable, "-m", "scripts.evaluate", "--backend", "jax", "--data", "nowhere"]
    command += ["--weights", str(tmp_path / "none.safetensors")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"error: {tmp_path}/none.safetensors: no such file\n"


def test_generic_weights_and_batches_can_be_traced(tmp_path: Path, run_command: Command) -> None:
    lab = tmp_path / "lab"
    code, out, err = run_command("data", "generic", lab, "--steps", 2, "--size", 33, 40)
    assert (code, err) == (0, "")
    assert "2 batches of 2 33x40" in out
    start = read_weights(lab / "W.safetensors")
    assert {array.dtype.name for array in start.arrays.values()} == {"float32"}
    assert len(set(start.arrays["backbone.bn1.weight"])) > 1  # generic: no gamma of 1
    arrays, _ = read_tensors(lab / "B.safetensors")
    assert arrays["image"].shape == (2, 2, 3, 33, 40)
    assert arrays["label"].shape == (2, 2, 33, 40)
    files = ("--weights", lab / "W.safetensors", "--batches", lab / "B.safetensors")
    trace_file = tmp_path / "T.safetensors"
    code, _, err = run_command(
        "trace", "--backend", "torch", *files, "--steps", 2, "--out", trace_file
    )
    assert (code, err) == (0, "")
