"""The queues that this process has noticed above their warning thresholds a short time ago."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from ojs_cluster.store.runtime import Runtime

GAP_S: Final = 2.0
"""Minimum time in seconds between two checks of a queue by this process."""
_MAX_REMEMBERED: Final = 1000
"""Maximum number of queues whose last check this process remembers."""


class NoticedPressure:
    """Checks queues in the background when an enqueue has found them nearly full.

    Args:
        check: checks one queue of a store; None checks nothing.
    """

    __slots__ = ("_check", "_checked_at")

    def __init__(self, check: Callable[[Any, str], Awaitable[object]] | None = None) -> None:
        self._check = check
        self._checked_at: dict[str, float] = {}

    async def notice(self, store: Runtime, queues: Iterable[str], after_s: float = 0) -> None:
        """Check queues in background tasks, unless it was done a short time ago.

        No request waits for the checks, and they may be lost with the process.

        Args:
            store: the store.
            queues: queues of which one may be nearly full.
            after_s: time in seconds until the checks, for jobs that are not stored yet.
        """
        now = trio.current_time()
        for queue in queues:
            if self._check is None or now - self._checked_at.get(queue, float("-inf")) < GAP_S:
                continue
            if len(self._checked_at) >= _MAX_REMEMBERED:
                self._checked_at.clear()
            self._checked_at[queue] = now
            work = partial(_check_after, after_s, partial(self._check, store, queue))
            await store.background.once(("pressure", queue), work, 0)


async def _check_after(after_s: float, check: Callable[[], Awaitable[object]]) -> None:
    if after_s:
        await trio.sleep(after_s)
    await check()
