"""What a process and its supervisor agree on."""

from __future__ import annotations

from typing import Final, Literal

Request = Literal["stop", "abort"]
"""``stop`` drains the worker, ``abort`` also ends its handlers."""

CANNOT_START: Final = 2
"""Exit code of a process that a restart does not help: it cannot be imported, or is refused."""
RECYCLED: Final = 3
"""Exit code of a process that has reached a limit and must be replaced."""
REPORT_S: Final = 1.0
"""Time in seconds between two reports."""
