"""What a process and its supervisor agree on."""

from __future__ import annotations

import os
import select
from multiprocessing.connection import Connection
from typing import Final, Literal

Request = Literal["stop", "abort"]
"""``stop`` drains the worker, ``abort`` also ends its handlers."""

CANNOT_START: Final = 2
"""Exit code of a process that a restart does not help: it cannot be imported, or is refused."""
RECYCLED: Final = 3
"""Exit code of a process that has reached a limit and must be replaced."""
REPORT_S: Final = 1.0
"""Time in seconds between two reports."""


def can_send(link: Connection) -> bool:
    """Return whether a report can be sent without a wait.

    A supervisor that a terminal has suspended reads nothing, and must not stop the event loop. On
    Windows, which has no such suspension, it is always True.
    """
    return os.name != "posix" or bool(select.select([], [link], [], 0)[1])
