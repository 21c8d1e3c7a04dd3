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
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

from common.data.dataset import CLASS_NAMES, IMAGES, SPLITS
from common.data.voc2012 import MARKER, prepare
from parity_tests.bad_input.files import (
    as_it_is,
    flipped,
    half,
    html,
    linked,
    rewrite,
    several,
    text,
)
from parity_tests.bad_input.trial import DATA, IMAGE, MASK, SPLIT, TAR, VOC, Row, listed, table
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
NOBODY = "http://127.0.0.1:1/voc.tar"
NO_MD5 = "0" * 32
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


def voc2012(source: str = str(TAR), checksum: str | None = None) -> object:
    """A preparation, as `data voc2012` makes it."""
    found, _ = prepare(VOC, source, checksum or md5(TAR.read_bytes()), lambda *_: None)
    return listed(found)


def unpacked() -> None:
    """What the archive holds, as a folder."""
    write_published(Path("unpacked"))


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


MINE = text(VOC / "mine", "mine")

ROWS = [
    *table(
        *(
            (
                f"tar: {what}",
                archive(lambda files, info=info: packed_raw(files, info)),
                f"{TAR}: refused: {re.escape(repr(info.name))} {says}",
            )
            for what, says, info in (
                (
                    "symbolic link",
                    "is a link",
                    member(f"{TREE}/x.jpg", type=tarfile.SYMTYPE, linkname="/x"),
                ),
                (
                    "symbolic link to a folder",
                    "is a link",
                    member(f"{TREE}/link", type=tarfile.SYMTYPE, linkname=".."),
                ),
                (
                    "hard link",
                    "is a link",
                    member(f"{TREE}/x.jpg", type=tarfile.LNKTYPE, linkname=VOC_IMAGE),
                ),
                ("absolute path", "is an absolute path", member("/tmp/x.jpg")),
                ("leads out", "leads out of the folder", member(f"{TREE}/a/../../../../x.jpg")),
                ("leads out and back", "leads out of the folder", member(f"../voc/{VOC_IMAGE}")),
                ("backslash", "has odd characters in its name", member(f"{TREE}/..\\x.jpg")),
                ("line break", "has odd characters in its name", member(f"{TREE}/x\n.jpg")),
                ("not UTF-8", "has odd characters in its name", member(f"{TREE}/\udcff.jpg")),
                ("device", "is no plain file", member(f"{TREE}/x", type=tarfile.CHRTYPE)),
                ("pipe", "is no plain file", member(f"{VOC_SPLIT}x", type=tarfile.FIFOTYPE)),
                ("sparse", "is no plain file", member(f"{TREE}/x", type=tarfile.GNUTYPE_SPARSE)),
                ("twice", "comes twice, with other content", member(VOC_IMAGE, size=3)),
                ("the same in other words", "comes twice, with", member(f"./{VOC_IMAGE}", size=3)),
                (
                    "a terabyte",
                    "claims 1099511627776 bytes, not 0 to 64 MB",
                    member(f"{TREE}/x", size=1 << 40),
                ),
                ("of negative size", "claims -512 bytes", member(f"{TREE}/x", size=-512)),
            )
        ),
        *(
            (what, archive(pack), f"{TAR}: {says}")
            for what, says, pack in (
                ("empty tar", "not a tar archive", lambda files: b""),
                ("HTML as tar", "not a tar archive", lambda files: html(b"") * 99),
                ("gzip of text", "not a tar archive", lambda files: gzip.compress(b"text" * 999)),
                ("tar cut short", ".*(damaged or cut|unexpected end)", lambda f: half(packed(f))),
                ("gzip cut short", "cannot be read: ", lambda f: packed(f, kind="w:gz")[:-900]),
                ("xz cut short", "cannot be read: ", lambda f: packed(f, kind="w:xz")[:-900]),
                (
                    "tar without splits",
                    f"holds no {TREE}/{SPLITS}/[*].txt: not VOC2012",
                    lambda files: packed({k: v for k, v in files.items() if SPLITS not in k}),
                ),
                (
                    "split that names a missing pair",
                    f".* names '{IMAGE.stem}', but there is no {IMAGES}/{IMAGE.name} .and 3 more",
                    lambda files: packed({k: v for k, v in files.items() if IMAGE.stem not in k}),
                ),
                (
                    "tar with class_names.txt",
                    "has a class_names.txt, VOC2012 has none; `data manifest` is for other sets",
                    lambda files: packed(files | {f"{TREE}/{CLASS_NAMES}": b"sky\n"}),
                ),
            )
        ),
        (
            "output folder that holds something",
            several(archive(), VOC.mkdir, MINE),
            "voc: exists and is not an empty folder",
        ),
        (
            "output folder that is a file",
            several(archive(), text(VOC, "mine")),
            "voc: cannot be made: File exists",
        ),
        (
            "prepared from another archive",
            several(archive(), voc2012, archive(html)),
            "voc: holds a preparation from an archive of md5 .*; it stays as it is",
        ),
        (
            "prepared, then a bit flipped",
            several(archive(), voc2012, rewrite(VOC / VOC_IMAGE, flipped)),
            f"{VOC / VOC_IMAGE}: differs from manifest.json: a bit flipped",
        ),
        by=(voc2012,),
        refuses="voc2012",
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
        f"{TAR}: its md5 is {md5(html(b''))}, not {NO_MD5}: another file, or a damaged one",
        f"--md5 {NO_MD5}",
        by=(partial(voc2012, checksum=NO_MD5),),
        refuses="voc2012",
    ),
    Row(
        "--md5 that is none",
        archive(),
        "--md5 6cd6: not an md5, which has 32 hexadecimal digits",
        "--md5 6cd6",
        refuses="voc2012",
    ),
    *(
        Row(
            what,
            several(archive(), spoil),
            f"{source}{says}",
            f"--from {source}",
            by=(partial(voc2012, source),),
            refuses="voc2012",
        )
        for what, source, says, spoil in (
            ("no such archive", "none.tar", ": no such file or folder", as_it_is),
            (
                "other data as VOC2012",
                "data",
                ": has a class_names.txt, VOC2012 has none; `data manifest` is for other sets",
                as_it_is,
            ),
            (
                "unpacked, an image is a link out of it",
                "unpacked",
                f"/{VOC_IMAGE}: a link that leads out of unpacked",
                several(unpacked, linked(Path("unpacked") / VOC_IMAGE, "elsewhere/x")),
            ),
        )
    ),
    *(
        Row(
            what,
            archive(),
            says,
            f"--from {url}",
            by=(partial(voc2012, url),),
            during=during,
            **{verdict: "voc2012"},
        )
        for what, verdict, url, says, during in (
            (
                "server that is not there",
                "refuses",
                NOBODY,
                f"{NOBODY}: cannot be downloaded: Connection refused",
                no_proxy,
            ),
            (
                "address of another kind",
                "refuses",
                "ftp://127.0.0.1/voc.tar",
                "ftp://127.0.0.1/voc.tar: only http and https addresses are known",
                no_proxy,
            ),
            ("404", "refuses", URL, f"{URL}: the server says 404 Not Found", served(status=404)),
            (
                "server that sends a web page",
                "refuses",
                URL,
                rf"{URL}: sent a web page \(text/html\), not an archive",
                served(kind="text/html"),
            ),
            (
                "download cut short",
                "stops",
                URL,
                f"{URL}: the connection was cut after 5000 of .* bytes; run again to go on",
                served(cuts=[5000]),
            ),
            (
                "download of another md5",
                "refuses",
                URL,
                f"{VOC}/download.tar.part: its md5 is .*, not .*; it is removed",
                served(data=b"another"),
            ),
        )
    ),
    Row(
        "another preparation at work in the folder",
        several(archive(), preparing),
        "voc: another preparation is at work in it",
        by=(voc2012,),
        refuses="voc2012",
        during=preparation_held,
    ),
    Row("prepared already", several(archive(), voc2012), by=(voc2012,), accepts="voc2012"),
]
