"""A tar that nobody vouches for: every member is looked at before any of it is used."""

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from common.errors import InputError
from common.files import naming

MAX_MEMBER = 64 << 20
"""Bytes. The largest picture of VOC2012 has 0.3 MB."""
MAX_TOTAL = 8 << 30
"""Bytes of the whole archive, unpacked. VOC2012 has 2 GB."""
MAX_MEMBERS = 100_000
"""VOC2012 has 40 thousand."""

_OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""What opens a compressed file, by its first bytes."""


class _Guarded:
    """A file that is read in small pieces only: a header may ask for any amount at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_MEMBER:
            raise ValueError(f"a header claims {size} bytes")
        return self._file.read(size)


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    """The file, or what it holds where it is compressed; what it is, is read from its content."""
    start = file.read(8)
    file.seek(0)
    for magic, opener in _OPENERS.items():
        if start.startswith(magic):
            return cast(IO[bytes], opener(file))
    return file


def _fault(member: tarfile.TarInfo) -> str | None:
    """Why a member is refused; None where it is a plain file or a folder at a plain place."""
    if member.name.startswith("/"):
        return "is an absolute path"
    if ".." in PurePosixPath(member.name).parts:
        return "leads out of the folder"
    if not member.name.isprintable() or "\\" in member.name:
        return "has odd characters in its name"
    if member.issym() or member.islnk():
        return "is a link"
    if not member.isdir() and (not member.isreg() or member.issparse()):
        return "is no plain file"
    if not 0 <= member.size <= MAX_MEMBER:
        return f"claims {member.size} bytes, not 0 to {MAX_MEMBER >> 20} MB"
    return None


class Archive:
    """The plain files of a tar, which may be compressed. Their owners and rights are not taken.

    One bad member refuses the whole archive: a link, a device, a name that is absolute, leads out
    or has odd characters, a claim to be huge, the same name twice with other content.

    Raises:
        InputError: it is no tar, or damaged, or cut short, or has a bad member; named by `path`.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._path = path
        guarded = _Guarded(_decompressed(file))
        try:
            self._tar = tarfile.open(  # noqa: SIM115  # it owns nothing: `file` is the caller's
                fileobj=cast(IO[bytes], guarded), mode="r:", encoding="utf-8"
            )
        except (tarfile.TarError, ValueError, OSError, EOFError, lzma.LZMAError) as error:
            raise InputError(f"{path}: not a tar archive: {error}") from error
        self._members: dict[str, tarfile.TarInfo] = {}
        with naming(path):
            self._index()
            # tarfile takes a damaged header for the end
            guarded.seek(self._tar.offset)
            if guarded.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise InputError(f"{path}: the archive is damaged or cut short")

    def _index(self) -> None:
        for count, member in enumerate(self._tar, start=1):
            fault = _fault(member)
            if fault is None and (count > MAX_MEMBERS or self._tar.offset > MAX_TOTAL):
                fault = f"is beyond {MAX_MEMBERS} members or {MAX_TOTAL >> 30} GB in all"
            name = str(PurePosixPath(member.name))
            if fault is None and member.isreg():
                first = self._members.setdefault(name, member)
                if first is not member and self._read(first) != self._read(member):
                    fault = "comes twice, with other content"
            if fault is not None:
                raise InputError(f"{self._path}: refused: {member.name!r} {fault}")

    def _read(self, member: tarfile.TarInfo) -> bytes:
        file = self._tar.extractfile(member)
        assert file is not None  # only plain files are asked for
        return file.read()

    def names(self) -> list[str]:
        """The paths of the files, in the order in which they are read fastest."""
        return list(self._members)

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            InputError: the archive is damaged.
        """
        with naming(self._path):
            return self._read(self._members[name])
