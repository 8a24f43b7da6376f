"""Remember, per process, which partitions had jobs and which queues had limits.

The cache only decides which shard a fetch calls first, and with which script. A wrong entry costs a
call and never a job.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import trio

from ojs_cluster.keys import Keyspace, Shard

FRESH_S = 1.0
"""Age in seconds at which depths are read again, so that no partition stays forgotten."""
UNREACHABLE_S = 5.0
"""How long, in seconds, fetches skip a partition after a failed call."""
LIMITED_S = 10.0
"""How long, in seconds, fetches of queues with limits start with the full-path script."""
_ROUND_ROBIN_EVERY = 4
_MAX_ENTRIES = 10_000


class QueueDepths:
    """The depths of one queue's partitions as last read.

    Args:
        count: number of partitions.
    """

    __slots__ = (
        "_begun",
        "_depths",
        "_done",
        "_fresh_until",
        "_picks",
        "_refreshing",
        "_unreachable_until",
    )

    def __init__(self, count: int) -> None:
        self._depths = [0] * count
        self._unreachable_until = [float("-inf")] * count
        self._fresh_until = float("-inf")
        self._picks = 0
        self._begun = self._done = 0
        self._refreshing: trio.Event | None = None

    def __len__(self) -> int:
        """Return the number of partitions."""
        return len(self._depths)

    @property
    def fresh(self) -> bool:
        """Whether all partitions were read within the last ``FRESH_S`` seconds."""
        return trio.current_time() < self._fresh_until

    async def refresh(self, read_all: Callable[[], Awaitable[None]]) -> None:
        """Read all partitions with ``read_all``; concurrent callers share one read.

        A caller waits for a read that begins after its call. An earlier read may have missed jobs
        that the caller knows of.
        """
        needed = self._begun + 1
        while self._done < needed:
            if self._refreshing is not None:
                await self._refreshing.wait()
                continue
            self._begun += 1
            number, self._refreshing = self._begun, trio.Event()
            try:
                await read_all()
                self._done, self._fresh_until = number, trio.current_time() + FRESH_S
            finally:
                self._refreshing.set()
                self._refreshing = None

    def set_depth(self, number: int, depth: int) -> None:
        """Store the depth of partition ``number``."""
        self._depths[number] = depth

    def mark_filled(self, number: int) -> None:
        """Note that partition ``number`` is not empty."""
        if number < len(self._depths):
            self._depths[number] = max(1, self._depths[number])

    def mark_unreachable(self, number: int) -> None:
        """Skip partition ``number`` for ``UNREACHABLE_S`` seconds after a failed call."""
        self._unreachable_until[number] = trio.current_time() + UNREACHABLE_S

    def reachable(self) -> list[int]:
        """Return the partitions that fetches do not skip."""
        now = trio.current_time()
        return [number for number, until in enumerate(self._unreachable_until) if until <= now]

    def pick(self, count: int, excluded: Collection[int], open_partitions: int) -> int | None:
        """Return a partition that should have jobs, or None.

        The choice is the fuller one of two random partitions: the fullest of all would be the same
        for every process. Every fourth choice is round-robin, so that a partition beside fuller
        ones is still served. ``count`` jobs are subtracted from the depth at once, so that
        concurrent fetches choose other partitions.

        Args:
            count: jobs that the caller wants.
            excluded: partitions that must not be returned.
            open_partitions: partitions from this number on are closing. They get no new jobs and
                hold the oldest ones, so they come first.
        """
        candidates = [n for n in self.reachable() if self._depths[n] > 0 and n not in excluded]
        candidates = [n for n in candidates if n >= open_partitions] or candidates
        if not candidates:
            return None
        self._picks += 1
        turn, use_random = divmod(self._picks, _ROUND_ROBIN_EVERY)
        if use_random:
            choices = random.sample(candidates, min(2, len(candidates)))
        else:
            choices = [candidates[turn % len(candidates)]]
        number = max(choices, key=self._depths.__getitem__)
        self._depths[number] = max(0, self._depths[number] - count)
        return number


class QueueDepthCache:
    """The depths of all partitioned queues that this process fetches from."""

    def __init__(self) -> None:
        self._queues: dict[str, QueueDepths] = {}

    def of(self, queue: str, count: int) -> QueueDepths:
        """Return the depths of a queue that has ``count`` partitions."""
        found = self._queues.get(queue)
        if found is None or len(found) != count:
            if len(self._queues) >= _MAX_ENTRIES:
                self._queues.clear()
            found = self._queues[queue] = QueueDepths(count)
        return found

    def mark_filled(self, keys: Keyspace, shard: Shard, queues: Iterable[str]) -> None:
        """Note that ``shard`` has a job of each of ``queues``."""
        for queue in queues:
            found = self._queues.get(queue)
            if found is not None:
                found.mark_filled(keys.partition_of(queue, shard))


class LimitedQueues:
    """The queues, by shard, for which a call has met limits in the last seconds."""

    def __init__(self) -> None:
        self._until: dict[tuple[int, ...], float] = {}

    def note(self, shard: Shard, queues: Sequence[str]) -> None:
        """Remember that some of ``queues``, or of their jobs, have limits."""
        if len(self._until) >= _MAX_ENTRIES:
            self._until.clear()
        self._until[_entry(shard, queues)] = trio.current_time() + LIMITED_S

    def among(self, shard: Shard, queues: Sequence[str]) -> bool:
        """Return whether a call for the same queues has met limits recently."""
        return bool(self._until) and (
            self._until.get(_entry(shard, queues), 0.0) > trio.current_time()
        )


def _entry(shard: Shard, queues: Sequence[str]) -> tuple[int, ...]:
    return (shard.index, *map(hash, queues))
