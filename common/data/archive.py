"""The files of a tar, as the standard library reads them."""

import contextlib
import functools
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from common.errors import InputError
from common.files import naming, reason_of

MAX_MEMBER = 64 << 20
"""Bytes. The largest picture of VOC2012 has 0.3 MB."""


def _check_member(member: tarfile.TarInfo, folder: Path) -> None:
    """Refuses, by a ValueError or FilterError, all but files and folders of likely size within."""
    if not member.isreg() and not member.isdir():
        raise ValueError(f"{member.name!r} is no plain file")
    if tarfile.data_filter(member, str(folder)).name != member.name:
        raise ValueError(f"{member.name!r} is an absolute path")
    if not 0 <= member.size <= MAX_MEMBER:
        size = f"{member.size} bytes, not 0 to {MAX_MEMBER >> 20} MB"
        raise ValueError(f"{member.name!r} claims {size}")


@contextlib.contextmanager
def read_archive(path: Path) -> Iterator[dict[str, Callable[[], bytes]]]:
    """The files of a tar, compressed or not, by their paths in it, and what reads each.

    Raises:
        InputError: it is no tar, is damaged or cut short, or holds a link, a device, a path that
            leads out or a huge file; so does reading a file that is damaged.
    """
    try:
        tar = tarfile.open(path, encoding="utf-8")  # noqa: SIM115  # closed below
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a tar archive: {reason_of(error)}") from error

    def read(member: tarfile.TarInfo) -> bytes:
        with naming(path):
            file = tar.extractfile(member)
            assert file is not None  # only plain files are asked for
            return file.read()

    with tar:
        files: dict[str, Callable[[], bytes]] = {}
        with naming(path):
            for member in tar:
                try:
                    _check_member(member, path.parent)
                except (tarfile.FilterError, ValueError) as error:
                    raise InputError(f"{path}: refused: {error}") from error
                if member.isreg():
                    files[str(PurePosixPath(member.name))] = functools.partial(read, member)
            # tarfile takes a damaged header for the end
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise InputError(f"{path}: the archive is damaged or cut short")
        yield files
