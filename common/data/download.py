"""A large file from a web server: what has come stays, and the next try goes on from there."""

import http.client
import io
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from common.errors import InputError

Report = Callable[[str, int, int | None], None]
"""Is told of progress: of what, how much, of how much in all (None: not known)."""

MEGABYTE = 10**6
MAX_TOTAL = 8 << 30
"""Bytes. VOC2012 has 2 GB."""
_CHUNK = 1 << 20
_TIMEOUT = 60.0
"""Seconds without a byte."""


def is_url(text: str) -> bool:
    """Whether it is an address rather than a path."""
    return "://" in text


def _opener() -> urllib.request.OpenerDirector:
    """Of http and https alone: urllib's own would follow a redirection to ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _append(file: io.FileIO, data: bytes, part: Path) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise InputError(f"{part}: cannot be written: {error.strerror}; it is kept") from error


def _receive(
    url: str, response: http.client.HTTPResponse, part: Path, start: int, report: Report
) -> None:
    """Writes what comes to `part`, of which the first `start` bytes stay."""
    kind = response.headers.get_content_type()
    if kind == "text/html":
        raise InputError(f"{url}: sent a web page ({kind}), not an archive")
    total = None if response.length is None else start + response.length
    done = start
    with io.FileIO(part, "a" if start else "w") as file:
        while data := response.read(_CHUNK):
            done += len(data)
            if max(done, total or 0) > MAX_TOTAL:
                raise InputError(f"{url}: more than {MAX_TOTAL >> 30} GB, that is not VOC2012")
            _append(file, data, part)
            report("MB downloaded", done // MEGABYTE, total and total // MEGABYTE)
    if total is not None and done != total:
        raise InputError(
            f"{url}: the connection was cut after {done} of {total} bytes; run again to go on"
        )


def download(url: str, part: Path, report: Report) -> None:
    """Brings the file at `url` to `part`, going on where an earlier try ended if the server can.

    Raises:
        InputError: the address is none of http or https, the server refuses, sends a web page or
            is gone, the connection is cut, or the disk is full. What has come stays in `part`.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"{url}: only http and https addresses are known")
    start = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        request = urllib.request.Request(url, headers=headers)
        with _opener().open(request, timeout=_TIMEOUT) as response:
            if response.status == http.HTTPStatus.PARTIAL_CONTENT:
                first = response.headers.get("Content-Range", "")
                if not start or not first.startswith(f"bytes {start}-"):
                    raise InputError(f"{url}: sent {first!r}, not what follows byte {start}")
            else:
                start = 0
            _receive(url, response, part, start, report)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") != f"bytes */{start}":
                part.unlink()  # longer than the file: it is of another one
                download(url, part, report)
            return
        raise InputError(f"{url}: the server says {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        reason = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
        kept = f"; run again to go on from {part}" if part.exists() else ""
        raise InputError(f"{url}: cannot be downloaded: {reason}{kept}") from error
