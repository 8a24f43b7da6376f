"""Unique jobs that are retried by hand: they claim their lock again, or are not retried."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import Conflict, Duplicate, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import unique_locks as locks
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.engine.transactions.contents import ManualRetry
from ojs_cluster.store.engine.unique import unique, unique_retry
from ojs_cluster.store.engine.unique_locks import LockRequest
from ojs_cluster.store.features.dead_letters import bulk_retry, dead_letters
from ojs_cluster.store.features.retention.retention import purge_due
from tests.store.archives import export_text, import_text
from tests.store.shortcuts import (
    DAY,
    HOUR,
    ack,
    foreign_id,
    nack,
    new_job,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.store.unique_jobs import (
    age_lock,
    assert_nothing_left,
    lock_of,
    locks_left,
    once,
    recover,
    without_unlock,
)
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]
DEADLY: dict[str, Any] = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}


async def dead_letter(store: Store, queue: str = "mail", **members: Any) -> JobRecord:
    """Return a unique job that is a dead letter."""
    job = await once(store, queue, **{**DEADLY, **members})
    [taken] = await take(store, queue)
    assert taken.id == job.id
    return await nack(store, taken)


async def end(store: Store, job: JobRecord) -> None:
    await take(store, job.queue)
    await ack(store, job)


async def refused(store: Store, queue: str = "mail") -> str:
    """Return the id of the job that a new job conflicts with."""
    with pytest.raises(Duplicate) as why:
        await once(store, queue)
    return str(why.value.details["existing_job_id"])


@pytest.mark.parametrize("policy", [{}, {"states": ["available", "discarded", "completed"]}])
async def test_a_dead_letter_is_retried_only_while_no_other_of_its_uniqueness_lives(
    store: Store, db: Any, policy: dict[str, Any], consistent: Check
) -> None:
    one, other = queues_in_other_shards(store, 2)
    dead = await dead_letter(store, one, id=foreign_id(store, one), states=["available", "active"])
    live = await once(store, other, **policy)

    with pytest.raises(Duplicate) as why:
        await dead_letters.retry(store, dead.id)

    assert why.value.details["existing_job_id"] == live.id
    assert (await read_jobs.get(store, dead.id)).json() == dead.json(), "nothing has been changed"
    await end(store, live)
    retried = await dead_letters.retry(store, dead.id)
    assert retried.json() == (await read_jobs.get(store, dead.id)).json()
    assert retried.state is State.AVAILABLE
    assert await refused(store, other) == dead.id
    await end(store, retried)
    await once(store, other)
    consistent()


async def test_a_retried_job_may_die_and_be_retried_again(store: Store, db: Any) -> None:
    dead = await dead_letter(store)
    for number in (1, 2):
        assert (await dead_letters.retry(store, dead.id)).state is State.AVAILABLE
        assert await refused(store) == dead.id
        [again] = await take(store)
        assert (await nack(store, again)).dead
        assert locks_left(store, db) == 0, number
    await once(store)
    with pytest.raises(Duplicate):
        await dead_letters.retry(store, dead.id)


async def test_a_late_unlock_leaves_the_lock_of_the_retried_job(store: Store, db: Any) -> None:
    job = await once(store, **DEADLY)
    [taken] = await take(store)
    assert (await nack(without_unlock(store), taken)).dead
    assert locks_left(store, db) == 1

    await dead_letters.retry(store, job.id)
    await recover(store, db)

    assert not any(db.exists(shard.outbox_due) for shard in store.keys), "it was carried out"
    assert await refused(store) == job.id
    await end(store, job)
    assert_nothing_left(store, db)


async def test_a_check_before_a_retry_does_not_take_the_lock_of_the_retried_job(
    store: Store, db: Any
) -> None:
    job = await once(store, **DEADLY)
    [taken] = await take(store)
    await nack(without_unlock(store), taken)
    slow, client = lossy(store, times=0)
    original, once_ = client.script, [True]

    async def retried_meanwhile(slot: int, script: Any, *args: Any, **more: Any) -> Any:
        reply = await original(slot, script, *args, **more)
        if script.name == "read_hash" and once_:
            once_.clear()
            await dead_letters.retry(store, job.id)
        return reply

    client.script = retried_meanwhile  # type: ignore[method-assign]

    assert await refused(slow) == job.id
    assert not once_
    assert [found.id for found in await take(store, count=9)] == [job.id]


async def test_a_janitor_check_before_a_retry_leaves_the_lock_of_the_retried_job(
    store: Store, db: Any
) -> None:
    job = await once(store, **DEADLY)
    [taken] = await take(store)
    await nack(without_unlock(store), taken)
    lock = lock_of(store, db)
    age_lock(db, store, lock, HOUR)
    slow, client = lossy(store, times=0)
    original = client.script

    async def retried_meanwhile(slot: int, script: Any, keys: Any, *args: Any, **more: Any) -> Any:
        reply = await original(slot, script, keys, *args, **more)
        if script.name == "read_hash" and b":j:" in keys[0]:
            await dead_letters.retry(store, job.id)
        return reply

    client.script = retried_meanwhile  # type: ignore[method-assign]
    assert await unique.check_old_locks(slow, store.keys.shard_of_fingerprint(lock), 10) == 1

    assert await refused(store) == job.id


async def test_concurrent_retries_and_enqueues_leave_one_live_job(
    store: Store, other_store: Store, db: Any, consistent: Check
) -> None:
    one, other = queues_in_other_shards(store, 2)
    dead = [await dead_letter(store, name) for name in (one, other, one)]

    # Another request was faster.
    async def retry(of: Store, job_id: str) -> None:
        with suppress(Duplicate, NotFound, Conflict):
            await dead_letters.retry(of, job_id)

    async def produce(of: Store, queue: str) -> None:
        with suppress(Duplicate):
            await once(of, queue)

    async with trio.open_nursery() as nursery:
        for number in range(24):
            of = store if number % 2 else other_store
            nursery.start_soon(retry, of, dead[number % 3].id)
            nursery.start_soon(produce, of, (one, other)[number % 2])

    [job] = await take(store, one, other, count=99)
    assert await refused(store, other) == job.id
    await ack(store, job)
    await recover(store, db)
    assert_nothing_left(store, db)
    consistent()


async def test_an_aborted_retry_leaves_the_lock_as_it_was(
    store: Store, db: Any, consistent: Check
) -> None:
    """The job's own policy counts ended jobs, so it has kept its lock."""
    dead = await dead_letter(store, states=["available", "active", "discarded"])
    found = await locks.find_job(store, shard_of(store, "mail"), dead.id)
    assert found is not None
    fingerprint = lock_of(store, db)
    key = store.keys.shard_of_fingerprint(fingerprint).lock(fingerprint)
    before = db.hgetall(key)
    request = LockRequest(fingerprint, dead.id, found.shard, 1)
    revival = ManualRetry(dead.id, found.shard, "mail", 0, "dead")
    transaction = unique_retry._transaction(store, request, revival)
    expires_at_ms = await unique.claim_for_retry(store, request, transaction.id)
    assert db.hgetall(key) != before

    # A producer that needs the lock aborts the retry, then reads the job.
    age_lock(db, store, fingerprint, 5_000)
    with pytest.raises(Duplicate) as why:
        await once(store, states=["available", "active", "discarded"])
    assert why.value.details["existing_job_id"] == dead.id
    assert await transactions.commit(store, transaction, expires_at_ms) is None
    assert db.hgetall(key) == before
    assert (await dead_letters.retry(store, dead.id)).state is State.AVAILABLE
    consistent()


