"""What the dashboard finds problems by is a part of the metrics."""

from __future__ import annotations

from typing import Any

from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues.pauses import pause_or_resume
from ojs_cluster.store.engine.queues.queue_sums import SumCalls
from ojs_cluster.store.operators.operations.metrics import BriefCalls, QueueMetrics, collect
from ojs_cluster.store.operators.operations.overview import overview
from tests.store.hot_queues import put_into, spread
from tests.store.shortcuts import HOUR, put, shard_of, take
from tests.support.timeshift import age_job


async def test_brief_metrics_have_the_oldest_job_and_the_pause_of_each_queue(
    store: Store, db: Any
) -> None:
    old = await put(store, "old")
    age_job(db, shard_of(store, "old"), old.id, HOUR)
    blocked = await put(store, "blocked", rate_limit={"key": "k", "concurrency": 0})
    age_job(db, shard_of(store, "blocked"), blocked.id, 2 * HOUR)
    await take(store, "blocked")
    await put(store, "paused")
    await put(store, "paused-and-empty")
    await take(store, "paused-and-empty")
    for name in ("paused", "paused-and-empty"):
        await pause_or_resume(store, name, "pause")
    await put(store, "idle")
    await take(store, "idle")
    whole, brief = await collect(store, 1000), await collect(store, 1000, brief=True)
    assert set(brief.queues) == {"old", "blocked", "paused", "paused-and-empty"}
    for name, queue in whole.queues.items():
        found = brief.queues.get(name, QueueMetrics())
        assert found.paused == queue.paused, name
        assert found.oldest_ms // HOUR == queue.oldest_ms // HOUR, name
        assert found.oldest_ms > 0 or queue.oldest_ms == 0, name
    assert brief.queues["old"].oldest_ms >= HOUR
    assert brief.queues["blocked"].oldest_ms >= 2 * HOUR
    assert (brief.registered, brief.unreachable) == (whole.registered, 0)
    assert brief.late_ms.keys() == whole.late_ms.keys()
    assert list((await collect(store, 1, brief=True)).queues) == ["blocked"]


async def test_kept_calls_follow_the_queues_and_their_partitions(store: Store, db: Any) -> None:
    brief, sums = BriefCalls(), SumCalls()

    async def waiting() -> tuple[list[str], int]:
        found = (await collect(store, 1000, brief=True, kept=brief)).queues
        return sorted(found), (await overview(store, sums)).stats.counts[State.AVAILABLE]

    await put(store, "a")
    for _ in range(2):  # the second time by the kept calls
        assert await waiting() == (["a"], 1)
    await put(store, "b")
    assert await waiting() == (["a", "b"], 2)
    await take(store, "a")
    shards = await spread(store, db, 3, "a")
    await put_into(store, shards[-1], "a")
    assert await waiting() == (["a", "b"], 2)
