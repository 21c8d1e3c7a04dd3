"""What is written: whole or not at all, into what bears the name, with its permissions."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.errors import InputError
from common.files import write_folder, write_whole


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
    if to_file:  # which must not be replaced, nor overwritten by what comes later
        with out.open("wb") as file:
            subprocess.run(run, stdout=file, check=True)
        said = out.read_bytes()
    else:
        said = subprocess.run(run, stdout=subprocess.PIPE, check=True).stdout
    assert said == b"before\ntext\nafter\n"
