"""A Lua script and its SHA-1, by which Redis runs it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script. Its SHA-1 is the identifier that EVALSHA requires; it protects nothing.

    Attributes:
        name: for messages only.
        source: Lua source.
        has_preflight: the script reads every key it may touch before its first write. A slot that
            is being moved stops it before that write or not at all.
        volatile: its writes may be lost with a node, whatever durability a request requires.
        sha: hexadecimal SHA-1 of ``source``.
        packed_head: the packed command words ``EVALSHA <sha>``.
    """

    name: str
    source: bytes
    has_preflight: bool = False
    volatile: bool = False
    sha: bytes = field(init=False)
    packed_head: bytes = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()
        object.__setattr__(self, "sha", digest)
        object.__setattr__(self, "packed_head", b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % digest)
