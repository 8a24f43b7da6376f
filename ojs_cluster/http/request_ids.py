"""Generate request ids, which clients quote when they report a problem.

An id is 128 random bits from the operating system in hexadecimal. It is unique without
coordination, and a client cannot guess the ids of other clients. One system call provides the bits
of many ids, because a system call for each id costs more than the rest of ``new_request_id``.
"""

from __future__ import annotations

import os
from typing import Final

_IDS_PER_CALL: Final = 128
_ID_BYTES: Final = 16
_unused: Final[list[str]] = []


def new_request_id() -> str:
    """Return an id that no other request has, in any process."""
    if not _unused:
        digits = os.urandom(_IDS_PER_CALL * _ID_BYTES).hex()
        width = 2 * _ID_BYTES
        _unused.extend(f"req_{digits[at : at + width]}" for at in range(0, len(digits), width))
    return _unused.pop()


# Without this a forked child would use the same ids as its parent.
os.register_at_fork(after_in_child=_unused.clear)
