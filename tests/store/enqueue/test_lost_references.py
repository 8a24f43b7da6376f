"""References that a failover has lost in one shard are written again for jobs of another.

A test deletes the alias or the lock of a job, as a replica forgets it that is promoted before it
received the write.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, Duplicate, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue import references
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.jobs import ack as acks
from ojs_cluster.store.engine.jobs import nack as nacks
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground import job_fields as f
from tests.store.archives import DEAD, export_text, import_text
from tests.store.shortcuts import (
    DAY,
    HOUR,
    QUEUE,
    ack,
    active,
    failure,
    foreign_id,
    nack,
    new_job,
    put,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.store.unique_jobs import age_lock, lock_of, locks_left, once
from tests.support.invariants import InvariantReport
from tests.support.lossy import without
from tests.support.servers import flush
from tests.support.timeshift import age_claim, age_job, age_references

Check = Callable[[], InvariantReport]


def lose_alias(store: Store, db: Any, job_id: str) -> None:
    """Delete the alias, as when its master loses its last writes in a failover."""
    home = store.keys.shard_of_id(job_id)
    assert home is not shard_of(store)
    assert db.delete(home.job(job_id)) == 1
    db.delete(home.alias_claims)


async def sweep(store: Store, db: Any, *shards: Shard) -> None:
    """Run the janitor when stored and removed jobs are some minutes old."""
    for shard in shards or (shard_of(store),):
        age_references(db, shard, HOUR)
        await retention.remove_leftovers(store, shard)


def elsewhere(store: Store, home: Shard) -> str:
    """Return a queue of another shard than the usual queue's and ``home``."""
    return next(
        name
        for name in queues_in_other_shards(store, 5)
        if shard_of(store, name) not in (home, shard_of(store))
    )


async def acked(store: Store, job: JobRecord) -> State:
    return (await ack(store, job, worker_id="w1", lease_id=job.lease_id)).state


async def acked_with_others(store: Store, job: JobRecord) -> State:
    many = [acks.Ack(job.id, job.lease_id, b"1")]
    [state] = await acks.ack_many(store, many, worker_id="w1")
    assert isinstance(state, State), state
    return state


async def nacked(store: Store, job: JobRecord) -> State:
    return (await nack(store, job, worker_id="w1", lease_id=job.lease_id)).state


async def nacked_with_others(store: Store, job: JobRecord) -> State:
    many = [nacks.Nack(job.id, job.lease_id, failure(), requeue=False)]
    [state] = await nacks.nack_many(store, many, worker_id="w1")
    assert isinstance(state, State), state
    return state


async def released(store: Store, job: JobRecord) -> State:
    await nacks.release(store, job)
    return State.AVAILABLE


async def extended(store: Store, job: JobRecord) -> State:
    assert job.lease_id is not None
    reply = await heartbeat(store, Heartbeat("w1", [job.id], {job.id: job.lease_id}))
    assert reply.extended == [job.id]
    return State.ACTIVE


End = Callable[[Store, JobRecord], Awaitable[State]]
ENDS: dict[End, State] = {
    acked: State.COMPLETED,
    acked_with_others: State.COMPLETED,
    nacked: State.RETRYABLE,
    nacked_with_others: State.RETRYABLE,
    released: State.AVAILABLE,
    extended: State.ACTIVE,
}


@pytest.mark.parametrize("end", ENDS)
async def test_a_holder_is_served_though_the_alias_is_lost_and_it_comes_back(
    store: Store, db: Any, consistent: Check, end: End
) -> None:
    job = await active(store, id=foreign_id(store))
    lose_alias(store, db, job.id)
    with pytest.raises(NotFound):
        await read_jobs.get(store, job.id)

    assert await end(store, job) is ENDS[end]
    if end is not extended:
        await sweep(store, db)
    assert (await read_jobs.get(store, job.id)).state is ENDS[end]
    consistent()


async def test_a_lease_of_another_is_refused_though_the_alias_is_lost(
    store: Store, db: Any
) -> None:
    job = await active(store, id=foreign_id(store))
    assert job.lease_id is not None
    lose_alias(store, db, job.id)
    near = job.lease_id[:-3] + ("0" if job.lease_id[-3] == "f" else "f") + "_1"
    for lease_id in (near, "lease_fff000000000000000_1", "x", None):
        with pytest.raises((NotFound, Conflict)):
            await ack(store, job, worker_id="w1", lease_id=lease_id)
    assert db.hget(shard_of(store).job(job.id), "s") == b"active"


