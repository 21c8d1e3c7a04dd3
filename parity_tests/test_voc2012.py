"""Preparing VOC2012: from an archive, an address, a folder; stopped anywhere; of bad archives."""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import archive, download, voc2012
from common.dataset import CLASS_NAMES, IMAGES, MASKS, SPLITS, open_dataset
from common.errors import InputError
from common.manifest import MANIFEST
from common.shapes import write_shapes

Command = Callable[..., tuple[int, str, str]]
Tree = dict[str, bytes]
ROOT = Path(__file__).parents[1]
TREE = str(voc2012.TREE)
NAMES = [*(f"train_{k:05d}" for k in range(3)), *(f"val_{k:05d}" for k in range(2))]


def tree_of(folder: Path) -> Tree:
    """Every file below a folder, by its path in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds VOCdevkit/VOC2012 as it is published, with what is not ours to take."""
    folder = tmp_path_factory.mktemp("unpacked")
    root = folder / TREE
    write_shapes(root, 3, 2, seed=0)
    (root / CLASS_NAMES).unlink()
    (root / IMAGES / "no_mask.jpg").write_bytes((root / IMAGES / f"{NAMES[0]}.jpg").read_bytes())
    for other in ("Annotations/no_mask.xml", "ImageSets/Main/train.txt"):
        (root / other).parent.mkdir()
        (root / other).write_text("not for us\n")
    return folder


def packed(files: Tree, *extra: tuple[tarfile.TarInfo, bytes], kind: str = "w") -> bytes:
    """A tar of files, owned by somebody and open to all, and of members as they are given."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=kind) as tar:
        for name in sorted(files):
            tar.addfile(
                member(name, size=len(files[name]), mode=0o6777, uid=1234), io.BytesIO(files[name])
            )
        for info, data in extra:
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def member(name: str, **values: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


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
    mine = (tmp_path / "mine").touch() or (tmp_path / "mine").stat()
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


def at(name: str) -> str:
    return f"{TREE}/{name}"


ANY = at(f"{IMAGES}/{NAMES[0]}.jpg")
BAD_MEMBERS = {
    "symlink": (member(at(f"{IMAGES}/x.jpg"), type=tarfile.SYMTYPE, linkname="/x"), "is a link"),
    "symlink to a folder": (member(at("link"), type=tarfile.SYMTYPE, linkname=".."), "is a link"),
    "hard link": (member(at(f"{IMAGES}/x.jpg"), type=tarfile.LNKTYPE, linkname=ANY), "is a link"),
    "absolute": (member("/tmp/x.jpg"), "is an absolute path"),
    "leads out": (member(at("JPEGImages/../../../../x.jpg")), "leads out of the folder"),
    "leads out and back": (member(f"../out/{ANY}"), "leads out of the folder"),
    "backslash": (member(at("..\\x.jpg")), "has odd characters"),
    "line break": (member(at("x\n.jpg")), "has odd characters"),
    "not UTF-8": (member(at("\udcff.jpg")), "has odd characters"),
    "device": (member(at("x"), type=tarfile.CHRTYPE), "is no plain file"),
    "fifo": (member(at(f"{SPLITS}/x.txt"), type=tarfile.FIFOTYPE), "is no plain file"),
    "sparse": (member(at("x"), type=tarfile.GNUTYPE_SPARSE), "is no plain file"),
    "other content": (member(ANY, size=3), "comes twice, with other content"),
    "the same in other words": (member(f"./{ANY}", size=3), "comes twice, with other content"),
    "huge": (member(at("x"), size=1 << 40), "claims 1099511627776 bytes, more than 64 MB"),
    "negative": (member(at("x"), size=-512), "claims -512 bytes"),
}


def write_raw(path: Path, files: Tree, info: tarfile.TarInfo, data: bytes) -> bytes:
    """A tar whose last member is `info`, whatever it claims."""
    whole = packed(files)
    end = whole.rstrip(b"\0")
    end += bytes(-len(end) % tarfile.BLOCKSIZE)
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    raw = end + header + data + bytes(-len(data) % tarfile.BLOCKSIZE) + bytes(10240)
    path.write_bytes(raw)
    return raw


@pytest.mark.parametrize("kind", BAD_MEMBERS)
def test_one_bad_member_refuses_the_archive(tmp_path: Path, unpacked: Path, kind: str) -> None:
    info, reason = BAD_MEMBERS[kind]
    data = b"abc" if info.size == 3 else b""
    path = tmp_path / "bad.tar"
    raw = write_raw(path, tree_of(unpacked), info, data)
    message = fault(lambda: prepare(tmp_path / "out", path, raw))
    assert message.startswith(f"{path}: refused: {info.name!r} ")
    assert reason in message
    assert [child.name for child in tmp_path.iterdir()] == ["bad.tar"]


@pytest.mark.parametrize("size", [1 << 40, -512])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_to_be_huge(
    tmp_path: Path, unpacked: Path, kind: bytes, size: int
) -> None:
    path = tmp_path / "bad.tar"
    raw = write_raw(path, tree_of(unpacked), member("x", type=kind, size=size), b"")
    assert re.search(
        r"bad.tar: .* header claims -?\d+ bytes",
        fault(lambda: prepare(tmp_path / "out", path, raw)),
    )


@pytest.mark.parametrize("limit", ["MAX_TOTAL", "MAX_MEMBERS"])
def test_an_archive_that_is_too_much(
    tmp_path: Path, source: Path, tar: bytes, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(archive, limit, 9)
    assert " is beyond " in fault(lambda: prepare(tmp_path / "out", source, tar))
    assert not (tmp_path / "out").exists()


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


def no_splits(files: Tree) -> bytes:
    return packed({name: data for name, data in files.items() if SPLITS not in name})


def no_mask(files: Tree) -> bytes:
    return packed({k: v for k, v in files.items() if NAMES[1] not in k})


def with_class_names(files: Tree) -> bytes:
    return packed(files | {f"{TREE}/{CLASS_NAMES}": b"sky\n"})


BAD_ARCHIVES: dict[str, tuple[Callable[[Tree], bytes], str]] = {
    "empty": (lambda _: b"", "not a tar archive"),
    "text": (lambda _: b"<!DOCTYPE html>" * 99, "not a tar archive"),
    "gzip of text": (lambda _: gzip.compress(b"text" * 999), "not a tar archive"),
    "gzip cut": (lambda files: packed(files, kind="w:gz")[:-900], "cannot be read: "),
    "xz cut": (lambda files: packed(files, kind="w:xz")[:-900], "cannot be read: "),
    "no splits": (no_splits, f"holds no {TREE}/{SPLITS}/*.txt: not VOC2012"),
    "no pair": (
        no_mask,
        f"names {NAMES[1]!r}, but there is no {IMAGES}/{NAMES[1]}.jpg (and 3 more)",
    ),
    "class names": (with_class_names, "VOC2012 has none"),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_what_is_not_the_archive(tmp_path: Path, unpacked: Path, kind: str) -> None:
    make, reason = BAD_ARCHIVES[kind]
    path = tmp_path / "bad.tar"
    path.write_bytes(make(tree_of(unpacked)))
    message = fault(lambda: prepare(tmp_path / "out", path, path.read_bytes()))
    assert message.startswith(f"{path}")
    assert reason in message
    assert not (tmp_path / "out").exists()


def test_the_md5_is_held_first(tmp_path: Path, source: Path, run_command: Command) -> None:
    source.write_bytes(b"no tar at all")
    call = ("data", "voc2012", tmp_path / "out", "--from", source)
    code, _, err = run_command(*call)
    assert code == 2
    assert f"its md5 is {md5(b'no tar at all')}, not 6cd6e144f989b92b3379bac3b3de84fd" in err
    code, _, err = run_command(*call, "--md5", "6cd6")
    assert (code, err) == (2, "error: --md5 6cd6: not an md5, which has 32 hexadecimal digits\n")
    code, _, err = run_command("data", "voc2012", tmp_path / "out", "--from", tmp_path / "none")
    assert (code, err) == (2, f"error: {tmp_path}/none: no such file or folder\n")
    assert not (tmp_path / "out").exists()


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
    write, replace, sync = Path.write_bytes, Path.replace, voc2012.os.sync
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
    monkeypatch.setattr(voc2012.os, "sync", lambda: None)
    assert callable(sync)
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
from scripts.cli import main
from scripts.data import app
main(app)
"""


