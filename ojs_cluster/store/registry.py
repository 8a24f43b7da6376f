"""The registry of queue names, and this process's memory of what it has registered."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from ojs_cluster.core.errors import BackendUnavailable, TooManyQueues
from ojs_cluster.redis.errors import RedisReplyError

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store

log = logging.getLogger("ojs.store")

_REMEMBERED_S = 60.0
_MOST_REMEMBERED = 20_000
_NO_LIMIT = 2**53


class QueueRegistry:
    """Registers queues before their first job, and remembers for a minute that it did.

    The registry lies under another tag than the queue, so the two cannot change in one step. A
    name is registered first: a crash in between leaves a name without jobs, never jobs that no
    list shows. Names are forgotten here after a minute and registered again, which heals whatever
    a race with the removal of an idle queue may leave.
    """

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    async def ensure(self, store: Store, queues: Iterable[str]) -> None:
        """Make sure that ``queues`` are registered.

        Raises
        ------
        TooManyQueues: the registry holds as many names as it may.
        """
        now = trio.current_time()
        for queue in queues:
            if self._known.get(queue, 0.0) <= now:
                await self._register(store, queue, now, limit=store.settings.max_queues)

    async def created(self, store: Store, queues: Iterable[bytes]) -> None:
        """Register ``queues``, whose hash a transition has just created, whatever is remembered.

        What created them is done, so nothing is refused or raised here: a caller told of a failure
        would do it again. A name that could not be registered is tried at the next enqueue.
        """
        for queue in queues:
            name = queue.decode()
            self._known.pop(name, None)
            try:
                await self._register(store, name, trio.current_time(), limit=_NO_LIMIT)
            except (BackendUnavailable, RedisReplyError):
                log.warning("queue '%s' is in use and not registered yet", name)

    async def _register(self, store: Store, queue: str, now: float, *, limit: int) -> None:
        done = await store.run_meta("register_queue", [store.keys.meta.queues], [queue, limit])
        if not done:
            raise TooManyQueues(
                f"queue '{queue}' would be one more than the {limit} allowed",
                queue=queue,
            )
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[queue] = now + _REMEMBERED_S
