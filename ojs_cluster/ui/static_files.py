"""The files that pages load: our stylesheet and script, and the vendored ones, kept in memory."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
CACHE_CONTROL: Final = "public, max-age=31536000, immutable"
"""The address of a file contains a part of its hash, so its content never changes."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file, as it is and compressed."""

    content_type: str
    content: bytes
    compressed: bytes
    version: str


def read_static_files(folder: Path = FOLDER) -> dict[str, StaticFile]:
    """Return all files by their path below ``folder``, without licences and the manifest."""
    found: dict[str, StaticFile] = {}
    for path in sorted(folder.rglob("*")):
        content_type = _TYPES.get(path.suffix)
        if content_type is not None:
            content = path.read_bytes()
            # The time in the header would differ between processes.
            compressed = gzip.compress(content, 9, mtime=0)
            version = sha256(content).hexdigest()[:16]
            name = path.relative_to(folder).as_posix()
            found[name] = StaticFile(content_type, content, compressed, version)
    return found
