"""What is done to a picture before the network sees it, against PyTorch's and Pillow's own ways."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from common.config import IMAGENET_MEAN, IMAGENET_STD, VOID, Config
from common.data.augment import mean_colour, normalize, random_crop
from common.data.batches import training_batch
from common.network.grid import scale_and_offset
from parity_tests.network.witnesses import import_torchvision

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Pictures:
    """A split in memory; `root` and `split` are for messages."""

    pairs: tuple[Pair, ...]
    root: Path = Path("data")
    split: str = "train"

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"p{k}" for k in range(len(self)))

    def open(self, index: int) -> tuple[Image.Image, Image.Image]:
        image, label = self.pairs[index]
        return Image.fromarray(image), Image.fromarray(label)


def coordinates(height: int, width: int, blue: int = 0) -> Pair:
    """A picture whose red is the column and whose green is the row, and so is its label."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([columns, rows, np.full_like(rows, blue)], axis=-1), columns


SIZE = (12, 17)
CROP = (5, 8)


def windows(dataset: Any, config: Config, epochs: int) -> dict[tuple[int, int], list[Any]]:
    """By epoch and picture: top, left, whether it was flipped; each crop must be such a window."""
    found: dict[tuple[int, int], list[Any]] = {}
    for step in range(epochs * len(dataset) // config.batch_size):
        batch = training_batch(dataset, config, step)
        for image, label, name in zip(batch.image, batch.label, batch.names, strict=True):
            flipped = bool(image[0, 0, 0] > image[0, -1, 0])
            plain = image[:, ::-1] if flipped else image
            left, top, picture = (int(value) for value in plain[0, 0])
            assert name == f"p{picture}"
            whole, columns = dataset.pairs[picture]
            rows = slice(top, top + config.crop[0])
            window = rows, slice(left, left + config.crop[1])
            assert np.array_equal(plain, whole[window])
            assert np.array_equal(label[:, ::-1] if flipped else label, columns[window])
            found.setdefault((batch.epoch, picture), []).append((top, left, flipped))
    return found


def test_crop_and_flip_are_drawn_anew_for_each_picture_of_each_epoch() -> None:
    """Every place equally often, of each picture; no draw follows from another."""
    dataset = Pictures(tuple(coordinates(*SIZE, blue=k) for k in range(4)))
    config, epochs = Config(num_classes=21, batch_size=2, crop=CROP, seed=3), 100
    drawn = windows(dataset, config, epochs)
    assert sorted(drawn) == list(itertools.product(range(epochs), range(4)))
    assert all(len(places) == 1 for places in drawn.values())
    table = np.array([[drawn[epoch, k][0] for k in range(4)] for epoch in range(epochs)], int)
    for column, count in ((0, 8), (1, 10), (2, 2)):  # 12 - 5 + 1, 17 - 8 + 1
        values = table[:, :, column]
        shares = np.bincount(values.ravel(), minlength=count) / values.size
        assert len(shares) == count
        assert np.abs(shares * count - 1).max() < 0.5
        assert (values != values[:, :1]).any(axis=1).mean() > 0.8  # pictures of an epoch
        assert (values != values[:1]).any(axis=0).all()  # epochs of a picture
    assert np.abs(np.corrcoef(table.reshape(-1, 3).T) - np.eye(3)).max() < 0.15
    other = windows(dataset, config.replace(seed=4), 2)
    assert any(other[key] != drawn[key] for key in other)


def test_a_picture_s_place_in_the_order_changes_each_epoch_and_is_not_its_crop() -> None:
    dataset = Pictures(tuple(coordinates(*SIZE, blue=k) for k in range(3)))
    config = Config(num_classes=21, batch_size=3, crop=CROP, seed=0)
    orders = [training_batch(dataset, config, epoch).names for epoch in range(60)]
    counts = [orders.count(names) for names in itertools.permutations(dataset.names)]
    assert sum(counts) == 60 and min(counts) >= 3


@pytest.mark.parametrize("chance", [0.0, 0.25, 1.0])
def test_the_chance_of_a_flip_is_what_is_asked_for(chance: float) -> None:
    dataset = Pictures((coordinates(*SIZE),))
    config = Config(num_classes=21, batch_size=1, crop=CROP, flip_probability=chance)
    flips = [f for places in windows(dataset, config, 200).values() for _, _, f in places]
    assert abs(np.mean(flips) - chance) <= (0.08 if 0 < chance < 1 else 0)


def scaled_by_torch(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear, averaged over the area where it shrinks."""
    x = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None]
    options = {"mode": "bilinear", "antialias": True, "align_corners": False}
    return functional.interpolate(x, size, **options)[0].permute(1, 2, 0).numpy()


def nearest_by_torch(label: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    x = torch.from_numpy(label.astype(np.float64))[None, None]
    return functional.interpolate(x, size, mode="nearest-exact")[0, 0].numpy().astype(np.uint8)


@pytest.mark.parametrize("size", [(37, 61), (61, 37)], ids=["landscape", "portrait"])
@pytest.mark.parametrize("scale", [0.5, 0.73, 1.0, 1.6])
def test_a_scaled_crop_is_a_window_of_what_torch_scales(
    size: tuple[int, int], scale: float
) -> None:
    """Of classes far apart, 0 and 20: a mask that is blended shows what is neither."""
    random = np.random.default_rng(7)
    image = random.integers(0, 256, (*size, 3)).astype(np.uint8)
    label = random.choice(np.array([0, 20, VOID], np.uint8), size)
    config = Config(num_classes=21, crop=(16, 15), scale=(scale, scale), flip_probability=0.5)
    whole = tuple(round(side * scale) for side in size)
    pixels, labels = scaled_by_torch(image, whole), nearest_by_torch(label, whole)
    places, flips = set(), set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        crop, mask = random_crop(Image.fromarray(image), Image.fromarray(label), config, rng)
        apart = {
            (top, left, flipped): np.abs(
                (crop[:, ::-1] if flipped else crop) - pixels[top : top + 16, left : left + 15]
            ).max()
            for top in range(whole[0] - 15)
            for left in range(whole[1] - 14)
            for flipped in (False, True)
        }
        top, left, flipped = min(apart, key=apart.__getitem__)
        assert apart[top, left, flipped] < 2  # Pillow rounds after each axis
        window = labels[top : top + 16, left : left + 15]
        # where a centre falls on a border of two pixels, either is the nearest
        assert (mask == (window[:, ::-1] if flipped else window)).mean() > 0.95
        assert set(np.unique(mask)) <= {0, 20, VOID}
        places.add((top, left))
        flips.add(flipped)
    assert flips == {False, True}
    assert len(places) > 3


@pytest.mark.parametrize("size", [(10, 40), (40, 10), (9, 9)])
def test_a_small_picture_lies_anywhere_in_the_crop(size: tuple[int, int]) -> None:
    image, _ = coordinates(*size, blue=99)
    label = np.full(size, 7, np.uint8)
    config = Config(num_classes=21, crop=(16, 12), flip_probability=0, mean=(0.9, 0.5, 0.1))
    seen = tuple(min(pair) for pair in zip(size, config.crop, strict=True))
    places = set()
    for seed in range(80):
        rng = np.random.default_rng(seed)
        crop, mask = random_crop(Image.fromarray(image), Image.fromarray(label), config, rng)
        rows, columns = (np.unique(axis) for axis in np.nonzero(mask == 7))
        assert (len(rows), len(columns)) == seen and np.ptp(rows) + 1 == seen[0]
        inside = np.ix_(rows, columns)
        left, top = (int(value) for value in crop[rows[0], columns[0], :2])
        assert np.array_equal(crop[inside], image[top : top + seen[0], left : left + seen[1]])
        around = np.ones(mask.shape, bool)
        around[inside] = False
        assert (mask[around] == VOID).all()
        assert (crop[around] == mean_colour(config)).all()
        places.add((rows[0], columns[0]))
    assert {row for row, _ in places} == set(range(16 - seen[0] + 1))
    assert {column for _, column in places} == set(range(12 - seen[1] + 1))


def luminance(colour: NDArray[Any]) -> float:
    return float(colour @ np.array([0.299, 0.587, 0.114]))


def test_jitter_is_pillow_s_three_enhancements_within_its_strength() -> None:
    """Read from a picture of two colours: what each of the three did to it, in any order."""
    image = np.zeros((8, 10, 3), np.uint8)
    image[:4], image[4:] = (100, 110, 120), (130, 124, 118)
    label = np.zeros((8, 10), np.uint8)
    config = Config(num_classes=21, crop=(8, 10), jitter=0.3, flip_probability=0)
    bright, contrast, colour = [], [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        crop, _ = random_crop(Image.fromarray(image), Image.fromarray(label), config, rng)
        one, other = crop[0, 0].astype(float), crop[-1, 0].astype(float)
        assert (crop[:4] == one).all() and (crop[4:] == other).all()
        grey = luminance(one + other) / luminance(np.array([230, 234, 238]))
        bright.append(grey)
        # the spread of the two lightnesses is times brightness and contrast
        contrast.append((luminance(other) - luminance(one)) / luminance(np.array([30, 14, -2])))
        contrast[-1] /= grey
        # the distance of red and blue is times all three
        colour.append((one[2] - one[0] + other[0] - other[2]) / 32 / grey / contrast[-1])
    for factors, slack in ((bright, 0.01), (contrast, 0.12), (colour, 0.12)):
        assert 0.7 - slack <= min(factors) < 0.76
        assert 1.24 < max(factors) <= 1.3 + 2 * slack
        assert np.mean(factors) == pytest.approx(1, abs=0.03)
    table = np.corrcoef([bright, contrast, colour])
    assert np.abs(table - np.eye(3)).max() < 0.2  # one draw each


def test_normalize_is_torchvision_s_with_the_statistics_of_its_weights() -> None:
    """In its order of channels: red, green, blue."""
    torchvision = import_torchvision()
    preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert (tuple(preset.mean), tuple(preset.std)) == (IMAGENET_MEAN, IMAGENET_STD)
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    tensor = torchvision.transforms.functional.to_tensor(image)
    for mean, std in ((IMAGENET_MEAN, IMAGENET_STD), ((0.1, 0.5, 0.9), (0.2, 1.0, 3.0))):
        expected = torchvision.transforms.functional.normalize(tensor, mean, std).numpy()
        config = Config(mean=mean, std=std)
        np.testing.assert_allclose(normalize(image, config), expected, rtol=0, atol=1e-5)
        scale, offset = scale_and_offset(config)
        exact = image * scale + offset
        np.testing.assert_allclose(exact.transpose(2, 0, 1), expected, rtol=0, atol=1e-5)
