"""Read what a queue did in each of the last minutes: less than a series, for lists of queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.statistics.records import QUEUE_MINUTES, TOTALS, parse_numbers
from ojs_cluster.store.ground.fanout import run_concurrently

_ACKED: Final = 1 + TOTALS.index("acked")
_FAILED: Final = 1 + TOTALS.index("failed")
_READ: Final = 1 + max(_ACKED, _FAILED)
"""Number of the numbers of a record that are read. A record has about forty."""


async def recent_minutes(
    store: Store, queues: Sequence[str], minutes: int, last: int
) -> dict[str, list[tuple[int, int]]]:
    """Return the completed jobs and the failed attempts of each minute, the oldest first.

    Args:
        store: the store.
        queues: the queues. One of them costs about a millisecond of this process.
        minutes: number of minutes, at most ``QUEUE_MINUTES``.
        last: the last minute, in Unix minutes.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    first = last - minutes + 1
    slots = [minute % QUEUE_MINUTES for minute in range(first, last + 1)]
    found: dict[str, list[tuple[int, int]]] = {}

    async def read(queue: str) -> None:
        sums = [(0, 0)] * minutes
        shards: Sequence[Shard] = await store.partitions.occupied_shards(store, queue)
        for shard in shards:
            texts: Any = await store.redis.call(
                shard.slot, "HMGET", shard.queue_history(queue), *slots, idempotent=True
            )
            for text in texts:
                numbers = parse_numbers(b",".join((text or b"").split(b",", _READ)[:_READ]))
                if len(numbers) == _READ and first <= numbers[0] <= last:
                    place = numbers[0] - first
                    completed, failed = sums[place]
                    sums[place] = (completed + numbers[_ACKED], failed + numbers[_FAILED])
        found[queue] = sums

    await run_concurrently(queues, read)
    return found
