"""Batches are a function of (seed, epoch, index): the same bytes for everyone."""

import ctypes
import hashlib
import json
import multiprocessing
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from numpy.typing import NDArray
from PIL import Image

from common.config import Config, Void
from common.data.augment import mean_colour, normalize, random_crop
from common.data.batches import (
    batch_names,
    count_workers,
    steps_per_epoch,
    total_steps,
    training_batch,
    training_batches,
)
from common.data.dataset import Dataset, open_dataset
from common.data.shapes import write_shapes
from common.errors import InputError, WorkerError
from common.network.initial import initial_weights
from common.runs.run_folder import LAST, RunFolder
from common.weights.checkpoint import Weights, write_weights
from scripts.shared.speed.data import book_item
from scripts.shared.training import Training

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("shapes") / "set"
    write_shapes(folder, 7, 1, seed=5)
    return open_dataset(folder, "train")


CONFIG = Config(num_classes=6, batch_size=2, crop=(64, 96), epochs=2, seed=1, workers=0)
VARIED = CONFIG.replace(scale=(0.5, 2.0), jitter=0.4)


def digest(shapes: Dataset, config: Config, first_step: int = 0) -> list[str]:
    return [
        hashlib.sha256(batch.image.tobytes() + batch.label.tobytes()).hexdigest()
        for batch in list(training_batches(shapes, config, first_step))  # each keeps its bytes
    ]


@pytest.mark.parametrize(("config", "workers"), [(CONFIG, 1), (VARIED, 3)], ids=["plain", "varied"])
def test_the_same_bytes_for_any_number_of_workers(
    shapes: Dataset, config: Config, workers: int
) -> None:
    alone = digest(shapes, config)
    assert len(set(alone)) == 6
    assert digest(shapes, config.replace(workers=workers)) == alone
    assert digest(shapes, config.replace(workers=workers), first_step=2) == alone[2:]


def test_what_a_backend_is_cannot_change_them(shapes: Dataset) -> None:
    expected = digest(shapes, CONFIG)
    for change in ({"dtype": "float64"}, {"device": "cpu"}, {"learning_rate": 1.0}):
        assert digest(shapes, CONFIG.replace(**change)) == expected
    for change in ({"seed": 2}, {"scale": (0.5, 1.0)}, {"jitter": 0.1}):
        assert digest(shapes, CONFIG.replace(**change)) != expected


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
    for epoch in (0, 1):
        names = [name for batch in batches if batch.epoch == epoch for name in batch.names]
        assert len(set(names)) == 6
    assert batches[0].names != batches[3].names


@pytest.mark.parametrize("workers", [0, 1])
def test_dtypes_and_ranges(shapes: Dataset, workers: int) -> None:
    batch = next(training_batches(shapes, CONFIG.replace(workers=workers)))
    assert (batch.image.shape, batch.image.dtype) == ((2, 64, 96, 3), np.uint8)
    assert (batch.label.shape, batch.label.dtype) == ((2, 64, 96), np.uint8)
    assert batch.image.flags.c_contiguous and batch.label.flags.c_contiguous
    assert set(np.unique(batch.label)) <= {0, 1, 2, 3, 4, 5, 255}
    assert batch.image.std() > 10


@pytest.mark.parametrize(
    ("processes", "batch_size", "workers"), [(2, 4, 0), (4, 4, 0), (3, 6, 0), (2, 4, 2)]
)
def test_the_shares_of_all_processes_are_the_batch_of_one(
    own: Dataset,
    processes: int,
    batch_size: int,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processes * workers)
    config = VARIED.replace(batch_size=batch_size, steps=3)
    shared = config.replace(processes=processes, workers=workers)
    whole = list(training_batches(own, config))
    shares = [list(training_batches(own, shared, rank=rank)) for rank in range(processes)]
    resumed = [next(training_batches(own, shared, 2, rank)) for rank in range(processes)]
    assert len({batch.names for batch in whole}) == 3
    assert [batch.names for batch in whole] == [batch_names(own, shared, k) for k in range(3)]
    for batch, parts in [*zip(whole, zip(*shares, strict=True), strict=True), (whole[2], resumed)]:
        assert batch.image.tobytes() == b"".join(part.image.tobytes() for part in parts)
        assert batch.label.tobytes() == b"".join(part.label.tobytes() for part in parts)
        assert batch.names == sum((part.names for part in parts), ())
        assert {part.epoch for part in parts} == {batch.epoch}


