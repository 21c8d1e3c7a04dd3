"""What the files of a data set were when it was made: `manifest.json`, sizes and SHA-256.

A decoder does not notice a flipped bit in a JPEG; a hash does.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.files import JSON_LIMIT, parse_json, read_bytes

MANIFEST = "manifest.json"
"""Its name in the folder that holds JPEGImages."""

FORMAT, SCHEMA = "rosetta-manifest", 1


@dataclass(frozen=True)
class Entry:
    """One file as it was."""

    size: int
    sha256: str


def entry(data: bytes) -> Entry:
    """The entry of a file that holds `data`."""
    return Entry(len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Manifest:
    """The files below `root`, by their path in it, and the md5 of the archive they came from."""

    root: Path
    files: Mapping[str, Entry]
    source_md5: str | None = None

    def check(self, path: Path, data: bytes) -> None:
        """Holds the bytes of a file against its entry; a file that has none is not looked at.

        Raises:
            InputError: they are not the same.
        """
        known = self.files.get(path.relative_to(self.root).as_posix())
        if known is None or known == entry(data):
            return
        reason = "a bit flipped or the file was changed"
        if known.size != len(data):
            reason = f"{len(data)} bytes, not {known.size}"
        raise InputError(f"{path}: differs from {MANIFEST}: {reason}")

    def to_bytes(self) -> bytes:
        """The file's content: a function of the files alone."""
        result = {
            "format": FORMAT,
            "schema": SCHEMA,
            "source_md5": self.source_md5,
            "files": {name: vars(self.files[name]) for name in sorted(self.files)},
        }
        return (json.dumps(result, indent=1) + "\n").encode()


def _parse(root: Path, data: bytes) -> Manifest | None:
    """The manifest, None of another program's, or whatever exception its first fault raises."""
    content = parse_json(data)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']!r}")
    files = {name: Entry(**values) for name, values in content["files"].items()}
    if not all(isinstance(e.size, int) and isinstance(e.sha256, str) for e in files.values()):
        raise ValueError("a size or a hash of the wrong type")
    return Manifest(root, files, content["source_md5"])


def read_manifest(root: Path) -> Manifest | None:
    """The manifest of the folder that holds JPEGImages; None where it has none of ours.

    Raises:
        InputError: there is one, and it is damaged.
    """
    path = root / MANIFEST
    if not path.exists():
        return None
    data = read_bytes(path, JSON_LIMIT)
    try:
        return _parse(root, data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(
            f"{path}: damaged, or no manifest of ours ({reason}); remove it to do without"
        ) from error