@pytest.mark.parametrize("moment", [1, 7, 15])
def test_killed_it_goes_on(
    tmp_path: Path, source: Path, tar: bytes, prepared: Tree, moment: int
) -> None:
    out = tmp_path / "out"
    call = [sys.executable, "-c", KILLED, str(moment), "voc2012", str(out)]
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


class Server:
    """A web server on this machine that sends `data`, as badly as it is told to.

    `cuts` are the numbers of bytes after which it drops the first answers. `ranges` is what each
    request asked for.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.knows_ranges, self.status, self.kind = data, True, 200, "application/x-tar"
        self.says_length, self.location, self.shift = True, "", 0
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/voc.tar"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked[len("bytes=") : -1]) if asked and self.knows_ranges else 0
        status = 206 if self.status == 200 and start else self.status
        status = 416 if start and start >= len(self.data) else status
        request.send_response(status)
        body = self.data[start:]
        if status == 416:
            request.send_header("Content-Range", f"bytes */{len(self.data)}")
            body = b""
        elif start:
            first = start + self.shift
            request.send_header(
                "Content-Range", f"bytes {first}-{len(self.data) - 1}/{len(self.data)}"
            )
        if self.location:
            request.send_header("Location", self.location)
        request.send_header("Content-Type", self.kind)
        if self.says_length:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


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
            return super().write(memoryview(data)[:7000])  # type: ignore

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(download.io, "FileIO", Full)
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
