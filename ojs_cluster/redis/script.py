"""A Lua script and the name Redis knows it by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Script:
    """Lua ``source`` with the hexadecimal SHA-1 that EVALSHA takes.

    ``name`` appears in messages only. SHA-1 is Redis's choice and identifies, it does not protect.
    ``looks_first`` promises that the script reads every key it may touch before it writes, so that
    a slot that is being moved stops it before its first write or not at all. ``volatile``: what it
    writes may be lost with a node, whatever durability is asked for.
    """

    name: str
    source: bytes
    looks_first: bool = False
    volatile: bool = False
    sha: bytes = field(init=False)
    begin: bytes = field(init=False)
    """What is sent first to run it by its hash, behind the number of all that is sent."""

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()
        object.__setattr__(self, "sha", digest)
        object.__setattr__(self, "begin", b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % digest)
