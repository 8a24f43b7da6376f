"""Clocks of processes that differ from those of Redis, by libfaketime.

A process reads its offset from a file, so its clock can jump while it runs. Its monotonic clock is
left alone, as on a machine whose clock is set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.support.nodes import Environment

_PLACES: Final = (
    *("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1"),
    "/usr/lib64/faketime/libfaketimeMT.so.1",
)
"""Where packages of distributions have the library for programs with threads."""
_LONGEST_S: Final = 7200.0
_SHORTEST_S: Final = 2.0


def find_library() -> Path | None:
    """Return the library libfaketime, None if it is not installed."""
    root = Path("/")
    return next((path for place in _PLACES for path in root.glob(place[1:])), None)


class Clock:
    """The clock of the processes that were started with ``env``."""

    def __init__(self, file: Path, library: Path) -> None:
        self._file = file
        self.env: Environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # A process that is killed would leave its shared memory.
            "FAKETIME_DISABLE_SHM": "1",
        }
        self.set(0)

    def set(self, offset_s: float) -> None:
        """Let the clock differ by an offset in seconds; processes read it within a second."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+.3f}\n")
        new.replace(self._file)


def offset_of(choice: float) -> float:
    """Return an offset in seconds, seconds to hours in both directions, for a number below 1."""
    ahead, size = choice < 0.5, 2 * choice % 1
    offset: float = _SHORTEST_S * (_LONGEST_S / _SHORTEST_S) ** size
    return offset if ahead else -offset
