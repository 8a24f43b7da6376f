"""One promote ends before its limit when its jobs take Redis too long."""

from __future__ import annotations

from typing import Any

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.queues.deadlines import promote
from ojs_cluster.store.ground import job_fields as f
from tests.store.shortcuts import QUEUE, new_job, shard_of

LATER = {"scheduled_at": "+PT1H"}


async def test_a_promote_reads_a_mebibyte_of_expired_jobs(store: Store, db: Any) -> None:
    shard = shard_of(store)
    new = [new_job(QUEUE, expires_at="+PT2H", **LATER) for _ in range(5)]
    large = b',"args":["' + b"x" * 400_000 + b'"]'
    for number, job in enumerate(await enqueue_many(store, new)):
        db.zadd(shard.due, {job.id: number + 1})
        db.hset(shard.job(job.id), mapping={f.EXPIRES: 5, f.ENVELOPE: large})

    first = await promote(store, shard, 500)
    assert (first.done, first.more, first.next_ms) == (3, True, 4)
    second = await promote(store, shard, 500)
    assert (second.done, second.more, second.next_ms) == (2, False, None)


async def test_a_promote_moves_a_hundred_jobs_that_differ(store: Store, db: Any) -> None:
    shard = shard_of(store)
    # Neighbours of the same type and queue with another priority share nothing.
    new = [new_job(QUEUE, priority=number % 2, **LATER) for number in range(150)]
    for number, job in enumerate(await enqueue_many(store, new)):
        db.zadd(shard.due, {job.id: number + 1})

    first = await promote(store, shard, 500)
    assert (first.done, first.more, first.next_ms) == (100, True, 101)
    second = await promote(store, shard, 500)
    assert (second.done, second.more) == (50, False)
    assert db.zcard(shard.queue_available(QUEUE)) == 150
