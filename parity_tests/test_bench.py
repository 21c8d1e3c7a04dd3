"""The benchmark: what it writes, its arithmetic, its way out. Nothing here depends on speed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench import speedup, summarize
from scripts.bench_worker import Job, make_batch

ROOT = Path(__file__).parents[1]
JOB = Job("torch", "ours", "train", batch_size=4, height=64, width=96)
ROW_KEYS = {
    *("backend", "form", "mode", "dtype", "batch_size", "height", "width", "seconds", "spread"),
    *("cpu_seconds", "first_seconds", "peak_mb", "images_per_second", "speedup_over_book"),
}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def turn(seconds: float, cpu_seconds: float = 1.0, peak_mb: float = 100.0) -> dict[str, float]:
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_mb}


def test_summary_takes_medians_over_the_rounds() -> None:
    turns = [turn(2.0, 4.0, 150.0), turn(9.0, 5.0, 160.0), turn(1.0, 6.0, 160.0)]
    row = summarize(JOB, turn(7.0), turns)
    assert set(row) == ROW_KEYS - {"speedup_over_book"}
    assert row["seconds"] == 2.0
    assert row["spread"] == [1.0, 9.0]
    assert row["cpu_seconds"] == 5.0
    assert row["first_seconds"] == 7.0
    assert row["peak_mb"] == 160.0
    assert row["images_per_second"] == 2.0


def test_speedup_is_the_median_of_each_rounds_ratio() -> None:
    # the ratio of the medians would be 3 / 2
    book, ours = [turn(1.0), turn(3.0), turn(10.0)], [turn(0.5), turn(4.0), turn(2.0)]
    assert speedup(book, ours) == 2.0
    assert speedup(book, book) == 1.0


def test_batch_comes_from_the_seed_and_has_no_void() -> None:
    images, labels = make_batch(JOB)
    assert images.shape == (4, 3, 64, 96)
    assert images.dtype == "float32"
    assert labels.shape == (4, 64, 96)
    assert labels.max() == 20
    assert (make_batch(JOB)[0] == images).all()


def test_json_has_both_forms(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    size = ("--size", "64", "64", "--batch-size", "2", "--rounds", "1")
    done = bench("--backend", "torch", *size, "--json", str(path))
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert [row["form"] for row in result["rows"]] == ["ours", "book"]
    for row in result["rows"]:
        assert set(row) == ROW_KEYS
        assert row["seconds"] > 0
        assert row["peak_mb"] > 0
    assert result["rows"][1]["speedup_over_book"] == 1.0
    assert result["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert set(result["machine"]["versions"]) == {"python", "torch", "numpy"}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--backend", "theano"], "theano"),
        (["--size", "16", "480"], "32"),
        (["--size", "100", "96"], "multiples of 32"),
        (["--rounds", "0"], "rounds"),
        (["--batch-size", "1", "--size", "32", "32"], "BatchNorm"),
        (["--json", "nowhere/bench.json"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], word: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert word in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout
