"""Flips, scales and tiles: by their definition, in every backend, and from the command line."""

import functools
import itertools
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from backends import load_backend
from common.config import Architecture, Dtype, Inference
from common.data.shapes import SHAPES_CLASSES, write_shapes
from common.errors import InputError
from common.evaluation.views import Views, predictor, resized, scores, tiled_logits, tiles
from common.network.initial import generic_weights
from common.parity.compare import relative_l2
from common.protocol import Trainer
from common.weights.checkpoint import Weights, write_weights
from parity_tests.conftest import V1, WIDTH, new_trainer

EVERYTHING = Inference(flip=True, scales=(0.75, 1.25), tile=(64, 64), overlap=24)
Command = Callable[..., tuple[int, str, str]]


def picture(height: int, width: int) -> np.ndarray:
    """A random picture, smooth enough that scaling leaves something of it."""
    small = np.random.default_rng(5).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    image = Image.fromarray(small.astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


@functools.cache
def trainer_of(
    backend: str, dtype: Dtype = Dtype.float64, architecture: Architecture = V1
) -> Trainer:
    """On generic weights; nothing here trains it."""
    return new_trainer(backend, dtype=dtype, architecture=architecture)


def logits_of(backend: str, *settings: Any) -> Callable[[np.ndarray], np.ndarray]:
    trainer = trainer_of(backend, *settings)
    return lambda images: load_backend(backend).to_numpy(trainer.logits(images))


def whole(bands: Iterator[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(bands), axis=1)


@pytest.mark.parametrize("length", [1, 31, 96, 97, 300, 321, 1000])
@pytest.mark.parametrize("size, overlap", [(32, 0), (96, 0), (96, 1), (96, 64), (128, 50)])
def test_tiles_cover_a_picture(length: int, size: int, overlap: int) -> None:
    found = tiles(length, size, overlap)
    ends = [tile.at.stop for tile in found]
    assert all(tile.at.start % 32 == 0 for tile in found)
    assert ends[-1] == length
    lengths = {-(-(tile.at.stop - tile.at.start) // 32) for tile in found}
    assert lengths == {min(size // 32, -(-length // 32))}  # of one size, when padded
    for one, other in itertools.pairwise(found):
        assert other.at.start > one.at.start
        assert one.at.stop - other.at.start >= overlap
    total = np.zeros(length)
    for at, weight in found:
        assert weight.min() >= 0
        total[at] += weight
    assert np.allclose(total, 1, rtol=1e-15, atol=0)


def test_one_tile_fades_into_the_next() -> None:
    first, second = tiles(256, 160, 64)
    assert (first.at, second.at) == (slice(0, 160), slice(96, 256))
    assert np.array_equal(first.weight[:120], np.ones(120))  # 96 + 3/8 of 64
    assert np.array_equal(first.weight[-24:], np.zeros(24))
    assert (np.diff(first.weight[119:137]) < 0).all()
    assert np.allclose(first.weight[96:], second.weight[:64][::-1], rtol=0, atol=1e-15)


def tiled_against_whole(
    image: np.ndarray, overlap: int, backend: str = "torch", architecture: Architecture = V1
) -> float:
    logits = logits_of(backend, Dtype.float64, architecture)
    options = Inference(tile=(overlap + 128, overlap + 128), overlap=overlap)
    return relative_l2(whole(tiled_logits(logits, image, options)), logits(image[None])[0])


def test_tiles_that_overlap_by_640_give_the_logits_of_the_whole(backend: str) -> None:
    assert tiled_against_whole(picture(20, 900), 640, backend) < 1e-14


@pytest.mark.parametrize(
    "architecture, overlap",
    [(Architecture.resnet18, 640), (Architecture.resnet34, 1344), (Architecture.resnet18_v2, 640)],
)
def test_so_they_do_from_top_to_bottom_and_in_every_network(
    architecture: Architecture, overlap: int
) -> None:
    image = picture(overlap + 260, 20)
    assert tiled_against_whole(image, overlap, architecture=architecture) < 1e-14


def test_with_less_overlap_a_border_can_be_seen() -> None:
    assert tiled_against_whole(picture(20, 900), 608) > 1e-10


@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.float64])
@pytest.mark.parametrize("tile", [None, (64, 96), (96, 128)])
def test_a_tile_as_large_as_the_picture_is_the_whole(
    backend: str, dtype: Dtype, tile: tuple[int, int] | None
) -> None:
    image, options = picture(50, 75), Inference(tile=tile, overlap=192 if tile is None else 32)
    logits = logits_of(backend, dtype)
    expected = logits(image[None])[0]
    found = whole(tiled_logits(logits, image, options))
    assert found.dtype == dtype.value
    assert np.array_equal(found, expected)
    assert np.array_equal(whole(scores(logits, image, options)), expected)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 100), (90, 33), (300, 410)])
@pytest.mark.parametrize("bands", [1, 3])
def test_resized_is_bilinear_without_aligned_corners(size: tuple[int, int], bands: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, 64, 100))
    found = whole(resized(iter(np.array_split(x, bands, axis=1)), 64, size))
    options = {"size": size, "mode": "bilinear", "align_corners": False}
    expected = functional.interpolate(torch.from_numpy(x)[None], **options)[0].numpy()
    assert np.allclose(found, expected, rtol=0, atol=1e-13)


