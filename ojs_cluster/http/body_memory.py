"""Room for requests that come, shared by all connections of a process.

Each body has a limit, but nothing limits how many come at once: a fleet that sends large batches at
the same moment would take as much memory as it likes. So bodies that are not small share a room. A
request that finds it full is refused at once (503, Retry-After) rather than made to wait: those
that wait would hold what they have sent already, and over HTTP/2 hold up all of their connection.

What has come of a small body, or of a head, is counted while the rest is missing. It has a room of
its own, of the same size: large bodies must not keep small requests out that come in two pieces.
Most small requests come whole, and are never counted.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from ojs_cluster.core.errors import BackendUnavailable

SMALL: Final = 65_536
"""Bytes of a body that takes no room once it is complete."""


class Room:
    """How many bytes may still come: of large bodies, and of what is small and incomplete.

    Not thread-safe.
    """

    def __init__(self, size: int) -> None:
        """``size`` is in bytes, for each of both."""
        self.left = size
        self.parts_left = size


class Held:
    """What one request has of the room; all of it goes back when the block ends."""

    def __init__(self, room: Room) -> None:
        """Nothing is held yet."""
        self._room = room
        self._size = 0
        self._part = 0

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
        self._room.parts_left += self._part
        self._size = self._part = 0

    def fits(self, size: int, *, complete: bool = True) -> bool:
        """Have room for ``size`` bytes, and tell whether there is.

        Args:
            size: bytes of a body, or of what has come of a head.
            complete: whether nothing of it is missing. A large body counts either way.
        """
        large = max(self._size, size) if size > SMALL else self._size
        part = 0 if complete or size > SMALL else size
        more, more_parts = large - self._size, part - self._part
        if more > self._room.left or (more_parts > 0 and more_parts > self._room.parts_left):
            return False
        self._room.left -= more
        self._room.parts_left -= more_parts
        self._size, self._part = large, part
        return True


def no_room() -> BackendUnavailable:
    """The error for a request whose body does not fit."""
    return BackendUnavailable(
        "too many large requests are under way: repeat it after a moment", outcome="not_applied"
    )
