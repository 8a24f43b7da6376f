"""Every script at the largest sizes that settings and callers allow, on Valkey and on Redis.

Lua's stack holds 8000 values. A script that hands a longer list to one command fails there, after
its first writes: jobs are then stored and in no index.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest

from ojs_cluster.core.payload_limits import MAX_BATCH_JOBS
from ojs_cluster.keys import Shard
from ojs_cluster.server.embedded.servers import Embedded, ServerNotFound, find_server
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import unique_locks as locks
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.outbox import outbox, outbox_dead_letters
from ojs_cluster.store.engine.queues.deadlines import promote, reap
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.engine.unique_locks import LockRequest
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.open import open_store
from tests.store.shortcuts import QUEUE, home_id, new_job, shard_of, take
from tests.support.invariants import check_invariants
from tests.support.patience import patient_client
from tests.support.prelude import PRELUDE
from tests.support.servers import flush, observer, own_server

LARGEST_STEP = 1000
"""Entries that a loop of the scheduler asks for at most (``SchedulerSettings``)."""


@pytest.fixture(scope="module", params=["auto", "redis-server"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Embedded]:
    try:
        find_server(request.param)
    except ServerNotFound:
        pytest.skip(f"no {request.param} on this machine")
    folder = tmp_path_factory.mktemp("largest")
    with own_server(folder, cluster=False, choice=request.param) as embedded:
        yield embedded


@pytest.fixture
async def store(server: Embedded) -> AsyncIterator[Store]:
    flush(server)
    async with open_store(patient_client(server), prelude=PRELUDE) as opened:
        yield opened


@pytest.fixture
def db(server: Embedded) -> Iterator[Any]:
    with observer(server) as client:
        yield client


@pytest.fixture
def consistent(server: Embedded) -> Callable[[], None]:
    def check() -> None:
        assert check_invariants(server).problems == []

    return check


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "expiring": {"expires_at": "+PT1H"},
    "scheduled": {"scheduled_at": "+PT1H"},
    "pending": {"pending": True},
}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_largest_batch_of_one_shard_is_stored_whole(
    store: Store, consistent: Callable[[], None], kind: str
) -> None:
    stored = await enqueue_many(store, [new_job(**KINDS[kind]) for _ in range(MAX_BATCH_JOBS)])

    assert len({job.id for job in stored}) == MAX_BATCH_JOBS
    consistent()


async def test_the_largest_batch_is_fetched_extended_and_purged(
    store: Store, db: Any, consistent: Callable[[], None]
) -> None:
    await enqueue_many(store, [new_job() for _ in range(MAX_BATCH_JOBS)])
    taken = await take(store, count=LARGEST_STEP)
    beat = await heartbeat(store, Heartbeat("w1", tuple(job.id for job in taken)))
    assert len(beat.extended) == len(taken) == LARGEST_STEP
    consistent()

    removed, left = await purges.purge(store, QUEUE)
    assert (removed, left) == (MAX_BATCH_JOBS - LARGEST_STEP, 0)
    for job in taken:
        db.zadd(shard_of(store).active, {job.id: 1})
        db.hset(shard_of(store).job(job.id), "d", 1)
    assert (await reap(store, shard_of(store), LARGEST_STEP)).done == LARGEST_STEP
    consistent()


async def test_the_largest_step_of_the_scheduler_promotes_and_removes(
    store: Store, db: Any, consistent: Callable[[], None]
) -> None:
    batch = [new_job(scheduled_at="+PT1H", expires_at="+PT2H") for _ in range(LARGEST_STEP)]
    stored = await enqueue_many(store, batch)
    shard = shard_of(store)
    for job in stored:
        db.zadd(shard.due, {job.id: 1})
        db.hset(shard.job(job.id), "da", 1)
    assert (await promote(store, shard, LARGEST_STEP)).done == LARGEST_STEP
    consistent()

    for job in stored:
        db.zadd(shard.expiring, {job.id: 1})
        db.hset(shard.job(job.id), "xp", 1)
    assert (await reap(store, shard, LARGEST_STEP)).done == LARGEST_STEP
    for job in stored:
        db.zadd(shard.finished, {job.id: 1})
    while (await retention.purge_due(store, shard, LARGEST_STEP)).done:
        pass
    assert jobs_left(store, db) == 0
    consistent()


def jobs_left(store: Store, db: Any) -> int:
    """Jobs left in the shard of ``QUEUE``."""
    pattern = shard_of(store).job("*")
    return sum(1 for _ in db.scan_iter(match=pattern, count=10_000))


async def test_as_many_ids_as_a_batch_has_are_reserved_and_given_back(
    store: Store, db: Any, consistent: Callable[[], None]
) -> None:
    shard = shard_of(store)
    ids = [home_id(store) for _ in range(MAX_BATCH_JOBS)]
    keys = [shard.alias_claims, *(shard.job(job_id) for job_id in ids)]
    reply = await store.run(shard, "reserve_ids", keys, [ids[0], shard.index, "  ", *ids])
    assert reply[0] == b"ok"
    assert db.zcard(shard.alias_claims) == MAX_BATCH_JOBS

    await transactions.release_ids(store, shard, ids[0], ids)

    assert db.zcard(shard.alias_claims) == 0
    consistent()


async def test_a_batch_over_reserved_ids_releases_them_all(
    store: Store, consistent: Callable[[], None]
) -> None:
    # A second shard makes it a transaction, which reserves the ids of the first.
    batch = [new_job(id=home_id(store)) for _ in range(MAX_BATCH_JOBS - 1)]
    other = next(
        name
        for name in (f"other{number}" for number in itertools.count())
        if store.keys.shard_of_queue(name) is not shard_of(store)
    )

    stored = await enqueue_many(store, [*batch, new_job(other)])

    assert len(stored) == MAX_BATCH_JOBS
    consistent()


async def test_as_many_locks_as_a_batch_has_are_claimed_and_freed_in_one_shard(
    store: Store, db: Any
) -> None:
    shard = store.keys.shard_of_fingerprint("00000000")
    wants = [
        LockRequest(f"00000000{number:056x}", home_id(store), shard.index)
        for number in range(MAX_BATCH_JOBS)
    ]
    fates: dict[Literal["later", "keep", "drop"], int]
    fates = {"later": MAX_BATCH_JOBS, "keep": MAX_BATCH_JOBS, "drop": 0}
    for how, left in fates.items():
        assert isinstance(await locks.try_claim(store, shard, wants), int)
        await locks.settle(store, how, wants)
        assert db.zcard(shard.locks) == left


async def test_the_largest_sweep_of_the_janitor_leaves_nothing(store: Store, db: Any) -> None:
    shard, many = store.keys.shard(0), 9000
    names = [f"{number:012d}" for number in range(many)]
    db.zadd(shard.workers, dict.fromkeys(names, 1))
    db.zadd(shard.watched, dict.fromkeys(names, 1))
    db.zadd(shard.quiet_workers, dict.fromkeys(names, 1))
    db.zadd(shard.aborted_transactions, dict.fromkeys(names, 1))
    db.zadd(shard.applied_transactions, dict.fromkeys([home_id(store) for _ in range(many)], 1))
    db.zadd(shard.locks, dict.fromkeys([f"00000000{name:>056}" for name in names], 1))
    db.zadd(shard.alias_claims, dict.fromkeys([home_id(store) for _ in range(many)], 1))

    await retention.remove_leftovers(store, shard, many)

    for key in (
        shard.workers,
        shard.watched,
        shard.quiet_workers,
        shard.aborted_transactions,
        shard.applied_transactions,
        shard.locks,
    ):
        assert db.zcard(key) == 0


async def test_the_largest_number_of_workflows_is_removed_at_once(store: Store, db: Any) -> None:
    shard = store.keys.shard(0)
    names = [f"{number:012d}" for number in range(9000)]
    db.zadd(shard.ended_workflows, dict.fromkeys(names, 1))
    db.zadd(shard.workflows, dict.fromkeys(names, 1))

    await store.run(shard, "workflow_purge", [shard.ended_workflows, shard.workflows], [len(names)])

    assert (db.zcard(shard.ended_workflows), db.zcard(shard.workflows)) == (0, 0)


async def test_a_damaged_counter_starts_again_and_stops_no_script(store: Store, db: Any) -> None:
    shard = shard_of(store)
    await enqueue_many(store, [new_job() for _ in range(2)])
    for field in ("seq", "active", "enqueued", "acked", "completed", "run_ms", "wait_ms"):
        db.hset(shard.queue_counters(QUEUE), field, "many")
    db.hset(shard.outbox, "seq", "9" * 30)

    stored = await enqueue_many(store, [new_job() for _ in range(2)])
    taken = await take(store, count=4)

    assert [job.id for job in taken[2:]] == [job.id for job in stored]
    assert db.hget(shard.queue_counters(QUEUE), "active") == b"4"


async def test_large_outbox_entries_are_drained_a_few_at_a_time(store: Store, db: Any) -> None:
    shard, carried_out = shard_of(store), []

    async def handler(_store: Store, _shard: Shard, payload: bytes) -> None:
        carried_out.append(len(payload))

    store = replace(store, effects={"large": handler})
    for number in range(10):
        db.hset(shard.outbox, str(number), b"large 0 " + b"x" * (600 * 1024))
        db.zadd(shard.outbox_due, {str(number): 1})
        db.zadd(shard.outbox_dead_letters, {str(number): 1})

    listed, cursor = await outbox_dead_letters.list_dead_letters(store, limit=100)
    assert (len(listed), cursor) == (10, None)
    tick = await outbox.drain(store, shard, 100)
    assert tick.done == 2
    assert tick.next_ms == tick.now_ms
    while (await outbox.drain(store, shard, 100)).done:
        pass
    assert len(carried_out) == 10
    assert db.zcard(shard.outbox_due) == 0
