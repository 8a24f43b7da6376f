"""A tombstone keeps a slow producer out, but not the client that repeats the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.errors import Duplicate
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.aliases import CLAIM_MS, IN_FLIGHT_MS, AliasClaims
from ojs_cluster.store.engine.enqueue.batch_attempt import BatchAttempt
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.engine.unique_locks import LockRequest, write_tombstone
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.retention.retention import remove_leftovers
from ojs_cluster.store.ground import job_fields as f
from tests.store.shortcuts import (
    HOUR,
    MINUTE,
    ack,
    foreign_id,
    home_id,
    new_job,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.store.unique_jobs import (
    age_lock,
    assert_nothing_left,
    keys_there,
    lock_of,
    once,
    recover,
)
from tests.support.fixed_ids import enqueue_with_id
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.timeshift import age_claim, age_job, age_references


async def alone(store: Store, job: NewJob) -> JobRecord:
    return await enqueue(store, job)


async def in_a_batch(store: Store, job: NewJob) -> JobRecord:
    [other] = queues_in_other_shards(store, 1)
    return (await enqueue_many(store, [job, new_job(other, type="other")]))[0]


Enqueue = Callable[[Store, NewJob], Awaitable[JobRecord]]
WAYS = [alone, in_a_batch]


async def stalled(store: Store, job: NewJob) -> tuple[Shard, int]:
    """Claim the lock and stop there; return the shard and the expiry of the claim in ms."""
    shard = store.keys.shard_of_queue(job.queue)
    assert job.id is not None
    assert job.unique is not None
    request = LockRequest(job.fingerprint, job.id, shard.index)
    return shard, (await unique.claim_lock(store, request, job.unique)).expires_at_ms


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make_id", [home_id, foreign_id])
async def test_a_repeated_request_reports_the_conflicting_job_and_is_stored_after_it(
    store: Store,
    db: Any,
    consistent: Callable[[], InvariantReport],
    make_id: Callable[[Store], str],
    way: Enqueue,
) -> None:
    job = new_job(id=make_id(store), unique={})
    _, expires_at_ms = await stalled(store, job)
    other = await once(store)  # has waited, and fenced the id

    with pytest.raises(Duplicate) as refused:
        await way(store, job)
    assert refused.value.details["existing_job_id"] == other.id
    [taken] = await take(store)
    await ack(store, taken)

    stored = await way(store, job)

    assert (stored.id, stored.state) == (job.id, State.AVAILABLE)
    assert not await enqueue_with_id(store, str(job.id), job, store_before_ms=expires_at_ms)
    with pytest.raises(Duplicate):
        await once(store)
    [mine] = await take(store)
    assert mine.id == job.id
    await ack(store, mine)
    await recover(store, db, HOUR)
    assert_nothing_left(store, db)
    consistent()


@pytest.mark.parametrize("way", WAYS)
async def test_a_slow_producer_stays_kept_out_when_that_job_is_removed(
    store: Store, db: Any, way: Enqueue
) -> None:
    """A job stored in place of a tombstone stays as long as late writes are possible."""
    store = replace(store, settings=replace(store.settings, retention_completed_ms=1000))
    job = new_job(id=home_id(store), unique={})
    shard, expires_at_ms = await stalled(store, job)
    assert await write_tombstone(store, shard, str(job.id))
    await way(store, new_job(id=job.id, type="plain"))
    [taken] = [one for one in await take(store, count=9) if one.id == job.id]
    await ack(store, taken)
    age_job(db, shard, taken.id, MINUTE)

    await retention.purge_due(store, shard, 10)

    assert not await enqueue_with_id(store, str(job.id), job, store_before_ms=expires_at_ms)


async def remove(store: Store, db: Any, job: JobRecord) -> None:
    """Run and remove a job whose id has another owner shard; let the janitor check it later."""
    shard = shard_of(store, job.queue)
    [taken] = await take(store, job.queue)
    await ack(store, taken)
    age_job(db, shard, job.id, 400 * 24 * HOUR)
    age_claim(db, store.keys.shard_of_id(job.id), job.id, IN_FLIGHT_MS)
    assert (await retention.purge_due(store, shard, 10)).done == 1


async def test_a_tombstone_that_is_back_after_its_alias_is_removed_by_the_janitor(
    store: Store, db: Any
) -> None:
    job_id, owner = home_id(store), shard_of(store)
    queue = next(
        name for name in queues_in_other_shards(store, 2) if shard_of(store, name) is not owner
    )
    await write_tombstone(store, owner, job_id)
    await remove(store, db, await enqueue(store, new_job(queue, id=job_id)))
    age_claim(db, owner, job_id, IN_FLIGHT_MS)
    age_references(db, shard_of(store, queue), HOUR)
    await remove_leftovers(store, shard_of(store, queue))
    assert db.hget(owner.job(job_id), f.TOMBSTONE) is not None

    age_claim(db, owner, job_id, HOUR)
    await remove_leftovers(store, owner)

    assert not [key for key in keys_there(db) if job_id.encode() in key]


async def test_a_late_check_of_a_removed_job_leaves_the_claim_of_the_next_request(
    store: Store, db: Any
) -> None:
    """The next request has claimed the id over a tombstone, and has not stored its job yet."""
    job, owner = new_job(id=home_id(store), unique={}), shard_of(store)
    first, second = [
        name for name in queues_in_other_shards(store, 3) if shard_of(store, name) is not owner
    ][:2]
    await remove(store, db, await enqueue(store, new_job(first, id=job.id)))
    _, expires_at_ms = await stalled(store, job)
    await write_tombstone(store, owner, str(job.id))
    claims = AliasClaims(store)
    await claims.claim(shard_of(store, second), [(str(job.id), 0)], CLAIM_MS, total=1)
    age_claim(db, owner, str(job.id), IN_FLIGHT_MS)
    age_references(db, shard_of(store, first), HOUR)
    await remove_leftovers(store, shard_of(store, first))

    age_claim(db, owner, str(job.id), HOUR)
    await remove_leftovers(store, owner)  # removes the alias, whose job was never stored

    assert not await enqueue_with_id(store, str(job.id), job, store_before_ms=expires_at_ms)
    age_claim(db, owner, str(job.id), HOUR)
    await remove_leftovers(store, owner)
    assert not [key for key in keys_there(db) if str(job.id).encode() in key]


async def test_a_tombstone_under_an_alias_outlives_the_check_of_the_alias(
    store: Store, db: Any
) -> None:
    """The tombstone may be much younger than the alias, so a late write is still possible."""
    job, owner = new_job(id=home_id(store), unique={}), shard_of(store)
    queue = next(
        name for name in queues_in_other_shards(store, 2) if shard_of(store, name) is not owner
    )
    stored = await enqueue(store, new_job(queue, id=job.id))
    _, expires_at_ms = await stalled(store, job)
    await write_tombstone(store, owner, str(job.id))
    age_claim(db, owner, str(job.id), HOUR)
    await remove_leftovers(store, owner)

    await remove(store, db, stored)

    assert not await enqueue_with_id(store, str(job.id), job, store_before_ms=expires_at_ms)


async def test_a_refused_batch_restores_the_tombstone(store: Store, db: Any) -> None:
    job = new_job(id=home_id(store), unique={})
    shard, expires_at_ms = await stalled(store, job)
    await write_tombstone(store, shard, str(job.id))
    taken = await enqueue(store, new_job(id=home_id(store)))

    with pytest.raises(Duplicate, match=taken.id):
        await enqueue_many(store, [new_job(id=job.id, type="plain"), new_job(id=taken.id)])
    with pytest.raises(Duplicate, match=taken.id):
        await in_a_batch(store, new_job(id=taken.id))
    attempt = BatchAttempt(store, [new_job(id=job.id, type="plain"), new_job("q0", type="other")])
    await attempt.reserve()
    await attempt.release()

    assert not await enqueue_with_id(store, str(job.id), job, store_before_ms=expires_at_ms)
    assert (await enqueue(store, new_job(id=job.id, type="plain"))).id == job.id


async def test_a_lock_leads_to_a_job_that_was_stored_in_another_shard(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    """Two producers of one id may disagree about the shard, and the first has claimed the lock."""
    job = new_job(id=home_id(store), unique={})
    await stalled(store, job)
    queue = next(
        name
        for name in queues_in_other_shards(store, 2)
        if shard_of(store, name) != shard_of(store)
    )
    mine = await once(store, queue, id=job.id)
    lock = lock_of(store, db)
    age_lock(db, store, lock, MINUTE)

    with pytest.raises(Duplicate) as refused:
        await once(store)

    assert refused.value.details["existing_job_id"] == mine.id
    assert not await write_tombstone(store, shard_of(store), mine.id)
    new = await once(store, on_conflict="replace")
    assert (await read_jobs.get(store, mine.id)).state is State.CANCELLED
    assert [one.id for one in await take(store, "mail", queue, count=9)] == [new.id]
    consistent()


async def test_a_tombstone_without_token_is_not_stored_over(store: Store, db: Any) -> None:
    job_id = home_id(store)
    assert await write_tombstone(store, shard_of(store), job_id, overridable=False)
    assert await write_tombstone(store, shard_of(store), job_id)  # another kind changes nothing

    for policy in (None, {}, {"on_conflict": "replace"}):
        with pytest.raises(Duplicate):
            await enqueue(store, new_job(id=job_id, unique=policy))
    with pytest.raises(Duplicate):
        await in_a_batch(store, new_job(id=job_id))

    db.zincrby(shard_of(store).alias_claims, -HOUR, job_id)
    await remove_leftovers(store, shard_of(store))
    assert (await enqueue(store, new_job(id=job_id))).id == job_id


async def test_the_token_of_an_earlier_tombstone_does_not_match_the_next(store: Store) -> None:
    """A producer that stalls after reading a tombstone is kept out by a later tombstone."""
    job = new_job(id=home_id(store))
    shard = shard_of(store)
    await write_tombstone(store, shard, str(job.id))
    stalling, client = lossy(store, times=0)
    original, tries = client.script, []

    async def script(slot: int, script: Any, *args: Any, **more: Any) -> Any:
        if script.name in ("enqueue", "enqueue_one"):
            tries.append(script)
            if len(tries) == 2:
                await write_tombstone(store, shard, str(job.id))
        return await original(slot, script, *args, **more)

    client.script = script  # type: ignore[method-assign]

    stored = await enqueue(stalling, job)

    assert len(tries) == 3  # the first met the old fence, the second the new one
    assert (await read_jobs.get(store, stored.id)).state == State.AVAILABLE
