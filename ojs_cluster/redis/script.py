"""A Lua script and its SHA-1, by which Redis runs it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script. EVALSHA identifies a script by SHA-1, so the hash is not used for security.

    Attributes:
        name: the name for messages.
        source: the Lua source.
        has_preflight: whether the script has a preflight. A moving slot can then stop the script
            only before its first write.
        volatile: whether the writes of the script may be lost with a node, even if the request
            requires a higher durability.
        sha: the hexadecimal SHA-1 of ``source``.
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

    def by_source(self, payload: bytes) -> bytes:
        """Return a packed EVALSHA command of this script as a command that names its source."""
        source = b"$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (len(self.source), self.source)
        return payload.replace(self.packed_head, source, 1)
