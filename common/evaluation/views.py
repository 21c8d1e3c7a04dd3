"""Prediction from several views of a picture, and of pictures too large to be seen at once.

A picture is looked at in several scales, and in each also mirrored; each view may be cut into
tiles. All of it needs one function, the logits of a picture of any size, and no framework.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.config import OUTPUT_STRIDE, Inference
from common.protocol import Backend, Trainer

Array = NDArray[Any]
Picture = NDArray[np.uint8]
Logits = Callable[[Picture], Array]
"""From pictures (N, H, W, 3) uint8 RGB to logits (N, classes, H, W)."""

ROWS = 32
"""So many rows of a picture are decided at a time."""


class Tile(NamedTuple):
    """Along one axis: where a tile lies, and how much each of its n pixels counts (n,)."""

    at: slice
    weight: NDArray[np.float64]


def tiles(length: int, size: int, overlap: int, mirrored: bool = False) -> list[Tile]:
    """Tiles along one axis of a picture; their weights add up to 1 at each of its pixels.

    They begin at multiples of 32, as the network's own grid does; neighbours share at least
    `overlap` pixels. The last one ends where the picture does, padded to a multiple of 32, so
    that all are of one size. A picture that is smaller than a tile is one tile.

    Beyond an inner edge a tile sees zeros in place of the picture. So near it the neighbour counts
    alone, and only over the middle quarter of the overlap does the one fade into the other.

    Those of a `mirrored` picture lie where they do in the picture itself.

    Tiles that overlap by 640 pixels give the logits of the whole picture. `final_conv` at column i
    sees pixels 32 i - 217 to 32 i + 217, and logit x is made of column (x + 16) // 32 and the one
    before. So a logit sees nothing beyond a tile from 240 pixels after its beginning, a multiple
    of 32, to 208 before its end; and 240 are three eighths of 640.
    """
    padded = -(-length // OUTPUT_STRIDE) * OUTPUT_STRIDE
    step = (size - overlap) // OUTPUT_STRIDE * OUTPUT_STRIDE
    size = min(size, padded)
    last = padded - size
    total, parts = np.zeros(length), []
    for start in (*range(0, last, step), last):
        at = slice(start, min(start + size, length))
        x, far = np.arange(at.start, at.stop), length + overlap
        # pixels to the nearest inner edge; the picture's own edges are none
        before = far if start == 0 else x - start
        after = far if start == last else start + size - 1 - x
        inside = np.minimum(before, after)
        counts = np.clip((inside + 0.5 - overlap * 3 / 8) / max(overlap / 4, 0.5), 0, 1)
        counts = np.broadcast_to(counts, x.shape)
        total[at] += counts
        parts.append((at, counts))
    found = [Tile(at, counts / total[at]) for at, counts in parts]
    if not mirrored:
        return found
    turned = [(slice(length - at.stop, length - at.start), weight[::-1]) for at, weight in found]
    return [Tile(*tile) for tile in reversed(turned)]


def _mirrored(logits: Logits) -> Logits:
    """Of each picture, what its mirror image has at the same place."""
    return lambda images: logits(images[:, :, ::-1])[..., ::-1]


def _turned(logits: Logits) -> Logits:
    """Of pictures whose rows are columns: (N, W, H, 3) to (N, classes, W, H)."""
    return lambda images: logits(images.swapaxes(1, 2)).swapaxes(2, 3)


def _side_by_side(logits: Logits, image: Picture, columns: list[Tile]) -> Array:
    """The logits (classes, H, W) of a picture that is as high as a tile."""
    sums: Array | None = None
    for at, weight in columns:
        part = logits(image[None, :, at])[0]
        if sums is None:
            sums = np.zeros((*part.shape[:2], image.shape[1]), part.dtype)
        sums[:, :, at] += part * weight.astype(part.dtype)
    assert sums is not None
    return sums


def tiled_logits(
    logits: Logits,
    image: Picture,
    options: Inference,
    mirrored: tuple[bool, bool] = (False, False),
) -> Iterator[Array]:
    """The logits of a picture (H, W, 3), in bands (classes, n, W) from its top.

    Where tiles overlap, their logits are averaged by the tiles' weights. A row of tiles makes a
    band, so that memory does not grow with the height. Without tiles the whole is one band.
    `mirrored`: the axes along which the tiles are those of the mirrored picture.
    """
    if options.tile is None:
        yield logits(image[None])[0]
        return
    rows, columns = (
        tiles(image.shape[axis], options.tile[axis], options.overlap, mirrored[axis])
        for axis in (0, 1)
    )
    ends = [row.at.start for row in rows[1:]] + [len(image)]
    shared: Array | None = None
    for (at, weight), end in zip(rows, ends, strict=True):
        band = _side_by_side(logits, image[at], columns)
        band *= weight[:, None].astype(band.dtype)
        if shared is not None:
            band[:, : shared.shape[1]] += shared
        finished = end - at.start
        yield band[:, :finished]
        shared = band[:, finished:]


def _neighbours(length: int, wanted: int) -> tuple[Array, Array, Array]:
    """For each of `wanted` pixels: the two of `length` between which it lies, the second's share.

    Pixels are squares, and their centres lie at halves: the first and the last of both sizes
    reach to the same edge.
    """
    at = np.maximum((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0)
    first = at.astype(np.intp)
    return first, np.minimum(first + 1, length - 1), at - first


def resized(bands: Iterator[Array], height: int, size: tuple[int, int]) -> Iterator[Array]:
    """What comes in bands (C, n, w), `height` rows in all, in `size` (H, W), `ROWS` at a time.

    Bilinear between the centres of pixels, without averaging where it shrinks: PyTorch's
    `interpolate` with `align_corners=False`.
    """
    held, start = next(bands), 0
    left, right, across = _neighbours(held.shape[2], size[1])
    above, below, down = _neighbours(height, size[0])
    across, down = across.astype(held.dtype), down[:, None].astype(held.dtype)
    for k in range(0, size[0], ROWS):
        rows = slice(k, k + ROWS)
        while below[rows][-1] >= start + held.shape[1]:
            held = np.concatenate([held, next(bands)], axis=1)
        held, start = held[:, above[k] - start :], above[k]
        x = held[:, above[rows] - start] * (1 - down[rows])
        x += held[:, below[rows] - start] * down[rows]
        yield x[:, :, left] * (1 - across) + x[:, :, right] * across


def _view(
    logits: Logits,
    image: Picture,
    scale: float,
    mirrored: bool,
    options: Inference,
    by_columns: bool,
) -> Iterator[Array]:
    """The logits of one view, brought back to the picture's own place and size: see `scores`."""
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    seen = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    axes = (False, mirrored)
    if mirrored:
        logits = _mirrored(logits)
    if by_columns:
        logits, seen, axes = _turned(logits), seen.swapaxes(0, 1), axes[::-1]
        tile = options.tile and options.tile[::-1]
        options, height, width = dataclasses.replace(options, tile=tile), width, height
    return resized(tiled_logits(logits, seen, options, axes), len(seen), (height, width))