def test_a_process_reads_no_other_s_images(own: Dataset) -> None:
    config = CONFIG.replace(batch_size=4, processes=2)
    others = training_batch(own, config, 0, rank=1)
    for name in others.names:
        own.image_path(own.names.index(name)).write_bytes(b"")
    assert not {*training_batch(own, config, 0, rank=0).names} & {*others.names}
    with pytest.raises(InputError, match="the file is empty"):
        training_batch(own, config, 0, rank=1)


@pytest.mark.parametrize(
    ("cores", "processes", "workers", "each"),
    [
        *((2, 1, 2, 2), (2, 1, 5, 5)),  # alone, as it was told
        *((2, 2, 2, 1), (4, 2, 2, 2), (8, 2, 2, 2), (8, 4, 3, 2), (8, 3, 4, 2), (8, 2, 0, 0)),
        *((2, 4, 2, 0), (None, 2, 2, 0)),  # no core is left for a reader
    ],
)
def test_readers_do_not_multiply_beyond_the_cores(
    cores: int | None, processes: int, workers: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert count_workers(CONFIG.replace(processes=processes, workers=workers)) == each


def test_as_many_readers_start_as_are_counted(
    shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    batches = training_batches(shapes, CONFIG.replace(processes=2, workers=2, steps=50))
    next(batches)
    assert len(multiprocessing.active_children()) == 1
    batches.close()


def crop_of(
    image: NDArray[np.uint8], label: NDArray[np.uint8], config: Config, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    random = np.random.default_rng(seed)
    return random_crop(Image.fromarray(image), Image.fromarray(label), config, random)


def test_the_crops_of_earlier_runs_stay() -> None:
    """The window and the flip that the same draws gave before there were scale and jitter."""
    rows, columns = np.mgrid[:40, :50].astype(np.uint8)
    image, config = np.stack([rows, columns, rows], axis=-1), Config(crop=(16, 24))
    for seed in range(8):
        random = np.random.default_rng(seed)
        y, x = int(random.integers(0, 25)), int(random.integers(0, 27))
        flipped = random.random() < 0.5
        for change in ({}, {"scale": (1.0, 1.0), "jitter": 0.5}):
            _, labels = crop_of(image, columns, config.replace(**change), seed)
            window = columns[y : y + 16, x : x + 24]
            assert np.array_equal(labels, window[:, ::-1] if flipped else window)


def test_crop_is_a_window_of_the_picture_and_flips_both() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (40, 50, 3), np.uint8)
    label = random.integers(0, 21, (40, 50)).astype(np.uint8)
    config = Config(crop=(16, 24))
    flips = 0
    for seed in range(12):
        crop, labels = crop_of(image, label, config, seed)
        windows = np.lib.stride_tricks.sliding_window_view(label, (16, 24))
        for flipped in (False, True):
            wanted = labels[:, ::-1] if flipped else labels
            places = np.argwhere((windows == wanted).all(axis=(2, 3)))
            if len(places):
                (y, x), flips = places[0], flips + flipped
                found = crop[:, ::-1] if flipped else crop
                assert np.array_equal(found, image[y : y + 16, x : x + 24])
                break
        else:
            pytest.fail("the crop is no window of the picture")
    assert 0 < flips < 12


def test_a_small_picture_is_surrounded_by_the_mean_and_void() -> None:
    image = np.full((5, 30, 3), 200, np.uint8)
    label = np.full((5, 30), 7, np.uint8)
    config = Config(crop=(8, 20), flip_probability=0, mean=(0.1, 0.5, 1.0))
    crop, labels = crop_of(image, label, config, 0)
    assert (labels == 7).sum() == 5 * 20
    assert (labels == 255).sum() == 3 * 20
    assert (crop[labels == 255] == (26, 128, 255)).all()
    assert (crop[labels == 7] == 200).all()
    around = normalize(np.array([[mean_colour(Config())]], np.uint8), Config())
    assert np.abs(around).max() <= 0.5 / 255 / min(Config().std)


def test_scaled_image_and_label_lie_on_each_other() -> None:
    """A ramp of 2 a pixel, labelled by column: apart by at most what nearest rounds off."""
    rows, columns = np.mgrid[:90, :120].astype(np.uint8)
    image = np.stack([2 * columns, 2 * rows, np.full_like(rows, 9)], axis=-1)
    config, widths = Config(crop=(60, 80), scale=(0.5, 2.0)), []
    shifts = []
    for seed in range(40):
        crop, labels = crop_of(image, columns, config, seed)
        inside = labels != 255
        assert (crop[~inside] == mean_colour(config)).all()
        apart = crop[..., 0][inside] / 2 - labels[inside]
        assert np.abs(apart).max() <= 1.5
        shifts.append(apart.mean())
        widths.append(np.ptp(labels[inside].astype(int)))
        _, lines = crop_of(image, rows, config, seed)
        assert np.abs(crop[..., 1][inside] / 2 - lines[inside]).max() <= 1.5
    assert abs(np.mean(shifts)) < 0.1
    assert min(widths) < 50 and max(widths) > 110  # of 120 columns: twice as large, half as large


def test_scale_is_drawn_evenly_in_its_logarithm() -> None:
    image, label = np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100), np.uint8)
    config = Config(crop=(400, 400), scale=(0.25, 4.0))
    sides = [(crop_of(image, label, config, seed)[1] == 0).sum() ** 0.5 for seed in range(200)]
    assert 24 < min(sides) < 35 and 290 < max(sides) <= 400
    assert 0.35 < np.mean(np.array(sides) < 100) < 0.65


