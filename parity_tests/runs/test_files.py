"""What is read and written: whole or not at all, of files alone, with their permissions."""

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import InputError
from common.files import check_file, parse_json, read_bytes, write_folder, write_whole


def put(path: Path, text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_text(text))


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        put(tmp_path / "new", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "old"
    path.touch(mode=mode)
    put(path, "text")
    assert path.stat().st_mode & 0o777 == mode
    assert path.read_text() == "text"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    if there:
        target.write_text("earlier")
    link.symlink_to(target)
    put(link, "text")
    assert link.is_symlink()
    assert target.read_text() == "text"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_link_to_a_folder_that_is_made(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    write_folder(tmp_path / "link", lambda folder: folder.mkdir())
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder").is_dir()


@pytest.mark.usefixtures("no_hang")
def test_a_fifo_is_written_into(tmp_path: Path) -> None:
    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()), daemon=True)
    reader.start()
    put(fifo, "text" * 100_000)
    reader.join()
    assert read == ["text" * 100_000]
    assert fifo.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]


@pytest.mark.usefixtures("no_hang")
def test_what_is_refused_leaves_a_fifo_without_a_word(tmp_path: Path) -> None:
    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()), daemon=True)
    reader.start()

    def refuse(temporary: Path) -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        write_whole(fifo, lambda temporary: temporary.write_text("text"), refuse)
    reader.join()
    assert read == [""]


PROGRAM = """
from pathlib import Path
from common.files import write_whole
print("before")
write_whole(Path("/dev/stdout"), lambda temporary: temporary.write_text("text\\n"))
print("after")
"""


@pytest.mark.parametrize("to_file", [True, False])
def test_standard_output_is_written_into_in_turn(tmp_path: Path, to_file: bool) -> None:
    out = tmp_path / "out"
    run = [sys.executable, "-c", PROGRAM]
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    if to_file:  # which must not be replaced, nor overwritten by what comes later
        with out.open("wb") as file:
            subprocess.run(run, stdout=file, check=True, env=buffered)
        said = out.read_bytes()
    else:
        said = subprocess.run(run, stdout=subprocess.PIPE, check=True, env=buffered).stdout
    assert said == b"before\ntext\nafter\n"


DEVICE = os.stat_result((stat.S_IFCHR | 0o666, *([0] * 9)))


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the system calls a device; a real one may do anything when it is opened."""
    path, real = tmp_path / "device", Path.stat
    path.write_text("what is in a device")

    def told(self: Path, **how: bool) -> os.stat_result:
        return DEVICE if self == path else real(self, **how)

    monkeypatch.setattr(Path, "stat", told)
    return path


def test_a_device_is_written_into_and_stays(device: Path) -> None:
    other_name = device.with_name("other")
    other_name.hardlink_to(device)
    put(device, "text")
    assert other_name.read_text() == "text is in a device"  # a file keeps the rest


@pytest.mark.parametrize("read", [check_file, lambda path: read_bytes(path, 100)])
def test_a_device_is_not_opened_for_reading(
    device: Path, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it is opened"))
    with pytest.raises(InputError, match="device: no file, but a device"):
        read(device)


def test_a_file_may_have_as_many_bytes_as_it_may(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(InputError, match="file: too large: 5 bytes, and 4 are the limit"):
        read_bytes(path, 4)


@pytest.mark.parametrize("depth", [64, 65, 100_000])
def test_json_is_nested_so_deep_and_no_deeper(depth: int) -> None:
    text = "[" * depth + "]" * depth
    if depth == 64:
        assert json.dumps(parse_json(text)) == text
    else:
        with pytest.raises(ValueError, match="nested too deep"):
            parse_json(text)


@pytest.mark.parametrize("digits", [20, 21, 5_000])
def test_json_has_integers_of_so_many_digits(digits: int) -> None:
    text = '{"a": [-' + "9" * (digits - 1) + "]}"
    if digits == 20:
        assert parse_json(text) == {"a": [-(10**19 - 1)]}
    else:
        with pytest.raises(ValueError, match=f"a number of {digits} digits"):
            parse_json(text)
