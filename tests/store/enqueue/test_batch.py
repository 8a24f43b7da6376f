"""Batches over shards: all or none, in the order given, although processes die or interfere."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable, Duplicate
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.durability import Durability, require_durability
from ojs_cluster.redis.errors import MalformedKey, RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue import independent_jobs
from ojs_cluster.store.engine.enqueue.batch_attempt import BatchAttempt
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.placement import enqueue_command
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.engine.transactions import contents, purge_notes, transactions
from ojs_cluster.store.features.retention.retention import purge_due
from tests.store.shortcuts import (
    DAY,
    HOUR,
    MINUTE,
    ack,
    foreign_id,
    home_id,
    new_job,
    put,
    queues_in_other_shards,
    shard_of,
    sibling_queue,
    take,
)
from tests.store.unique_jobs import assert_nothing_left, keys_there, once, recover
from tests.support.failing_process import dies_at
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.timeshift import age_job


async def test_a_thousand_jobs_over_all_shards_come_back_in_order(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    names = queues_in_other_shards(store, 64)
    wanted = [new_job(names[i % 64], type=f"t{i}") for i in range(1000)]

    stored = await enqueue_many(store, wanted)

    assert [job.type for job in stored] == [f"t{i}" for i in range(1000)]
    taken = await take(store, names[5], count=100)
    assert [job.type for job in taken] == [f"t{i}" for i in range(5, 1000, 64)]
    assert json.loads(stored[5].json())["state"] == "available"
    assert_nothing_left(store, db)
    consistent()


async def test_relative_times_and_pending_jobs_survive_the_transaction(store: Store) -> None:
    one, other = queues_in_other_shards(store, 2)

    stored = await enqueue_many(
        store,
        [
            new_job(one, scheduled_at="+PT1H", expires_at="+PT2H"),
            new_job(other, pending=True, priority=7),
        ],
    )

    for job in stored:
        assert (await read_jobs.get(store, job.id)).json() == job.json()
    assert [job.state for job in stored] == ["scheduled", "pending"]


@pytest.mark.parametrize("make_id", [home_id, foreign_id])
async def test_an_id_that_is_taken_anywhere_refuses_the_whole_batch(
    store: Store,
    db: Any,
    consistent: Callable[[], InvariantReport],
    make_id: Callable[[Store, str], str],
) -> None:
    one, other, third = queues_in_other_shards(store, 3)
    taken = make_id(store, third)
    await put(store, third, id=taken)
    free = home_id(store, one)

    with pytest.raises(Duplicate) as refused:
        await enqueue_many(store, [new_job(one, id=free), new_job(other), new_job(third, id=taken)])

    assert refused.value.details["index"] == 2
    assert await take(store, one, other, count=9) == []
    await put(store, one, id=free)
    assert_nothing_left(store, db)
    consistent()


async def test_ids_of_clients_are_kept_and_found(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    one, other = queues_in_other_shards(store, 2)
    ids = [home_id(store, one), foreign_id(store, other), home_id(store, other)]

    await enqueue_many(
        store,
        [new_job(one, id=ids[0]), new_job(other, id=ids[1]), new_job(other, id=ids[2])],
    )

    for job_id in ids:
        assert (await read_jobs.get(store, job_id)).id == job_id
    with pytest.raises(Duplicate):
        await put(store, "elsewhere", id=ids[1])
    assert db.zcard(shard_of(store, other).alias_claims) == 0
    consistent()


async def test_the_same_batch_sent_many_times_at_once_is_stored_once(
    store: Store, other_store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    names = queues_in_other_shards(store, 4)
    ids = [home_id(store, names[0]), foreign_id(store, names[1]), home_id(store, names[2])]
    outcomes: list[list[JobRecord] | None] = []

    async def send(through: Store) -> None:
        wanted = [new_job(name, id=i) for name, i in zip(names, ids, strict=False)]
        wanted.append(new_job(names[3], unique={}))
        try:
            outcomes.append(await enqueue_many(through, wanted))
        except Duplicate:
            outcomes.append(None)

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(send, store if number % 2 else other_store)

    assert len([found for found in outcomes if found]) == 1
    assert len(await take(store, *names, count=99)) == 4
    consistent()


async def test_batches_that_need_each_others_locks_do_not_deadlock(
    store: Store, other_store: Store, db: Any
) -> None:
    types = [f"t{number}" for number in range(8)]
    stored: list[JobRecord] = []

    async def send(through: Store, order: list[str]) -> None:
        wanted = [new_job(type=name, unique={"on_conflict": "replace"}) for name in order]
        stored.extend(await enqueue_many(through, wanted))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(send, store, types)
            nursery.start_soon(send, other_store, types[::-1])

    assert len(stored) == 6 * 8
    taken = await take(store, count=99)
    assert sorted(job.type for job in taken) == types


async def test_several_processes_may_apply_a_batch_at_once(
    store: Store, other_store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    names = queues_in_other_shards(store, 3)
    old = await once(store, names[0])
    wanted = [new_job(names[0], unique={"on_conflict": "replace"}), *map(new_job, names)]
    attempt = BatchAttempt(store, wanted)
    await attempt.reserve()
    transaction = attempt.transaction()
    await transactions.commit(store, transaction, attempt.commit_before_ms)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(
                transactions.resolve, store if number % 2 else other_store, transaction.id
            )

    assert len(await take(store, *names, count=99)) == 4
    assert (await read_jobs.get(store, old.id)).state == "cancelled"
    await _end_all(store, names)
    assert_nothing_left(store, db)
    consistent()


async def test_reservations_of_a_dead_batch_block_no_request(store: Store, db: Any) -> None:
    one, other = queues_in_other_shards(store, 2)
    ids = [home_id(store, one), home_id(store, other)]
    wanted = [new_job(one, id=ids[0]), new_job(other, id=ids[1])]
    at = 1
    while not any(db.hexists(shard_of(store, name).job(i), "@t") for name, i in _pairs(one, ids)):
        assert await dies_at(store, at, True, partial(enqueue_many, jobs=wanted))
        at += 1

    with trio.fail_after(60):
        await put(store, one, id=ids[0])

    assert (await read_jobs.get(store, ids[0])).queue == one


def _pairs(queue: str, ids: list[str]) -> list[tuple[str, str]]:
    return [(queue, ids[0])]


async def test_lost_replies_store_a_batch_once(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    names = queues_in_other_shards(store, 3)
    losing, client = lossy(
        store, "reserve_ids", "transaction_commit", "enqueue_part", "transaction_end", times=1
    )

    stored = await enqueue_many(
        losing, [new_job(names[0], id=home_id(store, names[0])), *map(new_job, names)]
    )

    assert {"reserve_ids", "transaction_commit", "enqueue_part", "transaction_end"} == set(
        client.lost
    )
    taken = await take(store, *names, count=9)
    assert sorted(job.id for job in taken) == sorted(job.id for job in stored)
    await recover(store, db)
    assert_nothing_left(store, db)
    consistent()


async def test_a_transaction_applied_again_much_later_changes_nothing(
    store: Store, db: Any
) -> None:
    names = queues_in_other_shards(store, 2)
    old = await once(store, names[0])
    attempt = BatchAttempt(
        store, [new_job(names[1], unique={"on_conflict": "replace"}), new_job(names[0])]
    )
    await attempt.reserve()
    transaction = attempt.transaction()
    now = await transactions.commit(store, transaction, attempt.commit_before_ms)
    assert now is not None
    await transactions.apply(store, transaction, now)
    await _end_all(store, names)

    assert await transactions.commit(store, transaction, attempt.commit_before_ms) is not None
    await transactions.apply(store, transaction, now)
    assert await transactions.resolve(store, transaction.id)

    assert await take(store, *names, count=9) == []
    assert (await read_jobs.get(store, old.id)).state == "cancelled"
    assert_nothing_left(store, db)


async def _half_written(store: Store, one: str, other: str) -> tuple[contents.Transaction, int]:
    """Commit a transaction over the shards of two queues, and store only the part of the first.

    The record lies in the shard of the other.
    """
    attempt = BatchAttempt(store, [new_job(other), new_job(one)])
    await attempt.reserve()
    transaction = attempt.transaction()
    now = await transactions.commit(store, transaction, attempt.commit_before_ms)
    assert now is not None
    shard = shard_of(store, one)
    keys, args = enqueue_command(
        store,
        shard,
        transaction.parts[shard][0],
        store_before_ms=now + 300_000,
        transaction=transaction.id,
    )
    [status, *_] = await store.run(shard, "enqueue", keys, args)
    assert status == b"ok"
    return transaction, now


async def _run_and_forget(store: Store, db: Any, queue: str) -> str:
    """Run the queue's only job, and end its retention."""
    [job] = await take(store, queue)
    await ack(store, job)
    age_job(db, shard_of(store, queue), job.id, 400 * DAY)
    assert (await purge_due(store, shard_of(store, queue), 10)).done == 1
    return job.id


