"""Share replies of the API between all viewers of a process, to spare Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Generic, NamedTuple, TypeVar

import trio

from ojs_cluster.store.ground.cached import Cached

T = TypeVar("T")
KEPT_S: Final = 2.0
"""Maximum age of a shared reply in seconds."""
_MAX_KEPT: Final = 100
"""Maximum number of shared replies; a new one replaces the least recently used."""


class Aged(NamedTuple, Generic[T]):
    """A value, and its age in seconds."""

    value: T
    age_s: float


class _Snapshot(Generic[T]):
    """One value, with the time of its last computation."""

    def __init__(self, compute: Callable[[], Awaitable[T]], kept_s: float) -> None:
        self._compute = compute
        self.cached = Cached(self._compute_and_note, lambda _value, _took_s: kept_s)
        self.last: tuple[T, float] | None = None

    async def _compute_and_note(self) -> T:
        value = await self._compute()
        self.last = value, trio.current_time()
        return value


class Snapshots(Generic[T]):
    """Keeps the last computed value of each name."""

    def __init__(self) -> None:
        self._snapshots: dict[str, _Snapshot[T]] = {}

    async def get(
        self, name: str, compute: Callable[[], Awaitable[T]], kept_s: float = KEPT_S
    ) -> T:
        """Return the value of ``name``, computed at most ``kept_s`` ago.

        Args:
            name: the name.
            compute: computes the value. Every call for one name passes the same function.
            kept_s: how long the value is kept, in seconds; the same in every call for one name.

        Raises:
            Exception: what ``compute`` raises.
        """
        snapshot = self._snapshots.pop(name, None)
        if snapshot is None:
            while len(self._snapshots) >= _MAX_KEPT:
                del self._snapshots[next(iter(self._snapshots))]
            snapshot = _Snapshot(compute, kept_s)
        self._snapshots[name] = snapshot  # last, so that the least recently used one is replaced
        return await snapshot.cached.get()

    def forget(self, name: str) -> None:
        """Delete the value of ``name``, so that the next reader computes it again."""
        self._snapshots.pop(name, None)

    def last(self, name: str) -> Aged[T] | None:
        """Return the newest computed value of ``name`` at any age; None if there is none."""
        snapshot = self._snapshots.get(name)
        if snapshot is None or snapshot.last is None:
            return None
        value, at = snapshot.last
        return Aged(value, trio.current_time() - at)
