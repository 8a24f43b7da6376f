"""What is left of a deleted queue, and what keeps a queue from its deletion."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.errors import BackendUnavailable, NotFound
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues import fair_share, pauses, queues
from ojs_cluster.store.engine.queues.partition_maintenance import get_partitions, set_partitions
from ojs_cluster.store.features.queue_drains.drains import begin_drain
from ojs_cluster.store.features.retention import lifecycle
from tests.store.shortcuts import QUEUE, ack, active, nack, put, shard_of, take
from tests.store.tenants.shortcuts import put_many


async def test_a_deletion_that_died_before_its_last_steps_can_be_repeated(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(*_: object) -> None:
        raise BackendUnavailable("no answer", outcome="unknown")

    await lifecycle.create_queue(store, QUEUE)
    await set_partitions(store, QUEUE, 4)
    with monkeypatch.context() as patched:
        patched.setattr(lifecycle, "finish_deletion", dies)
        with pytest.raises(BackendUnavailable):
            await lifecycle.delete_queue(store, QUEUE)
    await lifecycle.delete_queue(store, QUEUE)
    assert (await get_partitions(store, QUEUE)).count == store.partitions.default.count
    with pytest.raises(NotFound):
        await lifecycle.delete_queue(store, QUEUE)


async def test_the_turns_of_tenants_end_with_their_queue(store: Store, db: Any) -> None:
    await fair_share.set_fair_share(store, QUEUE, on=True)
    await put_many(store, a=2, b=2)
    for job in await take(store, count=4):
        await ack(store, job)
    turns = shard_of(store).tenant_turns(QUEUE)
    db.zadd(turns, {"a": 3})
    await lifecycle.delete_queue(store, QUEUE)
    assert not db.exists(turns)


async def test_a_queue_with_a_blocked_job_is_not_deleted(store: Store, db: Any) -> None:
    await put(store, rate_limit={"key": "k", "concurrency": 1})
    [held] = await take(store)
    blocked = await put(store, rate_limit={"key": "k", "concurrency": 1})
    assert await take(store) == []
    shard = shard_of(store)
    assert db.zscore(shard.queue_blocked(QUEUE), blocked.id) is not None
    await ack(store, held)
    db.zadd(shard.queue_blocked(QUEUE), {blocked.id: 1})
    db.zrem(shard.queue_available(QUEUE), blocked.id)
    await begin_drain(store, QUEUE, "1-token")
    assert not await lifecycle._delete_in(store, shard, QUEUE, "1-token")
    await pauses.pause_or_resume(store, QUEUE, "resume")


@pytest.mark.parametrize("state", ["scheduled", "pending", "active", "retryable"])
async def test_a_queue_with_a_job_in_any_live_state_is_not_deleted(
    store: Store, state: str
) -> None:
    """Also if the job came after the deletion had read the numbers of the queue."""
    if state in ("active", "retryable"):
        job = await active(store)
        if state == "retryable":
            await nack(store, job)
    else:
        options: dict[str, Any] = {
            "scheduled": {"delay_until": "+PT1H"},
            "pending": {"pending": True},
        }
        await put(store, **options[state])
    await begin_drain(store, QUEUE, "1-token")
    assert not await lifecycle._delete_in(store, shard_of(store), QUEUE, "1-token")
    assert (await queues.get_stats(store, QUEUE)).live_jobs == 1
