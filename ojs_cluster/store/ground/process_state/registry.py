"""The registry of queue names, and this process's record of the names that it has registered."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import trio

from ojs_cluster.core.errors import BackendUnavailable, TooManyQueues
from ojs_cluster.redis.deadline import current_deadline

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Runtime

FIRST_RENEWAL_S = 60.0
"""Time in seconds until a name that is in use is registered again for the first time."""
LONGEST_RENEWAL_S = 1920.0
"""Longest time in seconds between two registrations of a name that is in use."""
MAX_WAIT_S = 0.5
"""Longest wait in seconds of a request for a registry that does not answer."""
_RETRY_S = 2.0
"""Time in seconds until a name that could not be registered is tried again."""
_MAX_REMEMBERED = 20_000
"""Maximum number of names in this process's record."""
NO_NAME_LIMIT = 2**53
"""Passed as maximum number of names when a name must be registered in any case."""


class QueueRegistry:
    """Registers queues before their first job, and remembers the names that it has registered.

    The registry is a set of names under the meta tag, with at most ``OJS_MAX_QUEUES`` names. A
    queue is under another hash tag, so one script cannot write both. The name is registered first.
    In addition, the script that creates the queue's hash writes an outbox effect that registers the
    name. So every queue with jobs is listed, at the latest when its effect is delivered.

    A failover of the registry's master can lose names. So a background task registers each name in
    use again, and no request waits for the task. A failover loses only the last writes. So the
    first repetition comes after a minute, and each pause is twice as long as the one before. A
    repetition every minute was refused: all processes repeat the names of all queues, and at 100
    masters that would use most of the time of the registry's master (docs/scaling.md).

    While the registry's master does not answer, new names are admitted without registration. Each
    process admits as many names as were free when the registry answered last. So P processes may
    admit up to P times the number of free names.

    Args:
        first_renewal_s: time in seconds after which a name is registered again for the first time.
    """

    def __init__(self, first_renewal_s: float = FIRST_RENEWAL_S) -> None:
        self._first_renewal_s = first_renewal_s
        self._renewal_times: dict[str, float] = {}
        self._pauses_s: dict[str, float] = {}
        self._free_names: int | None = None

    async def ensure(self, store: Runtime, queues: Iterable[str]) -> None:
        """Register ``queues``, unless this process has registered them before.

        A queue may stay unregistered while the registry does not answer (see the class).

        Raises:
            TooManyQueues: the registry is full.
            BackendUnavailable: the registry does not answer, and had no free name before.
        """
        now = trio.current_time()
        wait_s = MAX_WAIT_S
        for queue in queues:
            renew_at = self._renewal_times.get(queue)
            if renew_at is None:
                wait_s = await self._admit(store, queue, wait_s)
            elif renew_at <= now:
                self._renewal_times[queue] = now + _RETRY_S
                work = partial(self._renew, store, queue)
                await store.background.once(("queue", queue), work, 0)

    def is_current(self, queue: str, now: float) -> bool:
        """Return whether ``ensure`` has nothing to do for a queue at ``now``, in trio's seconds."""
        return self._renewal_times.get(queue, 0.0) > now

    async def register(self, store: Runtime, queue: str) -> None:
        """Register a queue that holds a job or an operator's setting, even beyond the limit.

        Raises:
            BackendUnavailable: the registry does not answer.
        """
        await self._register(store, queue, NO_NAME_LIMIT)

    async def _admit(self, store: Runtime, queue: str, wait_s: float) -> float:
        """Register a name that is new to this process.

        If the registry does not answer, admit the name without it while ``_free_names`` is above 0.

        Args:
            store: the store.
            queue: the name.
            wait_s: maximum time in seconds to wait for the registry; 0 only asks it.

        Returns:
            How long the next new name of the request may wait: not at all if this one got no
            answer, because a request may have a thousand new names.
        """
        limit = store.settings.max_queues
        registered = None
        has_task = wait_s > 0 or store.background.has_room
        if has_task and store.redis.is_responsive(store.keys.meta.slot):
            work = partial(self._register, store, queue, limit)
            registered = await store.background.once(("queue", queue), work, wait_s)
        if registered == 0:
            raise TooManyQueues(
                f"queue '{queue}' would be one more than the {limit} allowed",
                queue=queue,
            )
        if registered is None:
            if trio.current_time() >= current_deadline().at:
                raise BackendUnavailable(
                    f"queue '{queue}' is new, and the registry of queues did not answer in time",
                    outcome="not_applied",
                )
            free = limit if self._free_names is None else self._free_names
            if free < 1:
                raise BackendUnavailable(
                    f"queue '{queue}' is new, and the registry of queues does not answer",
                    outcome="not_applied",
                )
            self._free_names = free - 1
            self._remember(queue, trio.current_time() + _RETRY_S)
            return 0
        return wait_s

    async def _renew(self, store: Runtime, queue: str) -> int:
        """Register a known name again, even beyond the limit, and double the pause after it."""
        pause_s = min(2 * self._pauses_s.get(queue, self._first_renewal_s), LONGEST_RENEWAL_S)
        return await self._register(store, queue, NO_NAME_LIMIT, pause_s)

    async def _register(
        self, store: Runtime, queue: str, limit: int, pause_s: float | None = None
    ) -> int:
        """Register one name.

        Args:
            store: the store.
            queue: the name.
            limit: maximum number of names in the registry.
            pause_s: time in seconds until it is registered again; None for the current pause.

        Returns:
            The number of registered names, 0 when the registry is full.
        """
        began = trio.current_time()
        # A name in use is registered even when memory is full.
        script = "register_again" if limit == NO_NAME_LIMIT else "register_queue"
        registered = int(await store.run_meta(script, [store.keys.meta.queues], [queue, limit]))
        if registered:
            self._free_names = max(0, store.settings.max_queues - registered)
            pause_s = pause_s or self._pauses_s.get(queue, self._first_renewal_s)
            self._remember(queue, began + pause_s * random.uniform(0.75, 1))  # noqa: S311 - jitter
            self._pauses_s[queue] = pause_s
        else:
            self._free_names = 0
        return registered

    def _remember(self, queue: str, renew_at: float) -> None:
        if queue not in self._renewal_times and len(self._renewal_times) >= _MAX_REMEMBERED:
            oldest = next(iter(self._renewal_times))
            del self._renewal_times[oldest]
            self._pauses_s.pop(oldest, None)
        self._renewal_times[queue] = renew_at
