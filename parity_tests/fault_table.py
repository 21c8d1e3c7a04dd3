"""What is done to the commands' input, and what they make of it: a table, and `test_fault_table`.

`python -m parity_tests.fault_table` tries every row and prints the table as Markdown.

A row is tried in a folder of its own, which holds

    data/               a shapes set: two training pairs and one to validate
    W.safetensors       weights for its six classes
    result.json, out.safetensors, out/kept.png      earlier results

    run/                for `resume` alone: a run of two steps, stopped after one

and in which the commands of `COMMANDS` work. A row's fault is put in first; then a command

- refuses: one line on standard error, exit code 2, and the folder is as it was;
- finishes: one such line, exit code 2, and the rest is done;
- stops: one such line, exit code 2, in the middle; what was there, and what it had done, stays;
- notes: exit code 0, and one line on standard error that is no error, but to be known;
- accepts: exit code 0, nothing on standard error.

Where the row says what the input is `like`, the result is that of the input which it is like.
"""

import contextlib
import copy
import errno
import fcntl
import gzip
import importlib
import io
import itertools
import json
import os
import pickle
import re
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

import backends
from common.batches import _Worker
from common.checkpoint import read_tensors, read_weights, write_tensors, write_weights
from common.dataset import CLASS_NAMES, IMAGES, MASKS, SPLITS, keep_manifest
from common.errors import InputError
from common.image_files import open_image
from common.initial import initial_weights
from common.manifest import MANIFEST
from common.run_folder import LAST, LOCK, PREVIOUS, Checkpoint, RunFolder
from common.shapes import SHAPES_CLASSES, write_shapes
from common.voc import voc_palette
from common.voc2012 import MARKER, prepare
from parity_tests.voc_archives import (
    TREE,
    Server,
    Tree,
    md5,
    member,
    packed,
    packed_raw,
    tree_of,
    write_published,
)
from scripts import training

DATA, WEIGHTS = Path("data"), Path("W.safetensors")
IMAGE, OTHER_IMAGE = (DATA / IMAGES / f"train_0000{k}.jpg" for k in range(2))
MASK, OTHER_MASK = (DATA / MASKS / f"train_0000{k}.png" for k in range(2))
SPLIT = DATA / SPLITS / "train.txt"
NAMES = DATA / CLASS_NAMES
RUN_FOLDER = Path("run")
CONFIG, LOG = RUN_FOLDER / "config.json", RUN_FOLDER / "log.jsonl"
RUN_LAST, RUN_PREVIOUS = RUN_FOLDER / LAST, RUN_FOLDER / PREVIOUS
TAR, VOC = Path("voc.tar"), Path("voc")

TORCH = ("--backend", "torch")
COMMANDS: dict[str, tuple[str, ...]] = {
    "check": ("data", "check", "data"),
    "train": (
        *("train", *TORCH, "--data", "data", "--weights", "W", "--out", "run", "--workers", "0"),
        *("--steps", "1", "--batch-size", "2", "--crop", "32", "64"),
    ),
    "evaluate": (
        *("evaluate", *TORCH, "--data", "data", "--weights", "W", "--split", "train"),
        *("--json", "result.json"),
    ),
    "resume": ("train", "--resume", "run", "--workers", "0"),
    "new": ("train", "--workers", "0"),
    "predict": ("predict", *TORCH, "--weights", "W", "--out", "out", "data/JPEGImages"),
    "convert": ("convert", "W", "out.safetensors"),
    "voc2012": ("data", "voc2012", "voc", "--from", "voc.tar", "--md5", "MD5"),
}
"""`W` is the row's weights, `MD5` that of voc.tar; its arguments come last, and so count."""

LISTS = "check voc2012"
"""The commands that list a folder's faults on standard output."""

CHECKED = "check evaluate predict"
"""The commands that read pictures, but for `train`, which takes a second or two."""
SCORE = "check train evaluate"
"""Those that read masks and splits too."""
USE = "train evaluate predict convert"
"""Those that read weights."""
RUN = "train evaluate predict"
"""Those that run a network."""


def as_it_is() -> None:
    """Nothing is done to the input."""


@dataclass(frozen=True)
class Row:
    """A fault: what is done, what is said, a pattern, and which commands take it in which way."""

    fault: str
    spoil: Callable[[], object]
    says: str = ""
    refuses: str = ""
    finishes: str = ""
    stops: str = ""
    notes: str = ""
    accepts: str = ""
    like: Callable[[], object] | None = None
    arguments: Sequence[str] = ()
    weights: Path = WEIGHTS
    during: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    needs: Sequence[str] = ()
    """The backends other than torch that must be installed."""

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command and how it takes the fault."""
        for verdict in ("refuses", "finishes", "stops", "notes", "accepts"):
            for command in getattr(self, verdict).split():
                yield command, verdict


# Trying a row


@dataclass(frozen=True)
class Outcome:
    """What came of a command. `before` and `after` hold each file's content, None for a folder."""

    code: int
    out: str
    err: str
    before: dict[Path, bytes | None]
    after: dict[Path, bytes | None]
    sizes: dict[str, tuple[int, int]]
    """Of the masks in `out`, by stem."""
    wanted: dict[str, tuple[int, int]]
    """What they should be: the sizes of the images that can be read."""
    saved: int | None
    """After how many steps the run's last checkpoint is, which can be read; None: there is none."""

    @property
    def written(self) -> dict[Path, bytes | None]:
        """What is there now and was not, or is another now."""
        return {p: c for p, c in self.after.items() if p not in self.before or self.before[p] != c}


@cache
def _clean() -> tempfile.TemporaryDirectory[str]:
    """The folder without a fault, to be copied."""
    clean = tempfile.TemporaryDirectory()
    folder = Path(clean.name)
    write_shapes(folder / DATA, 2, 1, seed=0)
    arrays = initial_weights("resnet18", len(SHAPES_CLASSES), seed=0)
    write_weights(folder / WEIGHTS, arrays, "resnet18", SHAPES_CLASSES)
    (folder / "out").mkdir()
    for name in ("result.json", "out.safetensors", "out/kept.png"):
        (folder / name).write_text("an earlier result")
    return clean


def _copy(source: str, target: str) -> None:
    """Gives weights a second name, since 45 MB take long to copy and to read; copies the rest."""
    (os.link if source.endswith(WEIGHTS.suffix) else shutil.copyfile)(source, target)


@contextlib.contextmanager
def workplace() -> Iterator[None]:
    """A fresh copy of the clean folder, to work in; gone afterwards."""
    with tempfile.TemporaryDirectory(dir=Path(_clean().name).parent) as folder:
        shutil.copytree(_clean().name, folder, copy_function=_copy, dirs_exist_ok=True)
        with contextlib.chdir(folder):
            yield


@cache
def _stopped() -> tempfile.TemporaryDirectory[str]:
    """The run that `resume` goes on with, to be copied."""
    stopped = tempfile.TemporaryDirectory()
    with workplace():
        train = [_argument(argument, WEIGHTS) for argument in COMMANDS["train"]]
        code, _, err = in_this_process(*train, "--steps", "2", "--stop-after", "1")
        assert (code, err) == (0, "")
        shutil.copytree("run", stopped.name, copy_function=_copy, dirs_exist_ok=True)
    return stopped


