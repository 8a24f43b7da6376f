"""The registry of queue names, and this process's memory of what it has registered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from ojs_cluster.core.errors import TooManyQueues

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store

_REMEMBERED_S = 60.0
_MOST_REMEMBERED = 20_000


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
                await self._register(store, queue, now)

    async def created(self, store: Store, queues: Iterable[bytes]) -> None:
        """Register ``queues``, whose hash a transition has just created, whatever is remembered."""
        for queue in queues:
            await self._register(store, queue.decode(), trio.current_time())

    async def _register(self, store: Store, queue: str, now: float) -> None:
        done = await store.run_meta(
            "register_queue", [store.keys.meta.queues], [queue, store.settings.max_queues]
        )
        if not done:
            raise TooManyQueues(
                f"queue '{queue}' would be one more than the {store.settings.max_queues} allowed",
                queue=queue,
            )
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[queue] = now + _REMEMBERED_S
