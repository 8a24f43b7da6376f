"""The queues that this process has noticed above their warning thresholds."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.deadline import start_deadline
from ojs_cluster.redis.errors import RedisReplyError

if TYPE_CHECKING:
    from ojs_cluster.store.runtime import Runtime

log = logging.getLogger("ojs.store")

GAP_S: Final = 2.0
"""Minimum time in seconds between two checks of a queue by this process."""
_MAX_REMEMBERED: Final = 1000
"""Maximum number of queues with a planned check, and of those whose last check is remembered."""


class NoticedPressure:
    """Checks queues in the background when an enqueue has found them nearly full.

    One task does all checks. Each notice is followed by a check, so no rise is missed.

    Args:
        check: checks one queue of a store; None checks nothing.
    """

    __slots__ = ("_check", "_checked_at", "_planned", "_wake")

    def __init__(self, check: Callable[[Any, str], Awaitable[object]] | None = None) -> None:
        self._check = check
        self._checked_at: dict[str, float] = {}
        # By queue: when it is checked next, and when its jobs are surely stored. If the latter is
        # later, another check follows.
        self._planned: dict[str, tuple[float, float]] = {}
        self._wake = trio.Event()

    async def notice(self, store: Runtime, queues: Iterable[str], after_s: float = 0) -> None:
        """Plan checks of queues, at once or ``GAP_S`` after their last ones.

        No request waits for the checks, and they may be lost with the process.

        Args:
            store: the store.
            queues: queues of which one may be nearly full.
            after_s: time in seconds until the checks, for jobs that are not stored yet.
        """
        if self._check is None or not store.background.has_room:
            return
        stored_at = trio.current_time() + after_s
        for queue in queues:
            if queue in self._planned:
                due, last = self._planned[queue]
                self._planned[queue] = due, max(last, stored_at)
            elif len(self._planned) < _MAX_REMEMBERED:
                self._planned[queue] = self._due(queue, stored_at), stored_at
                self._wake.set()
        await store.background.once("pressure", partial(self._run, store, self._check), 0)

    def _due(self, queue: str, stored_at: float) -> float:
        return max(stored_at, self._checked_at.get(queue, float("-inf")) + GAP_S)

    async def _run(self, store: Runtime, check: Callable[[Any, str], Awaitable[object]]) -> None:
        """Do the planned checks until there are none."""
        while self._planned:
            now = trio.current_time()
            queue = min(self._planned, key=lambda name: self._planned[name][0])
            due, stored_at = self._planned[queue]
            if due > now:
                self._wake = trio.Event()
                with trio.move_on_after(due - now):
                    await self._wake.wait()
                continue
            if len(self._checked_at) >= _MAX_REMEMBERED:
                self._checked_at.clear()
            self._checked_at[queue] = now
            del self._planned[queue]
            if stored_at > now:
                self._planned[queue] = self._due(queue, stored_at), stored_at
            start_deadline()
            try:
                # A master that does not answer must not delay the checks of other queues.
                with trio.move_on_after(GAP_S):
                    await check(store, queue)
            except (BackendUnavailable, RedisReplyError) as error:
                log.debug("the pressure of queue %s is not checked: %r", queue, error)