def test_jitter_varies_colours_and_nothing_else() -> None:
    random = np.random.default_rng(3)
    image = np.full((30, 40, 3), (90, 120, 60), np.uint8)
    label = random.integers(0, 21, (30, 40)).astype(np.uint8)
    config = Config(crop=(20, 50), jitter=0.3)
    colours = set()
    for seed in range(20):
        _, plain_labels = crop_of(image, label, config.replace(jitter=0.0), seed)
        crop, labels = crop_of(image, label, config, seed)
        assert np.array_equal(labels, plain_labels)
        assert (crop[labels == 255] == mean_colour(config)).all()
        found = np.unique(crop[labels != 255], axis=0)
        assert len(found) == 1  # all three operations map a colour to a colour
        grey = found @ (0.299, 0.587, 0.114)
        assert 0.69 * 104 < grey < 1.31 * 105  # contrast and saturation keep an even grey
        colours.add(tuple(found[0]))
    assert len(colours) > 10


def test_the_book_s_item_is_the_same_crop(shapes: Dataset) -> None:
    config = CONFIG.replace(flip_probability=0, void=Void.background)
    for index in range(len(shapes)):
        paths = shapes.image_path(index), shapes.mask_path(index)
        image, label = book_item(*paths, config.crop, np.random.default_rng(index))
        assert (image.dtype, label.dtype) == (np.float32, np.int64)
        crop, labels = random_crop(*shapes.open(index), config, np.random.default_rng(index))
        np.testing.assert_allclose(image, normalize(crop, config), atol=1e-5)
        assert np.array_equal(label, labels)


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


def break_every_image(dataset: Dataset) -> None:
    for index in range(len(dataset)):
        dataset.image_path(index).write_bytes(b"")


@pytest.fixture
def own(tmp_path: Path) -> Dataset:
    """A set of eight that a test may spoil."""
    write_shapes(tmp_path / "set", 8, 1, seed=0)
    return open_dataset(tmp_path / "set", "train")


def until(condition: Callable[[], bool]) -> None:
    """Waits for what must come; half a minute is for a machine that does much else."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps_saved(path: Path) -> int:
    """Of a checkpoint whose place another may take at any moment: the header is read at once."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return int(file.metadata()["step"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_turns_bad_is_named_when_its_turn_comes(own: Dataset, workers: int) -> None:
    config = CONFIG.replace(workers=workers)
    names = training_batch(own, config, 2).names
    own.image_path(own.names.index(names[0])).write_bytes(b"")
    batches = training_batches(own, config)
    assert [next(batches).epoch for _ in range(2)] == [0, 0]
    with pytest.raises(InputError, match=rf"{names[0]}\.jpg: the file is empty"):
        next(batches)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_than_a_batch_a_worker_is_made_ahead(own: Dataset, workers: int) -> None:
    batches = training_batches(own, CONFIG.replace(workers=workers, steps=40))
    next(batches)
    time.sleep(0.5)  # what has no bound makes many more
    break_every_image(own)
    with pytest.raises(InputError):
        for _ in range(workers + 1):
            next(batches)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells who opens a file")
