"""Share replies of the API between all viewers of a process, to spare Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from ojs_cluster.store.cached import Cached

T = TypeVar("T")
KEPT_S: Final = 2.0
"""Maximum age of a shared reply in seconds."""
_MAX_KEPT: Final = 100
"""Maximum number of shared replies; a new one replaces the oldest."""


class Snapshots(Generic[T]):
    """Keeps the last computed value of each name."""

    def __init__(self) -> None:
        self._cached: dict[str, Cached[T]] = {}

    async def get(self, name: str, compute: Callable[[], Awaitable[T]]) -> T:
        """Return the value of ``name``, computed at most ``KEPT_S`` ago.

        Raises:
            Exception: what ``compute`` raises.
        """
        cached = self._cached.get(name)
        if cached is None:
            while len(self._cached) >= _MAX_KEPT:
                del self._cached[next(iter(self._cached))]
            cached = self._cached[name] = Cached(compute, lambda _: KEPT_S)
        return await cached.get()
