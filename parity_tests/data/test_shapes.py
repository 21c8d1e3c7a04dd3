"""The shapes set, and `scripts.data`, which makes it and checks it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from common.data.dataset import IMAGES, MASKS, open_dataset, survey
from common.data.shapes import _DISTANCES, SHAPES_CLASSES, write_shapes
from common.data.voc import voc_palette
from common.errors import InputError
from scripts.data import app


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "new" / "one" / "set"
    write_shapes(folder, 10, 5, seed=1)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_set_has_no_fault(shapes: Path) -> None:
    found = survey(shapes)
    assert found.faults == []
    assert found.class_names == SHAPES_CLASSES
    assert found.splits == {"train": 10, "trainval": 15, "val": 5}
    assert (found.pixels[: len(SHAPES_CLASSES)] > 0).all()
    assert [path.name for path in shapes.parent.iterdir()] == ["set"]


def test_masks_have_vocs_palette_and_void_edges(shapes: Path) -> None:
    dataset = open_dataset(shapes, "val")
    with Image.open(dataset.mask_path(0)) as mask:
        assert mask.mode == "P"
        assert mask.getpalette() == voc_palette().ravel().tolist()
    image, label = dataset.read(0)
    assert 112 <= image.shape[0] <= 144 <= image.shape[1] <= 176
    kinds = np.where(label == 255, -1, label.astype(int))  # NumPy 2 would keep uint8
    for a, b in ((kinds[1:], kinds[:-1]), (kinds[:, 1:], kinds[:, :-1])):
        assert not ((a != b) & (a >= 0) & (b >= 0)).any()  # two classes never touch


def test_every_shape_has_the_area_of_the_unit_circle_and_stands_upright() -> None:
    y, x = np.mgrid[-2:2:800j, -2:2:800j]
    for name in SHAPES_CLASSES[1:]:
        inside = _DISTANCES[name](x, y) < 0
        assert inside.mean() * 16 == pytest.approx(np.pi, rel=0.005), name
        assert np.abs(np.gradient(_DISTANCES[name](x, y), 4 / 799)).max() <= 1 + 1e-9  # distances
        assert np.array_equal(inside, inside[:, ::-1]), name
        assert np.array_equal(inside, inside.T) == (name != "triangle"), name
        assert inside[400, 400] == (name != "ring"), name


PAIRS = {
    ("train", 0): ((126, 147), (11373, 2326, 0, 0, 0, 3566, 1257), (71.99, 82.13, 89.78)),
    ("train", 1): ((143, 175), (17519, 0, 3113, 850, 0, 2159, 1384), (107.35, 68.03, 72.47)),
    ("train", 3): ((136, 176), (17462, 0, 1992, 0, 1524, 1704, 1254), (125.86, 159.27, 140.96)),
    ("val", 2): ((121, 154), (10120, 5182, 610, 1691, 0, 0, 1031), (165.28, 126.14, 130.48)),
}
"""Of a set of seed 0: height and width, pixels by class and of void, the mean colour."""


def test_sets_stay_what_they_were(tmp_path: Path) -> None:
    """The published figures are of such sets; JPEG and another NumPy may move a last digit."""
    write_shapes(tmp_path / "set", 4, 3, seed=0)
    for (split, index), (size, counts, colour) in PAIRS.items():
        image, label = open_dataset(tmp_path / "set", split).read(index)
        assert label.shape == size
        found = np.bincount(label.ravel(), minlength=256)[[*range(len(SHAPES_CLASSES)), 255]]
        assert np.abs(found - counts).max() <= 2
        assert np.abs(image.mean(axis=(0, 1)) - colour).max() < 0.2


def test_a_pair_depends_on_seed_split_and_index_alone(shapes: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "same", 10, 5, seed=1)
    assert contents(tmp_path / "same") == contents(shapes)
    write_shapes(tmp_path / "smaller", 3, 2, seed=1)
    pictures = {k: v for k, v in contents(tmp_path / "smaller").items() if "_0" in k}
    assert len(pictures) == 10
    assert pictures.items() <= contents(shapes).items()
    write_shapes(tmp_path / "other", 3, 2, seed=2)
    other = contents(tmp_path / "other")
    assert all(other[name] != pictures[name] for name in pictures)


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for taken in (tmp_path / "full", tmp_path / "full/file"):
        with pytest.raises(InputError, match="exists and is not an empty folder"):
            write_shapes(taken, 1, 1, seed=0)
    with pytest.raises(InputError, match="cannot be written"):
        write_shapes(tmp_path / "full/file/set", 1, 1, seed=0)
    write_shapes(tmp_path / "empty", 1, 1, seed=0)
    assert survey(tmp_path / "empty").faults == []
    assert (tmp_path / "full/file").read_text() == "mine"


def test_a_set_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.data.shapes._write_pair", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write_shapes(tmp_path / "set", 1, 1, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_the_commands_make_and_check_a_set(tmp_path: Path) -> None:
    folder, report = tmp_path / "set", tmp_path / "report.json"
    made = run("shapes", folder, "--train", 4, "--val", 2, "--seed", 3)
    assert made.exit_code == 0, made.output
    checked = run("check", folder, "--json", report)
    assert checked.exit_code == 0, checked.output
    assert checked.stdout.rstrip().endswith("no faults")
    result = json.loads(report.read_text())
    assert result["folder"] == str(folder)
    assert result["class_names"] == list(SHAPES_CLASSES)
    assert result["splits"] == {"train": 4, "trainval": 6, "val": 2}
    assert list(result["pixels"]) == [*SHAPES_CLASSES, "void"]
    pixels = 0
    for path in (folder / MASKS).iterdir():
        with Image.open(path) as label:
            pixels += label.width * label.height
    assert sum(result["pixels"].values()) == pixels
    assert result["faults"] == []


def test_check_lists_every_fault(shapes: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "set", 2, 1, seed=0)
    image, mask = (tmp_path / "set" / part for part in (IMAGES, MASKS))
    (image / "val_00000.jpg").unlink()
    (mask / "train_00001.png").write_bytes(b"")
    checked = run("check", tmp_path / "set", "--json", tmp_path / "report.json")
    assert checked.exit_code == 2
    faults = [
        f"{mask / 'train_00001.png'}: the file is empty",
        f"{image / 'val_00000.jpg'}: no such file",
    ]
    assert checked.stdout.splitlines()[-2:] == faults
    assert checked.stderr == f"error: {tmp_path / 'set'}: 2 faults\n"
    assert json.loads((tmp_path / "report.json").read_text())["faults"] == faults


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.data", "check", str(tmp_path / "none")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == ("", f"error: {tmp_path / 'none'}: no such folder\n")
