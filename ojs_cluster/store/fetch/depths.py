"""Read how many jobs queues have, for fetches that name queues of many shards.

Reads of one shard are shared: one call at a time reads for all who asked before it began, and calls
of one shard begin ``READ_EVERY_S`` apart. So however many fetches wait or come, this process reads
each shard at most ``1 / READ_EVERY_S`` times a second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError, OutOfTime
from ojs_cluster.keys import Shard

READ_EVERY_S: Final = 0.01
"""Reads of one shard begin this far apart, in seconds."""
AWAY_S: Final = 5.0
"""How long a shard that did not answer is left alone, in seconds."""
HELD: Final = -1
"""Depth of a queue whose only jobs wait for a token."""

Read = Callable[[Shard, Sequence[str]], Awaitable[Mapping[str, int]]]
"""Read the depths of some queues of a shard."""


class _Batch:
    """What the next read of a shard is for, and what it brought."""

    __slots__ = ("depths", "done", "queues")

    def __init__(self) -> None:
        self.queues: dict[str, None] = {}
        self.depths: Mapping[str, int] | None = None
        self.done = False


class _Shared:
    """The reads of one shard."""

    __slots__ = ("begin_at", "next", "reading")

    def __init__(self) -> None:
        self.next = _Batch()
        self.begin_at = float("-inf")
        self.reading = trio.Lock()


class QueueDepths:
    """Reads depths for all fetches of this process, and remembers which shards did not answer."""

    def __init__(self) -> None:
        self._shared: dict[Shard, _Shared] = {}
        self._away: dict[Shard, float] = {}

    async def read(self, shard: Shard, queues: Iterable[str], read: Read) -> Mapping[str, int]:
        """Return depths that were read after this call began; perhaps of more queues.

        Raises:
            BackendUnavailable: the shard did not answer.
        """
        shared = self._shared.setdefault(shard, _Shared())
        batch = shared.next
        batch.queues.update(dict.fromkeys(queues))
        async with shared.reading:
            if not batch.done:
                await trio.sleep_until(shared.begin_at)
                shared.begin_at = trio.current_time() + READ_EVERY_S
                if shared.next is batch:
                    shared.next = _Batch()
                if shard in self._away:
                    self.failed(shard)  # one fetch tries it, the others go on without it
                try:
                    batch.depths = await read(shard, list(batch.queues))
                except OutOfTime:
                    raise  # who asks next reads for the others
                except OJSError:
                    self.failed(shard)
                else:
                    self.answered(shard)
                batch.done = True
        if batch.depths is None:
            raise BackendUnavailable(f"shard {shard.index} did not answer", outcome="not_applied")
        return batch.depths

    def failed(self, shard: Shard) -> None:
        """Leave the shard alone for a while, and doubt it until it answers."""
        self._away[shard] = trio.current_time() + AWAY_S

    def answered(self, shard: Shard) -> None:
        """The shard answers."""
        self._away.pop(shard, None)

    def in_doubt(self, shards: Iterable[Shard]) -> bool:
        """Whether one of the shards did not answer when it was asked last."""
        return bool(self._away) and any(shard in self._away for shard in shards)

    def worth_asking(self, shards: Sequence[Shard]) -> list[Shard]:
        """Return the shards that are not left alone; all when no other is left."""
        now = trio.current_time()
        return [shard for shard in shards if self._away.get(shard, now) <= now] or list(shards)
