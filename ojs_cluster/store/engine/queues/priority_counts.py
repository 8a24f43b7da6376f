"""Count the available jobs of a queue by priority (spec: ojs-priority)."""

from __future__ import annotations

from collections import Counter

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently


async def count_by_priority(store: Store, queue: str) -> list[tuple[int, int]]:
    """Return each priority of a queue's available jobs with their number, highest first.

    Jobs that a rate limit blocks are available, so they count too. A queue that does not exist has
    no jobs.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    counts: Counter[int] = Counter()

    async def count(shard: Shard) -> None:
        reply = await store.run(
            shard,
            "priority_counts",
            [shard.queue_available(queue), shard.queue_blocked(queue)],
            idempotent=True,
        )
        for priority, jobs in zip(reply[::2], reply[1::2], strict=True):
            counts[int(priority)] += int(jobs)

    await run_concurrently(await store.partitions.occupied_shards(store, queue), count)
    return sorted(counts.items(), reverse=True)
