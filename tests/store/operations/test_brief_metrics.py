"""What the dashboard finds problems by is a part of the metrics."""

from __future__ import annotations

from typing import Any

from ojs_cluster.store.context import Store
from ojs_cluster.store.operations.metrics import QueueMetrics, collect
from ojs_cluster.store.queues.queues import pause_or_resume
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
