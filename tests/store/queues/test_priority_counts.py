"""The available jobs of a queue by priority."""

from __future__ import annotations

from typing import Any

from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues.priority_counts import count_by_priority
from ojs_cluster.store.engine.queues.queues import get_stats
from tests.store.hot_queues import put_into, spread
from tests.store.limit_jobs import keyed
from tests.store.shortcuts import QUEUE, put, shard_of, take


async def test_only_available_jobs_count(store: Store) -> None:
    assert await count_by_priority(store, QUEUE) == []
    for priority in (0, 100, -100, 7, 7):
        await put(store, priority=priority)
    await put(store, priority=9, delay_until="+PT1H")
    await put(store, priority=100)
    await take(store)

    assert await count_by_priority(store, QUEUE) == [(100, 1), (7, 2), (0, 1), (-100, 1)]


async def test_blocked_jobs_and_jobs_of_all_partitions_count(store: Store, db: Any) -> None:
    for priority in (1, 2, 3):
        await keyed(store, "key", concurrency=1, priority=priority)
    await take(store, count=3)
    assert db.zcard(shard_of(store).queue_blocked(QUEUE))
    counted = dict(await count_by_priority(store, QUEUE))
    assert sum(counted.values()) == (await get_stats(store, QUEUE)).counts[State.AVAILABLE]

    for shard in await spread(store, db, 3, "hot"):
        await put_into(store, shard, "hot", priority=5)
    assert await count_by_priority(store, "hot") == [(5, 3)]


async def test_a_damaged_score_ends_no_call(store: Store, db: Any) -> None:
    await put(store, priority=1)
    for name, score in (("low", -1e300), ("high", 1e300), ("endless", float("inf"))):
        db.zadd(shard_of(store).queue_available(QUEUE), {name: score})

    assert await count_by_priority(store, QUEUE) == [(1, 1)]
