"""Preparing VOC2012: from an archive, an address, a folder; stopped anywhere; of bad archives."""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data import download, voc2012
from common.data.dataset import CLASS_NAMES, IMAGES, MASKS, SPLITS, open_dataset
from common.data.manifest import MANIFEST
from common.errors import InputError
from parity_tests.data.voc_archives import (
    NAMES,
    TREE,
    Server,
    Tree,
    md5,
    member,
    packed,
    tree_of,
    write_published,
)

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `write_published` writes."""
    folder = tmp_path_factory.mktemp("unpacked")
    write_published(folder)
    return folder


@pytest.fixture(scope="module")
def tar(unpacked: Path) -> bytes:
    return packed(tree_of(unpacked))


@pytest.fixture
def source(tmp_path: Path, tar: bytes) -> Path:
    path = tmp_path / "voc.tar"
    path.write_bytes(tar)
    return path


def prepare(out: Path, source: Path | str, data: bytes = b"") -> bool:
    """Prepares without a fault; `data` is the archive, for its md5."""
    found, made = voc2012.prepare(out, str(source), md5(data), lambda *_: None)
    assert found.faults == []
    return made


@pytest.fixture(scope="module")
def prepared(tar: bytes, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """What a preparation from the tar ends in."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "voc.tar").write_bytes(tar)
    assert prepare(folder / "out", folder / "voc.tar", tar)
    return tree_of(folder / "out")


