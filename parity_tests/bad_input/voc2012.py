"""What VOC2012 is prepared from, and where to."""

import contextlib
import copy
import fcntl
import gzip
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from tarfile import CHRTYPE, FIFOTYPE, GNUTYPE_SPARSE, LNKTYPE, SYMTYPE
from typing import Any
from unittest import mock

from common.data.dataset import CLASS_NAMES, IMAGES, SPLITS
from common.data.voc2012 import MARKER, prepare
from parity_tests.bad_input.data import listed
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
from parity_tests.bad_input.trial import DATA, IMAGE, MASK, SPLIT, TAR, VOC, Row, table
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
STRANGER = "has a class_names.txt, VOC2012 has none; `data manifest` is for other sets"
VOC_IMAGE = f"{TREE}/{IMAGE.relative_to(DATA)}"
VOC_MASK = f"{TREE}/{MASK.relative_to(DATA)}"
VOC_SPLIT = f"{TREE}/{SPLIT.relative_to(DATA)}"


@cache
def published() -> Tree:
    """The files of the archive."""
    with tempfile.TemporaryDirectory() as folder:
        write_published(Path(folder))
        return tree_of(Path(folder))


def archive(pack: Callable[[Any], bytes] = packed) -> Callable[[], object]:
    """voc.tar."""
    return lambda: TAR.write_bytes(pack(published()))


def but(part: str) -> Callable[[Tree], bytes]:
    """The archive without the files whose paths hold `part`."""
    return lambda files: packed({name: files[name] for name in files if part not in name})


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


TO = "leads out of the folder"
ODD_NAME = "has odd characters in its name"

