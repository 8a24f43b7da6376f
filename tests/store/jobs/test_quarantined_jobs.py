"""One job that no transition can use stops none of the others, whatever meets it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import MalformedJob
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground import job_fields as f
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    active,
    failure,
    home_id,
    promote_all,
    put,
    reap_all,
    shard_of,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job, age_worker

Check = Callable[[], InvariantReport]

WRONG = [(f.ATTEMPT, b"x"), (f.MAX_ATTEMPTS, None), (f.ERRORS, b"nan"), (f.QUEUE, None)]
"""A field, and what is the matter with it: its value, or that it is missing."""
MEETINGS = {
    "timeout": State.RETRYABLE,
    "lease": State.AVAILABLE,
    "expiry": State.DISCARDED,
    "schedule": State.AVAILABLE,
}
"""What the scheduler has to do for a job, and what a sound one becomes."""
CASES = [(how, *wrong) for how in ("timeout", "lease", "expiry") for wrong in WRONG]
CASES += [("schedule", f.QUEUE, None), ("schedule", f.PRIORITY, b"high")]


def spoil(store: Store, db: Any, job: JobRecord, field: bytes, value: bytes | None) -> None:
    key = shard_of(store).job(job.id)
    if value is None:
        db.hdel(key, field)
    else:
        db.hset(key, field, value)


async def meet(store: Store, db: Any, how: str) -> JobRecord:
    """A job that the scheduler has something to do for now."""
    shard = shard_of(store)
    match how:
        case "timeout":
            job = await active(store, timeout_ms=2 * HOUR)
            db.zadd(shard.execution_deadlines, {job.id: 1})
        case "lease":
            job = await active(store)
            db.zadd(shard.active, {job.id: 1})
        case "expiry":
            job = await put(store, expires_at="+PT1H")
            db.zadd(shard.expiring, {job.id: 1})
        case _:
            job = await put(store, scheduled_at="+PT1H")
            age_job(db, shard, job.id, HOUR)
    return job


def index(store: Store, how: str) -> bytes:
    shard = shard_of(store)
    by = {"timeout": shard.execution_deadlines, "lease": shard.active, "expiry": shard.expiring}
    return by.get(how, shard.due)


@pytest.mark.parametrize(("how", "field", "value"), CASES)
async def test_a_malformed_job_is_quarantined_and_reported_and_the_others_are_served(
    store: Store,
    db: Any,
    how: str,
    field: bytes,
    value: bytes | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    malformed, well = await meet(store, db, how), await meet(store, db, how)
    spoil(store, db, malformed, field, value)
    before = db.hgetall(shard_of(store).job(malformed.id))
    db.zadd(index(store, how), {malformed.id: 0})  # the first in order

    loop = promote_all if how == "schedule" else reap_all
    with caplog.at_level(logging.ERROR):
        results = [await loop(store, limit=1) for _ in range(3)]

    assert [result.done for result in results] == [1, 1, 0]
    assert [result.more for result in results] == [True, True, False]
    assert [result.quarantined for result in results] == [1, 0, 0]
    assert (await read_jobs.get(store, well.id)).state is MEETINGS[how]
    assert db.hgetall(shard_of(store).job(malformed.id)) == before
    assert db.zscore(index(store, how), malformed.id) == results[0].now_ms + HOUR
    assert [malformed.id in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("packed", [b"often", b"linear:1000:1.2.3:5000:0", b"linear:0:1.0:0:0"])
async def test_a_backoff_that_cannot_be_read_is_the_default(
    store: Store, db: Any, packed: bytes, consistent: Check
) -> None:
    job = await meet(store, db, "timeout")
    spoil(store, db, job, f.RETRY, packed)

    await reap_all(store)

    failed = await read_jobs.get(store, job.id)
    assert (failed.state, len(failed.errors())) == (State.RETRYABLE, 1)
    assert failed.retry_delay_ms is not None
    assert 500 <= failed.retry_delay_ms <= 1500
    consistent()


async def test_among_many_nacks_a_malformed_job_is_refused_and_the_others_end(
    store: Store, db: Any
) -> None:
    held = [await active(store, id=home_id(store)) for _ in range(3)]
    spoil(store, db, held[1], f.ERRORS, b"many")

    nacks = [Nack(job.id, job.lease_id, failure(), requeue=False) for job in held]
    first, malformed, last = await nack_many(store, nacks, worker_id="w1")

    assert (first, last) == (State.RETRYABLE, State.RETRYABLE)
    assert isinstance(malformed, MalformedJob)
    assert db.hget(shard_of(store).job(held[1].id), f.STATE) == b"active"


async def test_a_dead_workers_malformed_job_is_left_to_its_lease(store: Store, db: Any) -> None:
    for _ in range(2):
        await put(store)
    malformed, well = await take(store, count=2)
    spoil(store, db, malformed, f.ATTEMPT, None)
    home = store.keys.shard_of_worker("w1")
    for _ in range(3):
        await heartbeat(store, Heartbeat("w1"))
    age_worker(db, home, "w1", HOUR)
    [dead], _, _ = await workers.find_dead(store, home, 10)

    recovered, _ = await workers.recover(store, shard_of(store), [dead])

    assert recovered == {"w1": 1}
    assert (await read_jobs.get(store, well.id)).state is State.AVAILABLE
    assert db.hget(shard_of(store).job(malformed.id), f.STATE) == b"active"


async def test_a_fetch_skips_a_malformed_job_that_is_due(store: Store, db: Any) -> None:
    malformed = await meet(store, db, "schedule")
    spoil(store, db, malformed, f.QUEUE, None)
    well = await put(store)

    assert [job.id for job in await take(store, QUEUE, count=5)] == [well.id]