def leaning(images: np.ndarray) -> np.ndarray:
    """Logits of three classes that differ from pixel to pixel, from side to side, from the top."""
    height, width = images.shape[1:3]
    slope = np.arange(height)[:, None] / 40 - np.arange(width) / 30
    x = images.transpose(0, 3, 1, 2) / 64 + slope
    return x * np.array([1.0, -0.5, 0.25])[:, None, None]


@pytest.mark.parametrize("size", [(50, 75), (75, 50)], ids=["landscape", "portrait"])
@pytest.mark.parametrize("network", [False, True], ids=["a function", "a network"])
def test_the_score_is_the_mean_of_the_probabilities_of_all_views(
    size: tuple[int, int], network: bool
) -> None:
    """Against PyTorch's own operators, written down view by view."""
    image, logits = picture(*size), logits_of("torch") if network else leaning
    height, width = size
    views = []
    for scale in (0.5, 1.0, 1.5):
        at = round(width * scale), round(height * scale)
        seen = np.asarray(Image.fromarray(image).resize(at, Image.Resampling.BILINEAR))
        for flip in (False, True):
            x = torch.from_numpy(logits((seen[:, ::-1] if flip else seen)[None]))
            x = functional.interpolate(x.flip(3) if flip else x, size, mode="bilinear")
            views.append(x.softmax(dim=1)[0].numpy())
    found = whole(scores(logits, image, Inference(flip=True, scales=(0.5, 1.0, 1.5))))
    assert relative_l2(found, np.mean(views, axis=0)) < 1e-13


@pytest.mark.parametrize("options", [Inference(flip=True), Inference(True, (1.0,), (64, 64), 32)])
def test_with_flip_the_mirror_image_is_predicted_as_the_mirror_image(
    backend: str, options: Inference
) -> None:
    image, trainer = picture(60, 100), trainer_of(backend)
    seen = predictor(load_backend(backend), trainer, options)
    found = seen.predict(np.stack([image, image[:, ::-1]]))
    assert found.dtype == np.uint8
    assert found.shape == (2, 60, 100)
    assert len(np.unique(found)) > 1
    assert np.array_equal(found[1], found[0][:, ::-1])
    plain, mirrored = trainer.predict(image[None]), trainer.predict(image[None, :, ::-1])
    assert not np.array_equal(mirrored[0], plain[0][:, ::-1])


@pytest.mark.parametrize("other", ["mxnet", "jax"])
def test_all_of_it_is_the_same_in_every_backend(other: str) -> None:
    image = picture(64, 90)
    found, expected = (
        whole(scores(logits_of(name), image, EVERYTHING)) for name in (other, "torch")
    )
    assert relative_l2(found, expected) < 1e-13
    assert np.array_equal(found.argmax(axis=0), expected.argmax(axis=0))


def test_the_default_is_the_trainer_itself(backend: str) -> None:
    trainer = trainer_of(backend)
    assert predictor(load_backend(backend), trainer, Inference()) is trainer


def test_rows_are_finished_before_the_tiles_below_them_are_seen() -> None:
    """So memory does not grow with the height."""
    seen: list[int] = []

    def logits(images: np.ndarray) -> np.ndarray:
        seen.append(images.shape[1])
        return images.transpose(0, 3, 1, 2).astype(np.float64)

    image = picture(640, 70)
    found = scores(logits, image, Inference(flip=True, tile=(96, 64), overlap=32))
    assert next(found).shape == (3, 32, 70)
    assert seen == [96] * 2 * 2  # two tiles side by side, in either view
    assert sum(rows.shape[1] for rows in found) == 640 - 32


def shares(images: np.ndarray) -> np.ndarray:
    """Logits of 20 classes, which differ from pixel to pixel and with the corner of a tile."""
    grey = images.astype(np.float32).sum(axis=3)[:, None] + images[:, 0, 0].sum()
    return np.cos(grey * np.arange(1, 21, dtype=np.float32)[:, None, None])


VIEWS = {"one": {}, "mirrored": {"flip": True}, "scales": {"flip": True, "scales": (0.6, 1.0)}}


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("size", [(40, 300), (100, 290), (300, 100)])
def test_tiles_in_columns_find_what_tiles_in_rows_do(size: tuple[int, int], views: str) -> None:
    image, options = picture(*size), Inference(tile=(64, 96), overlap=32, **VIEWS[views])
    seen = Views(SimpleNamespace(to_numpy=np.asarray), SimpleNamespace(logits=shares), options)
    expected = whole(scores(shares, image, options)).argmax(axis=0)
    assert np.array_equal(seen.predict(image[None])[0], expected)