# fmt: off
ROWS = [
    *(Row(f"tar: {what}", archive(partial(packed_raw, info=info)),
          f"{TAR}: refused: {re.escape(repr(info.name))} {says}", by=(voc2012,), refuses="voc2012")
      for what, says, info in (
          ("symbolic link", "is a link", member(f"{TREE}/x.jpg", type=SYMTYPE, linkname="/x")),
          ("symbolic link to a folder", "is a link",
           member(f"{TREE}/link", type=SYMTYPE, linkname="..")),
          ("hard link", "is a link", member(f"{TREE}/x.jpg", type=LNKTYPE, linkname=VOC_IMAGE)),
          ("absolute path", "is an absolute path", member("/tmp/x.jpg")),
          ("leads out", TO, member(f"{TREE}/a/../../../../x.jpg")),
          ("leads out and back", TO, member(f"../voc/{VOC_IMAGE}")),
          ("backslash", ODD_NAME, member(f"{TREE}/..\\x.jpg")),
          ("line break", ODD_NAME, member(f"{TREE}/x\n.jpg")),
          ("not UTF-8", ODD_NAME, member(f"{TREE}/\udcff.jpg")),
          ("device", "is no plain file", member(f"{TREE}/x", type=CHRTYPE)),
          ("pipe", "is no plain file", member(f"{VOC_SPLIT}x", type=FIFOTYPE)),
          ("sparse", "is no plain file", member(f"{TREE}/x", type=GNUTYPE_SPARSE)),
          ("twice", "comes twice, with other content", member(VOC_IMAGE, size=3)),
          ("the same in other words", "comes twice, with oth", member(f"./{VOC_IMAGE}", size=3)),
          ("a terabyte", "claims 1099511627776 bytes, not 0 to 64 MB",
           member(f"{TREE}/x", size=1 << 40)),
          ("of negative size", "claims -512 bytes", member(f"{TREE}/x", size=-512)),
      )),
    *table(
        ("empty tar", archive(lambda files: b""), "not a tar archive"),
        ("HTML as tar", archive(lambda files: html(b"") * 99), "not a tar archive"),
        ("gzip of text", archive(lambda f: gzip.compress(b"text" * 999)), "not a tar archive"),
        ("tar cut short", archive(lambda files: half(packed(files))),
         ".*(damaged or cut|unexpected end)"),
        ("gzip cut short", archive(lambda f: packed(f, kind="w:gz")[:-900]), "cannot be read: "),
        ("xz cut short", archive(lambda f: packed(f, kind="w:xz")[:-900]), "cannot be read: "),
        ("tar without splits", archive(but(SPLITS)),
         f"holds no {TREE}/{SPLITS}/[*].txt: not VOC2012"),
        ("split that names a missing pair", archive(but(IMAGE.stem)),
         f".* names '{IMAGE.stem}', but there is no {IMAGES}/{IMAGE.name} .and 3 more"),
        ("tar with class_names.txt",
         archive(lambda files: packed(files | {f"{TREE}/{CLASS_NAMES}": b"sky\n"})), STRANGER),
        at=TAR, by=(voc2012,), refuses="voc2012",
    ),
    Row("mask cut short in a tar",
        archive(lambda files: packed(files | {VOC_MASK: files[VOC_MASK][:-30]})),
        f"(?s){VOC / VOC_MASK}: cannot be read: .*error: {VOC / TREE}: 1 fault", stops="voc2012"),
    Row("another md5", archive(html),
        f"{TAR}: its md5 is {md5(html(b''))}, not {NO_MD5}: another file, or a damaged one",
        f"--md5 {NO_MD5}", by=(partial(voc2012, checksum=NO_MD5),), refuses="voc2012"),
    Row("--md5 that is none", archive(),
        "--md5 6cd6: not an md5, which has 32 hexadecimal digits", "--md5 6cd6",
        refuses="voc2012"),
    *(Row(what, several(archive(), spoil), says, f"--from {source}",
          by=(partial(voc2012, source),), refuses="voc2012")
      for what, source, says, spoil in (
          ("no such archive", "none.tar", "none.tar: no such file or folder", as_it_is),
          ("other data as VOC2012", "data", f"data: {STRANGER}", as_it_is),
          ("unpacked, an image is a link out of it", "unpacked",
           f"unpacked/{VOC_IMAGE}: a link that leads out of unpacked",
           several(unpacked, linked(Path("unpacked") / VOC_IMAGE, "elsewhere/x"))),
      )),
    *(Row(what, archive(), says, f"--from {url}", by=(partial(voc2012, url),), refuses="voc2012",
          during=during)
      for what, url, says, during in (
          ("server that is not there", NOBODY,
           f"{NOBODY}: cannot be downloaded: Connection refused", no_proxy),
          ("address of another kind", "ftp://127.0.0.1/voc.tar",
           "ftp://127.0.0.1/voc.tar: only http and https addresses are known", no_proxy),
          ("404", URL, f"{URL}: the server says 404 Not Found", served(status=404)),
          ("server that sends a web page", URL,
           rf"{URL}: sent a web page \(text/html\), not an archive", served(kind="text/html")),
          ("download of another md5", URL,
           f"{VOC}/download.tar.part: its md5 is .*, not .*; it is removed",
           served(data=b"another")),
      )),
    Row("download cut short", archive(),
        f"{URL}: the connection was cut after 5000 of .* bytes; run again to go on",
        f"--from {URL}", by=(partial(voc2012, URL),), stops="voc2012",
        during=served(cuts=[5000])),
    *table(
        ("output folder that holds something",
         several(archive(), VOC.mkdir, text(VOC / "mine", "mine")),
         f"{VOC}: exists and is not an empty folder"),
        ("output folder that is a file", several(archive(), text(VOC, "mine")),
         f"{VOC}: cannot be made: File exists"),
        ("prepared from another archive", several(archive(), voc2012, archive(html)),
         f"{VOC}: holds a preparation from an archive of md5 .*; it stays as it is"),
        by=(voc2012,), refuses="voc2012",
    ),
    Row("another preparation at work in the folder", several(archive(), preparing),
        f"{VOC}: another preparation is at work in it", by=(voc2012,), refuses="voc2012",
        during=preparation_held),
    Row("prepared, then a bit flipped",
        several(archive(), voc2012, rewrite(VOC / VOC_IMAGE, flipped)),
        f"(?s){VOC / VOC_IMAGE}: differs from manifest.json: a bit fl.*: {VOC / TREE}: 1 fault",
        refuses="voc2012"),
    Row("prepared already", several(archive(), voc2012), by=(voc2012,), accepts="voc2012"),
]
# fmt: on
