"""The queues that this process has noticed above their warning thresholds."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.deadline import start_deadline
from ojs_cluster.redis.errors import RedisReplyError

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Runtime

log = logging.getLogger("ojs.store")

GAP_S: Final = 2.0
"""Minimum time in seconds between two checks of a queue by this process."""
_MAX_REMEMBERED: Final = 1000
"""Maximum number of queues with a planned check, and of those whose last check is remembered."""
_MAX_FAILURES: Final = 5
"""Number of failed checks of a queue in a row after which it is checked only when it is noticed
again. The pauses between them double, so these are about 30 seconds, in which a master is replaced.
"""


@dataclass(slots=True)
class _Plan:
    """A planned check.

    Args:
        due: when the queue is checked next, in seconds of trio's clock.
        stored_at: when its jobs are surely stored. If that is later, another check follows.
        failures: number of its failed checks in a row.
    """

    due: float
    stored_at: float
    failures: int = 0


class NoticedPressure:
    """Checks queues in the background when an enqueue has found them nearly full.

    One task does all checks. Each notice is followed by a check, so no rise is missed. A check that
    fails or takes too long is repeated for a bounded time.

    Args:
        check: checks one queue of a store; None checks nothing.
    """

    __slots__ = ("_check", "_checked_at", "_planned", "_wake")

    def __init__(self, check: Callable[[Any, str], Awaitable[object]] | None = None) -> None:
        self._check = check
        self._checked_at: dict[str, float] = {}
        self._planned: dict[str, _Plan] = {}
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
            if (plan := self._planned.get(queue)) is not None:
                plan.stored_at = max(plan.stored_at, stored_at)
                if plan.failures:  # it has just stored a job, so it may answer again
                    plan.due = min(plan.due, self._due(queue, stored_at))
                    self._wake.set()
            elif len(self._planned) < _MAX_REMEMBERED:
                self._planned[queue] = _Plan(self._due(queue, stored_at), stored_at)
                self._wake.set()
        await store.background.once("pressure", partial(self._run, store, self._check), 0)

    def _due(self, queue: str, stored_at: float) -> float:
        return max(stored_at, self._checked_at.get(queue, float("-inf")) + GAP_S)

    async def _run(self, store: Runtime, check: Callable[[Any, str], Awaitable[object]]) -> None:
        """Do the planned checks until there are none."""
        while self._planned:
            now = trio.current_time()
            queue = min(self._planned, key=lambda name: self._planned[name].due)
            due = self._planned[queue].due
            if due > now:
                self._wake = trio.Event()
                with trio.move_on_after(due - now):
                    await self._wake.wait()
                continue
            # Queues whose checks have failed must not delay others.
            queue = min(self._planned, key=lambda name: self._order(name, now))
            plan = self._planned.pop(queue)
            if len(self._checked_at) >= _MAX_REMEMBERED:
                self._checked_at.clear()
            self._checked_at[queue] = now
            if plan.stored_at > now:
                self._planned[queue] = _Plan(self._due(queue, plan.stored_at), plan.stored_at)
            if await self._succeeds(store, queue, check):
                continue
            failures = plan.failures + 1
            retry_at = trio.current_time() + GAP_S * 2**plan.failures
            if (again := self._planned.get(queue)) is not None:  # noticed meanwhile
                again.due = max(again.due, retry_at)
                again.failures = min(failures, _MAX_FAILURES - 1)
            elif failures < _MAX_FAILURES and len(self._planned) < _MAX_REMEMBERED:
                self._planned[queue] = _Plan(retry_at, now, failures)

    def _order(self, queue: str, now: float) -> tuple[bool, int, float]:
        """Return the sort key of the checks: those that are due first, by failures and by time."""
        plan = self._planned[queue]
        return plan.due > now, plan.failures, plan.due

    async def _succeeds(
        self, store: Runtime, queue: str, check: Callable[[Any, str], Awaitable[object]]
    ) -> bool:
        start_deadline()
        try:
            # A master that does not answer must not delay the checks of other queues.
            with trio.move_on_after(GAP_S) as scope:
                await check(store, queue)
        except (BackendUnavailable, RedisReplyError) as error:
            log.debug("the pressure of queue %s is not checked: %r", queue, error)
            return False
        return not scope.cancelled_caught
