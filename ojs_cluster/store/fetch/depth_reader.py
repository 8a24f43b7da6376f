"""Read how many jobs queues have, for fetches that name queues of many shards.

Concurrent callers share reads: one read of a shard serves all callers that asked before it began.
Reads of one shard begin ``READ_INTERVAL_S`` apart. So a process reads each shard at most
``1 / READ_INTERVAL_S`` times a second, even when many fetches wait or arrive.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError, OutOfTime
from ojs_cluster.keys import Shard

READ_INTERVAL_S: Final = 0.01
"""Minimum time in seconds between the beginnings of two reads of one shard."""
UNREACHABLE_S: Final = 5.0
"""Time in seconds for which fetches skip a shard that did not answer."""
BLOCKED: Final = -1
"""Depth of a queue that has only blocked jobs."""

Read = Callable[[Shard, Sequence[str]], Awaitable[Mapping[str, int]]]
"""Function that reads the depths of some queues of a shard."""


@dataclass(slots=True)
class QueueInShard:
    """A queue in one of its shards, and its depth there without the jobs already planned."""

    shard: Shard
    queue: str
    depth: int


class _Batch:
    """The queues of the next read of a shard, and later its result."""

    __slots__ = ("depths", "done", "queues")

    def __init__(self) -> None:
        self.queues: dict[str, None] = {}
        self.depths: Mapping[str, int] | None = None
        self.done = False


class _ShardReads:
    """The reads of one shard."""

    __slots__ = ("begin_at", "next", "reading")

    def __init__(self) -> None:
        self.next = _Batch()
        self.begin_at = float("-inf")
        self.reading = trio.Lock()


class DepthReader:
    """Reads depths for all fetches of this process, and remembers which shards did not answer."""

    def __init__(self) -> None:
        self._shards: dict[Shard, _ShardReads] = {}
        self._unreachable_until: dict[Shard, float] = {}

    async def read(
        self, shard: Shard, queues: Iterable[str], read: Read, *, shared: bool = True
    ) -> Mapping[str, int]:
        """Return depths that were read after this call began.

        Args:
            shard: the shard.
            queues: the names of the queues.
            read: reads the depths.
            shared: whether other callers may get the result, and this one theirs. False for a
                ``read`` that counts only some of the jobs.

        Returns:
            The depths of ``queues``, perhaps together with those of other callers' queues.

        Raises:
            BackendUnavailable: the shard did not answer.
        """
        reads = self._shards.setdefault(shard, _ShardReads()) if shared else _ShardReads()
        batch = reads.next
        batch.queues.update(dict.fromkeys(queues))
        async with reads.reading:
            if not batch.done:
                await trio.sleep_until(reads.begin_at)
                reads.begin_at = trio.current_time() + READ_INTERVAL_S
                if reads.next is batch:
                    reads.next = _Batch()
                if shard in self._unreachable_until:
                    # This fetch tries the shard again. Until it answers, others still skip it.
                    self.mark_unreachable(shard)
                try:
                    batch.depths = await read(shard, list(batch.queues))
                except OutOfTime:
                    raise  # only this caller's time is over: the next caller repeats the read
                except OJSError:
                    self.mark_unreachable(shard)
                else:
                    self._unreachable_until.pop(shard, None)
                batch.done = True
        if batch.depths is None:
            raise BackendUnavailable(f"shard {shard.index} did not answer", outcome="not_applied")
        return batch.depths

    def mark_unreachable(self, shard: Shard) -> None:
        """Skip the shard for ``UNREACHABLE_S`` seconds."""
        self._unreachable_until[shard] = trio.current_time() + UNREACHABLE_S

    def any_unreachable(self, shards: Iterable[Shard]) -> bool:
        """Return whether the last call to one of the shards was not answered."""
        return bool(self._unreachable_until) and any(
            shard in self._unreachable_until for shard in shards
        )

    def reachable(self, shards: Sequence[Shard]) -> list[Shard]:
        """Return the shards that are not skipped now; all of them if all would be skipped."""
        now = trio.current_time()
        reachable = [shard for shard in shards if self._unreachable_until.get(shard, now) <= now]
        return reachable or list(shards)
