"""The memory of this process, which a worker reports with its heartbeats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")


def resident_bytes(statm: Path = _STATM) -> int | None:
    """Return the resident memory of this process in bytes; None if the system does not tell it.

    Only Linux tells it in a file. The standard library of other systems knows the maximum only.
    """
    try:
        pages = int(statm.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
