"""Ids of requests that clients can quote to support.

An id is 128 random bits from the operating system in hexadecimal: unique without any coordination,
and nobody can guess the id of another's request from one's own. The bits are drawn for many ids at
once, because a system call for each costs more than all else here.
"""

from __future__ import annotations

import os
from typing import Final

_AT_ONCE: Final = 128
_BYTES: Final = 16
_ready: Final[list[str]] = []


def new_request_id() -> str:
    """Return an id that no other request has, in any process."""
    if not _ready:
        digits = os.urandom(_AT_ONCE * _BYTES).hex()
        width = 2 * _BYTES
        _ready.extend(f"req_{digits[at : at + width]}" for at in range(0, len(digits), width))
    return _ready.pop()


# A forked child would give the ids again that its parent has drawn.
os.register_at_fork(after_in_child=_ready.clear)