async def test_a_lease_of_another_shard_leads_to_the_owner_of_the_id(store: Store) -> None:
    job = await active(store)
    other = next(shard for shard in store.keys if shard is not shard_of(store))
    lease_id = f"lease_{other.index:03x}000000000000000_1"
    with pytest.raises(Conflict):
        await ack(store, job, worker_id="w1", lease_id=lease_id)
    assert (await ack(store, job, lease_id=job.lease_id)).state is State.COMPLETED


async def test_the_holder_of_an_id_that_was_used_again_ends_its_own_job(
    store: Store, db: Any
) -> None:
    """Another client takes the id of a lost alias for a job in another shard."""
    first = await active(store, id=foreign_id(store))
    lose_alias(store, db, first.id)
    home = store.keys.shard_of_id(first.id)
    other = elsewhere(store, home)
    second = await active(store, other, id=first.id)

    await ack(store, second, worker_id="w1", lease_id=second.lease_id)
    await ack(store, first, worker_id="w1", lease_id=first.lease_id)
    assert db.hget(shard_of(store).job(first.id), "s") == b"completed"
    assert db.hget(shard_of(store, other).job(first.id), "s") == b"completed"


async def test_a_job_that_waits_is_found_by_its_id_again(
    store: Store, db: Any, consistent: Check
) -> None:
    ids = [foreign_id(store, step=1 + number % 5) for number in range(12)]
    await enqueue_many(store, [new_job(id=job_id) for job_id in ids])
    for job_id in ids[:6]:
        lose_alias(store, db, job_id)
    await sweep(store, db)

    for job_id in ids:
        assert (await read_jobs.get(store, job_id)).state is State.AVAILABLE
        with pytest.raises(Duplicate):
            await put(store, id=job_id)
    assert not db.exists(shard_of(store).references), "each is checked once"
    consistent()


async def test_young_jobs_are_not_checked_yet(store: Store, db: Any) -> None:
    job = await put(store, id=foreign_id(store))
    assert await references.check_references(store, shard_of(store), 10) == 0
    assert db.zrange(shard_of(store).references, 0, -1) == [job.id.encode()]


async def test_an_alias_whose_removal_was_lost_is_removed(
    store: Store, db: Any, consistent: Check
) -> None:
    job_id = foreign_id(store)
    home = store.keys.shard_of_id(job_id)
    await ack(store, await active(store, id=job_id))
    age_claim(db, home, job_id, HOUR)
    age_job(db, shard_of(store), job_id, 8 * DAY)
    alias = db.hgetall(home.job(job_id))
    assert (await retention.purge_due(store, shard_of(store), 10)).done == 1
    db.hset(home.job(job_id), mapping=alias)
    other = elsewhere(store, home)
    await sweep(store, db)

    assert not db.exists(home.job(job_id))
    assert (await put(store, other, id=job_id)).id == job_id
    consistent()


