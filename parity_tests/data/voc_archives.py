"""Archives as VOC2012 is published, good and bad, and a server on this machine that sends them."""

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from common.data import voc2012
from common.data.dataset import CLASS_NAMES, IMAGES
from common.data.shapes import write_shapes

Tree = dict[str, bytes]
TREE = str(voc2012.TREE)
NAMES = [*(f"train_{k:05d}" for k in range(3)), *(f"val_{k:05d}" for k in range(2))]
"""The pairs of `write_published`."""


def tree_of(folder: Path) -> Tree:
    """Every file below a folder, by its path in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write_published(folder: Path) -> None:
    """Writes VOCdevkit/VOC2012 as it is published, with what is not ours to take."""
    root = folder / TREE
    write_shapes(root, 3, 2, seed=0)
    (root / CLASS_NAMES).unlink()
    (root / IMAGES / "no_mask.jpg").write_bytes((root / IMAGES / f"{NAMES[0]}.jpg").read_bytes())
    for other in ("Annotations/no_mask.xml", "ImageSets/Main/train.txt"):
        (root / other).parent.mkdir()
        (root / other).write_text("not for us\n")


def packed(
    files: Tree,
    *extra: tuple[tarfile.TarInfo, bytes],
    kind: Literal["w", "w:gz", "w:bz2", "w:xz"] = "w",
) -> bytes:
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


def packed_raw(files: Tree, info: tarfile.TarInfo) -> bytes:
    """A tar whose last member is `info`, whatever it claims: it has three bytes, or none."""
    whole = packed(files).rstrip(b"\0")
    whole += bytes(-len(whole) % tarfile.BLOCKSIZE)
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    data = b"abc".ljust(tarfile.BLOCKSIZE, b"\0") if info.size > 0 else b""
    return whole + header + data + bytes(10240)


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
