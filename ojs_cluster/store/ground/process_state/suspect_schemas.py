"""Schemas with which a process ended while it validated.

The estimate decides which validations run in a process that serves clients. If it is wrong for some
args, a validation blocks the process until the watchdog kills it. The clients repeat their request,
and the next process is blocked too. So each process notes in memory that it shares with its
supervisor which schema it compiles or validates with. If the process ends meanwhile, the supervisor
makes the schema suspect: for ten minutes, all processes of the node validate with it in their child
process only, which can be killed (``validation_process``).

The memory holds the number of entries ever written, the entries, and the schema of each process.
Only the supervisor writes entries. It writes an entry before it counts it.
"""

from __future__ import annotations

import time
from hashlib import blake2b
from typing import Final

SUSPECT_S: Final = 600.0
"""Time in seconds for which a schema is suspect."""
_NONE: Final = 0
_MAX_ENTRIES: Final = 64
"""Maximum number of entries. A new one replaces the oldest."""
_FIRST_SLOT: Final = 1 + 2 * _MAX_ENTRIES
"""An entry has two numbers: the digest of a schema, and the monotonic time in ms until which it is
suspect. The slots of the processes follow."""
_NUMBER_BYTES: Final = 8


def digest_of(document: bytes) -> int:
    """Return the number by which the memory names a schema."""
    return int.from_bytes(blake2b(document, digest_size=_NUMBER_BYTES).digest()) or 1


class SuspectSchemas:
    """The suspect schemas of a node, as one of its processes sees them.

    Args:
        memory: the shared memory, of the length that ``size`` returns; None for private memory.
        process: the number of this process on its node, from 0.
    """

    def __init__(self, memory: memoryview | None = None, process: int = 0) -> None:
        if memory is None:
            memory = memoryview(bytearray(self.size(process + 1)))
        self._numbers = memory.cast("Q")
        self._slot = _FIRST_SLOT + process
        self._begun: list[int] = []
        self._seen = 0
        self._until_ms: dict[int, int] = {}

    @staticmethod
    def size(processes: int) -> int:
        """Return the bytes of memory that this number of processes needs."""
        return (_FIRST_SLOT + processes) * _NUMBER_BYTES

    def begin(self, digest: int) -> None:
        """Note that this process compiles a schema, or validates with it."""
        self._begun.append(digest)
        self._numbers[self._slot] = digest

    def end(self, digest: int) -> None:
        """Note that it does so no more. While a thread compiles, others begin and end."""
        self._begun.remove(digest)
        self._numbers[self._slot] = self._begun[-1] if self._begun else _NONE

    def __contains__(self, digest: int) -> bool:
        """Return whether a schema is suspect."""
        if self._seen != self._numbers[0]:
            self._read()
        return bool(self._until_ms) and self._until_ms.get(digest, 0) > _now_ms()

    def blame(self, process: int) -> bool:
        """Make suspect with what a process validated when it ended. The supervisor calls this.

        Returns:
            Whether the process was validating.
        """
        numbers, slot = self._numbers, _FIRST_SLOT + process
        digest, count = numbers[slot], numbers[0]
        if digest == _NONE:
            return False
        entry = 1 + 2 * (count % _MAX_ENTRIES)
        numbers[entry], numbers[entry + 1] = digest, _now_ms() + round(SUSPECT_S * 1000)
        numbers[0] = count + 1
        numbers[slot] = _NONE
        return True

    def _read(self) -> None:
        self._seen = self._numbers[0]
        written = iter(self._numbers[1 : 1 + 2 * min(self._seen, _MAX_ENTRIES)])
        found: dict[int, int] = {}
        for digest, until_ms in zip(written, written, strict=True):
            found[digest] = max(until_ms, found.get(digest, 0))
        self._until_ms = found


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
