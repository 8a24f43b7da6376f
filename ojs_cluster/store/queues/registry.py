"""The registry of queue names, and this process's memory of what it has registered."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import trio

from ojs_cluster.core.errors import BackendUnavailable, TooManyQueues

if TYPE_CHECKING:
    from ojs_cluster.store.runtime import Runtime

REMEMBERED_S = 60.0
"""Time in seconds after which a name that is in use is registered again the first time."""
LONGEST_S = 1920.0
"""Longest time in seconds between two registrations of a name that is in use."""
PATIENCE_S = 0.5
"""Longest wait in seconds of a request whose queue is new to this process."""
_RETRY_S = 2.0
_MOST_REMEMBERED = 20_000
_NO_LIMIT = 2**53


class QueueRegistry:
    """Registers queues before their first job, and remembers the names that it registered.

    The registry lies under another tag than the queue, so the two cannot change in one step. A
    name is registered first. The script that creates the queue's hash also writes an outbox effect
    that registers the name (``owed``), so no crash and no outage of the registry's master leaves
    jobs in a queue that no list shows.

    A name that is in use is registered again in a background task, which restores what a failover
    of the registry's master has lost. No request waits for it. A failover loses what was written
    last, so the first repetition comes after a minute, and each pause is twice as long as the one
    before. Refused: once a minute for as long as the queue is in use. All processes do it for all
    queues, and at 100 masters that takes most of the registry's master (docs/scaling.md).

    While the registry's master does not answer, a new name is admitted without it. Each process
    admits as many as were free when the registry answered last, so with P processes the registry
    may exceed its limit by P times the names that were free.

    Args:
        remembered_s: time in seconds after which a name is registered again the first time.
    """

    def __init__(self, remembered_s: float = REMEMBERED_S) -> None:
        self._remembered_s = remembered_s
        self._known: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._free: int | None = None

    async def ensure(self, store: Runtime, queues: Iterable[str]) -> None:
        """Make sure that ``queues`` are registered, or will be.

        Raises:
            TooManyQueues: the registry holds as many names as it may.
            BackendUnavailable: the registry does not answer, and admits no new name meanwhile.
        """
        now = trio.current_time()
        for queue in queues:
            renew_at = self._known.get(queue)
            if renew_at is None:
                await self._admit(store, queue)
            elif renew_at <= now:
                self._known[queue] = now + _RETRY_S
                # Without the limit: a name that was admitted is in use by now.
                work = partial(self._renew, store, queue)
                await store.background.once(("queue", queue), work, 0)

    async def register(self, store: Runtime, queue: str) -> None:
        """Register a queue that exists, beyond the limit: it holds a job or an operator's setting.

        Raises:
            BackendUnavailable: the registry does not answer.
        """
        await self._register(store, queue, _NO_LIMIT)

    async def _admit(self, store: Runtime, queue: str) -> None:
        """Register a name that is new to this process, or admit it unregistered."""
        limit = store.settings.max_queues
        registered = None
        if store.redis.is_responsive(store.keys.meta.slot):
            work = partial(self._register, store, queue, limit)
            registered = await store.background.once(("queue", queue), work, PATIENCE_S)
        if registered == 0:
            raise TooManyQueues(
                f"queue '{queue}' would be one more than the {limit} allowed",
                queue=queue,
            )
        if registered is None:
            free = limit if self._free is None else self._free
            if free < 1:
                raise BackendUnavailable(
                    f"queue '{queue}' is new, and the registry of queues does not answer",
                    outcome="not_applied",
                )
            self._free = free - 1
            self._remember(queue, trio.current_time() + _RETRY_S)

    async def _renew(self, store: Runtime, queue: str) -> int:
        """Register a known name again, and the next time after a pause that is twice as long."""
        pause_s = min(2 * self._pauses.get(queue, self._remembered_s), LONGEST_S)
        return await self._register(store, queue, _NO_LIMIT, pause_s)

    async def _register(
        self, store: Runtime, queue: str, limit: int, pause_s: float | None = None
    ) -> int:
        """Register one name. Returns how many are registered, 0 when there is no place.

        ``pause_s``: time in seconds until it is registered again; None for the one that holds.
        """
        asked = trio.current_time()
        # A name in use is registered although memory is full.
        script = "register_again" if limit == _NO_LIMIT else "register_queue"
        registered = int(await store.run_meta(script, [store.keys.meta.queues], [queue, limit]))
        if registered:
            self._free = max(0, store.settings.max_queues - registered)
            pause_s = pause_s or self._pauses.get(queue, self._remembered_s)
            self._remember(queue, asked + pause_s * random.uniform(0.75, 1))  # noqa: S311 - jitter
            self._pauses[queue] = pause_s
        else:
            self._free = 0
        return registered

    def _remember(self, queue: str, renew_at: float) -> None:
        if queue not in self._known and len(self._known) >= _MOST_REMEMBERED:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._pauses.pop(oldest, None)
        self._known[queue] = renew_at
