"""Expired jobs of a reap that also ends leases."""

from __future__ import annotations

from typing import Any

from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground import job_fields as f
from tests.store.shortcuts import active, put, reap_all, shard_of, take


def lose_and_expire(db: Any, shard: Shard, job: JobRecord) -> None:
    """End the lease and the lifetime of an active job."""
    db.zadd(shard.active, {job.id: 1})
    db.hset(shard.job(job.id), f.EXPIRES, 1)


async def test_a_job_that_expired_while_it_was_active_is_discarded_after_its_return(
    store: Store, db: Any
) -> None:
    shard = shard_of(store)
    job = await active(store, expires_at="+PT1H")
    lose_and_expire(db, shard, job)

    returned = await reap_all(store)
    assert returned.next_ms is not None
    assert returned.next_ms <= returned.now_ms, "the next call is due at once"
    assert await take(store) == []
    await reap_all(store)

    assert (await read_jobs.get(store, job.id)).state is State.DISCARDED
    assert db.zcard(shard.expiring) == db.zcard(shard.queue_available(job.queue)) == 0


async def test_a_stale_entry_discards_no_job_whose_attempt_ends(store: Store, db: Any) -> None:
    """Only a damaged index has an entry of an active job."""
    shard = shard_of(store)
    lost = await active(store, expires_at="+PT1H")
    slow = await active(store, expires_at="+PT1H", retry={"max_attempts": 2})
    db.zadd(shard.active, {lost.id: 1})
    db.zadd(shard.execution_deadlines, {slow.id: 1})
    db.zadd(shard.expiring, {lost.id: 1, slow.id: 1})

    await reap_all(store)

    states = [(await read_jobs.get(store, job.id)).state for job in (lost, slow)]
    assert states == [State.AVAILABLE, State.RETRYABLE]
    for job in (lost, slow):
        expires = int(db.hget(shard.job(job.id), f.EXPIRES))
        assert db.zscore(shard.expiring, job.id) == expires


async def test_a_malformed_job_behind_the_limit_keeps_its_entry_among_the_expiring_jobs(
    store: Store, db: Any
) -> None:
    shard = shard_of(store)
    lost, bad, other = (
        await active(store),
        await active(store, expires_at="+PT1H"),
        await put(store, expires_at="+PT1H"),
    )
    db.zadd(shard.active, {lost.id: 2, bad.id: 1})
    db.zadd(shard.execution_deadlines, {lost.id: 1})
    db.zadd(shard.expiring, {other.id: 1, bad.id: 2})
    for job in (bad, other):
        db.hdel(shard.job(job.id), f.QUEUE)

    first = await reap_all(store, limit=1)
    assert first.quarantined == 2
    assert db.zscore(shard.expiring, bad.id) == 2
    second = await reap_all(store, limit=1)

    assert second.quarantined == 1
    for index in (shard.active, shard.expiring):
        assert db.zscore(index, bad.id) > first.now_ms