async def test_a_committed_retry_is_applied_by_the_next_process_that_needs_its_lock(
    store: Store, db: Any, consistent: Check
) -> None:
    dead = await dead_letter(store)
    found = await locks.find_job(store, shard_of(store, "mail"), dead.id)
    assert found is not None
    request = LockRequest(new_job(unique={}).fingerprint, dead.id, found.shard, 1)
    transaction = unique_retry._transaction(
        store, request, ManualRetry(dead.id, found.shard, "mail", 0, "dead")
    )
    now = await transactions.commit(
        store, transaction, await unique.claim_for_retry(store, request, transaction.id)
    )
    assert now is not None

    assert await refused(store) == dead.id
    await transactions.apply(store, transaction, now)

    [job] = await take(store, count=9)
    assert (job.id, job.attempt) == (dead.id, 1)
    await nack(store, job)
    await transactions.apply(store, transaction, now)
    assert await take(store) == [], "it is retried once, however often that is carried out"
    await recover(store, db, HOUR)
    assert_nothing_left(store, db)
    consistent()


async def test_of_discarded_jobs_of_one_uniqueness_one_is_retried_in_bulk(
    store: Store, consistent: Check
) -> None:
    dead = [await dead_letter(store) for _ in range(3)]

    result = await bulk_retry.retry_matching(store, JobFilter())

    assert (result.matched, result.retried) == (3, 1)
    assert {job_id for job_id, _ in result.failures} < {job.id for job in dead}
    assert consistent().count() == {"available": 1, "discarded": 2}


async def test_a_dead_letter_that_is_removed_while_it_is_retried_leaves_nothing(
    store: Store, db: Any, consistent: Check
) -> None:
    dead = await dead_letter(store)
    slow, client = lossy(store, times=0)
    original = client.script

    async def removed_meanwhile(slot: int, script: Any, *args: Any, **more: Any) -> Any:
        reply = await original(slot, script, *args, **more)
        if script.name == "transaction_commit":
            age_job(db, shard_of(store), dead.id, 200 * DAY)
            assert (await purge_due(store, shard_of(store), 10)).done == 1
        return reply

    client.script = removed_meanwhile  # type: ignore[method-assign]
    with pytest.raises(NotFound):
        await dead_letters.retry(slow, dead.id)

    for _ in range(2):
        await recover(store, db, HOUR)
    assert_nothing_left(store, db)
    consistent()


async def test_a_retried_job_holds_its_lock_after_an_import_too(
    store: Store, db: Any, consistent: Check
) -> None:
    dead = await dead_letter(store)
    await dead_letters.retry(store, dead.id)
    text = await export_text(store)
    schema = store.keys.meta.schema
    kept = db.hgetall(schema)
    for key in set(db.scan_iter(match="ojs:*", count=10_000)) - {schema}:
        db.delete(key)
    assert db.hgetall(schema) == kept
    _, said = await import_text(store, text)
    assert said == []

    assert await refused(store) == dead.id
    [job] = await take(store)
    await nack(store, job)
    assert locks_left(store, db) == 0
    consistent()
