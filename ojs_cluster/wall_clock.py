"""The wall clock of this process: the only module that reads it.

This clock may be wrong. It serves logs, traces and the header ``Date``, which only tell a time.
Whatever decides by a time uses the clock of Redis: scripts call TIME, and processes use
``redis/server_clock.py``. Ruff refuses all other uses of this clock (``banned-api``).
"""

from __future__ import annotations

import time


def wall_ns() -> int:
    """Return the Unix time in nanoseconds."""
    return time.time_ns()


def wall_s() -> float:
    """Return the Unix time in seconds."""
    return time.time()
