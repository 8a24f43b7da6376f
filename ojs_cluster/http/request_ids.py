"""Request ids, which clients quote when they report a problem.

An id is 128 random bits from the operating system in hexadecimal. It is unique without
coordination, and a client cannot guess the ids of other clients. One system call provides the bits
of many ids, because a system call for each id costs more than the rest of ``new_request_id``.
"""

from __future__ import annotations

import os
import re
from typing import Final

_IDS_PER_CALL: Final = 128
_ID_BYTES: Final = 16
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?")
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


def request_id_for(given: str | None) -> str:
    """Return the id that the client has ``given``, or a new id if the given one is not valid.

    A valid id has 1 to 200 printable ASCII characters. Other characters could split headers or log
    lines.
    """
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return new_request_id()
