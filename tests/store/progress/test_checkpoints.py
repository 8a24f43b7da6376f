"""Checkpoints in the job's shard: who may save them, how long they last, what removes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, MalformedJob, NotFound, PayloadTooLarge
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.features.progress import checkpoints
from ojs_cluster.store.features.progress.checkpoints import MAX_BYTES, Checkpoint, read_checkpoint
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.ground import job_fields as f
from tests.store.archives import export_text
from tests.store.shortcuts import (
    DAY,
    HOUR,
    ack,
    active,
    foreign_id,
    home_id,
    nack,
    promote_all,
    put,
    shard_of,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]


async def save(store: Store, job: JobRecord | str, state: bytes = b"1", **more: Any) -> Checkpoint:
    """Save as ``worker_id`` or ``lease_id``, or anonymously."""
    who = {"worker_id": None, "lease_id": None, **more}
    return await checkpoints.save(store, job if isinstance(job, str) else job.id, state, **who)


async def state_of(store: Store, job: JobRecord) -> bytes | None:
    found = await read_checkpoint(store, job.id)
    return None if found is None else found.state


async def test_a_checkpoint_replaces_the_one_before(store: Store, consistent: Check) -> None:
    job = await active(store)
    assert await read_checkpoint(store, job.id) is None
    for sequence, state in enumerate((b'{"a": [1e2]}', b"null", b'"s"', b"0"), 1):
        saved = await save(store, job, state, more=b'"step_index":1')
        assert saved.sequence == sequence
        found = await read_checkpoint(store, job.id)
        assert found == Checkpoint(job.id, state, sequence, saved.created_ms, b'"step_index":1')
    consistent()


async def test_a_deleted_checkpoint_is_gone_and_the_sequence_starts_again(
    store: Store, consistent: Check, db: Any
) -> None:
    job = await active(store)
    await save(store, job)
    await save(store, job)
    for _ in range(2):
        await checkpoints.delete(store, job.id)
        assert await read_checkpoint(store, job.id) is None
        assert not db.exists(shard_of(store).checkpoint(job.id))
    assert (await save(store, job)).sequence == 1
    consistent()


async def test_a_checkpoint_survives_attempts_and_the_end_of_the_job(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await active(store)
    await save(store, job, b'"one"')
    await nack(store, job)
    assert (await save(store, job, b'"two"')).sequence == 2  # retryable
    age_job(db, shard_of(store), job.id, HOUR)
    await promote_all(store)
    [again] = await take(store)
    assert f.CHECKPOINT in again.fields
    found = await checkpoints.read_of_fetched(store, [again])
    assert found[job.id].state == b'"two"'
    await ack(store, again)
    assert await state_of(store, job) == b'"two"'
    with pytest.raises(Conflict):
        await save(store, job)
    consistent()


@pytest.mark.parametrize("state", ["scheduled", "pending", "completed", "cancelled", "discarded"])
async def test_other_states_take_no_checkpoint(store: Store, state: str) -> None:
    by_state: dict[str, dict[str, Any]] = {
        "scheduled": {"scheduled_at": "+PT1H"},
        "pending": {"pending": True},
        "discarded": {"max_attempts": 1},
    }
    options = by_state.get(state, {})
    job = await put(store, **options)
    if state in ("completed", "discarded"):
        [job] = await take(store)
        await (ack if state == "completed" else nack)(store, job)
    if state == "cancelled":
        await cancel(store, job.id)
    with pytest.raises(Conflict) as raised:
        await save(store, job)
    assert raised.value.details["state"] == state
    await checkpoints.delete(store, job.id)


async def test_only_the_holder_saves(store: Store) -> None:
    job = await active(store, worker="w1")
    others: tuple[dict[str, Any], ...] = ({"worker_id": "w2"}, {"lease_id": "lease_x"})
    for who in others:
        with pytest.raises(Conflict):
            await save(store, job, **who)
    holder: dict[str, Any] = {"worker_id": "w1", "lease_id": job.lease_id}
    await save(store, job, **holder)
    await nack(store, job)
    with pytest.raises(Conflict):  # it has lost the lease
        await save(store, job, **holder)
    with pytest.raises(NotFound):
        await save(store, home_id(store))
    with pytest.raises(NotFound):
        await read_checkpoint(store, home_id(store))


async def test_a_job_stored_under_an_alias_has_a_checkpoint(store: Store, db: Any) -> None:
    job = await active(store, id=foreign_id(store))
    await save(store, job, b"7")
    assert await state_of(store, job) == b"7"
    assert db.exists(shard_of(store).checkpoint(job.id))
    assert (await checkpoints.read_of_fetched(store, [job])) == {}  # fetched before the save


async def test_a_checkpoint_that_is_too_large_is_refused(store: Store) -> None:
    job = await active(store)
    large = b'"%b"' % (b"x" * (MAX_BYTES - 2))
    await save(store, job, large)
    assert await state_of(store, job) == large
    with pytest.raises(PayloadTooLarge):
        await save(store, job, large, more=b"x")
    assert await state_of(store, job) == large


async def test_large_checkpoints_count_as_bytes_of_a_fetch(store: Store) -> None:
    large = b'"%b"' % (b"x" * (MAX_BYTES - 2))
    made = [await put(store) for _ in range(40)]
    for job in made:
        await save(store, job, large)
    taken = await take(store, count=40)
    assert 1 <= len(taken) < 40
    assert all(job.size > MAX_BYTES for job in taken)


@pytest.mark.parametrize("foreign", [False, True])
async def test_retention_removes_the_checkpoint_with_its_job(
    store: Store, db: Any, consistent: Check, foreign: bool
) -> None:
    shard = shard_of(store)
    job = await active(store, id=foreign_id(store) if foreign else None)
    await save(store, job)
    await ack(store, job)
    age_job(db, shard, job.id, 8 * DAY)
    await retention.purge_due(store, shard, 10)
    assert not db.exists(shard.job(job.id), shard.checkpoint(job.id))
    consistent()


async def test_a_purge_of_a_queue_removes_checkpoints(
    store: Store, db: Any, consistent: Check
) -> None:
    job, other = await put(store), await put(store)
    await save(store, job)
    await purges.purge(store, job.queue)
    shard = shard_of(store)
    assert not db.exists(shard.job(job.id), shard.job(other.id), shard.checkpoint(job.id))
    consistent()


async def test_a_dead_letter_keeps_its_checkpoint_until_it_is_deleted(
    store: Store, db: Any, consistent: Check
) -> None:
    shard = shard_of(store)
    job = await active(store, max_attempts=1, retry={"on_exhaustion": "dead_letter"})
    await save(store, job, b"3")
    await nack(store, job)
    await dead_letters.retry(store, job.id)
    [again] = await take(store)
    assert (await checkpoints.read_of_fetched(store, [again]))[job.id].state == b"3"
    await nack(store, again)
    await dead_letters.delete(store, job.id)
    await retention.purge_due(store, shard, 10)
    assert not db.exists(shard.job(job.id), shard.checkpoint(job.id))
    consistent()


async def test_removing_a_malformed_job_removes_its_checkpoint(store: Store, db: Any) -> None:
    job = await active(store)
    shard = shard_of(store)
    await save(store, job)
    db.hdel(shard.job(job.id), f.ATTEMPT)
    await cancel(store, job.id)
    assert not db.exists(shard.job(job.id), shard.checkpoint(job.id))


async def test_a_malformed_job_takes_no_checkpoint(store: Store, db: Any) -> None:
    job = await active(store)
    db.hdel(shard_of(store).job(job.id), f.STATE)
    for call in (save(store, job), read_checkpoint(store, job.id)):
        with pytest.raises(MalformedJob):
            await call
    with pytest.raises(MalformedJob):
        await checkpoints.delete(store, job.id)


async def test_a_damaged_mark_is_read_as_a_new_checkpoint(store: Store, db: Any) -> None:
    job = await active(store)
    db.hset(shard_of(store).job(job.id), f.CHECKPOINT, "x")
    assert await read_checkpoint(store, job.id) is None
    assert (await save(store, job, b"4")).sequence == 1
    assert await state_of(store, job) == b"4"


@pytest.mark.parametrize("name", ["sequence", "created"])
async def test_a_checkpoint_with_damaged_numbers_is_left_out(
    store: Store, db: Any, name: str
) -> None:
    job = await active(store)
    await save(store, job)
    db.hset(shard_of(store).checkpoint(job.id), name, b"\xff9")
    assert await read_checkpoint(store, job.id) is None
    await nack(store, job, requeue=True)
    [again] = await take(store)
    assert f.CHECKPOINT in again.fields
    assert await checkpoints.read_of_fetched(store, [again]) == {}


async def test_a_checkpoint_of_a_wrong_type_stops_no_fetch(store: Store, db: Any) -> None:
    job = await active(store)
    await save(store, job)
    key = shard_of(store).checkpoint(job.id)
    db.delete(key)
    db.set(key, "damaged")
    await nack(store, job, requeue=True)
    sound = await put(store)
    await save(store, sound, b"2")
    jobs = await take(store, count=2)
    assert {each.id for each in jobs} == {job.id, sound.id}
    assert set(await checkpoints.read_of_fetched(store, jobs)) == {sound.id}
    await checkpoints.delete(store, job.id)  # a client can repair it
    assert not db.exists(key)
    held = next(each for each in jobs if each.id == job.id)
    assert (await save(store, held)).sequence == 1


async def test_events_of_checkpoints_are_at_most_one_per_second(store: Store, db: Any) -> None:
    job = await active(store)
    for _ in range(20):
        await save(store, job)
    page = await read_events(store, EventFilter(types=["job.checkpointed"], job_id=job.id))
    assert b'"worker_id":"w1","attempt":1,"sequence":1' in page.events[0]
    assert len(page.events) < 20


async def test_an_export_leaves_checkpoints_out(store: Store) -> None:
    job = await active(store)
    await save(store, job, b'"secret-state"')
    text = await export_text(store)
    assert job.id.encode() in text
    assert b"secret-state" not in text
    assert b'"ck"' not in text


async def test_a_job_without_a_checkpoint_has_no_field_for_it(store: Store, db: Any) -> None:
    job = await put(store, id=None)
    assert f.CHECKPOINT not in db.hgetall(shard_of(store).job(job.id))
