"""Unique jobs: which jobs conflict, what the policies do, and that no lock is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.cron.cron_job import parse_cron
from ojs_cluster.core.errors import Duplicate
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.engine.unique_locks import LockRequest, write_tombstone
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.retention.retention import purge_due, remove_leftovers
from tests.store.shortcuts import (
    DAY,
    HOUR,
    MINUTE,
    QUEUE,
    ack,
    active,
    clock_ms,
    envelope,
    foreign_id,
    home_id,
    nack,
    new_job,
    put,
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
from tests.support.fixed_ids import enqueue_with_id
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.moments import Moment, at_moments
from tests.support.timeshift import age_job


async def test_a_job_of_the_same_uniqueness_is_rejected_and_named(store: Store) -> None:
    first = await once(store)

    with pytest.raises(Duplicate) as refused:
        await once(store)

    details = refused.value.details
    assert details["existing_job_id"] == first.id
    assert details["existing_job_state"] == "available"
    assert len(details["uniqueness_key"]) == 64
    assert [job.id for job in await take(store, count=9)] == [first.id]


async def test_queues_of_other_shards_share_the_uniqueness(store: Store) -> None:
    one, other = queues_in_other_shards(store, 2)
    await once(store, one)

    with pytest.raises(Duplicate):
        await once(store, other)
    await once(store, one, type="another")
    await once(store, other, keys=["queue"])


async def test_ignore_answers_with_the_existing_job(store: Store) -> None:
    first = await once(store)

    again = await once(store, on_conflict="ignore")

    assert (again.id, again.deduplicated, first.deduplicated) == (first.id, True, False)
    assert len(await take(store, count=9)) == 1


@pytest.mark.parametrize("how", ["replace", "replace_except_schedule"])
async def test_replace_cancels_the_job_in_another_queue(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], how: str
) -> None:
    one, other = queues_in_other_shards(store, 2)
    old = await once(store, one)

    new = await once(store, other, on_conflict=how)

    assert not new.deduplicated
    assert (await read_jobs.get(store, old.id)).state == State.CANCELLED
    assert (await read_jobs.get(store, new.id)).state == State.AVAILABLE
    [taken] = await take(store, one, other, count=9)
    assert taken.id == new.id
    await ack(store, taken)
    assert_nothing_left(store, db)
    consistent()


async def test_an_active_job_is_replaced_and_its_worker_told(store: Store) -> None:
    old = await active(store, unique={})
    await once(store, type=old.type, on_conflict="replace")

    with pytest.raises(Exception, match="is cancelled"):
        await ack(store, old)


async def test_replacing_can_keep_the_schedule(store: Store) -> None:
    old = await once(store, scheduled_at="+PT1H")

    new = await once(
        store, scheduled_at="2099-01-01T00:00:00Z", on_conflict="replace_except_schedule"
    )

    assert new.state == State.SCHEDULED
    assert new.due_ms == old.due_ms
    shown = envelope(await read_jobs.get(store, new.id))
    assert shown["scheduled_at"] == envelope(old)["scheduled_at"]
    assert envelope(new) == shown
    assert (await read_jobs.get(store, old.id)).state == State.CANCELLED


async def test_the_policy_of_the_new_job_says_which_states_count(store: Store) -> None:
    await once(store)
    [job] = await take(store)

    with pytest.raises(Duplicate):
        await once(store, states=["active"])
    second = await once(store, states=["available"])
    with pytest.raises(Duplicate):
        await once(store)
    assert job.id != second.id


async def test_a_job_that_was_not_stored_returns_the_lock_to_its_previous_holder(
    store: Store, db: Any
) -> None:
    await once(store)
    await take(store)
    taken = await put(store, id=home_id(store))

    with pytest.raises(Duplicate, match=taken.id):
        await once(store, states=["available"], id=taken.id)

    with pytest.raises(Duplicate):
        await once(store)


async def test_the_period_counts_from_the_creation_of_the_job_that_is_there(
    store: Store, db: Any
) -> None:
    first = await once(store, period="PT1H")
    age_job(db, shard_of(store), first.id, HOUR - 5 * MINUTE)
    with pytest.raises(Duplicate):
        await once(store, period="PT1H")

    age_job(db, shard_of(store), first.id, 5 * MINUTE)
    second = await once(store, period="PT1H")

    assert (await read_jobs.get(store, first.id)).state == State.AVAILABLE
    with pytest.raises(Duplicate, match=second.id):
        await once(store, period="PT1H")


async def test_every_end_releases_the_lock(store: Store, db: Any) -> None:
    done = await active(store, unique={})
    await ack(store, done)
    failed = await active(store, unique={}, max_attempts=1)
    await nack(store, failed)
    gone = await put(store, unique={})
    await cancel(store, gone.id)
    await put(store, unique={})
    await purges.purge(store, QUEUE)

    assert (await put(store, unique={})).state == State.AVAILABLE
    assert locks_left(store, db) == 1
    [last] = await take(store)
    await ack(store, last)
    assert_nothing_left(store, db)


async def test_completed_jobs_conflict_until_they_are_removed_if_the_policy_counts_them(
    store: Store, db: Any
) -> None:
    policy = {"states": ["available", "active", "completed"]}
    job = await active(store, unique=policy)
    await ack(store, job)
    with pytest.raises(Duplicate):
        await put(store, unique=policy)

    age_job(db, shard_of(store), job.id, 8 * DAY)
    await purge_due(store, shard_of(store), 10)
    lock = lock_of(store, db)
    age_lock(db, store, lock, HOUR)
    await unique.check_old_locks(store, store.keys.shard_of_fingerprint(lock), 10)

    assert locks_left(store, db) == 0
    await put(store, unique=policy)


async def test_the_janitor_releases_a_lock_whose_unlock_was_lost(store: Store, db: Any) -> None:
    """A failover may lose the outbox entry that the end of the job wrote."""
    job = await active(store, unique={})
    await ack(without_unlock(store), job)
    db.delete(shard_of(store).outbox, shard_of(store).outbox_due)
    lock = lock_of(store, db)
    age_lock(db, store, lock, HOUR)

    assert await unique.check_old_locks(store, store.keys.shard_of_fingerprint(lock), 10) == 1

    assert locks_left(store, db) == 0


async def test_the_janitor_checks_a_lock_in_use_less_and_less_often(store: Store, db: Any) -> None:
    await once(store)
    lock = lock_of(store, db)
    shard = store.keys.shard_of_fingerprint(lock)
    age_lock(db, store, lock, HOUR)

    assert await unique.check_old_locks(store, shard, 10) == 1

    assert await unique.check_old_locks(store, shard, 10) == 0
    now = int(db.hget(shard.lock(lock), "claimed_at")) + HOUR
    assert db.zscore(shard.locks, lock) >= now + 0.9 * HOUR
    with pytest.raises(Duplicate):
        await once(store)


async def test_a_lock_without_its_job_is_taken_over_and_the_late_job_kept_out(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    late = new_job(unique={})
    shard = shard_of(store)
    stalled_id = home_id(store)
    request = LockRequest(late.fingerprint, stalled_id, shard.index)
    assert late.unique is not None
    claim = await unique.claim_lock(store, request, late.unique)

    second = await put(store, unique={})

    assert not await enqueue_with_id(store, stalled_id, late, store_before_ms=claim.expires_at_ms)
    assert [job.id for job in await take(store, count=9)] == [second.id]
    db.zincrby(shard.alias_claims, -HOUR, stalled_id)
    await remove_leftovers(store, shard)
    assert not db.exists(shard.job(stalled_id))
    consistent()


async def test_a_lock_that_an_earlier_version_claimed_is_taken_over(store: Store, db: Any) -> None:
    """Its claim has no name."""
    late = new_job(unique={})
    assert late.unique is not None
    request = LockRequest(late.fingerprint, home_id(store), shard_of(store).index)
    await unique.claim_lock(store, request, late.unique)
    lock = store.keys.shard_of_fingerprint(late.fingerprint).lock(late.fingerprint)
    db.hdel(lock, "c")
    second = await put(store, unique={})
    assert db.hget(lock, "holder").decode() == second.id


async def test_a_producer_that_lost_its_lock_meanwhile_tries_again(store: Store, db: Any) -> None:
    losing, client = lossy(store, "lock_claim", times=0)
    original = client.script
    stolen: list[str] = []

    async def steal(slot: int, script: Any, keys: Any, args: Any, **more: Any) -> Any:
        if script.name == "enqueue" and not stolen:
            job_id = lock_holder(db, store)
            stolen.append(job_id)
            assert await write_tombstone(store, shard_of(store), job_id)
        return await original(slot, script, keys, args, **more)

    client.script = steal  # type: ignore[method-assign]

    job = await enqueue(losing, new_job(unique={}))

    assert job.id != stolen[0]
    assert lock_holder(db, store) == job.id


def lock_holder(db: Any, store: Store) -> str:
    lock = lock_of(store, db)
    holder: bytes = db.hget(store.keys.shard_of_fingerprint(lock).lock(lock), "holder")
    return holder.decode()


@pytest.mark.parametrize("policy", ["reject", "ignore", "replace", "replace_except_schedule"])
async def test_lost_replies_make_no_second_job(store: Store, db: Any, policy: str) -> None:
    if policy.startswith("replace"):
        await once(store)
    losing, client = lossy(
        store,
        *("lock_claim", "enqueue", "enqueue_part", "transaction_commit", "transaction_end"),
        *("lock_settle", "read_hash", "cancel"),
        times=1,
    )

    job = await once(losing, on_conflict=policy)

    assert {"enqueue", "enqueue_part"} & set(client.lost)
    [taken] = await take(store, count=9)
    assert taken.id == job.id
    await ack(store, taken)
    await recover(store, db)
    assert_nothing_left(store, db)


@pytest.mark.parametrize("make_id", [home_id, foreign_id])
async def test_a_client_may_repeat_its_unique_job_with_the_same_id(
    store: Store, db: Any, make_id: Callable[[Store], str]
) -> None:
    job_id = make_id(store)
    await once(store, id=job_id)

    with pytest.raises(Duplicate) as refused:
        await once(store, id=job_id)
    assert refused.value.details["existing_job_id"] == job_id

    with pytest.raises(Duplicate):
        await once(store)
    [job] = await take(store)
    await ack(store, job)
    with pytest.raises(Duplicate):
        await once(store, id=job_id)
    assert_nothing_left(store, db)


async def test_a_replacement_may_bring_its_own_id(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    old = await once(store)
    for job_id in (home_id(store), foreign_id(store)):
        await once(store, id=job_id, on_conflict="replace")
        assert (await read_jobs.get(store, job_id)).state == State.AVAILABLE
    with pytest.raises(Duplicate, match=old.id):
        await once(store, id=old.id, on_conflict="replace")
    [job] = await take(store, count=9)
    assert job.id == job_id
    consistent()


@pytest.mark.parametrize("policy", ["reject", "ignore", "replace"])
async def test_a_cron_jobs_runs_are_unique_too(store: Store, db: Any, policy: str) -> None:
    unique_ = {"keys": ["type"], "on_conflict": policy}
    body: dict[str, Any] = {"name": "c", "cron": "@daily", "type": "t", "overlap_policy": "allow"}
    body["options"] = {"queue": QUEUE, "unique": unique_}
    await cron.register(store, parse_cron(json.dumps(body).encode()))

    _, first = await cron.trigger(store, "c")
    if policy == "reject":
        with pytest.raises(Duplicate) as refused:
            await cron.trigger(store, "c")
        assert refused.value.details["existing_job_id"] == first.id
    else:
        _, second = await cron.trigger(store, "c")
        assert second.deduplicated == (second.id == first.id) == (policy == "ignore")

    assert (await cron.get(store, "c")).firing is None
    [job] = await take(store, count=9)
    assert (job.id == first.id) == (policy != "replace")
    await ack(store, job)
    assert_nothing_left(store, db)


async def test_what_the_envelope_says_of_uniqueness_stays(store: Store) -> None:
    job = await once(store, keys=["args"], period="PT1H")
    shown = json.loads(job.json())["unique"]
    assert (shown["keys"], shown["period"]) == (["type", "args"], "PT1H")


async def test_a_claimed_lock_is_valid_for_two_minutes(store: Store) -> None:
    fingerprint = "0" * 64
    shard = store.keys.shard_of_fingerprint(fingerprint)
    job = new_job(unique={})
    assert job.unique is not None

    before = await clock_ms(store, shard.slot)
    claimed = await unique.claim_lock(
        store, LockRequest(fingerprint, home_id(store), 0), job.unique
    )
    after = await clock_ms(store, shard.slot)

    assert claimed.existing is None
    assert before + 2 * MINUTE <= claimed.expires_at_ms <= after + 2 * MINUTE


async def test_a_lock_with_an_expired_claim_is_released_before_the_next_try(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unique, "CLAIM_MS", -1000)

    async def in_time(moment: Moment) -> None:
        if moment == Moment("before", "lock_claim", 2):
            monkeypatch.setattr(unique, "CLAIM_MS", 2 * MINUTE)

    seen, client = lossy(at_moments(store, in_time))
    assert (await once(seen)).state is State.AVAILABLE
    assert client.calls["enqueue"] == 2
    assert "write_tombstone" not in client.calls, "no other producer interfered"
