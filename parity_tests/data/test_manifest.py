"""A manifest finds what no decoder does: a flipped bit, a changed label, a file that is gone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from PIL import Image

from common.data.dataset import (
    CLASS_NAMES,
    IMAGES,
    MASKS,
    SPLITS,
    check_split,
    keep_manifest,
    open_dataset,
    survey,
)
from common.data.manifest import MANIFEST
from common.data.shapes import write_shapes
from common.errors import InputError

Command = Callable[..., tuple[int, str, str]]
FLIPPED = "differs from manifest.json: a bit flipped or the file was changed"
IMAGE, MASK = f"{IMAGES}/train_00000.jpg", f"{MASKS}/train_00000.png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shapes with a manifest."""
    write_shapes(tmp_path / "set", 3, 1, seed=0)
    found, made = keep_manifest(tmp_path / "set")
    assert (found.faults, made) == ([], True)
    return tmp_path / "set"


def flip(path: Path, bit: int = 0) -> None:
    """Changes one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1 << bit
    path.write_bytes(data)


def fault(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_manifest_lists_what_is_used_and_nothing_else(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    assert (content["format"], content["schema"]) == ("rosetta-manifest", 1)
    names = content["files"]
    used = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(names) == used - {MANIFEST}
    assert CLASS_NAMES in names


def test_the_same_files_give_the_same_manifest(folder: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "again", 3, 1, seed=0)
    keep_manifest(tmp_path / "again")
    assert (tmp_path / "again" / MANIFEST).read_bytes() == (folder / MANIFEST).read_bytes()
    assert str(tmp_path) not in (folder / MANIFEST).read_text()


def test_a_flipped_bit_that_decoders_do_not_notice(folder: Path, run_command: Command) -> None:
    flip(folder / IMAGE)
    with Image.open(folder / IMAGE) as image:
        image.load()
    line = f"{folder / IMAGE}: {FLIPPED}"
    assert survey(folder).faults == [line]
    dataset = open_dataset(folder, "train")
    assert fault(lambda: check_split(dataset)) == line
    check_split(open_dataset(folder, "val"))
    code, said, err = run_command("data", "check", folder)
    assert (code, err) == (2, f"error: {folder}: 1 fault\n")
    assert line in said
    run = folder.parent / "run"
    train = ("train", "--backend", "torch", "--data", folder, "--batch-size", 2)
    code, _, err = run_command(*train, "--out", run)
    assert (code, err) == (2, f"error: {line}\n")
    (folder / MANIFEST).unlink()
    assert survey(folder).faults == []  # without it, nobody sees


@pytest.mark.parametrize("name", [IMAGE, MASK, f"{SPLITS}/train.txt", CLASS_NAMES])
def test_every_kind_of_file_is_held_against_it(folder: Path, name: str) -> None:
    flip(folder / name)
    assert f"{folder / name}: {FLIPPED}" in survey(folder).faults
    message = fault(lambda: check_split(open_dataset(folder, "train")))
    assert message.startswith(f"{folder / name}: {FLIPPED}")
    size = (folder / name).stat().st_size
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    assert f"differs from manifest.json: {size + 1} bytes, not {size}" in str(survey(folder).faults)


def test_what_is_gone_and_what_is_new(folder: Path) -> None:
    (folder / SPLITS / "val.txt").unlink()
    (folder / CLASS_NAMES).unlink()
    (folder / MASK).unlink()
    (folder / SPLITS / "mine.txt").write_text("train_00001\n")  # a new split is no fault
    assert survey(folder).faults == [
        f"{folder / SPLITS / 'val.txt'}: no such file, but in manifest.json",
        f"{folder / CLASS_NAMES}: no such file, but in manifest.json",
        f"{folder / MASK}: no such file",
    ]
    assert len(open_dataset(folder, "mine")) == 1


def test_each_file_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, seen = Path.open, []

    def counted(path: Path, mode: str = "r", **how: Any) -> IO[Any]:
        if mode == "rb":
            seen.append(path)
        return opened(path, mode, **how)

    monkeypatch.setattr(Path, "open", counted)
    assert survey(folder).faults == []
    assert len(seen) == len(set(seen)) == 2 * 4 + 3 + 2
    (folder / MANIFEST).unlink()
    seen.clear()
    keep_manifest(folder)
    assert len(seen) == len(set(seen)) == 2 * 4 + 3 + 1


def edited(**values: object) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | values)


DAMAGES: dict[str, Callable[[str], str]] = {
    "empty": lambda _: "",
    "cut": lambda text: text[:-40],
    "no text": lambda _: "\udcff",
    "another schema": edited(schema=2),
    "no files": edited(files=3),
    "no sizes": edited(files={IMAGE: {"sha256": "0"}}),
    "a size that is none": edited(files={IMAGE: {"size": "1", "sha256": "0"}}),
    "deep": lambda _: "[" * 100_000,
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_manifest_is_one_line(folder: Path, kind: str, run_command: Command) -> None:
    path = folder / MANIFEST
    path.write_text(DAMAGES[kind](path.read_text()), errors="surrogateescape")
    start = f"{path}: damaged, or no manifest of ours ("
    (line,) = survey(folder).faults
    assert line.startswith(start)
    assert fault(lambda: open_dataset(folder, "train")).startswith(start)
    code, _, err = run_command("data", "manifest", folder)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {start}")


@pytest.mark.parametrize("text", ['{"name": "app", "files": 3}', "[]", '"manifest"'])
def test_another_program_s_manifest_is_none_of_ours(
    folder: Path, text: str, run_command: Command
) -> None:
    path = folder / MANIFEST
    path.write_text(text)
    assert survey(folder).faults == []
    assert len(open_dataset(folder, "train")) > 0
    code, _, err = run_command("data", "manifest", folder)
    assert (code, err) == (2, f"error: {path}: is another program's; it stays as it is\n")
    assert path.read_text() == text


def test_the_command_writes_one_and_then_holds_to_it(folder: Path, run_command: Command) -> None:
    path = folder / MANIFEST
    path.unlink()
    flip(folder / MASK, bit=3)
    code, said, _ = run_command("data", "manifest", folder)
    assert code == 2
    assert f"{folder / MASK}: " in said
    assert not path.exists()  # of a folder with a fault, none is made
    flip(folder / MASK, bit=3)
    code, said, err = run_command("data", "manifest", folder)
    assert (code, err) == (0, "")
    assert f"{path}: written" in said
    before = path.stat().st_mtime_ns
    assert "nothing to do" in run_command("data", "manifest", folder)[1]
    flip(folder / IMAGE)
    code, said, _ = run_command("data", "manifest", folder)
    assert code == 2
    assert f"{folder / IMAGE}: {FLIPPED}" in said
    assert path.stat().st_mtime_ns == before
