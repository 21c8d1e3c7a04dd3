"""What VOC2012 is prepared from, and where to."""

import contextlib
import copy
import fcntl
import gzip
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from common.data.dataset import CLASS_NAMES, IMAGES, SPLITS
from common.data.voc2012 import MARKER, prepare
from parity_tests.bad_input.files import flipped, half, html, linked, rewrite, several, text
from parity_tests.bad_input.trial import DATA, IMAGE, MASK, SPLIT, TAR, VOC, Row
from parity_tests.data.voc_archives import (
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


ROWS = [
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
                "is no plain file",
            ),
            (
                "hard link",
                member(f"{TREE}/x.jpg", type=tarfile.LNKTYPE, linkname=VOC_IMAGE),
                "is no plain file",
            ),
            ("device", member(f"{TREE}/x", type=tarfile.CHRTYPE), "is no plain file"),
            ("absolute path", member("/tmp/x.jpg"), "is an absolute path"),
            ("leads out", member(f"{TREE}/a/../../../../x.jpg"), ".* is outside the destination"),
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
