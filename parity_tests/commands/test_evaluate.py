"""`evaluate`: what counts, and how; its figures against a count from the files that it writes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.config import VOID, Void
from common.data.dataset import Dataset, open_dataset
from common.data.shapes import SHAPES_CLASSES, write_shapes
from common.data.voc import voc_palette
from common.evaluation.counting import Counting
from common.network.initial import initial_weights
from common.weights.checkpoint import Weights, write_weights
from parity_tests.conftest import start

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shapes whose masks have a void corner; their val images have two sizes."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder / "d", 2, 6, seed=0)
    for k, name in enumerate(open_dataset(folder / "d", "val").names):
        for part in (f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png"):
            path = folder / "d" / part
            picture = Image.open(path)
            picture.load()
            width, height = picture.size
            if path.suffix == ".png":
                picture.paste(VOID, (0, 0, width // 3, height // 4))
            if k % 2:
                picture = picture.crop((0, 0, 50, 40))
            picture.save(path)
    return folder / "d"


def evaluate(run_command: Command, data: Path, out: Path, *options: object) -> tuple[Any, str]:
    arguments = ("--weights", start(), "--data", data, "--json", out / "r.json")
    code, told, err = run_command("evaluate", "--backend", "torch", *arguments, *options)
    assert (code, err) == (0, "")
    return json.loads((out / "r.json").read_text()), told


def masks(folder: Path, dataset: Dataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """Truth and prediction of each image, read from files by Pillow alone."""
    pairs = []
    for k, name in enumerate(dataset.names):
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.mode == "P"
            palette = np.array(picture.getpalette(), np.uint8).reshape(-1, 3)
            assert np.array_equal(palette, voc_palette()[: len(palette)])
            prediction = np.asarray(picture)
        with Image.open(dataset.mask_path(k)) as picture:
            pairs.append((np.asarray(picture), prediction))
    return pairs


def test_the_figures_are_those_of_the_masks_that_are_saved(
    data: Path, tmp_path: Path, run_command: Command
) -> None:
    found, told = evaluate(run_command, data, tmp_path, "--save-masks", tmp_path / "masks")
    dataset = open_dataset(data, "val")
    pairs = masks(tmp_path / "masks", dataset)
    assert len(list((tmp_path / "masks").iterdir())) == found["images"] == 6
    ious, present = [], []
    for label in range(dataset.num_classes):
        both = sum(int(((t == label) & (p == label)).sum()) for t, p in pairs)
        either = sum(int((((t == label) | (p == label)) & (t != VOID)).sum()) for t, p in pairs)
        if either:
            ious.append(both / either)
        if any((t == label).any() for t, _ in pairs):
            present.append(both / either)
    assert found["mean_iou"] == pytest.approx(np.mean(ious), rel=1e-12)
    assert found["mean_iou_present"] == pytest.approx(np.mean(present), rel=1e-12)
    assert found["classes_present"] == len(present)
    assert f"mean IoU present: {found['mean_iou_present']:.4f}, over the {len(present)}" in told
    right = sum(int((t == p).sum()) for t, p in pairs)
    valid = sum(int((t != VOID).sum()) for t, _ in pairs)
    assert found["pixel_accuracy"] == pytest.approx(right / valid, rel=1e-12)
    assert "counting" not in found


def test_void_as_background_counts_every_pixel(
    data: Path, tmp_path: Path, run_command: Command
) -> None:
    options = ("--void", "background", "--save-masks", tmp_path / "masks")
    found, _ = evaluate(run_command, data, tmp_path, *options)
    pairs = masks(tmp_path / "masks", open_dataset(data, "val"))
    right = sum(int((np.where(t == VOID, 0, t) == p).sum()) for t, p in pairs)
    assert np.sum(found["confusion"]) == sum(t.size for t, _ in pairs)
    assert found["pixel_accuracy"] == pytest.approx(right / sum(t.size for t, _ in pairs))
    assert found["counting"] == {"void": "background", "crop": None, "seed": 0}


def test_a_crop_of_each_image_that_is_large_enough(
    data: Path, tmp_path: Path, run_command: Command
) -> None:
    options = ("--void", "background", "--crop", 45, 60)
    found, told = evaluate(run_command, data, tmp_path, *options)
    assert found["images"] == 3
    assert np.sum(found["confusion"]) == 3 * 45 * 60
    assert "of 3 of 6 images\n" in told
    assert evaluate(run_command, data, tmp_path, *options)[0] == found
    other, _ = evaluate(run_command, data, tmp_path, *options, "--seed", 1)
    assert other["confusion"] != found["confusion"]


def test_a_crop_is_a_window_that_seed_and_index_choose() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (9, 12, 3)).astype(np.uint8)
    label = random.integers(0, 4, (9, 12)).astype(np.uint8)
    label[4, 4] = VOID
    places = set()
    for seed in range(40):
        taken = Counting(Void.ignore, (5, 7), seed).take(image, label, 3)
        assert taken is not None
        (place,) = (
            (top, left)
            for top in range(5)
            for left in range(6)
            if np.array_equal(taken[0], image[top : top + 5, left : left + 7])
        )
        assert np.array_equal(taken[1], label[place[0] : place[0] + 5, place[1] : place[1] + 7])
        places.add(place)
    assert {top for top, _ in places} == set(range(5))
    assert {left for _, left in places} == set(range(6))
    assert Counting(crop=(10, 7)).take(image, label, 0) is None
    assert Counting() == Counting(Void.ignore, None, seed=0)
    whole = Counting(Void.background).take(image, label, 0)
    assert whole is not None
    assert np.array_equal(whole[1], np.where(label == VOID, 0, label))


@pytest.mark.parametrize(
    "options, said",
    [
        (("--crop", 500, 500), "every mask it names is void everywhere or smaller than 500x500"),
        (("--crop", 0, 32), "--crop 0 32: at least 1 is wanted"),
        (("--crop", 32, 32, "--save-masks", "masks"), "--save-masks: not with --crop"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    data: Path,
    tmp_path: Path,
    run_command: Command,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("--backend", "torch", "--weights", start(), "--data", data)
    code, _, err = run_command("evaluate", *arguments, *options)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert not list(tmp_path.iterdir())


def test_the_data_s_own_masks_are_not_written_over(data: Path, run_command: Command) -> None:
    masks = data / "SegmentationClass"
    before = {path: path.read_bytes() for path in masks.iterdir()}
    arguments = ("--backend", "torch", "--weights", start(), "--data", data)
    code, _, err = run_command("evaluate", *arguments, "--save-masks", masks)
    assert (code, err) == (2, f"error: --save-masks {masks}: holds the data's own masks\n")
    assert {path: path.read_bytes() for path in masks.iterdir()} == before


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_the_class_names_of_weights_and_data_are_held_against_each_other(
    command: str, data: Path, tmp_path: Path, run_command: Command
) -> None:
    def run(*names: str) -> tuple[int, str]:
        arrays = initial_weights("resnet18", len(names), seed=0, width=8)
        write_weights(tmp_path / "W", Weights(arrays, "resnet18", names))
        arguments = ("--backend", "torch", "--weights", tmp_path / "W", "--data", data)
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        small = ("--steps", 1, "--batch-size", 2, "--crop", 32, 64, "--workers", 0, "--out", out)
        code, _, err = run_command(command, *arguments, *(small if command == "train" else ()))
        return code, "".join(
            line for line in err.splitlines(True) if "no mask it names" not in line
        )

    a, b, c, *rest = SHAPES_CLASSES[1:]
    assert run("background", a, b, c, *rest) == (0, "")
    assert run("_background_", a, b, c, *rest) == (0, "")
    assert run(*(f"class_{k}" for k in range(len(SHAPES_CLASSES)))) == (0, "")
    code, err = run("background", a, "box", "ball", *rest)
    told = f"its classes are not named as those of {data}: box for {b}, ball for {c}"
    assert (code, err) == (0, f"note: {tmp_path / 'W'}: {told}\n")
    code, err = run("background", b, a, c, *rest)
    told = f"its class 2 is {a}, which is class 1 of {data}: the classes are in another order"
    assert (code, err) == (2, f"error: {tmp_path / 'W'}: {told}\n")


def test_another_number_than_a_launcher_has_started_is_refused(
    run_command: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = ("--backend", "torch", "--weights", start(), "--data", data, "--processes", 4)
    code, out, err = run_command("evaluate", *options)
    assert (code, out, err) == (
        2,
        "",
        "error: --processes 4: 2 started, as WORLD_SIZE tells\n",
    )


@pytest.mark.full
def test_several_processes_count_together(backend: str, data: Path, tmp_path: Path) -> None:
    """Each its share of the images, and of the masks that are saved."""
    found = []
    for count in (1, 2):
        at = tmp_path / str(count)
        options = ("--json", at / "r.json", "--save-masks", at / "masks", "--processes", count)
        command = ("--backend", backend, "--weights", start(), "--data", data, *options)
        at.mkdir()
        subprocess.run(
            [sys.executable, "-m", "scripts.evaluate", *map(str, command)],
            cwd=Path(__file__).parents[2],
            check=True,
        )
        masks = {path.name: path.read_bytes() for path in (at / "masks").iterdir()}
        found.append((json.loads((at / "r.json").read_text()), masks))
    assert found[0] == found[1]
    assert len(found[1][1]) == 6
