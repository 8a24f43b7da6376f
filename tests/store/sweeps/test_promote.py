"""One promote moves jobs of all kinds, each as if it were the only one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground import job_fields as f
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    active,
    id_in,
    nack,
    new_job,
    promote_all,
    put,
    shard_of,
    sibling_queue,
    take,
)
from tests.store.tenants.shortcuts import job_of
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job

LATER = {"scheduled_at": "+PT1H"}


async def test_jobs_of_all_kinds_are_promoted_together(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    shard = shard_of(store)
    queues, types, tenants = (QUEUE, sibling_queue(store)), ("a.a", "b.b"), ("", "t1")
    expiries: tuple[dict[str, str], ...] = ({}, {"expires_at": "+PT9H"}, {"expires_at": "+PT90M"})
    kinds = product(queues, types, (0, 5), tenants, expiries)
    new = [
        job_of(tenant, queue, type=type_, priority=priority, **LATER, **expiry)
        for queue, type_, priority, tenant, expiry in kinds
    ]
    # A long run of equal jobs begins and ends within entries of the event stream.
    new += [job_of("", type="a.a", **LATER) for _ in range(40)]
    made: list[JobRecord] = [*await enqueue_many(store, new)]
    failed = await active(store, type="a.a")
    await nack(store, failed)
    made.insert(20, failed)
    malformed = made[-3]
    missing = id_in(shard.index)
    for number, job in enumerate(made):
        age_job(db, shard, job.id, 2 * HOUR)
        db.zadd(shard.due, {job.id: number + 1})
    db.zadd(shard.due, {missing: 10.5})
    db.hset(shard.job(malformed.id), f.PRIORITY, "x")
    waiting = await put(store, **LATER)
    entries = db.xlen(shard.events)

    result = await promote_all(store, limit=500)

    assert (result.done, result.quarantined) == (len(made) + 1, 1)
    recheck = db.zscore(shard.due, malformed.id)
    assert abs(recheck - result.now_ms - HOUR) < 2
    assert result.next_ms == min(recheck, db.zscore(shard.due, waiting.id))
    assert db.zcard(shard.due) == 2
    made.remove(malformed)
    rest = [job for job in made if db.hget(shard.job(job.id), f.STATE) == b"available"]
    expired = [job for job in made if job not in rest]
    assert len(expired) == len(new[:-40]) // 3
    assert {db.hget(shard.job(job.id), f.STATE) for job in expired} == {b"discarded"}
    assert {int(db.hget(shard.job(job.id), f.ENQUEUED)) for job in rest} == {result.now_ms}
    for queue in queues:
        there = [job for job in rest if job.queue == queue]
        ordered = sorted(there, key=lambda job: -job.priority)
        assert db.zrange(shard.queue_available(queue), 0, -1) == [j.id.encode() for j in ordered]
    states = {failed.id: b"retryable"}
    written = db.xrange(shard.events)[entries:]
    assert sorted(
        (id_.decode(), e[b"t"], e[b"f"], e[b"q"], e[b"y"], e.get(b"tn", b""))
        for _, e in written
        for id_ in e[b"j"].split()
    ) == sorted(
        (
            job.id,
            b"job.enqueued" if job in rest else b"job.expired",
            states.get(job.id, b"scheduled"),
            *(text.encode() for text in (job.queue, job.type, job.tenant or "")),
        )
        for job in made
    )
    assert max(len(e[b"j"].split()) for _, e in written) == 16

    db.hdel(shard.job(malformed.id), f.PRIORITY)
    db.zadd(shard.due, {malformed.id: 1})
    assert (await promote_all(store)).done == 1
    consistent()


async def test_equal_jobs_are_promoted_around_others(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    """The promotion of equal jobs resumes after a job that has expired or differs in one field."""
    shard, other = shard_of(store), sibling_queue(store)
    retried, first, expired, last, elsewhere = await enqueue_many(
        store,
        [
            new_job(type="a.a"),
            new_job(type="a.a", **LATER),
            new_job(type="a.a", expires_at="+PT90M", **LATER),
            new_job(type="a.a", **LATER),
            new_job(other, type="a.a", **LATER),
        ],
    )
    [failed] = await take(store)
    await nack(store, failed)
    made = (retried, first, expired, last, elsewhere)
    for number, job in enumerate(made):
        age_job(db, shard, job.id, 2 * HOUR)
        db.zadd(shard.due, {job.id: number + 1})
    entries = db.xlen(shard.events)

    assert (await promote_all(store)).done == len(made)

    for queue, jobs in ((QUEUE, (retried, first, last)), (other, (elsewhere,))):
        ids = [job.id.encode() for job in jobs]
        assert db.zrange(shard.queue_available(queue), 0, -1) == ids
    written = [
        (id_.decode(), e[b"t"], e[b"f"], e[b"q"].decode())
        for _, e in db.xrange(shard.events)[entries:]
        for id_ in e[b"j"].split()
    ]
    assert sorted(written) == sorted(
        [
            (retried.id, b"job.enqueued", b"retryable", QUEUE),
            (first.id, b"job.enqueued", b"scheduled", QUEUE),
            (expired.id, b"job.expired", b"scheduled", QUEUE),
            (last.id, b"job.enqueued", b"scheduled", QUEUE),
            (elsewhere.id, b"job.enqueued", b"scheduled", other),
        ]
    )
    consistent()


async def test_a_job_whose_expiry_is_no_number_stays_due(store: Store, db: Any) -> None:
    shard = shard_of(store)
    well, *malformed = [await put(store, expires_at="+PT2H", **LATER) for _ in range(3)]
    for job, damage in zip(malformed, ("x", "9e15"), strict=True):
        db.hset(shard.job(job.id), f.EXPIRES, damage)
    for job in (well, *malformed):
        db.zadd(shard.due, {job.id: 1})

    result = await promote_all(store)

    assert (result.done, result.quarantined) == (3, 2)
    assert sorted(db.zrange(shard.due, 0, -1)) == sorted(job.id.encode() for job in malformed)
    assert db.zrange(shard.queue_available(QUEUE), 0, -1) == [well.id.encode()]