@pytest.mark.parametrize(
    "size, views", [((40, 60_000), "one"), ((60_000, 40), "one"), ((40, 60_000), "mirrored")]
)
def test_memory_is_that_of_a_row_of_tiles_across_the_shorter_side(
    size: tuple[int, int], views: str
) -> None:
    options = Inference(tile=(64, 64), overlap=32, **VIEWS[views])
    seen = Views(SimpleNamespace(to_numpy=np.asarray), SimpleNamespace(logits=shares), options)
    image = np.zeros((1, *size, 3), np.uint8)
    tracemalloc.start()
    seen.predict(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60_000_000  # all logits are 192 MB


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, 1, 2, seed=0)
    return folder


@pytest.fixture(scope="module")
def generic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "W.safetensors"
    arrays = generic_weights(V1, len(SHAPES_CLASSES), seed=0, width=WIDTH)
    write_weights(path, Weights(arrays, V1, SHAPES_CLASSES))
    return path


def test_evaluate(shapes: Path, generic: Path, tmp_path: Path, run_command: Command) -> None:
    def evaluate(*options: object) -> dict:
        start = ("evaluate", "--backend", "torch", "--weights", generic, "--data", shapes)
        code, _, err = run_command(*start, "--json", tmp_path / "x.json", *options)
        assert (code, err) == (0, "")
        return json.loads((tmp_path / "x.json").read_text())

    plain, one_tile = evaluate(), evaluate("--tile", 512, 512)
    told = one_tile.pop("inference")
    assert told == {"flip": False, "scales": [1.0], "tile": [512, 512], "overlap": 192}
    assert one_tile == plain  # which is of the whole pictures
    views = evaluate("--scales", 0.75, "1", 1.25, "--flip", "--tile", 96, 64, "--overlap", 32)
    told = views.pop("inference")
    assert told == {"flip": True, "scales": [0.75, 1, 1.25], "tile": [96, 64], "overlap": 32}
    assert views["confusion"] != plain["confusion"]
    assert np.sum(views["confusion"]) == np.sum(plain["confusion"])


def test_predict(
    backend: str, shapes: Path, generic: Path, tmp_path: Path, run_command: Command
) -> None:
    image = sorted((shapes / "JPEGImages").iterdir())[0]
    masks = []
    for options in ((), ("--flip", "--tile", 64, 64, "--overlap", 0, "--scales", 0.5, "2e0")):
        out = tmp_path / str(len(options))
        start = ("predict", "--backend", backend, "--weights", generic, "--out", out)
        code, _, err = run_command(*start, *options, image)
        assert (code, err) == (0, "")
        with Image.open(out / f"{image.stem}.png") as mask, Image.open(image) as seen:
            assert mask.size == seen.size
            masks.append(np.asarray(mask))
    assert not np.array_equal(*masks)


BAD = {
    "--scales 0": "--scales 0: above 0 and at most 8 is wanted",
    "--scales 1 nan": "--scales nan: above 0",
    "--scales -1": "--scales -1: above 0",
    "--scales 1 100": "--scales 100: above 0 and at most 8",
    "--scales wide": "Invalid value for '--scales'",
    "--tile 100 128": "--tile 100 128: multiples of 32 are wanted",
    "--tile 0 64": "--tile 0 64: multiples of 32",
    "--tile -32 64": "--tile -32 64: multiples of 32",
    "--tile 64": "",
    "--tile 256 128": "--overlap 192: from 0 to 96 is wanted with --tile 256 128",
    "--tile 128 128 --overlap -1": "--overlap -1: from 0 to 96 is wanted with --tile 128 128",
    "--overlap 64": "--overlap 64: is for --tile",
}


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize("options", BAD)
def test_bad_values_are_one_line(
    command: str, options: str, shapes: Path, generic: Path, tmp_path: Path, run_command: Command
) -> None:
    given = ("--out", tmp_path / "out") if command == "predict" else ("--data", shapes)
    image = sorted((shapes / "JPEGImages").iterdir())[:1] if command == "predict" else ()
    start = (command, "--backend", "torch", "--weights", generic, *given, *image)
    code, _, err = run_command(*start, *options.split())
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert BAD[options] in err
    assert not (tmp_path / "out").exists()


def test_options_are_checked_where_they_are_made() -> None:
    with pytest.raises(InputError, match="--overlap 33"):
        Inference(tile=(64, 64), overlap=33)
    assert Inference(tile=(64, 64), overlap=32).tile == (64, 64)