def _softmax(x: Array) -> Array:
    x = np.exp(x - x.max(axis=0))
    x /= x.sum(axis=0)
    return x


def scores(
    logits: Logits, image: Picture, options: Inference, by_columns: bool = False
) -> Iterator[Array]:
    """How likely each class is (classes, n, W), `ROWS` rows at a time: the mean over the views.

    `by_columns`: so many columns at a time, (classes, n, H). Memory grows with what is across.

    The mean of the classes' probabilities, as TensorFlow's DeepLab takes it in
    `predict_labels_multi_scale`. Of a single view they are its logits, which have the same order.
    """
    kinds = itertools.product(options.scales, (False, True) if options.flip else (False,))
    views = [
        _view(logits, image, scale, mirrored, options, by_columns) for scale, mirrored in kinds
    ]
    if len(views) == 1:
        yield from views[0]
    else:
        for rows in zip(*views, strict=True):
            yield np.mean([_softmax(x) for x in rows], axis=0)


def _labels(x: Array) -> Picture:
    """The most likely class of each pixel (n, W), of scores (classes, n, W)."""
    labels: Picture = x.argmax(axis=0).astype(np.uint8)
    return labels


@dataclasses.dataclass(frozen=True)
class Views:
    """A trainer that is shown each picture in the views that the options ask for."""

    backend: Backend
    trainer: Trainer
    options: Inference

    def predict(self, images: Picture) -> Picture:
        """(N, H, W, 3) uint8 RGB to (N, H, W)."""
        return np.stack([self._predict(image) for image in images])

    def _predict(self, image: Picture) -> Picture:
        # a band of tiles across the shorter side takes less memory
        by_columns = self.options.tile is not None and image.shape[1] > image.shape[0]
        parts = scores(self._logits, image, self.options, by_columns)
        labels = np.concatenate([_labels(x) for x in parts])
        return labels.T if by_columns else labels

    def _logits(self, images: Picture) -> Array:
        return self.backend.to_numpy(self.trainer.logits(images))


Predictor = Trainer | Views
"""What finds the most likely class of each pixel."""


def predictor(backend: Backend, trainer: Trainer, options: Inference) -> Predictor:
    """What predicts as the options say: for the default ones the trainer itself."""
    return trainer if options == Inference() else Views(backend, trainer, options)
