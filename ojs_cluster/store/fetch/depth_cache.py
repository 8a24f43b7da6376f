"""What this process remembers of queues: which partitions had jobs a moment ago, and where a fetch
met limits.

Only hints for where and how to ask first; what is remembered wrongly costs a call, never a job.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import trio

from ojs_cluster.keys import Keyspace, Shard

FRESH_S = 1.0
"""After it the sizes are looked at anew, so that no partition is forgotten."""
DOWN_S = 5.0
"""How long a partition that failed is left alone."""
LIMITED_S = 10.0
"""How long a fetch of queues that had limits asks at once by the script that knows of them."""
_TURN = 4
_MOST_REMEMBERED = 10_000


class Sizes:
    """The sizes of one queue's partitions as last seen."""

    __slots__ = ("_begun", "_done", "_down", "_looking", "_picks", "_sizes", "_until")

    def __init__(self, count: int) -> None:
        self._sizes = [0] * count
        self._down = [float("-inf")] * count
        self._until = float("-inf")
        self._picks = 0
        self._begun = self._done = 0
        self._looking: trio.Event | None = None

    def __len__(self) -> int:
        """How many partitions there are."""
        return len(self._sizes)

    @property
    def fresh(self) -> bool:
        """Whether all were looked at within the last second."""
        return trio.current_time() < self._until

    async def look(self, look: Callable[[], Awaitable[None]]) -> None:
        """Have all looked at by ``look``, which is shared by all who wait for it to begin.

        One that has begun already may have missed what the caller knows to be there.
        """
        needed = self._begun + 1
        while self._done < needed:
            if self._looking is not None:
                await self._looking.wait()
                continue
            self._begun += 1
            number, self._looking = self._begun, trio.Event()
            try:
                await look()
                self._done, self._until = number, trio.current_time() + FRESH_S
            finally:
                self._looking.set()
                self._looking = None

    def see(self, number: int, size: int) -> None:
        """Note a size."""
        self._sizes[number] = size

    def filled(self, number: int) -> None:
        """A partition is not empty."""
        if number < len(self._sizes):
            self._sizes[number] = max(1, self._sizes[number])

    def failed(self, number: int) -> None:
        """A partition could not be asked."""
        self._down[number] = trio.current_time() + DOWN_S

    def up(self) -> list[int]:
        """The partitions that may be asked."""
        now = trio.current_time()
        return [number for number, until in enumerate(self._down) if until <= now]

    def pick(self, count: int, but: Collection[int], parts: int) -> int | None:
        """A partition that should have jobs: the fuller one of two that chance names.

        The fullest of all would be the same for everybody. Every fourth time it is each one's turn,
        so that none waits for ever beside a fuller one. ``count`` jobs are taken off the size at
        once, so that those who ask meanwhile look elsewhere.

        Args:
            but: partitions not to name.
            parts: from this one on they get no new jobs: theirs are the oldest, and come first.
        """
        likely = [n for n in self.up() if self._sizes[n] > 0 and n not in but]
        likely = [n for n in likely if n >= parts] or likely
        if not likely:
            return None
        self._picks += 1
        turn, chance = divmod(self._picks, _TURN)
        two = random.sample(likely, min(2, len(likely))) if chance else [likely[turn % len(likely)]]
        number = max(two, key=self._sizes.__getitem__)
        self._sizes[number] = max(0, self._sizes[number] - count)
        return number


class Hints:
    """The sizes of all queues of several partitions that this process fetches from."""

    def __init__(self) -> None:
        self._of: dict[str, Sizes] = {}

    def of(self, queue: str, count: int) -> Sizes:
        """The sizes of a queue that has ``count`` partitions to look at."""
        found = self._of.get(queue)
        if found is None or len(found) != count:
            if len(self._of) >= _MOST_REMEMBERED:
                self._of.clear()
            found = self._of[queue] = Sizes(count)
        return found

    def filled(self, keys: Keyspace, shard: Shard, queues: Iterable[str]) -> None:
        """There is a job of each of ``queues`` in a shard."""
        for queue in queues:
            found = self._of.get(queue)
            if found is not None:
                found.filled(keys.partition_of(queue, shard))


class LimitedQueues:
    """Where a fetch has met limits, in the last seconds."""

    def __init__(self) -> None:
        self._until: dict[tuple[int, ...], float] = {}

    def note(self, shard: Shard, queues: Sequence[str]) -> None:
        """Some of the queues, or of their jobs, have limits."""
        if len(self._until) >= _MOST_REMEMBERED:
            self._until.clear()
        self._until[_asked(shard, queues)] = trio.current_time() + LIMITED_S

    def among(self, shard: Shard, queues: Sequence[str]) -> bool:
        """Whether a fetch of these queues met limits a moment ago."""
        return bool(self._until) and (
            self._until.get(_asked(shard, queues), 0.0) > trio.current_time()
        )


def _asked(shard: Shard, queues: Sequence[str]) -> tuple[int, ...]:
    return (shard.index, *map(hash, queues))
