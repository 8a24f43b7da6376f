"""Remember, per process, which partitions had jobs and which queues had limits.

The cache only decides which shard a fetch calls first, and with which script. So a wrong entry
costs one more call, but no job is missed.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import trio

from ojs_cluster.keys import Keyspace, Shard

FRESH_S = 1.0
"""Age in seconds at which the depths of all partitions are read again."""
UNREACHABLE_S = 5.0
"""Time in seconds for which fetches skip a partition after a failed call."""
LIMITED_S = 10.0
"""Time in seconds for which fetches run the full-path script at once after a call met limits."""
_ROUND_ROBIN_EVERY = 4
"""Every fourth choice of a partition is round-robin."""
_MAX_LISTS_OF_TYPES = 16
"""Maximum number of lists of job types for which the depths of a queue are remembered."""
_MAX_ENTRIES = 10_000
"""Maximum number of entries of each cache; a full cache is emptied."""


class QueueDepths:
    """The depths of one queue's partitions as last read.

    Args:
        count: number of partitions.
    """

    __slots__ = (
        "_depths",
        "_fresh_until",
        "_last_read_begun",
        "_last_read_done",
        "_pick_count",
        "_refreshing",
        "_unreachable_until",
    )

    def __init__(self, count: int) -> None:
        self._depths = [0] * count
        self._unreachable_until = [float("-inf")] * count
        self._fresh_until = float("-inf")
        self._pick_count = 0
        self._last_read_begun = self._last_read_done = 0
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
        needed_read = self._last_read_begun + 1
        while self._last_read_done < needed_read:
            if self._refreshing is not None:
                await self._refreshing.wait()
                continue
            self._last_read_begun += 1
            this_read, self._refreshing = self._last_read_begun, trio.Event()
            try:
                await read_all()
                self._last_read_done = this_read
                self._fresh_until = trio.current_time() + FRESH_S
            finally:
                self._refreshing.set()
                self._refreshing = None

    def set_depth(self, number: int, depth: int) -> None:
        """Store the depth of partition ``number``."""
        self._depths[number] = depth

    def mark_filled(self, number: int) -> None:
        """Record that partition ``number`` is not empty."""
        if number < len(self._depths):
            self._depths[number] = max(1, self._depths[number])

    def mark_unreachable(self, number: int) -> None:
        """Skip partition ``number`` for ``UNREACHABLE_S`` seconds after a failed call."""
        self._unreachable_until[number] = trio.current_time() + UNREACHABLE_S

    def reachable(self) -> list[int]:
        """Return the partitions that fetches do not skip."""
        now = trio.current_time()
        return [number for number, until in enumerate(self._unreachable_until) if until <= now]

    def pick(self, count: int, excluded: Collection[int], first_closing: int) -> int | None:
        """Return a partition that had jobs when it was last read, or None.

        The choice is the fuller one of two random partitions. The fullest of all was refused,
        because all processes would choose the same one. Every fourth choice is round-robin, so that
        a partition with few jobs is served too. ``count`` is subtracted from the depth at once, so
        that concurrent fetches choose other partitions.

        Args:
            count: number of jobs that the caller wants.
            excluded: partitions that must not be returned.
            first_closing: the first partition that is closing. The partitions from this one on hold
                the oldest jobs, so they are chosen first.
        """
        candidates = [n for n in self.reachable() if self._depths[n] > 0 and n not in excluded]
        candidates = [n for n in candidates if n >= first_closing] or candidates
        if not candidates:
            return None
        self._pick_count += 1
        turn, use_random = divmod(self._pick_count, _ROUND_ROBIN_EVERY)
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
        self._queues: dict[str, dict[str, QueueDepths]] = {}

    def of(self, queue: str, count: int, types: str = "") -> QueueDepths:
        """Return the depths of a queue that has ``count`` partitions, for fetches of ``types``."""
        of_queue = self._queues.get(queue)
        if of_queue is None or (len(of_queue) >= _MAX_LISTS_OF_TYPES and types not in of_queue):
            if len(self._queues) >= _MAX_ENTRIES:
                self._queues.clear()
            of_queue = self._queues[queue] = {}
        depths = of_queue.get(types)
        if depths is None or len(depths) != count:
            depths = of_queue[types] = QueueDepths(count)
        return depths

    def mark_filled(
        self, keys: Keyspace, shard: Shard, queues: Iterable[str], types: str | None = None
    ) -> None:
        """Record that ``shard`` has jobs of ``queues``, for fetches of ``types`` or of any."""
        for queue in queues:
            for of_types, depths in self._queues.get(queue, {}).items():
                if types is None or types == of_types:
                    depths.mark_filled(keys.partition_of(queue, shard))


class LimitedQueues:
    """The calls, by shard and queues, that need the full-path script because of limits.

    The fast-path script is not tried again for ``LIMITED_S`` seconds, or until a fetch gets all the
    jobs that it wants, without limits, from queues that have no limits of their own. Fetches use
    one object of this class, and enqueues use another.
    """

    def __init__(self) -> None:
        self._until: dict[tuple[int, ...], float] = {}
        self._by_job: set[tuple[int, ...]] = set()

    def add(self, shard: Shard, queues: Sequence[str], *, by_job: bool = False) -> None:
        """Record that ``queues`` have limits, or ``by_job`` only that one of their jobs has."""
        if len(self._until) >= _MAX_ENTRIES:
            self._until.clear()
            self._by_job.clear()
        entry = _entry(shard, queues)
        self._until[entry] = trio.current_time() + LIMITED_S
        if by_job:
            self._by_job.add(entry)
        else:
            self._by_job.discard(entry)

    def pass_jobs(self, shard: Shard, queues: Sequence[str]) -> None:
        """Record that a fetch has got all the jobs that it wanted, without limits."""
        entry = _entry(shard, queues)
        if entry in self._by_job:
            self._by_job.discard(entry)
            del self._until[entry]

    def contains(self, shard: Shard, queues: Sequence[str]) -> bool:
        """Return whether a call for the same queues met limits less than ``LIMITED_S`` ago."""
        return bool(self._until) and (
            self._until.get(_entry(shard, queues), 0.0) > trio.current_time()
        )


def _entry(shard: Shard, queues: Sequence[str]) -> tuple[int, ...]:
    return (shard.index, *map(hash, queues))