def test_the_next_batch_is_begun_before_it_is_asked_for(own: Dataset) -> None:
    config = CONFIG.replace(workers=1, batch_size=1)
    path = own.image_path(own.names.index(training_batch(own, config, 1).names[0]))
    libc, in_open = ctypes.CDLL(None), 0x20
    watched = libc.inotify_init()
    assert libc.inotify_add_watch(watched, os.fsencode(path), in_open) > 0
    batches = training_batches(own, config)
    next(batches)
    assert select.select([watched], [], [], 30)[0]
    os.close(watched)
    batches.close()


def test_a_worker_that_is_killed_is_an_error(shapes: Dataset) -> None:
    batches = training_batches(shapes, CONFIG.replace(workers=2, steps=50))
    next(batches)
    victim = multiprocessing.active_children()[0]
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"reads the data has ended \(SIGKILL\)"):
        list(batches)
    assert multiprocessing.active_children() == []


def test_a_worker_s_death_is_one_line_and_exit_code_2(
    run_command: Callable[..., tuple[int, str, str]],
    shapes: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(*_: object) -> None:
        raise WorkerError("a process that reads the data has ended (SIGKILL)")

    monkeypatch.setattr("scripts.train.__main__.open_data", gone)
    data = ("--data", shapes.root, "--out", tmp_path / "run")
    code, _, err = run_command("train", "--backend", "torch", *data)
    assert (code, err) == (2, "error: a process that reads the data has ended (SIGKILL)\n")


def test_closing_early_leaves_no_process(shapes: Dataset) -> None:
    batches = training_batches(shapes, CONFIG.replace(workers=3, steps=50))
    next(batches)
    processes = multiprocessing.active_children()
    assert len(processes) == 3
    batches.close()
    assert multiprocessing.active_children() == []
    assert not any(process.is_alive() for process in processes)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--scale", 0, 1), "'--scale': 0 1: 0 < MIN <= MAX is wanted"),
        (("--scale", 2, 0.5), "'--scale': 2 0.5: 0 < MIN <= MAX is wanted"),
        (("--scale", 1, "inf"), "'--scale': 1 inf: 0 < MIN <= MAX is wanted"),
        (("--scale", "nan", 1), "'--scale': nan 1: 0 < MIN <= MAX is wanted"),
        (("--scale", 1), "--scale"),
        (("--jitter", 1.5), "--jitter"),
        (("--workers", -1), "--workers"),
    ],
    ids=str,
)
def test_an_option_that_makes_no_sense_is_named(
    run_command: Callable[..., tuple[int, str, str]],
    shapes: Dataset,
    tmp_path: Path,
    options: tuple[object, ...],
    named: str,
) -> None:
    data = ("--data", shapes.root, "--out", tmp_path / "run")
    code, _, err = run_command("train", "--backend", "torch", *data, *options)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and named in err
    assert not (tmp_path / "run").exists()


def test_options_reach_the_batches(
    run_command: Callable[..., tuple[int, str, str]],
    shapes: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Config] = []

    def take(folder: Path, config: Config) -> None:
        seen.append(config)
        raise InputError("seen")

    monkeypatch.setattr("scripts.train.__main__.open_data", take)
    data = ("--data", shapes.root, "--out", tmp_path / "run")
    options = ("--scale", 0.5, 2, "--jitter", 0.25, "--lr", 0.5, "--crop", 7, 9, "--workers", 0)
    run_command("train", "--backend", "torch", *data, *options, "--void", "background")
    expected = Config(
        scale=(0.5, 2.0),
        jitter=0.25,
        learning_rate=0.5,
        crop=(7, 9),
        workers=0,
        void=Void.background,
    )
    assert seen == [expected]
    assert Config.from_dict(json.loads(json.dumps(expected.to_dict()))) == expected