def fault(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Sources that are good


def test_what_a_preparation_holds(prepared: Tree, tar: bytes, unpacked: Path) -> None:
    pairs = {f"{IMAGES}/{name}.jpg" for name in NAMES} | {f"{MASKS}/{name}.png" for name in NAMES}
    splits = {f"{SPLITS}/{split}.txt" for split in ("train", "val", "trainval")}
    ours = {f"{TREE}/{MANIFEST}", "sheet.png", ".voc2012"}
    assert prepared.keys() == {f"{TREE}/{name}" for name in pairs | splits} | ours
    given = tree_of(unpacked)
    assert all(prepared[f"{TREE}/{name}"] == given[f"{TREE}/{name}"] for name in pairs | splits)
    manifest = json.loads(prepared[f"{TREE}/{MANIFEST}"])
    assert manifest["source_md5"] == md5(tar)
    assert list(manifest["files"]) == sorted(pairs | splits)
    for name, entry in manifest["files"].items():
        data = given[f"{TREE}/{name}"]
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with Image.open(io.BytesIO(prepared["sheet.png"])) as sheet:
        assert sheet.width > 2 * 144
        assert sheet.height > 5 * 112


@pytest.mark.parametrize("kind", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar(tmp_path: Path, unpacked: Path, prepared: Tree, kind: str) -> None:
    data = packed(tree_of(unpacked), kind=kind)
    (tmp_path / "archive").write_bytes(data)
    assert prepare(tmp_path / "out", tmp_path / "archive", data)
    result = tree_of(tmp_path / "out")
    told = result.pop(f"{TREE}/{MANIFEST}").decode()
    assert f'"source_md5": "{md5(data)}"' in told
    assert result == {k: v for k, v in prepared.items() if not k.endswith(MANIFEST)}


@pytest.mark.parametrize("place", ["", "VOC2012/", "./VOCdevkit/VOC2012/"])
def test_other_places_in_a_tar(tmp_path: Path, unpacked: Path, prepared: Tree, place: str) -> None:
    files = {place + k.removeprefix(f"{TREE}/"): v for k, v in tree_of(unpacked).items()}
    twice = f"{place}{IMAGES}/{NAMES[0]}.jpg"  # the same content is no contradiction
    data = packed(files, (member(twice, size=len(files[twice])), files[twice]))
    (tmp_path / "archive").write_bytes(data)
    prepare(tmp_path / "out", tmp_path / "archive", data)
    assert tree_of(tmp_path / "out").keys() == prepared.keys()


def test_rights_and_owners_are_not_taken_over(tmp_path: Path, source: Path, tar: bytes) -> None:
    prepare(tmp_path / "out", source, tar)
    (tmp_path / "mine").touch()
    mine = (tmp_path / "mine").stat()
    for path in (tmp_path / "out").rglob("*.jpg"):
        assert (path.stat().st_mode, path.stat().st_uid) == (mine.st_mode, mine.st_uid)


def test_a_folder(tmp_path: Path, unpacked: Path, prepared: Tree) -> None:
    before = tree_of(unpacked)
    assert prepare(tmp_path / "out", unpacked)
    result = tree_of(tmp_path / "out")
    assert json.loads(result.pop(f"{TREE}/{MANIFEST}"))["source_md5"] is None
    assert result == {k: v for k, v in prepared.items() if not k.endswith(MANIFEST)}
    assert not prepare(tmp_path / "out", unpacked / TREE)
    assert tree_of(unpacked) == before


def test_the_folder_itself_gets_a_manifest_and_nothing_else(tmp_path: Path, unpacked: Path) -> None:
    folder = tmp_path / "own"
    for name, data in (before := tree_of(unpacked)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    assert prepare(folder, folder / TREE)
    after = tree_of(folder)
    files = json.loads(after.pop(f"{TREE}/{MANIFEST}"))["files"]
    assert after == before
    assert len(files) == 2 * len(NAMES) + 3
    assert not prepare(folder, folder)


def test_the_command_tells_what_it_made(
    tmp_path: Path, source: Path, tar: bytes, run_command: Command
) -> None:
    call = ("data", "voc2012", tmp_path / "out", "--from", source, "--md5", md5(tar).upper())
    result = tmp_path / "result.json"
    code, out, err = run_command(*call, "--json", result)
    assert (code, err) == (0, "")
    assert "pairs    train 3, trainval 5, val 2" in out
    assert f"{tmp_path}/out/{TREE}/manifest.json: written" in out.replace("\n", "")
    labels = [np.asarray(Image.open(path)) for path in (tmp_path / "out").rglob("*.png")]
    told = json.loads(result.read_text())
    for value, name in ((0, "background"), (3, "bird"), (255, "void")):
        masks = [label for label in labels if label.ndim == 2]
        assert told["images"][name] == sum((mask == value).any() for mask in masks)
        assert told["pixels"][name] == sum((mask == value).sum() for mask in masks)
    row = next(line.split() for line in out.splitlines() if line.split()[:1] == ["bird"])
    assert row[1::2] == [str(told["pixels"]["bird"]), str(told["images"]["bird"])]
    code, out, err = run_command(*call)
    assert (code, err) == (0, "")
    assert "nothing to do" in out


# Archives that are refused


def test_an_archive_cut_short_anywhere(tmp_path: Path, tar: bytes) -> None:
    end = len(tar.rstrip(b"\0"))
    end += -end % tarfile.BLOCKSIZE
    path = tmp_path / "cut.tar"
    cuts = [1, 511, 512, 513, *range(1024, end, 7 * 512 + 100), *range(1024, end, 9 * 512), end]
    for cut in cuts:
        path.write_bytes(tar[:cut])
        assert fault(lambda: prepare(tmp_path / "out", path, path.read_bytes())).startswith(
            f"{path}: "
        )
        assert not (tmp_path / "out").exists()


def test_a_damaged_header_is_not_the_end(tmp_path: Path, tar: bytes) -> None:
    raw = bytearray(tar)
    raw[tar.index(f"{TREE}/{SPLITS}/val.txt".encode()) + 150] ^= 1  # its checksum
    (tmp_path / "bad.tar").write_bytes(raw)
    message = fault(lambda: prepare(tmp_path / "out", tmp_path / "bad.tar", raw))
    assert message == f"{tmp_path}/bad.tar: the archive is damaged or cut short"


def test_a_bad_pair_is_listed_and_nothing_is_complete(
    tmp_path: Path, unpacked: Path, run_command: Command
) -> None:
    files = tree_of(unpacked)
    mask = f"{TREE}/{MASKS}/{NAMES[0]}.png"
    files[mask] = files[mask][:-30]
    (tmp_path / "bad.tar").write_bytes(raw := packed(files))
    out = tmp_path / "out"
    for _ in range(2):
        code, said, err = run_command(
            "data", "voc2012", out, "--from", tmp_path / "bad.tar", "--md5", md5(raw)
        )
        assert (code, err) == (2, f"error: {out / TREE}: 1 fault\n")
        assert f"{out / mask}: cannot be read" in said
        assert not (out / TREE / MANIFEST).exists()


# Folders that are refused


def copied(unpacked: Path, folder: Path) -> Path:
    for name, data in tree_of(unpacked / TREE).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_lists_without_masks_are_left_out(tmp_path: Path, unpacked: Path) -> None:
    """VOC2012's own list of test images, unpacked beside, and what a Mac leaves in a zip."""
    folder = copied(unpacked, tmp_path / "from")
    (folder / SPLITS / "test.txt").write_text("2008_000006\n")
    (folder / SPLITS / "._train.txt").write_bytes(b"\0\5\x16\7\xff")
    told = "ImageSets/Segmentation/test.txt names no mask: left out, as a list of test images"
    with pytest.warns(UserWarning, match=told):
        assert prepare(tmp_path / "out", folder)
    splits = sorted(path.name for path in (tmp_path / "out" / TREE / SPLITS).iterdir())
    assert splits == ["train.txt", "trainval.txt", "val.txt"]


def test_a_list_of_one_s_own_that_has_masks_is_kept(tmp_path: Path, unpacked: Path) -> None:
    folder = copied(unpacked, tmp_path / "from")
    (folder / SPLITS / "mine.txt").write_bytes((folder / SPLITS / "val.txt").read_bytes())
    assert prepare(tmp_path / "out", folder)
    assert (tmp_path / "out" / TREE / SPLITS / "mine.txt").exists()


def test_blank_lines_of_a_list_are_no_names(tmp_path: Path, unpacked: Path) -> None:
    folder = copied(unpacked, tmp_path / "from")
    split = folder / SPLITS / "train.txt"
    split.write_text("\n  \n" + split.read_text() + "\n\n")
    assert prepare(tmp_path / "out", folder)


def test_links_in_a_folder(tmp_path: Path, unpacked: Path) -> None:
    folder = copied(unpacked, tmp_path / "dir")
    image = folder / IMAGES / f"{NAMES[0]}.jpg"
    image.rename(folder / "inside.jpg")
    image.symlink_to("../inside.jpg")
    prepare(tmp_path / "good", folder)
    assert not any(path.is_symlink() for path in (tmp_path / "good").rglob("*"))
    image.unlink()
    image.symlink_to(unpacked / TREE / IMAGES / image.name)
    refused = f"{image}: a link that leads out of {folder}"
    assert fault(lambda: prepare(tmp_path / "out", folder)) == refused
    assert fault(lambda: prepare(folder, folder)) == refused
    image.unlink()
    image.symlink_to(image)
    assert fault(lambda: prepare(tmp_path / "out", folder)).startswith(f"{image}: cannot be read")
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_voc2012(tmp_path: Path, unpacked: Path) -> None:
    folder = copied(unpacked, tmp_path / "dir")
    (folder / CLASS_NAMES).write_text("sky\n")
    assert "VOC2012 has none" in fault(lambda: prepare(tmp_path / "out", folder))
    (folder / CLASS_NAMES).unlink()
    prepare(folder, folder)
    image = folder / IMAGES / f"{NAMES[0]}.jpg"
    image.write_bytes(image.read_bytes()[:-2])
    assert f"{image}: differs from manifest.json" in fault(
        lambda: prepare(tmp_path / "out", folder)
    )
    assert "holds no JPEGImages" in fault(lambda: prepare(tmp_path / "out", folder / IMAGES))


# Preparations that go on


class Stop(BaseException):
    """What no handler takes for an error: the process would be gone."""


def stops(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Gives what sets the moment of the stop, counted in steps of writing files.

    A file has three: nothing of it is there, half of it, all of it under its temporary name.
    """
    write, replace = Path.write_bytes, Path.replace
    left = 0

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Stop

    def write_slowly(path: Path, data: bytes) -> int:
        step()
        write(path, data[: len(data) // 2])
        step()
        return write(path, data)

    def replace_then(path: Path, target: Path) -> Path:
        step()
        return replace(path, target)

    def set_moment(moment: int) -> None:
        nonlocal left
        left = moment

    monkeypatch.setattr(Path, "write_bytes", write_slowly)
    monkeypatch.setattr(Path, "replace", replace_then)
    monkeypatch.setattr("os.sync", lambda: None)
    return set_moment


def test_stopped_at_any_moment_it_ends_in_the_same_bytes(
    tmp_path: Path, source: Path, tar: bytes, prepared: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_moment = stops(monkeypatch)
    moments = 3 * (len(prepared) - 1)
    for moment in range(1, moments + 1):
        out = tmp_path / str(moment)
        set_moment(moment)
        with pytest.raises(Stop):
            prepare(out, source, tar)
        assert not (out / TREE / MANIFEST).exists()
        set_moment(-1)
        assert prepare(out, source, tar)
        assert tree_of(out) == prepared
    set_moment(moments + 1)
    assert prepare(tmp_path / "last", source, tar)


KILLED = """
import os, signal, sys
left = int(sys.argv.pop(1))
def hook(event, _):
    global left
    left -= event == "os.rename"
    if event == "os.rename" and left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from scripts.shared.cli import main
from scripts.data import app
main(app)
"""


def test_killed_it_goes_on(tmp_path: Path, source: Path, tar: bytes, prepared: Tree) -> None:
    out = tmp_path / "out"
    call = [sys.executable, "-c", KILLED, "7", "voc2012", str(out)]
    call += ["--from", str(source), "--md5", md5(tar)]
    assert subprocess.run(call, cwd=ROOT, capture_output=True, check=False).returncode == -9
    assert (out / ".voc2012.new").exists()
    finished = {path: path.stat().st_ino for path in out.rglob("*.jpg")}
    assert prepare(out, source, tar)
    assert tree_of(out) == prepared
    assert all(path.stat().st_ino == inode for path, inode in finished.items())


def test_what_is_complete_is_left_alone(tmp_path: Path, source: Path, tar: bytes) -> None:
    out = tmp_path / "out"
    prepare(out, source, tar)
    before = {path: path.stat() for path in out.rglob("*")}
    source.unlink()
    assert not prepare(out, source, tar)
    after = {path: path.stat() for path in out.rglob("*")}
    assert {p: s.st_mtime_ns for p, s in after.items()} == {
        p: s.st_mtime_ns for p, s in before.items()
    }
    message = fault(lambda: prepare(out, source, b"another"))
    assert (
        message
        == f"{out}: holds a preparation from an archive of md5 {md5(tar)}; it stays as it is"
    )


def test_a_damaged_preparation_is_found_and_put_right(
    tmp_path: Path, source: Path, tar: bytes, prepared: Tree, run_command: Command
) -> None:
    out = tmp_path / "out"
    prepare(out, source, tar)
    image, lost = out / TREE / IMAGES / f"{NAMES[1]}.jpg", out / TREE / SPLITS / "val.txt"
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    image.write_bytes(data)
    lost.unlink()
    call = ("data", "voc2012", out, "--from", source, "--md5", md5(tar))
    code, said, err = run_command(*call)
    assert (code, err) == (2, f"error: {out / TREE}: 2 faults\n")
    assert f"{image}: differs from manifest.json: a bit flipped or the file was changed" in said
    assert f"{lost}: no such file, but in manifest.json" in said
    (out / TREE / MANIFEST).unlink()
    assert run_command(*call)[0] == 0
    assert tree_of(out) == prepared


def test_folders_that_hold_something_else(
    tmp_path: Path, source: Path, tar: bytes, unpacked: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    assert fault(lambda: prepare(out, source, tar)) == f"{out}: exists and is not an empty folder"
    assert tree_of(out) == {"mine": b"mine"}
    assert fault(lambda: prepare(source, source, tar)).startswith(f"{source}: cannot be made: ")
    prepare(tmp_path / "done", source, tar)
    (tmp_path / "done" / TREE / MANIFEST).unlink()
    stranger = tmp_path / "done" / TREE / SPLITS / "other.txt"
    stranger.write_text("x\n")
    message = fault(lambda: prepare(tmp_path / "done", source, tar))
    assert message == f"{stranger}: --from does not hold it; remove it"


def test_two_at_once(tmp_path: Path, source: Path, tar: bytes) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".voc2012").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        message = fault(lambda: prepare(out, source, tar))
    assert message == f"{out}: another preparation is at work in it"
    assert prepare(out, source, tar)


def test_a_full_disk(
    tmp_path: Path, source: Path, tar: bytes, prepared: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write, count = tmp_path / "out", Path.write_bytes, iter(range(100))

    def full(path: Path, data: bytes) -> int:
        if next(count) < 4:
            return write(path, data)
        write(path, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        message = fault(lambda: prepare(out, source, tar))
    assert re.fullmatch(rf"{out}/.*: cannot be written: No space left on device", message)
    there = tree_of(out)
    assert len(there) == 4 + 1
    assert there.items() <= prepared.items()
    prepare(out, source, tar)
    assert tree_of(out) == prepared


# Addresses


@pytest.fixture
def server(tar: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with contextlib.closing(Server(tar)) as server:
        yield server


@pytest.mark.parametrize("says_length", [True, False])
def test_a_download(
    tmp_path: Path, server: Server, tar: bytes, prepared: Tree, says_length: bool
) -> None:
    server.says_length = says_length
    out = tmp_path / "out"
    assert prepare(out, server.url, tar)
    assert tree_of(out) == prepared | {"download.tar": tar}
    (out / TREE / MANIFEST).unlink()
    assert prepare(out, server.url, tar)  # from the tar that is kept
    assert not prepare(out, server.url, tar)
    assert server.ranges == [None]


@pytest.mark.parametrize("says_length", [True, False])
def test_a_download_tells_how_far_it_is(tmp_path: Path, server: Server, says_length: bool) -> None:
    """In millions of bytes, of as many as the server says will come, if it does."""
    server.data, server.says_length = bytes(3_200_000), says_length
    told: list[tuple[str, int, int | None]] = []
    download.download(server.url, tmp_path / "part", lambda *report: told.append(report))
    whats, done, totals = zip(*told, strict=True)
    assert set(whats) == {"MB downloaded"}
    assert list(done) == sorted(done) and done[-1] == 3
    assert set(totals) == {3 if says_length else None}


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_connection_that_is_cut(
    tmp_path: Path, server: Server, tar: bytes, prepared: Tree, knows_ranges: bool
) -> None:
    server.knows_ranges, server.cuts = knows_ranges, [5000, 3000]
    out, part = tmp_path / "out", tmp_path / "out/download.tar.part"
    for size in (5000, 8000 if knows_ranges else 3000):
        message = fault(lambda: prepare(out, server.url, tar))
        assert message == (
            f"{server.url}: the connection was cut after {size} of {len(tar)} bytes;"
            " run again to go on"
        )
        assert part.read_bytes() == tar[:size]
    assert prepare(out, server.url, tar)
    assert tree_of(out) == prepared | {"download.tar": tar}
    last = "bytes=8000-" if knows_ranges else "bytes=3000-"
    assert server.ranges == [None, "bytes=5000-", last]


def test_a_part_that_is_all_or_of_another_file(
    tmp_path: Path, server: Server, tar: bytes, prepared: Tree
) -> None:
    for name, extra in (("all", b""), ("longer", b"more")):
        out = tmp_path / name
        out.mkdir()
        (out / ".voc2012").touch()
        (out / "download.tar.part").write_bytes(tar + extra)
        assert prepare(out, server.url, tar)
        assert tree_of(out) == prepared | {"download.tar": tar}
    assert server.ranges == [f"bytes={len(tar)}-", f"bytes={len(tar) + 4}-", None]


def test_a_download_with_another_md5_is_removed(tmp_path: Path, server: Server, tar: bytes) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".voc2012").touch()
    (out / "download.tar.part").write_bytes(b"x" * 100)  # of another file: the sum finds out
    message = fault(lambda: prepare(out, server.url, tar))
    assert message.startswith(f"{out}/download.tar.part: its md5 is ")
    assert message.endswith("; it is removed")
    assert not (out / "download.tar.part").exists()
    assert prepare(out, server.url, tar)
    (out / TREE / MANIFEST).unlink()
    (out / "download.tar").write_bytes(b"x")  # this one was right once: it is not ours to remove
    assert f"{out}/download.tar: its md5 is " in fault(lambda: prepare(out, server.url, tar))
    assert (out / "download.tar").exists()


def test_servers_that_send_something_else(tmp_path: Path, server: Server, tar: bytes) -> None:
    out = tmp_path / "out"
    server.kind, server.data = "text/html; charset=utf-8", b"<!DOCTYPE html>"
    message = f"{server.url}: sent a web page (text/html), not an archive"
    assert fault(lambda: prepare(out, server.url, tar)) == message
    server.status = 404
    assert (
        fault(lambda: prepare(out, server.url, tar))
        == f"{server.url}: the server says 404 Not Found"
    )
    server.status, server.location = 302, "ftp://127.0.0.1/voc.tar"
    assert "unknown url type: ftp" in fault(lambda: prepare(out, server.url, tar))
    server.location = "file:///etc/passwd"
    assert fault(lambda: prepare(out, server.url, tar)).startswith(f"{server.url}: ")
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_kept_from_a_bad_answer(tmp_path: Path, server: Server, tar: bytes) -> None:
    out, part = tmp_path / "out", tmp_path / "out/download.tar.part"
    server.cuts = [5000]
    fault(lambda: prepare(out, server.url, tar))
    server.shift = 1
    message = fault(lambda: prepare(out, server.url, tar))
    assert message.endswith(f"'bytes 5001-{len(tar) - 1}/{len(tar)}', not what follows byte 5000")
    server.shift, server.kind = 0, "text/html"
    assert "sent a web page" in fault(lambda: prepare(out, server.url, tar))
    assert part.read_bytes() == tar[:5000]


def test_addresses_that_are_none(tmp_path: Path, server: Server) -> None:
    server.close()
    for address, reason in {
        server.url: "Connection refused",
        "file:///etc/passwd": "only http and https addresses are known",
        "ftp://127.0.0.1/voc.tar": "only http and https addresses are known",
        "http://": "no host given",
        "http://127.0.0.1:1/a b": "control characters",
        "http://127.0.0.1:port/": "nonnumeric port",
    }.items():
        message = fault(lambda address=address: prepare(tmp_path / "out", address))
        assert message.startswith(f"{address}: ")
        assert reason in message
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_with_the_download(
    tmp_path: Path, server: Server, tar: bytes, prepared: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, data: object) -> int:
            if self.tell():
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(memoryview(data)[:7000])

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("io.FileIO", Full)
        message = fault(lambda: prepare(out, server.url, tar))
    assert (
        message
        == f"{out}/download.tar.part: cannot be written: No space left on device; it is kept"
    )
    assert (out / "download.tar.part").read_bytes() == tar[:7000]
    prepare(out, server.url, tar)
    assert tree_of(out) == prepared | {"download.tar": tar}


def test_a_server_that_does_not_end(
    tmp_path: Path, server: Server, tar: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_TOTAL", 1000)
    assert "that is not VOC2012" in fault(lambda: prepare(tmp_path / "out", server.url, tar))


def test_what_is_prepared_can_be_trained_on(tmp_path: Path, source: Path, tar: bytes) -> None:
    prepare(tmp_path / "out", source, tar)
    assert open_dataset(tmp_path / "out", "val").names == tuple(NAMES[3:])
