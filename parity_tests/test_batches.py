"""Batches are a function of (seed, epoch, index): the same bytes for everyone."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from common.batches import steps_per_epoch, total_steps, training_batch, training_batches
from common.config import Config, Void
from common.dataset import Dataset, open_dataset
from common.errors import InputError
from common.shapes import write_shapes
from common.transforms import normalize, random_crop


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("shapes") / "set"
    write_shapes(folder, 7, 1, seed=5)
    return open_dataset(folder, "train")


CONFIG = Config(num_classes=6, batch_size=2, crop=(64, 96), epochs=2, seed=1)


def digest(shapes: Dataset, config: Config, first_step: int = 0) -> list[str]:
    return [
        hashlib.sha256(batch.image.tobytes() + batch.label.tobytes()).hexdigest()
        for batch in training_batches(shapes, config, first_step)
    ]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_same_bytes_for_any_number_of_workers(shapes: Dataset, workers: int) -> None:
    alone = digest(shapes, CONFIG.replace(workers=0))
    assert len(alone) == 6
    assert digest(shapes, CONFIG.replace(workers=workers)) == alone


def test_what_a_backend_is_cannot_change_them(shapes: Dataset) -> None:
    expected = digest(shapes, CONFIG)
    for change in ({"dtype": "float64"}, {"device": "cpu"}, {"learning_rate": 1.0}):
        assert digest(shapes, CONFIG.replace(**change)) == expected
    assert digest(shapes, CONFIG.replace(seed=2)) != expected


def test_any_step_can_be_made_alone_and_a_run_can_start_in_the_middle(shapes: Dataset) -> None:
    batches = list(training_batches(shapes, CONFIG))
    for step in (4, 1):
        alone = training_batch(shapes, CONFIG, step)
        assert np.array_equal(alone.image, batches[step].image)
        assert np.array_equal(alone.label, batches[step].label)
        assert alone.names == batches[step].names
    assert digest(shapes, CONFIG, first_step=3) == digest(shapes, CONFIG)[3:]


def test_an_epoch_visits_images_once_and_in_another_order_each_time(shapes: Dataset) -> None:
    batches = list(training_batches(shapes, CONFIG))
    assert [batch.epoch for batch in batches] == [0, 0, 0, 1, 1, 1]
    assert [batch.ends_epoch for batch in batches] == [False, False, True] * 2
    for epoch in (0, 1):
        names = [name for batch in batches if batch.epoch == epoch for name in batch.names]
        assert len(set(names)) == 6
    assert batches[0].names != batches[3].names


def test_dtypes_and_ranges(shapes: Dataset) -> None:
    batch = training_batch(shapes, CONFIG, 0)
    assert (batch.image.shape, batch.image.dtype) == ((2, 3, 64, 96), np.float32)
    assert (batch.label.shape, batch.label.dtype) == ((2, 64, 96), np.uint8)
    assert set(np.unique(batch.label)) <= {0, 1, 2, 3, 4, 5, 255}
    assert np.abs(batch.image).max() < 3


def test_crop_is_a_window_of_the_picture_and_flips_both() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (40, 50, 3), np.uint8)
    label = random.integers(0, 21, (40, 50)).astype(np.uint8)
    config = Config(crop=(16, 24))
    whole = normalize(image, config)
    flips = 0
    for seed in range(12):
        crop, labels = random_crop(image, label, config, np.random.default_rng(seed))
        windows = np.lib.stride_tricks.sliding_window_view(label, (16, 24))
        for flipped in (False, True):
            wanted = labels[:, ::-1] if flipped else labels
            places = np.argwhere((windows == wanted).all(axis=(2, 3)))
            if len(places):
                (y, x), flips = places[0], flips + flipped
                found = crop[:, :, ::-1] if flipped else crop
                assert np.array_equal(found, whole[:, y : y + 16, x : x + 24])
                break
        else:
            pytest.fail("the crop is no window of the picture")
    assert 0 < flips < 12


def test_a_small_picture_is_surrounded_by_void() -> None:
    image = np.full((5, 30, 3), 200, np.uint8)
    label = np.full((5, 30), 7, np.uint8)
    config = Config(crop=(8, 20), flip_probability=0)
    crop, labels = random_crop(image, label, config, np.random.default_rng(0))
    assert (labels == 7).sum() == 5 * 20
    assert (labels == 255).sum() == 3 * 20
    assert not crop[:, labels == 255].any()
    assert crop[:, labels == 7].all()


def test_void_as_background(shapes: Dataset) -> None:
    ignored = training_batch(shapes, CONFIG, 0)
    background = training_batch(shapes, CONFIG.replace(void=Void.background), 0)
    assert (ignored.label == 255).any()
    expected = np.where(ignored.label == 255, 0, ignored.label)
    assert np.array_equal(background.label, expected)


def test_padding_around_a_small_picture_stays_void_even_then(shapes: Dataset) -> None:
    config = CONFIG.replace(void=Void.background, crop=(256, 256))
    assert (training_batch(shapes, config, 0).label == 255).any()


def test_steps(shapes: Dataset) -> None:
    assert steps_per_epoch(shapes, CONFIG) == 3
    assert total_steps(shapes, CONFIG) == 6
    assert total_steps(shapes, CONFIG.replace(steps=10)) == 10
    with pytest.raises(InputError, match="7 images in train, --batch-size asks for 8"):
        steps_per_epoch(shapes, CONFIG.replace(batch_size=8))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_turns_bad_is_named(tmp_path: Path, workers: int) -> None:
    write_shapes(tmp_path / "set", 4, 1, seed=0)
    dataset = open_dataset(tmp_path / "set", "train")
    dataset.image_path(2).write_bytes(dataset.image_path(2).read_bytes()[:300])
    with pytest.raises(InputError, match=dataset.image_path(2).name):
        list(training_batches(dataset, CONFIG.replace(workers=workers)))