async def test_jobs_of_a_transaction_do_not_run_again_when_the_rest_is_applied_late(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    """The shard of the other part is away, or no scheduler runs, for longer than notes are kept."""
    one, other = queues_in_other_shards(store, 2)
    transaction, _ = await _half_written(store, one, other)
    await _run_and_forget(store, db, one)
    for _ in range(3):
        for shard in store.keys:
            for name in db.zrange(shard.applied_transactions, 0, -1):
                db.zincrby(shard.applied_transactions, -HOUR, name)
            await purge_notes.purge_old(store, shard, 100)

    assert await transactions.resolve(store, transaction.id)

    assert await take(store, one) == []
    assert len(await take(store, other)) == 1
    consistent()
    await recover(store, db, HOUR)
    assert not any(db.exists(shard.applied_transactions) for shard in store.keys), (
        "the note is removed in the end"
    )


async def test_applied_parts_are_remembered_while_the_owner_shard_does_not_answer(
    store: Store, db: Any
) -> None:
    one, other = queues_in_other_shards(store, 2)
    transaction, _ = await _half_written(store, one, other)
    shard = shard_of(store, one)
    db.zincrby(shard.applied_transactions, -HOUR, transaction.id)

    assert await purge_notes.purge_old(Away(store, "transactions_unapplied").store, shard, 1) == 1
    assert await purge_notes.purge_old(store, shard, 1) == 0, "others come first"

    assert db.zscore(shard.applied_transactions, transaction.id) is not None


async def test_a_process_that_stalls_while_another_applies_the_transaction_writes_nothing_twice(
    store: Store, db: Any
) -> None:
    one, other = queues_in_other_shards(store, 2)
    transaction, read_at = await _half_written(store, one, other)
    await _run_and_forget(store, db, one)
    shard = shard_of(store, one)
    db.zincrby(shard.applied_transactions, -9 * MINUTE, transaction.id)

    assert await transactions.resolve(store, transaction.id)
    db.zincrby(shard.applied_transactions, -2 * MINUTE, transaction.id)
    await purge_notes.purge_old(store, shard, 100)
    await transactions.apply(store, transaction, read_at)

    assert await take(store, one) == []


async def test_an_aborted_transaction_cannot_be_committed(store: Store, db: Any) -> None:
    names = queues_in_other_shards(store, 2)
    attempt = BatchAttempt(store, [new_job(name, id=home_id(store, name)) for name in names])
    await attempt.reserve()
    transaction = attempt.transaction()

    assert not await transactions.resolve(store, transaction.id)

    assert await transactions.commit(store, transaction, attempt.commit_before_ms) is None
    assert await take(store, *names, count=9) == []


async def test_an_accepted_batch_that_cannot_be_written_yet_says_so_and_is_written(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    names = queues_in_other_shards(store, 2)
    away = Away(store)

    with pytest.raises(BackendUnavailable) as told:
        await enqueue_many(away.store, [new_job(name) for name in names])

    assert told.value.outcome == "unknown"
    await recover(store, db)
    assert [len(await take(store, name, count=9)) for name in names] == [1, 1]
    assert_nothing_left(store, db)
    consistent()


async def test_jobs_that_may_be_stored_are_not_stored_one_by_one(
    store: Store,
    db: Any,
    monkeypatch: pytest.MonkeyPatch,
    consistent: Callable[[], InvariantReport],
) -> None:
    """As after a script that could not write the last of its keys."""
    commit = transactions.commit

    async def fail_late(of: Store, transaction: contents.Transaction, before_ms: int) -> None:
        await commit(of, transaction, before_ms)
        raise MalformedKey(RedisReplyError("WRONGTYPE"), "a key has a wrong type", None)

    monkeypatch.setattr(transactions, "commit", fail_late)
    jobs = [new_job(name) for name in queues_in_other_shards(store, 2)]
    with pytest.raises(MalformedKey):
        await independent_jobs.enqueue_each(store, jobs)

    monkeypatch.undo()
    await recover(store, db)
    assert consistent().count() == {"available": 2}


class Away:
    """A store for which one script fails as if its shards did not answer."""

    def __init__(self, store: Store, name: str = "enqueue_part") -> None:
        self.store, client = lossy(store)
        original = client.script

        async def refuse(slot: int, script: Any, keys: Any, args: Any, **more: Any) -> Any:
            if script.name == name:
                raise BackendUnavailable("no answer", outcome="not_applied")
            return await original(slot, script, keys, args, **more)

        client.script = refuse  # type: ignore[method-assign]


async def test_counters_show_a_whole_batch_at_once(store: Store) -> None:
    one, other = queues_in_other_shards(store, 2)
    await enqueue_many(store, [new_job(one) for _ in range(60)] + [new_job(other)] * 40)
    for name, count in ((one, 60), (other, 40)):
        assert (await queues.get_stats(store, name)).counts[State.AVAILABLE] == count


async def _end_all(store: Store, names: list[str]) -> None:
    for name in names:
        for job_id in await _active(store, name):
            await ack(store, job_id)


async def _active(store: Store, queue: str) -> list[str]:
    shard = shard_of(store, queue)
    found: Any = await store.redis.call(shard.slot, "ZRANGE", shard.active, 0, -1)
    waiting = await take(store, queue, count=99)
    return [raw.decode() for raw in found] + [job.id for job in waiting]


async def batch_of_two(store: Store) -> None:
    await enqueue_many(store, [new_job(name) for name in queues_in_other_shards(store, 2)])


async def replacement(store: Store) -> None:
    await once(store, keys=["type"], on_conflict="replace")
    await once(store, sibling_queue(store), keys=["type"], on_conflict="replace")


@pytest.mark.parametrize("write", [batch_of_two, replacement])
async def test_an_unconfirmed_transaction_stays_in_the_outbox_until_it_is_applied_again(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], write: Callable[[Store], Any]
) -> None:
    """A node may still lose its part, so the outbox entry stays."""
    with require_durability(Durability.REPLICA) as request:
        await write(store)

    assert request.unconfirmed_reason is not None
    kinds = [
        entry.split()[0]
        for shard in store.keys
        for number, entry in db.hgetall(shard.outbox).items()
        if number != b"seq"
    ]
    assert kinds.count(b"transaction") == 1
    before = consistent().count()
    await recover(store, db)
    assert consistent().count() == before
    assert not [key for key in keys_there(db) if b":tx:" in key or key.endswith(b":outbox_due")]


async def test_a_part_is_not_written_minutes_after_its_transaction_was_read(
    store: Store,
    db: Any,
    monkeypatch: pytest.MonkeyPatch,
    consistent: Callable[[], InvariantReport],
) -> None:
    """The shard may have stored the part, and have removed its note since."""
    apply = transactions.apply

    async def stalled(
        of: Store, transaction: contents.Transaction, now_ms: int
    ) -> dict[str, JobRecord]:
        return await apply(of, transaction, now_ms - 6 * MINUTE)

    monkeypatch.setattr(transactions, "apply", stalled)
    with pytest.raises(BackendUnavailable) as failure:
        await batch_of_two(store)

    assert failure.value.outcome == "unknown"
    assert consistent().states == {}
    monkeypatch.undo()
    await recover(store, db)
    assert consistent().count() == {"available": 2}


async def test_an_applied_transaction_counts_as_committed_after_its_record_is_removed(
    store: Store, db: Any
) -> None:
    await batch_of_two(store)
    [transaction_id] = {
        name.decode()
        for shard in store.keys
        for name in db.zrange(shard.applied_transactions, 0, -1)
    }

    assert await transactions.resolve(store, transaction_id) is True
    assert_nothing_left(store, db)
