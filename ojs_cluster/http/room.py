"""Room for the bodies of requests, shared by all connections of a process.

Each body has a limit, but nothing limits how many come at once: a fleet that sends large batches at
the same moment would take as much memory as it likes. So bodies that are not small share a room. A
request that finds it full is refused at once (503, Retry-After) rather than made to wait: those
that wait would hold what they have sent already, and over HTTP/2 hold up all of their connection.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from ojs_cluster.core.errors import BackendUnavailable

SMALL: Final = 65_536
"""Bytes of a body that takes no room: as many as a connection may have read anyway."""


class Room:
    """How many bytes of bodies may still come. Not for more than one thread."""

    def __init__(self, size: int) -> None:
        """``size`` is in bytes."""
        self.left = size


class Held:
    """What one request has of the room; all of it goes back when the block ends."""

    def __init__(self, room: Room) -> None:
        """Nothing is held yet."""
        self._room = room
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give all of it back."""
        self._room.left += self._size
        self._size = 0

    def fits(self, size: int) -> bool:
        """Have room for a body of ``size`` bytes, and tell whether there is."""
        more = size - self._size
        if size > SMALL and more > 0:
            if more > self._room.left:
                return False
            self._room.left -= more
            self._size = size
        return True


def no_room() -> BackendUnavailable:
    """The error for a request whose body does not fit."""
    return BackendUnavailable(
        "too many large requests are under way: repeat it after a moment", outcome="not_applied"
    )