def test_the_status_says_what_the_last_steps_waited_for(shapes: Dataset, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        training = Training("torch", Any, shapes, None, Config(batch_size=4), folder)
        folder.steps.append({"step": 0, "loss": 2.0, "lr": 0.01})
        training.seconds, training.waits = [0.5] * 30, [0.5] * 10 + [0.02] * 20
        assert training.status() == "loss 2.0000  lr 0.01  8.0 images/s"
        training.seconds.append(0.5)
        training.waits.append(0.5)
        folder.val.append({"step": 0, "mean_iou": 0.25})
        expected = "loss 2.0000  lr 0.01  8.0 images/s  waits for data 9%  best IoU 0.250"
        assert training.status() == expected


# The whole command, in a process of its own


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # ended meanwhile
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def training(shapes: Dataset, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`python -m scripts.train`, a thin network, past its first steps, in a group of its own."""
    arrays = initial_weights(CONFIG.architecture, shapes.num_classes, seed=0, width=8)
    write_weights(tmp_path / "W", Weights(arrays, CONFIG.architecture, shapes.class_names))
    arguments = ["--backend", "torch", "--data", str(shapes.root), "--out", str(tmp_path / "run")]
    arguments += ["--weights", str(tmp_path / "W")]
    sizes = ["--batch-size", "2", "--crop", "32", "64", "--steps", "100000", "--device", "cpu"]
    # a shell's background job ignores Ctrl-C, and so would what it starts
    program = ["env", "--default-signal=INT", sys.executable]
    process = subprocess.Popen(
        [*program, "-m", "scripts.train", *arguments, *sizes],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = tmp_path / "run" / "log.jsonl"
    until(lambda: process.poll() is not None or (log.exists() and log.stat().st_size > 0))
    assert process.poll() is None, process.communicate()[1]
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(pytest.param(n, marks=pytest.mark.full) for n in (signal.SIGTERM, signal.SIGHUP)),
    ],
    ids=lambda n: n.name,
)
def test_a_signal_to_the_whole_group_ends_the_step_and_saves(
    training: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    started = children(training.pid)
    assert len(started) == 3  # two workers, and what multiprocessing keeps itself
    for pid in started:
        loaded = Path(f"/proc/{pid}/maps").read_text()
        assert not any(name in loaded for name in ("torch", "mxnet", "jaxlib", "matplotlib"))
    assert sum("numpy" in Path(f"/proc/{pid}/maps").read_text() for pid in started) == 2
    os.killpg(training.pid, signal.SIGUSR1)
    until(lambda: steps_saved(tmp_path / "run" / LAST) > 0)
    assert children(training.pid) == started
    os.killpg(training.pid, number)
    asked, said = training.communicate(timeout=60)[1].strip().splitlines()
    assert asked == "finishing the step, then saving; once more stops at once"
    assert re.fullmatch(
        rf"stopped by {number.name} after step \d+ of 100000, saved:"
        r" python -m scripts.train --resume \S+/run goes on",
        said,
    )
    assert training.returncode == 128 + number
    until(lambda: not any(map(is_running, started)))


@pytest.mark.full
def test_a_second_signal_stops_at_once(training: subprocess.Popen[str]) -> None:
    started = children(training.pid)
    assert training.stderr is not None
    training.send_signal(signal.SIGSTOP)  # so that both come within one step
    for number in (signal.SIGINT, signal.SIGTERM):
        training.send_signal(number)
    training.send_signal(signal.SIGCONT)
    assert training.wait(timeout=30) in (-signal.SIGINT, -signal.SIGTERM)
    assert "stopped by" not in training.stderr.read()
    until(lambda: not any(map(is_running, started)))


READER = """
import sys
from pathlib import Path
from common.config import Config
from common.data.batches import training_batches
from common.data.dataset import open_dataset
config = Config(num_classes=6, batch_size=2, crop=(64, 96), steps=100000, workers=2)
for batch in training_batches(open_dataset(Path(sys.argv[1]), "train"), config):
    print(batch.epoch, flush=True)
    sys.stdin.read()
"""


def test_workers_end_with_a_parent_that_is_killed(shapes: Dataset) -> None:
    """The workers of whoever reads batches, a training or not."""
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(shapes.root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None and reader.stdout.readline() == "0\n"
    started = children(reader.pid)
    assert len(started) == 3  # two workers, and what multiprocessing keeps itself
    reader.kill()
    assert reader.communicate(timeout=30)[1] == ""
    until(lambda: not any(map(is_running, started)))


@pytest.mark.full
def test_workers_end_with_a_training_that_is_killed(training: subprocess.Popen[str]) -> None:
    started = children(training.pid)
    assert len(started) == 3
    training.kill()
    assert training.communicate(timeout=30)[1] == ""
    until(lambda: not any(map(is_running, started)))
