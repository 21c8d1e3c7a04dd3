"""Pascal VOC2012's segmentation pairs, out of the published archive into a folder to train on.

A preparation may be stopped at any moment, even killed: the same call then ends in the same bytes.
Every file is written beside its place and moved there; the splits come after the pairs and
`manifest.json` comes last, so that what is unfinished cannot be taken for whole.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from common.data.archive import MAX_MEMBER, read_archive
from common.data.dataset import (
    CLASS_NAMES,
    IMAGES,
    MASKS,
    SPLITS,
    Dataset,
    Survey,
    find_root,
    keep_manifest,
    survey,
)
from common.data.doubts import MEASURED
from common.data.download import MEGABYTE, Report, download, is_url
from common.data.drawing import overlay, sheet
from common.data.manifest import MANIFEST, Entry, Manifest, entry, read_manifest
from common.data.voc import VOC_CLASSES
from common.errors import InputError
from common.files import lock, naming, read_bytes, writing

VOC2012_URL = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
VOC2012_MD5 = "6cd6e144f989b92b3379bac3b3de84fd"
"""Where the archive is published, 2 GB, and what its md5 is."""

TREE = Path("VOCdevkit/VOC2012")
"""Where the pairs lie in the archive and in the prepared folder."""
SHEET = "sheet.png"
DOWNLOAD = "download.tar"
"""What was brought from an address; it is kept. Until its md5 is right, it ends in `.part`."""
MARKER = ".voc2012"
"""Says that a folder is ours, and is locked while a preparation is at work."""

_SHEET_PAIRS = 6
_CHUNK = 1 << 20

Readers = dict[str, Callable[[], bytes]]
"""What a source holds: each file's path below JPEGImages' folder, and what reads it."""


def _put(out: Path, path: Path, data: bytes, last: bool = False) -> None:
    """Writes one file of the folder `out`, whole or not at all.

    The `last` one follows when all before it are on the disk.
    """
    temporary = out / f"{MARKER}.new"  # one name: what a killed call left is written over
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            if last:
                os.sync()
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


# Sources


def _read_file(path: Path, manifest: Manifest | None) -> bytes:
    data = read_bytes(path, MAX_MEMBER)
    if manifest is not None:
        manifest.check(path, data)
    return data


def _refuse_class_names(there: bool, source: Path) -> None:
    if there:
        raise InputError(
            f"{source}: has a {CLASS_NAMES}, VOC2012 has none; `data manifest` is for other sets"
        )


def _folder_readers(folder: Path) -> Readers:
    """The files of an unpacked VOC2012; none is reached over a link that leads out of `folder`."""
    root, outer = find_root(folder), folder.resolve()
    manifest = read_manifest(root)
    readers: Readers = {}
    for part in (IMAGES, MASKS, SPLITS):
        for path in sorted((root / part).iterdir()):
            with naming(path):
                if not path.resolve().is_relative_to(outer):
                    raise InputError(f"{path}: a link that leads out of {folder}")
            if path.is_file():
                readers[f"{part}/{path.name}"] = functools.partial(_read_file, path, manifest)
    _refuse_class_names((root / CLASS_NAMES).exists(), folder)
    return readers


def _archive_readers(files: Readers, path: Path) -> Readers:
    """The files of the archive below VOCdevkit/VOC2012, in its order."""
    for place in (f"{TREE}/", f"{TREE.name}/", ""):
        if any(name.startswith(f"{place}{SPLITS}/") for name in files):
            break
    _refuse_class_names(f"{place}{CLASS_NAMES}" in files, path)
    return {
        name.removeprefix(place): read for name, read in files.items() if name.startswith(place)
    }


def _pick(readers: Readers, source: str) -> tuple[list[str], list[str]]:
    """The images and masks that the splits name, as the source orders them, and the splits."""
    lists = [PurePosixPath(n) for n in readers if n.startswith(f"{SPLITS}/") and n.endswith(".txt")]
    pairs: set[str] = set()
    faults, splits = [], []
    for split in lists:
        if split.name[0] == ".":  # a Mac writes one beside each file of a zip
            continue
        lines = readers[f"{split}"]().decode("utf-8-sig", "replace").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        masks = {f"{MASKS}/{name}.png" for name in names}
        if split.stem not in MEASURED and masks.isdisjoint(readers):
            told = f"{source}: {split} names no mask: left out, as a list of test images"
            warnings.warn(told, stacklevel=2)
            continue
        splits.append(f"{split}")
        for name in names:
            pair = {f"{IMAGES}/{name}.jpg", f"{MASKS}/{name}.png"}
            pairs |= pair
            faults += [f"{split} names {name!r}, but there is no {p}" for p in pair - set(readers)]
    if not splits:
        raise InputError(f"{source}: holds no {TREE / SPLITS}/*.txt: not VOC2012")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"{source}: {min(faults)}{more}")
    return [name for name in readers if name in pairs], splits


def _check_md5(path: Path, md5: str, report: Report) -> None:
    """Refuses a file of another md5; all of it is read."""
    digest = hashlib.md5(usedforsecurity=False)
    with naming(path), path.open("rb") as file:
        total = path.stat().st_size // MEGABYTE
        while data := file.read(_CHUNK):
            digest.update(data)
            report("MB checked", file.tell() // MEGABYTE, total)
    if digest.hexdigest() != md5.lower():
        raise InputError(
            f"{path}: its md5 is {digest.hexdigest()}, not {md5}: another file, or a damaged one"
        )


def _bring(out: Path, url: str, md5: str, report: Report) -> Path:
    """The archive at `url`, downloaded into `out` unless it is there already."""
    target, part = out / DOWNLOAD, out / f"{DOWNLOAD}.part"
    if not target.exists():
        download(url, part, report)
        try:
            _check_md5(part, md5, report)
        except InputError as error:
            part.unlink(missing_ok=True)
            raise InputError(f"{error}; it is removed") from error
        part.replace(target)
    return target


@contextlib.contextmanager
def _source(out: Path, source: str, md5: str, report: Report) -> Iterator[Readers]:
    """What `source` holds, looked through; an archive is open, its md5 checked."""
    if not is_url(source) and Path(source).is_dir():
        yield _folder_readers(Path(source))
        return
    path = _bring(out, source, md5, report) if is_url(source) else Path(source)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    _check_md5(path, md5, report)
    with read_archive(path) as files:
        yield _archive_readers(files, path)


# The folder


@contextlib.contextmanager
def _held(out: Path) -> Iterator[None]:
    """Keeps the folder for one preparation; refuses it if it holds what is not ours.

    It is made if it is not there; where nothing was put into it, it is left as it was found.
    """
    made = not out.exists()
    with writing(out, "cannot be made"):
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not (out / MARKER).exists():
            raise InputError(f"{out}: exists and is not an empty folder")
        file = (out / MARKER).open("a")
    with file:
        if not lock(file, out):
            raise InputError(f"{out}: another preparation is at work in it")
        try:
            yield
        finally:
            if [path.name for path in out.iterdir()] == [MARKER]:
                (out / MARKER).unlink()
                if made:
                    out.rmdir()


def _refuse_strangers(out: Path, expected: set[Path]) -> None:
    for folder, _, names in os.walk(out / TREE.parts[0]):
        for name in names:
            if Path(folder, name) not in expected:
                raise InputError(f"{Path(folder, name)}: --from does not hold it; remove it")


def _fill(out: Path, readers: Readers, source: str, report: Report) -> dict[str, Entry]:
    """Writes pairs, then splits; a file that is there already as it should be stays."""
    pairs, splits = _pick(readers, source)
    files: dict[str, Entry] = {}
    _refuse_strangers(out, {out / TREE / name for name in (*pairs, *splits)})
    for name in (*pairs, *splits):
        path = out / TREE / name
        data = readers[name]()
        if not path.is_file() or path.read_bytes() != data:
            _put(out, path, data)
        files[name] = entry(data)
        report("files unpacked", len(files), len(pairs) + len(splits))
    return files


def _sheet(root: Path, files: dict[str, Entry]) -> bytes:
    """Some pairs, evenly taken, as a PNG: the image, and the truth over it with a legend."""
    names = sorted(Path(name).stem for name in files if name.startswith(f"{MASKS}/"))
    count = min(_SHEET_PAIRS, len(names))
    chosen = [names[k] for k in np.linspace(0, len(names) - 1, count).astype(int)]
    dataset = Dataset(root, "", tuple(chosen), VOC_CLASSES)
    pairs = [dataset.read(k) for k in range(count)]
    rows = [[Image.fromarray(image), overlay(image, mask, VOC_CLASSES)] for image, mask in pairs]
    file = io.BytesIO()
    sheet(("image", "truth"), rows).save(file, format="PNG")
    return file.getvalue()


def _verify(manifest: Manifest, report: Report) -> Survey:
    """Reads everything back, and holds it against a manifest, be it written yet or not."""
    count = itertools.count(1)

    def check(path: Path, data: bytes) -> None:
        manifest.check(path, data)
        report("files verified", next(count), len(manifest.files))

    return survey(manifest.root, check)


def _is_same(folder: Path, out: Path) -> bool:
    """Whether both are, or hold, the same set."""
    root = find_root(folder)
    try:
        return find_root(out).samefile(root)
    except InputError:
        return False


def prepare(out: Path, source: str, md5: str, report: Report) -> tuple[Survey, bool]:
    """Makes `out/VOCdevkit/VOC2012` of what `source` is: an archive, its address, or a folder.

    Where `source` is the folder `out` itself, only its manifest is made.

    Returns what was found, and whether anything was made: not where it was complete before. With
    a fault in a pair there is no manifest, and the preparation is not complete.

    Raises:
        InputError: `source` cannot be had, has another md5 or is refused; `out` is in use, holds
            something else, or cannot be written to.
    """
    folder = None if is_url(source) else Path(source)
    if folder is not None and folder.is_dir() and _is_same(folder, out):
        _folder_readers(folder)  # refuses links
        return keep_manifest(folder)
    root = out / TREE
    expected = None if folder is not None and folder.is_dir() else md5.lower()
    if (complete := read_manifest(root)) is not None:
        if complete.source_md5 != expected:
            made = f"an archive of md5 {complete.source_md5}" if complete.source_md5 else "a folder"
            raise InputError(f"{out}: holds a preparation from {made}; it stays as it is")
        return _verify(complete, report), False
    with _held(out):
        with _source(out, source, md5, report) as readers:
            manifest = Manifest(root, _fill(out, readers, source, report), expected)
        found = _verify(manifest, report)
        if not found.faults:
            _put(out, out / SHEET, _sheet(root, dict(manifest.files)))
            _put(out, root / MANIFEST, manifest.to_bytes(), last=True)
    return found, True