def put_run() -> None:
    """The stopped run in this folder, as if it had been made here."""
    shutil.copytree(_stopped().name, RUN_FOLDER, copy_function=_copy)
    info = json.loads(CONFIG.read_text()) | {"data": str(DATA.absolute())}
    CONFIG.write_text(json.dumps(info))


def _content(path: Path) -> bytes | None:
    if path.is_symlink():
        return f"-> {path.readlink()}".encode()
    if path.is_dir():
        return None
    # the clean weights, and a run's: a write shows in their time
    if path.stat().st_nlink > 1 or (path.parent == RUN_FOLDER and path.suffix == WEIGHTS.suffix):
        return str(path.stat().st_mtime_ns).encode()
    return path.read_bytes()


def _snapshot() -> dict[Path, bytes | None]:
    """What is in the working folder. Links are not followed."""
    return {path: _content(path) for path in Path().rglob("*")}


def _mask_sizes() -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    made, wanted = {}, {}
    for path in Path("out").glob("*_0000?.png"):
        with Image.open(path) as mask:
            made[path.stem] = mask.size
    for path in (DATA / IMAGES).glob("*.jpg"):
        with contextlib.suppress(InputError):
            wanted[path.stem] = open_image(path).size
    return made, wanted


def _saved() -> int | None:
    return Checkpoint.read(RUN_LAST).step if RUN_LAST.exists() else None


def _argument(argument: str, weights: Path) -> str:
    if argument == "MD5":
        return md5(TAR.read_bytes())
    return str(weights) if argument == "W" else argument


Run = Callable[..., tuple[int, str, str]]


def attempt(row: Row, command: str, run: Run, spoil: Callable[[], object] | None = None) -> Outcome:
    """What a command makes of the row's fault, or of `spoil` in its place.

    `run` runs a command of `scripts` with arguments: exit code, standard output and error.
    """
    with workplace():
        if command == "resume":
            put_run()
        (spoil or row.spoil)()
        before = _snapshot()
        given = [_argument(argument, row.weights) for argument in COMMANDS[command]]
        with row.during():
            code, out, err = run(*given, *row.arguments)
        saved = _saved() if code == 0 or row.stops else None
        return Outcome(code, out, err, before, _snapshot(), *_mask_sizes(), saved)


# What is done to a picture


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> Callable[[], object]:
    """Puts a file of other bytes in place of a file."""

    def spoil() -> None:
        data = path.read_bytes()
        path.unlink()  # the clean weights have two names
        path.write_bytes(change(data))

    return spoil


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


def html(data: bytes) -> bytes:
    return b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"


def flat(size: tuple[int, int] = (48, 40), colour: tuple[int, ...] = (30, 90, 200)) -> Image.Image:
    """A picture of one colour; that much survives JPEG. One channel is grey, four are CMYK."""
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[len(colour)]
    return Image.new(mode, size, colour if len(colour) > 1 else colour[0])