async def test_a_lock_that_was_lost_is_claimed_again(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await once(store, on_conflict="reject")
    fingerprint = lock_of(store, db)
    home = store.keys.shard_of_fingerprint(fingerprint)
    db.delete(home.lock(fingerprint), home.locks)
    await sweep(store, db)

    with pytest.raises(Duplicate) as refused:
        await once(store, on_conflict="reject")
    assert refused.value.details["existing_job_id"] == job.id
    consistent()
    [fetched] = await take(store)
    await ack(store, fetched)
    assert locks_left(store, db) == 0


async def test_a_lock_that_another_job_has_taken_since_stays_with_it(store: Store, db: Any) -> None:
    await once(store, on_conflict="reject")
    fingerprint = lock_of(store, db)
    home = store.keys.shard_of_fingerprint(fingerprint)
    db.delete(home.lock(fingerprint), home.locks)
    second = await once(store, on_conflict="reject")
    await sweep(store, db)

    assert db.hget(home.lock(fingerprint), "holder") == second.id.encode()
    assert not db.exists(shard_of(store).references)


async def test_a_job_that_has_ended_claims_no_lock(store: Store, db: Any) -> None:
    await once(store)
    [job] = await take(store)
    await ack(store, job)
    assert locks_left(store, db) == 0
    await sweep(store, db)
    assert locks_left(store, db) == 0


async def test_a_shard_that_is_away_keeps_no_other_waiting(store: Store, db: Any) -> None:
    stuck, free = foreign_id(store, step=1), foreign_id(store, step=2)
    for job_id in (stuck, free):
        await put(store, id=job_id)
        lose_alias(store, db, job_id)
    shard = shard_of(store)
    for job_id in (stuck, free):
        db.zincrby(shard.references, -HOUR, job_id)
    half = without(store, store.keys.shard_of_id(stuck))
    for _ in range(2):
        await references.check_references(half, shard, 1)

    assert (await read_jobs.get(store, free)).id == free
    assert db.zrange(shard.references, 0, -1) == [stuck.encode()]
    await sweep(store, db)
    assert (await read_jobs.get(store, stuck)).id == stuck


async def test_a_replacement_is_checked_when_its_transaction_is_applied(
    store: Store, db: Any, consistent: Check
) -> None:
    await once(store, on_conflict="replace")
    job = await enqueue(store, new_job(id=foreign_id(store), unique={"on_conflict": "replace"}))
    fingerprint = lock_of(store, db)
    home = store.keys.shard_of_fingerprint(fingerprint)
    db.delete(home.lock(fingerprint), home.locks)
    lose_alias(store, db, job.id)
    await sweep(store, db)

    assert (await read_jobs.get(store, job.id)).state is State.AVAILABLE
    assert db.hget(home.lock(fingerprint), "holder") == job.id.encode()
    assert job.queue == QUEUE
    consistent()


@pytest.mark.parametrize("field", [f.UNIQUE, f.REPLAYS])
async def test_a_malformed_reference_does_not_delay_others(
    store: Store, db: Any, field: bytes
) -> None:
    broken, sound = await once(store), await put(store, id=foreign_id(store))
    shard = shard_of(store)
    db.hset(shard.job(broken.id), field, b"\xff")
    lose_alias(store, db, sound.id)
    db.zincrby(shard.references, -HOUR, broken.id)
    db.zincrby(shard.references, -HOUR + 1, sound.id)
    for _ in range(2):
        await references.check_references(store, shard, 1)

    assert (await read_jobs.get(store, sound.id)).id == sound.id


@pytest.mark.parametrize("checked", ["reference", "claim"])
async def test_a_malformed_job_without_its_state_keeps_its_alias(
    store: Store, db: Any, checked: str
) -> None:
    job = await put(store, id=foreign_id(store))
    age_claim(db, store.keys.shard_of_id(job.id), job.id, HOUR)
    key = shard_of(store).job(job.id)
    db.hdel(key, f.STATE)
    await sweep(
        store, db, shard_of(store) if checked == "reference" else store.keys.shard_of_id(job.id)
    )

    db.hset(key, f.STATE, "available")
    assert (await read_jobs.get(store, job.id)).id == job.id


def lose_lock(store: Store, db: Any, fingerprint: str) -> None:
    """Delete the lock, as when its master loses its last writes in a failover."""
    home = store.keys.shard_of_fingerprint(fingerprint)
    assert db.delete(home.lock(fingerprint)) == 1
    db.delete(home.locks)


async def test_a_dead_letter_that_is_retried_claims_its_lost_lock_again(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await once(store, on_conflict="reject", **DEAD)
    await nack(store, (await take(store))[0])
    await sweep(store, db)
    await dead_letters.retry(store, job.id)
    lose_lock(store, db, lock_of(store, db))
    await sweep(store, db)

    with pytest.raises(Duplicate) as refused:
        await once(store, on_conflict="reject", **DEAD)
    assert refused.value.details["existing_job_id"] == job.id
    consistent()


async def test_the_lock_of_an_imported_job_leads_to_it_though_the_alias_is_lost(
    store: Store, db: Any, backend: Embedded
) -> None:
    job = await once(store, id=foreign_id(store), on_conflict="reject")
    text = await export_text(store)
    flush(backend)
    await import_text(store, text)
    lose_alias(store, db, job.id)
    age_lock(db, store, lock_of(store, db), HOUR)

    with pytest.raises(Duplicate) as refused:
        await once(store, on_conflict="reject")
    assert refused.value.details["existing_job_id"] == job.id


async def test_an_imported_job_gets_its_lost_alias_and_lock_back(
    store: Store, db: Any, backend: Embedded, consistent: Check
) -> None:
    job = await once(store, id=foreign_id(store), on_conflict="reject")
    plain = await put(store)
    text = await export_text(store)
    flush(backend)
    await import_text(store, text)
    assert db.zrange(shard_of(store).references, 0, -1) == [job.id.encode()]
    lose_lock(store, db, lock_of(store, db))
    lose_alias(store, db, job.id)
    await sweep(store, db)

    assert (await read_jobs.get(store, job.id)).state is State.AVAILABLE
    with pytest.raises(Duplicate):
        await once(store, on_conflict="reject")
    assert {one.id for one in await take(store, count=3)} == {job.id, plain.id}
    consistent()