def stripes(size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A picture whose every row and column is another."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([5 * rows, 5 * columns, 3 * (rows + columns)], 2).astype("u1"))


def mask_of(size: tuple[int, int], label: int = 1) -> Image.Image:
    mask = Image.new("P", size, label)
    mask.putpalette(voc_palette().tobytes())
    return mask


def pair(
    image: Image.Image, kind: str = "PNG", mask: Image.Image | None = None, **options: Any
) -> Callable[[], None]:
    """Puts an image and a mask in place of the first training pair's; the name stays .jpg."""

    def change() -> None:
        image.save(IMAGE, kind, **options)
        (mask or mask_of(image.size)).save(MASK)

    return change


def masked(mask: Image.Image, kind: str = "PNG") -> Callable[[], None]:
    """Puts a mask in place of the first training pair's."""
    return lambda: mask.save(MASK, kind)


def labelled(value: int) -> Callable[[], None]:
    """A mask of the right size that is `value` everywhere."""

    def change() -> None:
        with Image.open(MASK) as mask:
            size = mask.size
        mask_of(size, value).save(MASK)

    return change


def other_mask(change: Callable[[Image.Image], Image.Image]) -> Callable[[], None]:
    """The mask, changed."""

    def spoil() -> None:
        with Image.open(MASK) as mask:
            mask.load()
        change(mask).save(MASK)

    return spoil


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(kind: int) -> Callable[[bytes], bytes]:
    """A PNG of a few bytes that claims 20000x20000 pixels; `kind`: 2 is RGB, 0 grey."""
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return lambda data: b"\x89PNG\r\n\x1a\n" + parts


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    return exif


ODD: dict[str, tuple[Image.Image, str, dict[str, Any], Image.Image]] = {
    "grey JPEG": (flat(colour=(90,)), "JPEG", {}, flat(colour=(90, 90, 90))),
    "CMYK JPEG": (flat(colour=(225, 165, 55, 0)), "JPEG", {"quality": 100}, flat()),
    "alpha channel": (
        Image.merge("RGBA", [*stripes().split(), flat(colour=(7,))]),
        "PNG",
        {},
        stripes(),
    ),
    "16-bit grey": (
        Image.fromarray(np.full((40, 48), 90 * 257, "u2")),
        "PNG",
        {},
        flat(colour=(90, 90, 90)),
    ),
    "EXIF: turned by a quarter": (
        stripes(),
        "PNG",
        {"exif": turned()},
        stripes().transpose(Image.Transpose.ROTATE_270),
    ),
}
"""A picture, its format, how it is saved, and what it is to be read as."""

EXTREMES = ((1, 1), (1, 2000), (2000, 1), (5, 7), (48, 20))
"""Widths and heights."""


def pairs(
    pictures: Sequence[tuple[Image.Image, str, dict[str, Any], tuple[int, int]]],
) -> Callable[[], None]:
    """A training split of these: a picture, its format, how it is saved, the mask's size."""

    def change() -> None:
        for k, (image, kind, options, size) in enumerate(pictures):
            image.save(IMAGE.with_stem(f"n{k}"), kind, **options)
            mask_of(size).save(MASK.with_stem(f"n{k}"))
        SPLIT.write_text("".join(f"n{k}\n" for k in range(len(pictures))))

    return change


# What is done to a folder


def several(*changes: Callable[[], object]) -> Callable[[], None]:
    def change() -> None:
        for one in changes:
            one()

    return change


def missing(*paths: Path) -> Callable[[], None]:
    return several(*(path.unlink for path in paths))


def missing_folder(path: Path) -> Callable[[], None]:
    return lambda: shutil.rmtree(path)


def text(path: Path, content: str | bytes) -> Callable[[], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda: path.write_bytes(data)


def linked(path: Path, target: Path | str) -> Callable[[], None]:
    """Moves a file or a folder, and leaves a link to where it is then."""

    def change() -> None:
        new = Path(target).absolute()
        new.parent.mkdir(exist_ok=True)
        path.rename(new)
        path.symlink_to(new)

    return change


def all_void(split: str) -> Callable[[], None]:
    """Every mask of a split is void everywhere."""

    def change() -> None:
        for name in (DATA / SPLITS / f"{split}.txt").read_text().split():
            path = DATA / MASKS / f"{name}.png"
            with Image.open(path) as mask:
                size = mask.size
            mask_of(size, 255).save(path)

    return change


# What is done to weights


def tensors(
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda arrays: arrays, **metadata: str
) -> Callable[[], None]:
    """Changes the arrays of the weights file, and entries of its metadata."""

    def spoil() -> None:
        arrays, told = read_tensors(WEIGHTS)
        write_tensors(WEIGHTS, change(arrays), told | metadata)

    return spoil


def cast(name: str, dtype: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arrays: arrays | {name: arrays[name].astype(dtype)}


def with_value(name: str, value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(arrays: dict[str, Any]) -> dict[str, Any]:
        array = arrays[name].copy()
        array.flat[-1] = value
        return arrays | {name: array}

    return change


def prefixed(prefix: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arrays: {f"{prefix}{name}": array for name, array in arrays.items()}


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arrays: {n: array for n, array in arrays.items() if n != name}


def more_classes(count: int) -> Callable[[], None]:
    """A whole network of another number of classes."""
    names = [f"class {k}" for k in range(count)]
    return lambda: write_weights(
        WEIGHTS, initial_weights("resnet18", count, seed=0), "resnet18", names
    )


def header(length: int, content: bytes = b"{}") -> Callable[[bytes], bytes]:
    """A safetensors file that says its header is `length` bytes long."""
    return lambda data: struct.pack("<Q", length) + content


def as_checkpoint() -> None:
    """The weights with a momentum, as a run saves them."""
    found = read_weights(WEIGHTS)
    momentum = {"final_conv.bias": found.arrays["final_conv.bias"]}
    names = found.class_names
    write_weights(WEIGHTS, found.arrays, "resnet18", names, momentum=momentum)


def flipped(data: bytes) -> bytes:
    """A bit of the fourth byte from the end is another: of weights, of a float's last digits."""
    return data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]


class Payload:
    """What a pickle may do to whoever loads it: here, make a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


PTH, STATES, PARAMS = Path("W.pth"), Path("W.states"), Path("W.params")


def state_dict(change: Callable[[bytes], bytes] = lambda data: data, **more: Any) -> Callable:
    """The weights as PyTorch's state dict, W.pth, and `more` in it."""

    def spoil() -> None:
        arrays, _ = read_tensors(WEIGHTS)
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        file = io.BytesIO()
        torch.save(state | more, file)
        PTH.write_bytes(change(file.getvalue()))

    return spoil


def big_endian(data: bytes) -> bytes:
    """A state dict of float32 as a big-endian machine saves it."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("/byteorder"):
                content = b"big"
            elif "/data/" in name:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(name, content)
    return file.getvalue()


# What is done to a run


def no_checkpoints() -> None:
    """Weights alone where the run's checkpoints were."""
    for path in (RUN_LAST, RUN_PREVIOUS):
        path.unlink()
        path.hardlink_to(WEIGHTS)


def empty_run() -> None:
    """A run folder where a process of this number was at work, and left nothing."""
    RUN_FOLDER.mkdir()
    (RUN_FOLDER / LOCK).write_text(f"{os.getpid()}\n")


@contextlib.contextmanager
def run_held() -> Iterator[None]:
    """Another run is at work in the folder."""
    with RunFolder(RUN_FOLDER) as folder:
        folder.lock()
        yield


def other_threads() -> AbstractContextManager[object]:
    return mock.patch("backends.torch.threads", return_value=7)


@contextlib.contextmanager
def images_away() -> Iterator[None]:
    """The images are away from the first step on, until the command has ended."""
    folder, away, rate = IMAGE.parent, DATA / "away", training.learning_rate

    def learning_rate(*arguments: Any) -> float:
        if folder.exists():
            folder.rename(away)
        return rate(*arguments)

    with mock.patch.object(training, "learning_rate", learning_rate):
        yield
    away.rename(folder)


# What VOC2012 is prepared from

URL = "http://voc.invalid/voc.tar"
VOC_IMAGE = f"{TREE}/{IMAGE.relative_to(DATA)}"
VOC_MASK = f"{TREE}/{MASK.relative_to(DATA)}"
VOC_SPLIT = f"{TREE}/{SPLIT.relative_to(DATA)}"


@cache
def published() -> Tree:
    """The files of the archive."""
    with tempfile.TemporaryDirectory() as folder:
        write_published(Path(folder))
        return tree_of(Path(folder))


def archive(pack: Callable[[Tree], bytes] = packed) -> Callable[[], object]:
    """voc.tar."""
    return lambda: TAR.write_bytes(pack(published()))


def unpacked() -> None:
    """What the archive holds, as a folder."""
    write_published(Path("unpacked"))


def prepared() -> None:
    prepare(VOC, str(TAR), md5(TAR.read_bytes()), lambda *_: None)


def preparing() -> None:
    """A preparation that has made nothing yet."""
    VOC.mkdir()
    (VOC / MARKER).touch()


@contextlib.contextmanager
def preparation_held() -> Iterator[None]:
    """Another preparation is at work in the folder."""
    with (VOC / MARKER).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def served(**how: Any) -> Callable[[], AbstractContextManager[object]]:
    """A server on this machine, asked as a proxy, sends voc.tar as `URL`, or as it is told to."""

    @contextlib.contextmanager
    def during() -> Iterator[None]:
        with contextlib.closing(Server(TAR.read_bytes())) as server:
            vars(server).update(copy.deepcopy(how))
            with mock.patch.dict(os.environ, http_proxy=server.url, no_proxy=""):
                yield

    return during


def no_proxy() -> AbstractContextManager[object]:
    return mock.patch.dict(os.environ, no_proxy="*")


# What happens to the machine meanwhile


def not_installed() -> AbstractContextManager[object]:
    return mock.patch.dict(backends._PACKAGES, torch=("torch_that_nobody_has",))


@contextlib.contextmanager
def numpy_2() -> Iterator[None]:
    """NumPy says that it is NumPy 2; MXNet itself need not be there to be refused."""
    with (
        mock.patch.dict(backends._PACKAGES, mxnet=("numpy",)),
        mock.patch.dict(sys.modules),
        mock.patch.object(np, "__version__", "2.4.6"),
    ):
        for name in [name for name in sys.modules if name.startswith("backends.mxnet")]:
            del sys.modules[name]
        yield


def worker_killed() -> AbstractContextManager[object]:
    return mock.patch.object(_Worker, "ask", lambda self, step: self._process.kill())


def full_disk() -> AbstractContextManager[object]:
    """No file reaches the disk."""
    return mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


@contextlib.contextmanager
def disk_fills_up() -> Iterator[None]:
    """Of a run, the config, the first checkpoint and the first step's logs reach the disk."""
    fsync, calls = os.fsync, itertools.count()

    def full(handle: int) -> None:
        if next(calls) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with mock.patch("os.fsync", full):
        yield


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file grows beyond a megabyte: what a full disk or a quota does to a large one."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


# The table

PICTURES = [
    *(
        Row(fault, rewrite(IMAGE, change), rf"{IMAGE}: {says}", refuses=SCORE, finishes="predict")
        for fault, change, says in (
            ("JPEG cut short", half, "cannot be read: .*truncated"),
            ("empty file as .jpg", empty, "the file is empty"),
            ("HTML as .jpg", html, "no image, or a damaged one: begins with b'<!DOCTYPE"),
            ("PNG that claims 20000x20000 pixels", bomb(2), r"cannot be read: Image size \("),
        )
    ),
    Row(
        "a bit of a JPEG flipped, with a manifest",
        several(lambda: keep_manifest(DATA), rewrite(IMAGE, flipped)),
        f"{IMAGE}: differs from manifest.json: a bit flipped or the file was changed",
        refuses="check train",
    ),
    Row(
        "floating-point pixels",
        pair(Image.new("F", (48, 40)), "TIFF"),
        f"{IMAGE}: cannot be read: floating-point",
        refuses=SCORE,
        finishes="predict",
    ),
    *(
        Row(
            fault,
            pair(image, kind, mask_of(same.size), **options),
            accepts=CHECKED,
            like=pair(same),
        )
        for fault, (image, kind, options, same) in ODD.items()
    ),
    Row(
        "all of these in one split",
        pairs([(image, kind, options, same.size) for image, kind, options, same in ODD.values()]),
        accepts="train",
        like=pairs([(same, "PNG", {}, same.size) for *_, same in ODD.values()]),
        arguments=["--batch-size", str(len(ODD))],
    ),
    Row(
        "EXIF: turned, and the mask is not",
        pair(stripes(), exif=turned()),
        f"{MASK}: 48x40 pixels, but its image has 40x48",
        refuses=SCORE,
    ),
    *(
        Row(f"{width}x{height} pixels", pair(stripes((width, height))), accepts=CHECKED)
        for width, height in EXTREMES
    ),
    Row(
        f"{', '.join(f'{width}x{height}' for width, height in EXTREMES)} pixels, the crop 64x32",
        pairs([(stripes(size), "PNG", {}, size) for size in EXTREMES]),
        accepts="train",
        arguments=["--batch-size", str(len(EXTREMES))],
    ),
]

MASKS_ROWS = [
    *(
        Row(fault, spoil, rf"{MASK}: {says}", refuses=SCORE)
        for fault, spoil, says in (
            ("mask of another size", masked(mask_of((48, 40))), "48x40 pixels, but its image has"),
            ("label 200", labelled(200), r"label 200 is neither a class \(0 to 5\) nor void"),
            ("label 6 of 6 classes", labelled(6), "label 6 is neither a class"),
            ("RGB mask", other_mask(lambda m: m.convert("RGB")), r"a colour mask \(PNG, mode RGB"),
            ("mask as JPEG", masked(flat(colour=(1,)), "JPEG"), r"not a mask \(JPEG"),
            ("mask of 16 bits", masked(Image.new("I;16", (9, 9))), r"not a mask \(PNG, mode I;16"),
            ("mask cut short", rewrite(MASK, half), "cannot be read: .*[Tt]runcated"),
            ("empty mask", rewrite(MASK, empty), "the file is empty"),
            ("mask that claims 20000x20000", rewrite(MASK, bomb(0)), "cannot be read: Image size"),
        )
    ),
    Row(
        "label 21 of VOC's 21 classes",
        several(NAMES.unlink, labelled(21), more_classes(21)),
        f"{MASK}: label 21 is neither a class .0 to 20. nor void",
        refuses=SCORE,
    ),
    Row(
        "grey mask",
        other_mask(lambda mask: Image.fromarray(np.asarray(mask))),
        accepts="check evaluate",
        like=as_it_is,
    ),
    Row("mask that is void everywhere", labelled(255), f"{MASK}: void everywhere", refuses="check"),
    Row("a mask void everywhere, among others", labelled(255), accepts="train"),
    Row(
        "a mask void everywhere, among others",
        labelled(255),
        accepts="evaluate",
        like=text(SPLIT, "train_00001\n"),
    ),
    Row(
        "every training mask void everywhere",
        all_void("train"),
        f"({SPLIT}: every mask it names is|{MASK}:) void everywhere",
        refuses=SCORE,
    ),
    Row(
        "every validation mask void everywhere",
        all_void("val"),
        "val.txt: every mask it names is void everywhere",
        refuses="train",
    ),
]

FOLDERS = [
    Row("image missing", missing(IMAGE), f"{IMAGE}: no such file", refuses=SCORE),
    Row("mask missing", missing(MASK), f"{MASK}: no such file", refuses=SCORE),
    Row(
        "images and masks missing",
        missing(IMAGE, MASK, OTHER_MASK),
        rf"{DATA}: 3 files of train are missing: {IMAGES}/{IMAGE.name}, {MASKS}/{MASK.name},"
        f" {MASKS}/{OTHER_MASK.name}$",
        refuses="train evaluate",
    ),
    Row(
        "images and masks missing",
        missing(IMAGE, MASK, OTHER_MASK),
        f"(?s){IMAGE}: no such .*{MASK}: no such .*{OTHER_MASK}: no such .*data: 3 faults",
        refuses="check",
    ),
    Row(
        "a hundred pairs missing",
        text(SPLIT, "".join(f"n{k}\n" for k in range(100))),
        r"200 files of train are missing: .*/n9.png and 180 more; .*data check data",
        refuses="train evaluate",
    ),
    Row(
        "a name of 300 letters",
        text(SPLIT, "x" * 300),
        f"{IMAGE.parent}/x*.jpg: cannot be read: File name too long",
        refuses=SCORE,
    ),
    Row("no such folder", missing_folder(DATA), f"{DATA}: no such folder", refuses=SCORE),
    Row("no folder of images", missing_folder(IMAGE.parent), "data: holds no JPEG", refuses=SCORE),
    Row("no folder of masks", missing_folder(MASK.parent), "data: holds no Segm", refuses=SCORE),
    Row("no folder of splits", missing_folder(SPLIT.parent), "data: holds no Ima", refuses=SCORE),
    Row(
        "no such split",
        missing(SPLIT),
        f"{SPLIT}: no such split, have trainval, val",
        refuses="train evaluate",
    ),
    *(
        Row(fault, text(SPLIT, content), f"{SPLIT}: {says}", refuses=SCORE)
        for fault, content, says in (
            ("empty split", "", "holds no names"),
            ("split of blank lines", "\n \r\n", "holds no names"),
            ("a name twice", "train_00000\ntrain_00001\ntrain_00000\n", "line 3: .* on line 1"),
            ("split in UTF-16", "train_00000\n".encode("utf-16"), "line 1: not UTF-8 text"),
            ("split in Latin-1", b"train_00000\nstra\xdfe\n", "line 2: not UTF-8 text"),
            ("a name with ../", "../train_00000\n", r"line 1: '../train_00000' is no plain name"),
            ("an absolute name", "/etc/passwd\n", "line 1: '/etc/passwd' is no plain name"),
        )
    ),
    *(
        Row(fault, text(SPLIT, content), accepts=commands, like=as_it_is)
        for fault, content, commands in (
            ("blank lines in a split", "\ntrain_00000\n\n  \ntrain_00001\n\n", "evaluate"),
            ("CRLF in a split", "train_00000\r\ntrain_00001\r\n", "evaluate"),
            ("byte-order mark in a split", "\ufefftrain_00000\ntrain_00001\n", "evaluate"),
            ("no newline at a split's end", "train_00000\ntrain_00001", "evaluate"),
            ("all four", "\ufeff\r\ntrain_00000\r\n\r\ntrain_00001", "train evaluate"),
        )
    ),
    *(
        Row(fault, text(NAMES, content), f"{NAMES}: {says}", refuses=SCORE)
        for fault, content, says in (
            ("class_names.txt empty", "", "holds no names"),
            ("class_names.txt not UTF-8", b"background\nstra\xdfe\n", "line 2: not UTF-8 text"),
            ("a class twice", "a\nb\na\n", "line 3: 'a' is on line 1 already"),
            ("256 classes", "".join(f"c{k}\n" for k in range(256)), "256 classes, more than 255"),
        )
    ),
    *(
        Row(
            fault,
            several(lambda: keep_manifest(DATA), rewrite(DATA / MANIFEST, change)),
            f"{DATA / MANIFEST}: damaged, or no manifest of ours \\(.*; remove it to do without",
            refuses=SCORE,
        )
        for fault, change in (
            ("manifest cut short", half),
            ("empty manifest", empty),
            ("HTML as manifest", html),
            (
                "manifest of a later schema",
                lambda data: data.replace(b'"schema": 1', b'"schema": 2'),
            ),
        )
    ),
    Row(
        "another program's manifest.json",
        lambda: (DATA / MANIFEST).write_text('{"name": "app"}'),
        accepts=SCORE,
        like=as_it_is,
    ),
    Row(
        "split changed, with a manifest",
        several(lambda: keep_manifest(DATA), text(SPLIT, "train_00000\n")),
        f"{SPLIT}: differs from manifest.json: 12 bytes, not 24",
        refuses=SCORE,
    ),
    Row(
        "split gone, with a manifest",
        several(lambda: keep_manifest(DATA), (DATA / SPLITS / "val.txt").unlink),
        "val.txt: no such file, but in manifest.json",
        refuses="check",
    ),
    *(
        Row(f"{what} is a link out of the data", linked(path, "elsewhere/x"), says, refuses=SCORE)
        for what, path, says in (
            ("an image", IMAGE, f"{IMAGE}: a link that leads out of the data, to .*/elsewhere/x"),
            ("a mask", MASK, f"{MASK}: a link that leads out of the data, to .*/elsewhere/x"),
        )
    ),
    *(
        Row(fault, linked(path, target), accepts=commands, like=as_it_is)
        for fault, path, target, commands in (
            ("an image is a link within the data", IMAGE, DATA / "raw" / "x.jpg", SCORE),
            ("JPEGImages is a link to elsewhere", IMAGE.parent, "elsewhere", "check evaluate"),
            ("the data is a link to elsewhere", DATA, "elsewhere", "check evaluate"),
        )
    ),
    Row(
        "an image that is not there",
        as_it_is,
        "none.jpg: no such file",
        finishes="predict",
        arguments=["none.jpg"],
    ),
    Row(
        "folder without images",
        Path("bare").mkdir,
        "bare: a folder without images",
        refuses="predict",
        arguments=["bare"],
    ),
]

UNREADABLE = r"not a readable safetensors file|no weights of safetensors, torch.save"

WEIGHTS_ROWS = [
    *(
        Row(fault, rewrite(WEIGHTS, change), f"{WEIGHTS}: ({UNREADABLE})", refuses=USE)
        for fault, change in (
            ("weights cut short", half),
            ("weights short by a byte", lambda data: data[:-1]),
            ("empty weights", empty),
            ("HTML as weights", html),
            ("header of 2^62 bytes", header(2**62)),
            ("header of 99 MB in a file of 10 bytes", header(99_000_000)),
            ("header that claims more than there is", lambda data: data[:20_000] + data[-1000:]),
        )
    ),
    Row(
        "a bit of a checkpoint flipped",
        several(as_checkpoint, rewrite(WEIGHTS, flipped)),
        f"{WEIGHTS}: damaged: its contents are not those of its",
        refuses=USE,
    ),
    Row("no such weights", missing(WEIGHTS), f"{WEIGHTS}: no such file", refuses=USE),
    *(
        Row(fault, tensors(change, **metadata), f"{WEIGHTS}: .*{says}", refuses=USE)
        for fault, change, metadata, says in (
            (
                "another architecture",
                dict,
                {"architecture": "resnet50"},
                "architecture 'resnet50' is unknown",
            ),
            (
                "metadata of another number of classes",
                dict,
                {"num_classes": "7"},
                r"not resnet18 with 7 classes: final_conv.(bias|weight) is \(6,",
            ),
            (
                "a tensor missing",
                without("backbone.layer4.1.bn2.bias"),
                {},
                r"backbone.layer4.1.bn2.bias \(512,\) is missing",
            ),
            (
                "a tensor too many",
                lambda arrays: arrays | {"fc.weight": np.zeros((2, 3), "f")},
                {},
                r"fc.weight \(2, 3\)",
            ),
            (
                "a tensor of another shape",
                lambda arrays: arrays | {"backbone.conv1.weight": np.zeros((64, 3, 3, 3), "f")},
                {},
                r"backbone.conv1.weight is \(64, 3, 3, 3\), not \(64, 3, 7, 7\)",
            ),
            ("float16", cast("final_conv.bias", "f2"), {}, "final_conv.bias is float16, not"),
            ("integers", cast("final_conv.bias", "i8"), {}, "final_conv.bias is int64, not"),
            ("NaN", with_value("backbone.bn1.running_var", np.nan), {}, "running_var holds NaN"),
            ("infinity", with_value("final_conv.bias", np.inf), {}, "bias holds NaN or infinity"),
        )
    ),
    Row(
        "names that begin with net.",
        tensors(prefixed("net.")),
        f"{WEIGHTS}: .*(backbone.conv1.weight .* is missing|net.backbone.bn1.bias)",
        refuses=USE,
    ),
    Row(
        "names that begin with module.",
        tensors(prefixed("module.")),
        accepts="evaluate predict convert",
        like=as_it_is,
    ),
    Row(
        "7 classes, the data has 6",
        more_classes(7),
        f"{WEIGHTS}: .*7 classes, (data has|not) 6",
        refuses="train evaluate",
    ),
    Row(
        "float64",
        tensors(lambda arrays: {name: array.astype("f8") for name, array in arrays.items()}),
        accepts="evaluate predict",
        like=as_it_is,
    ),
    Row(
        "pickle with a payload as .pth",
        state_dict(a=Payload()),
        f"{PTH}: .*({UNREADABLE}|it asks for posix.mkdir, and nothing but tensors is unpickled)",
        refuses=USE,
        weights=PTH,
    ),
    Row(
        "pickle with a payload as .states",
        lambda: STATES.write_bytes(pickle.dumps({0: Payload()})),
        f"{STATES}: .*({UNREADABLE}|not a whole file of tensors by torch.save)",
        refuses=USE,
        weights=STATES,
    ),
    Row(
        "old pickle with a payload as .params",
        lambda: PARAMS.write_bytes(pickle.dumps(Payload(), protocol=0)),
        f"{PARAMS}: ({UNREADABLE})",
        refuses=USE,
        weights=PARAMS,
    ),
    Row(
        ".pth cut short",
        state_dict(half),
        f"{PTH}: not a whole file of tensors by torch.save",
        refuses="convert",
        weights=PTH,
    ),
    Row(
        ".pth of a big-endian machine",
        state_dict(big_endian),
        accepts="convert",
        like=state_dict(),
        weights=PTH,
    ),
]

PLACES = [
    Row(
        "run folder that is not empty",
        as_it_is,
        "out: is not empty; --out wants a new folder",
        refuses="train",
        arguments=["--out", "out"],
    ),
    Row(
        "output folder that is a file",
        as_it_is,
        "result.json: cannot be made: (File exists|Not a directory)",
        refuses="train predict",
        arguments=["--out", "result.json"],
    ),
    Row(
        "output folder where nobody may write",
        as_it_is,
        "/sys/run: cannot be made: (Operation not permitted|Permission denied|Read-only file sys)",
        refuses="train predict",
        arguments=["--out", "/sys/run"],
    ),
    Row(
        "output file where nobody may write",
        as_it_is,
        "/sys/x.json: cannot be written: (Operation not perm|Permission denied|Read-only file sys)",
        refuses="evaluate",
        arguments=["--json", "/sys/x.json"],
    ),
    Row(
        "output file in a folder that is not there",
        as_it_is,
        "none/x.json: no such folder: none",
        refuses="train evaluate predict convert",
        arguments=["--json", "none/x.json"],
    ),
    Row(
        "output over the input",
        as_it_is,
        f"{WEIGHTS}: would overwrite the input",
        refuses="convert",
        arguments=["--json", str(WEIGHTS)],
    ),
    Row(
        "disk full",
        as_it_is,
        r"(result.json|out.safetensors|out/train_00000.png): cannot be written: No space left",
        refuses="evaluate predict convert",
        during=full_disk,
    ),
    Row(
        "no file may grow beyond 1 MB",
        as_it_is,
        "out.safetensors: cannot be written: .*File too large",
        refuses="convert",
        during=small_files,
    ),
]

MACHINE = [
    Row(
        "batch larger than the set",
        as_it_is,
        "data: 2 images in train, --batch-size asks for 7",
        refuses="train",
        arguments=["--batch-size", "7"],
    ),
    Row(
        "batch of one image of 32x32",
        as_it_is,
        "one image of 32x32 pixels leaves BatchNorm one value a channel",
        refuses="train",
        arguments=["--batch-size", "1", "--crop", "32", "32"],
    ),
    Row(
        "backend that is not installed",
        as_it_is,
        r"--backend torch: torch_that_nobody_has not installed; install with: pip install '.*torch",
        refuses=RUN,
        during=not_installed,
    ),
    Row(
        "backend that is not installed, for .pth",
        state_dict(),
        f"{PTH}: torch.save needs a framework: --backend torch: .* not installed; install with",
        refuses="convert",
        weights=PTH,
        during=not_installed,
    ),
    Row(
        "MXNet under NumPy 2",
        as_it_is,
        r"--backend mxnet: .*MXNet 1.9.1 needs NumPy 1, here is 2.4.6; install with: pip install",
        refuses=RUN,
        arguments=["--backend", "mxnet"],
        during=numpy_2,
    ),
    Row(
        "a process that reads the data is killed",
        as_it_is,
        r"a process that reads the data has ended \(SIGKILL\)",
        stops="train",
        arguments=["--workers", "1"],
        during=worker_killed,
    ),
]

MINE = Path("mine.toml")
NAME = "train_0000[01]"
KEEPS = "a run keeps its settings but for"
NO_FILE = "not a readable safetensors file"

RUNS = [
    Row(
        "nothing of what a new run needs",
        as_it_is,
        "--backend, --data, --out: missing, for a new run",
        refuses="new",
    ),
    *(
        Row(f"no {option}", as_it_is, f"error: {option}: missing", refuses="new", arguments=others)
        for option, others in (
            ("--backend", ["--data", "data", "--out", "run"]),
            ("--data", [*TORCH, "--out", "run"]),
            ("--out", [*TORCH, "--data", "data"]),
        )
    ),
    *(
        Row(
            f"recipe: {fault}",
            text(MINE, content),
            f"{MINE}: {says}",
            refuses="train",
            arguments=["--recipe", str(MINE)],
        )
        for fault, content, says in (
            (
                "unknown key",
                "learning_rat = 1\n",
                "learning_rat is no setting. Is learning_rate me",
            ),
            ("unknown key, nothing near", "zzz = 1\n", r"zzz is no setting.\n"),
            ("value out of range", "batch_size = 0\n", "batch_size = 0: .*1"),
            (
                "value that there is not",
                'schedule = "cosine"\n',
                "schedule = 'cosine': .*'cosine' is not one of 'constant', 'poly'",
            ),
            ("one value of two", "crop = [3]\n", r"crop = \[3\]: .*2 "),
            ("scale upside down", "scale = [2.0, 1.0]\n", ".*: 2 1: 0 < MIN <= MAX is wanted"),
            ("no TOML", "learning_rate 0.1\n", "not TOML: "),
            ("not UTF-8", b"\xff\xfe", "not TOML: "),
        )
    ),
    Row(
        "recipe that is not there",
        as_it_is,
        r"--recipe modren: no such recipe \(have .*, modern\) or file. Is modern meant?",
        refuses="train",
        arguments=["--recipe", "modren"],
    ),
    Row(
        "learning rate far too high",
        as_it_is,
        f"step 1: the loss is nan on {NAME}, {NAME}; is --lr too high. {RUN_LAST} is of step 1",
        stops="train",
        arguments=["--lr", "1e30", "--steps", "9"],
    ),
    Row(
        "the images go missing on the way, within an epoch",
        as_it_is,
        f"{IMAGE.parent}/.*: no such file; saved after step 1: python .*--resume {RUN_FOLDER} goes",
        stops="train",
        arguments=["--steps", "2", "--batch-size", "1"],
        during=images_away,
    ),
    Row(
        "disk full",
        as_it_is,
        f"{CONFIG}: cannot be written: No space left",
        stops="train",
        during=full_disk,
    ),
    Row(
        "disk fills up",
        as_it_is,
        f"{RUN_LAST}: cannot be written: No space left",
        stops="train",
        arguments=["--steps", "9"],
        during=disk_fills_up,
    ),
    *(
        Row(
            "another run at work in the folder",
            spoil,
            f"{RUN_FOLDER}: another run, process {os.getpid()}, writes there",
            refuses=command,
            during=run_held,
        )
        for command, spoil in (("train", empty_run), ("resume", as_it_is))
    ),
    *(
        Row(fault, as_it_is, f"{run}: {says}", refuses="resume", arguments=["--resume", str(run)])
        for fault, run, says in (
            ("no such run", "none", "no such run"),
            ("a folder that is no run", DATA, "no run, for it has no config.json"),
            ("weights as a run", WEIGHTS, "no run, for it has no config.json"),
        )
    ),
    Row("no config.json", missing(CONFIG), "run: no run, for it has no con", refuses="resume"),
    *(
        Row(fault, spoil, f"{CONFIG}: damaged, or no run's config", refuses="resume")
        for fault, spoil in (
            ("config.json cut short", rewrite(CONFIG, half)),
            ("empty config.json", rewrite(CONFIG, empty)),
            ("HTML as config.json", rewrite(CONFIG, html)),
            ("another program's config.json", text(CONFIG, '{"name": "app"}')),
            ("config.json of other types", text(CONFIG, '{"data": "data", "history": 1}')),
        )
    ),
    Row(
        "a line of log.jsonl damaged",
        text(LOG, b'{"st\xff\n{"step": 1}\n'),
        f"{LOG}: line 1 is damaged",
        refuses="resume",
    ),
    *(
        Row(
            f"another {fault}",
            as_it_is,
            f"run: {' '.join(arguments)}, but the run has {its}: {KEEPS}",
            refuses="resume",
            arguments=arguments,
        )
        for fault, its, *arguments in (
            ("learning rate", "0.02", "--lr", "0.5"),
            ("crop", "32 64", "--crop", "64", "64"),
            ("type", "float32", "--dtype", "float64"),
            ("seed", "0", "--seed", "1"),
            ("number of steps", "2", "--steps", "5"),
        )
    ),
    *(
        Row(
            f"{option} for a run that goes on",
            as_it_is,
            f"{option}: not with --resume",
            refuses="resume",
            arguments=[option, value],
        )
        for option, value in (("--out", "new"), ("--weights", str(WEIGHTS)), ("--recipe", "modern"))
    ),
    Row(
        "backend that there is not",
        as_it_is,
        "Invalid value for '--backend': .*'caffe' is not one of 'torch', 'mxnet', 'jax'",
        refuses="resume",
        arguments=["--backend", "caffe"],
    ),
    Row("the data is gone", lambda: DATA.rename("moved"), "data: no such fol", refuses="resume"),
    Row(
        "the split in another order",
        text(SPLIT, "train_00001\ntrain_00000\n"),
        "data: its train split or its classes are not those of the run in run",
        refuses="resume",
    ),
    Row(
        "other data",
        lambda: write_shapes(Path("other"), 3, 1, seed=0),
        "other: its train split or its classes are not those of the run in run",
        refuses="resume",
        arguments=["--data", "other"],
    ),
    *(
        Row(
            fault,
            spoil,
            f"{RUN_LAST}: ({NO_FILE}.*|{says}); going on from {RUN_PREVIOUS}, of step 0",
            notes="resume",
            like=as_it_is,
        )
        for fault, spoil, says in (
            ("last checkpoint cut short", rewrite(RUN_LAST, half), NO_FILE),
            ("a bit of it flipped", rewrite(RUN_LAST, flipped), "damaged: its contents are .*"),
            ("no last checkpoint", missing(RUN_LAST), "no such file"),
        )
    ),
    Row(
        "last and previous checkpoint cut short, empty",
        several(rewrite(RUN_LAST, half), rewrite(RUN_PREVIOUS, empty)),
        f"{RUN_LAST}: {NO_FILE}.*; and {RUN_PREVIOUS}: {NO_FILE}",
        refuses="resume",
    ),
    Row(
        "last checkpoint cut short, no previous one",
        several(rewrite(RUN_LAST, half), missing(RUN_PREVIOUS)),
        f"{RUN_LAST}: {NO_FILE}",
        refuses="resume",
    ),
    Row(
        "weights alone as checkpoints",
        no_checkpoints,
        f"{RUN_LAST}: no checkpoint that a run can go on from; and {RUN_PREVIOUS}: no check",
        refuses="resume",
    ),
    Row(
        "another number of threads",
        as_it_is,
        "from step 1 on with torch .* on cpu, 7 threads, until now torch .* on cpu, .* threads?:"
        " the same up to rounding, not bit for bit",
        notes="resume",
        like=as_it_is,
        during=other_threads,
    ),
    Row(
        "another backend",
        as_it_is,
        "from step 1 on with mxnet .*, until now torch .*: the same up to rounding, not bit .*",
        notes="resume",
        arguments=["--backend", "mxnet"],
        needs=["mxnet"],
    ),
    Row(
        "--stop-after a step that is done",
        as_it_is,
        accepts="resume",
        arguments=["--stop-after", "1"],
    ),
]

VOC2012 = [
    *(
        Row(
            f"tar: {fault}",
            archive(lambda files, info=info: packed_raw(files, info)),
            f"{TAR}: refused: {re.escape(repr(info.name))} {says}",
            refuses="voc2012",
        )
        for fault, info, says in (
            (
                "symbolic link",
                member(f"{TREE}/x.jpg", type=tarfile.SYMTYPE, linkname="/x"),
                "is a link",
            ),
            (
                "symbolic link to a folder",
                member(f"{TREE}/link", type=tarfile.SYMTYPE, linkname=".."),
                "is a link",
            ),
            (
                "hard link",
                member(f"{TREE}/x.jpg", type=tarfile.LNKTYPE, linkname=VOC_IMAGE),
                "is a link",
            ),
            ("absolute path", member("/tmp/x.jpg"), "is an absolute path"),
            ("leads out", member(f"{TREE}/a/../../../../x.jpg"), "leads out of the folder"),
            ("leads out and back", member(f"../voc/{VOC_IMAGE}"), "leads out of the folder"),
            ("backslash", member(f"{TREE}/..\\x.jpg"), "has odd characters in its name"),
            ("line break", member(f"{TREE}/x\n.jpg"), "has odd characters in its name"),
            ("not UTF-8", member(f"{TREE}/\udcff.jpg"), "has odd characters in its name"),
            ("device", member(f"{TREE}/x", type=tarfile.CHRTYPE), "is no plain file"),
            ("pipe", member(f"{VOC_SPLIT}x", type=tarfile.FIFOTYPE), "is no plain file"),
            ("sparse", member(f"{TREE}/x", type=tarfile.GNUTYPE_SPARSE), "is no plain file"),
            ("twice", member(VOC_IMAGE, size=3), "comes twice, with other content"),
            ("the same in other words", member(f"./{VOC_IMAGE}", size=3), "comes twice, with oth"),
            (
                "a terabyte",
                member(f"{TREE}/x", size=1 << 40),
                "claims 1099511627776 bytes, not 0 to 64 MB",
            ),
            ("of negative size", member(f"{TREE}/x", size=-512), "claims -512 bytes"),
        )
    ),
    *(
        Row(fault, archive(pack), f"{TAR}: {says}", refuses="voc2012")
        for fault, pack, says in (
            ("empty tar", lambda files: b"", "not a tar archive"),
            ("HTML as tar", lambda files: html(b"") * 99, "not a tar archive"),
            ("gzip of text", lambda files: gzip.compress(b"text" * 999), "not a tar archive"),
            (
                "tar cut short",
                lambda files: half(packed(files)),
                ".*(damaged or cut|unexpected end)",
            ),
            ("gzip cut short", lambda files: packed(files, kind="w:gz")[:-900], "cannot be read: "),
            ("xz cut short", lambda files: packed(files, kind="w:xz")[:-900], "cannot be read: "),
            (
                "tar without splits",
                lambda files: packed({k: v for k, v in files.items() if SPLITS not in k}),
                f"holds no {TREE}/{SPLITS}/[*].txt: not VOC2012",
            ),
            (
                "split that names a missing pair",
                lambda files: packed({k: v for k, v in files.items() if IMAGE.stem not in k}),
                f".* names '{IMAGE.stem}', but there is no {IMAGES}/{IMAGE.name} .and 3 more",
            ),
            (
                "tar with class_names.txt",
                lambda files: packed(files | {f"{TREE}/{CLASS_NAMES}": b"sky\n"}),
                "has a class_names.txt, VOC2012 has none; `data manifest` is for other sets",
            ),
        )
    ),
    Row(
        "mask cut short in a tar",
        archive(lambda files: packed(files | {VOC_MASK: files[VOC_MASK][:-30]})),
        f"(?s){VOC / VOC_MASK}: cannot be read: .*error: {VOC / TREE}: 1 fault",
        stops="voc2012",
    ),
    Row(
        "another md5",
        archive(html),
        f"{TAR}: its md5 is {md5(html(b''))}, not 0{{32}}: another file, or a damaged one",
        refuses="voc2012",
        arguments=["--md5", "0" * 32],
    ),
    Row(
        "--md5 that is none",
        archive(),
        "--md5 6cd6: not an md5, which has 32 hexadecimal digits",
        refuses="voc2012",
        arguments=["--md5", "6cd6"],
    ),
    Row(
        "no such archive",
        archive(),
        "none.tar: no such file or folder",
        refuses="voc2012",
        arguments=["--from", "none.tar"],
    ),
    Row(
        "other data as VOC2012",
        archive(),
        "data: has a class_names.txt, VOC2012 has none; `data manifest` is for other sets",
        refuses="voc2012",
        arguments=["--from", "data"],
    ),
    Row(
        "unpacked, an image is a link out of it",
        several(archive(), unpacked, linked(Path("unpacked") / VOC_IMAGE, "elsewhere/x")),
        f"unpacked/{VOC_IMAGE}: a link that leads out of unpacked",
        refuses="voc2012",
        arguments=["--from", "unpacked"],
    ),
    *(
        Row(
            fault,
            archive(),
            f"{url}: {says}",
            **{verdict: "voc2012"},
            arguments=["--from", url],
            during=during,
        )
        for fault, verdict, url, says, during in (
            (
                "server that is not there",
                "refuses",
                "http://127.0.0.1:1/voc.tar",
                "cannot be downloaded: Connection refused",
                no_proxy,
            ),
            (
                "address of another kind",
                "refuses",
                "ftp://127.0.0.1/voc.tar",
                "only http and https addresses are known",
                no_proxy,
            ),
            ("404", "refuses", URL, "the server says 404 Not Found", served(status=404)),
            (
                "server that sends a web page",
                "refuses",
                URL,
                r"sent a web page \(text/html\), not an archive",
                served(kind="text/html"),
            ),
            (
                "download cut short",
                "stops",
                URL,
                "the connection was cut after 5000 of .* bytes; run again to go on",
                served(cuts=[5000]),
            ),
        )
    ),
    Row(
        "download of another md5",
        archive(),
        f"{VOC}/download.tar.part: its md5 is .*, not .*; it is removed",
        refuses="voc2012",
        arguments=["--from", URL],
        during=served(data=b"another"),
    ),
    Row(
        "output folder that holds something",
        several(archive(), VOC.mkdir, text(VOC / "mine", "mine")),
        "voc: exists and is not an empty folder",
        refuses="voc2012",
    ),
    Row(
        "output folder that is a file",
        several(archive(), text(VOC, "mine")),
        "voc: cannot be made: File exists",
        refuses="voc2012",
    ),
    Row(
        "another preparation at work in the folder",
        several(archive(), preparing),
        "voc: another preparation is at work in it",
        refuses="voc2012",
        during=preparation_held,
    ),
    Row(
        "prepared from another archive",
        several(archive(), prepared, archive(html)),
        "voc: holds a preparation from an archive of md5 .*; it stays as it is",
        refuses="voc2012",
    ),
    Row(
        "prepared, then a bit flipped",
        several(archive(), prepared, rewrite(VOC / VOC_IMAGE, flipped)),
        f"(?s){VOC / VOC_IMAGE}: differs from manifest.json: a bit fl.*: {VOC / TREE}: 1 fault",
        refuses="voc2012",
    ),
    Row("prepared already", several(archive(), prepared), accepts="voc2012"),
]

ROWS = [*PICTURES, *MASKS_ROWS, *FOLDERS, *WEIGHTS_ROWS, *PLACES, *MACHINE, *RUNS, *VOC2012]


# Printing it


def in_this_process(name: str, *arguments: str) -> tuple[int, str, str]:
    """Runs a command of `scripts`: exit code, standard output and error."""
    from scripts.cli import main

    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", [f"scripts.{name}", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main(importlib.import_module(f"scripts.{name}").app)
        except SystemExit as stop:
            return int(stop.code or 0), out.getvalue(), err.getvalue()
    raise AssertionError("a command ends with an exit code")


ENDS = {
    "refuses": "",
    "finishes": "the other images are done",
    "stops": "what was done stays",
    "notes": "done",
    "accepts": "accepted",
}


def _said(row: Row, command: str, verdict: str, outcome: Outcome) -> str:
    """What a person reads, in one cell; temporary folders and long names as `...`."""
    lines = outcome.err.splitlines()
    if command in LISTS.split() and outcome.code == 2:  # its faults are its result
        faults = [line for line in outcome.out.splitlines() if line.startswith(("data/", "voc/"))]
        lines = faults + lines
    cells = []
    for line in lines:
        short = re.sub(rf"{tempfile.gettempdir()}/[^/ ]*/", ".../", line)
        short = re.sub(r"(.)\1{30,}", r"\1...\1", short)
        cells.append(f"`{short}`".replace("|", "\\|"))
    end = ENDS[verdict] + (", with the same result" if row.like else "")
    return " <br> ".join([*cells, end] if end else cells)


def print_table() -> None:
    """Tries every row and prints it as Markdown."""
    print("| fault | command | what it prints | exit code |")
    print("|---|---|---|---|")
    for row in ROWS:
        for command, verdict in row.commands():
            outcome = attempt(row, command, in_this_process)
            said = _said(row, command, verdict, outcome)
            print(f"| {row.fault} | {command} | {said} | {outcome.code} |", flush=True)


if __name__ == "__main__":
    print_table()
