"""The end of what is kept: after it no key of a job, worker or idle queue remains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import pauses, queues
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.workers import lists, workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground.settings import StoreSettings
from tests.store.shortcuts import (
    DAY,
    HOUR,
    MINUTE,
    QUEUE,
    ack,
    active,
    foreign_id,
    home_id,
    id_in,
    nack,
    new_job,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
)
from tests.support.interrupted import Died, interrupted
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy, without
from tests.support.servers import all_keys
from tests.support.timeshift import age_claim, age_job, age_queue, age_references, age_worker

Check = Callable[[], InvariantReport]

Ending = Callable[[Store, Any, str], Any]


async def completed(store: Store, db: Any, job_id: str) -> JobRecord:
    job = await active(store, id=job_id, expires_at="+PT100H", timeout_ms=HOUR)
    return await ack(store, job, result=b"[1]")


async def cancelled(store: Store, db: Any, job_id: str) -> JobRecord:
    job = await put(store, id=job_id, scheduled_at="+PT1H", expires_at="+PT100H")
    return await cancel(store, job.id)


async def discarded(store: Store, db: Any, job_id: str) -> JobRecord:
    return await nack(store, await active(store, id=job_id, max_attempts=1))


async def expired(store: Store, db: Any, job_id: str) -> JobRecord:
    job = await put(store, id=job_id, pending=True, expires_at="+PT1S")
    age_job(db, shard_of(store), job.id, MINUTE)
    await reap_all(store)
    return await read_jobs.get(store, job.id)


async def lost(store: Store, db: Any, job_id: str) -> JobRecord:
    job = await active(store, id=job_id, max_attempts=1, timeout_ms=HOUR)
    age_job(db, shard_of(store), job.id, HOUR)
    await reap_all(store)
    return await read_jobs.get(store, job.id)


async def dead(store: Store, db: Any, job_id: str) -> JobRecord:
    policy = {"on_exhaustion": "dead_letter"}
    return await nack(store, await active(store, id=job_id, max_attempts=1, retry=policy))


ENDINGS = [
    (completed, 7 * DAY),
    (cancelled, 7 * DAY),
    (discarded, 30 * DAY),
    (expired, 30 * DAY),
    (lost, 30 * DAY),
    (dead, 180 * DAY),
]


@pytest.mark.parametrize("make_id", [home_id, foreign_id])
@pytest.mark.parametrize(("ending", "kept"), ENDINGS)
async def test_a_finished_job_is_kept_for_its_time_and_then_leaves_no_key(
    store: Store,
    db: Any,
    backend: Embedded,
    ending: Ending,
    kept: int,
    make_id: Callable[[Store], str],
    consistent: Check,
) -> None:
    shard = shard_of(store)
    job = await ending(store, db, make_id(store))
    age_claim(db, store.keys.shard_of_id(job.id), job.id, HOUR)
    age_job(db, shard, job.id, kept - 5 * MINUTE)

    result = await retention.purge_due(store, shard, 10)
    assert result.done == 0
    assert result.next_ms is not None
    assert 0 < result.next_ms - result.now_ms <= 5 * MINUTE
    assert (await read_jobs.get(store, job.id)).state.value in (
        "completed",
        "cancelled",
        "discarded",
    )

    age_job(db, shard, job.id, 10 * MINUTE)
    assert (await retention.purge_due(store, shard, 10)).done == 1
    with pytest.raises(NotFound):
        await read_jobs.get(store, job.id)
    age_references(db, shard, HOUR)
    await retention.remove_leftovers(store, shard)
    left = all_keys(backend)
    assert not [key for key in left if job.id.encode() in key]
    for key in left:
        if db.type(key) == b"zset":
            assert db.zscore(key, job.id) is None, key
    stats = await queues.get_stats(store, QUEUE)
    assert set(stats.counts.values()) == {0}
    assert stats.dead == 0
    assert consistent().states == {}


async def test_each_retention_is_its_own_setting(store: Store, db: Any) -> None:
    settings = StoreSettings(
        retention_completed_ms=1000,
        retention_cancelled_ms=2000,
        retention_discarded_ms=3000,
        retention_dead_ms=4000,
    )
    store = replace(store, settings=settings)
    for number, (ending, _) in enumerate(ENDINGS):
        job = await ending(store, db, home_id(store))
        kept = db.zscore(shard_of(store).finished, job.id) - (job.finished_ms or 0)
        assert kept == [1000, 2000, 3000, 3000, 3000, 4000][number]


async def test_an_ack_repeated_after_the_retention_finds_no_job(store: Store, db: Any) -> None:
    """Why a retention shorter than the time of a repeated call is refused at start."""
    job = await active(store)
    first = await ack(store, job, lease_id=job.lease_id)
    assert (await ack(store, job, lease_id=job.lease_id)).finished_ms == first.finished_ms

    age_job(db, shard_of(store), job.id, 30 * DAY)
    await retention.purge_due(store, shard_of(store), 10)
    with pytest.raises(NotFound):
        await ack(store, job, lease_id=job.lease_id)


async def test_a_job_retried_by_hand_is_not_removed(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await dead(store, db, home_id(store))
    await dead_letters.retry(store, job.id)
    age_job(db, shard_of(store), job.id, 200 * DAY)

    assert (await retention.purge_due(store, shard_of(store), 10)).done == 0
    assert consistent().count() == {"available": 1}


async def test_purge_removes_no_more_than_its_limit_and_says_so(
    store: Store, db: Any, consistent: Check
) -> None:
    for number in range(7):
        job = await discarded(store, db, (foreign_id if number % 2 else home_id)(store))
        age_job(db, shard_of(store), job.id, 31 * DAY)

    results = [await retention.purge_due(store, shard_of(store), 3) for _ in range(3)]

    assert [(result.done, result.more) for result in results] == [(3, True), (3, True), (1, False)]
    report = consistent()
    assert report.states == {}


# Queues


async def test_purging_a_queue_removes_what_waits_and_only_that(
    store: Store, backend: Embedded, consistent: Check
) -> None:
    held = await active(store)
    later = await put(store, scheduled_at="+PT1H")
    other = await put(store, "other")
    gone = [await put(store, expires_at="+PT1H") for _ in range(5)]

    assert await purges.purge(store, QUEUE) == (5, 0)

    assert consistent().states.keys() == {held.id, later.id, other.id}
    assert not [key for key in all_keys(backend) for job in gone if job.id.encode() in key]
    assert await purges.purge(store, QUEUE) == (0, 0)


async def test_a_purge_leaves_a_job_to_the_worker_that_fetched_it_meanwhile(
    store: Store, other_store: Store, consistent: Check
) -> None:
    job = await put(store, id=foreign_id(store))
    await purges.purge(store, "unused")  # fills the caches of this process
    fetched: list[JobRecord] = []

    async def fetch() -> None:
        fetched.extend(await take(other_store))

    # The first call lists the job, the second is to cancel it.
    removed, _ = await purges.purge(interrupted(store, fetch, before=1), QUEUE)

    [running] = fetched
    assert (removed, running.id) == (0, job.id)
    done = await ack(store, running, lease_id=running.lease_id)
    assert done.state is State.COMPLETED
    assert consistent().count() == {"completed": 1}


async def test_a_large_queue_is_purged_in_pieces(store: Store, consistent: Check) -> None:
    await enqueue_many(store, [new_job() for _ in range(1200)])

    assert await purges.purge(store, QUEUE) == (1200, 0)
    assert consistent().states == {}


async def retire(store: Store) -> int:
    total, after = 0, ""
    while True:
        retired, after = await retention.retire_queues(store, after, limit=3)
        total += retired
        if not after:
            return total


async def test_an_idle_queue_is_forgotten_with_all_its_keys(
    store: Store, db: Any, backend: Embedded, consistent: Check
) -> None:
    names = queues_in_other_shards(store, 8)
    for name in names:
        job = await ack(store, await active(store, name))
        age_job(db, shard_of(store, name), job.id, 8 * DAY)
        await retention.purge_due(store, shard_of(store, name), 10)
        age_queue(db, shard_of(store, name), name, 2 * HOUR)

    assert await retire(store) == 8
    assert (await queues.list_queues(store, limit=10))[1] == 0
    for name in names:
        shard = shard_of(store, name)
        mine = {
            shard.queue_counters(name),
            shard.queue_available(name),
            shard.queue_minutes(name),
            shard.queue_history(name),
            shard.queue_times(name),
            shard.queue_types(name),
            shard.queue_dead(name),
        }
        assert not mine & all_keys(backend)
    assert consistent().states == {}


@pytest.mark.parametrize("use", ["young", "paused", "available", "scheduled", "completed", "dead"])
async def test_a_queue_in_use_is_not_forgotten(
    store: Store, db: Any, use: str, consistent: Check
) -> None:
    if use == "young":
        await put(store)
        await purges.purge(store, QUEUE)
    elif use == "paused":
        await pauses.pause_or_resume(store, QUEUE, "pause")
    elif use == "available":
        await put(store)
    elif use == "scheduled":
        await put(store, scheduled_at="+PT1H")
    elif use == "completed":
        await ack(store, await active(store))
    else:
        await dead(store, db, home_id(store))
    if use != "young":
        age_queue(db, shard_of(store), QUEUE, 2 * HOUR)

    assert await retire(store) == 0
    assert await queues.exists(store, QUEUE)
    assert (await queues.get_stats(store, QUEUE)).created_ms
    consistent()


async def test_a_forgotten_queue_comes_back_with_its_next_job(
    store: Store, other_store: Store, db: Any, consistent: Check
) -> None:
    """Also for a process that remembers to have registered the name a moment ago."""
    await put(store)
    await purges.purge(store, QUEUE)
    age_queue(db, shard_of(store), QUEUE, 2 * HOUR)
    assert await retire(other_store) == 1
    job = await put(store)

    assert await queues.exists(store, QUEUE)
    assert [found.id for found in await take(store)] == [job.id]
    consistent()


@pytest.mark.parametrize("moment", [0, 1, 2])
async def test_a_queue_used_while_it_is_being_forgotten_stays_listed(
    store: Store, other_store: Store, db: Any, moment: int, consistent: Check
) -> None:
    await put(store)
    await purges.purge(store, QUEUE)
    age_queue(db, shard_of(store), QUEUE, 2 * HOUR)

    async def use() -> None:
        await put(store)

    looks = 1  # the names
    assert await retire(interrupted(other_store, use, before=looks + moment)) == 0
    assert await queues.exists(store, QUEUE)
    assert consistent().count() == {"available": 1}


@pytest.mark.parametrize("moment", [0, 1, 2])
async def test_a_janitor_that_dies_while_it_forgets_a_queue_leaves_nothing_for_ever(
    store: Store, db: Any, backend: Embedded, moment: int
) -> None:
    await put(store)
    await purges.purge(store, QUEUE)
    age_queue(db, shard_of(store), QUEUE, 2 * HOUR)

    async def die() -> None:
        raise Died

    looks = 1  # the names
    with pytest.raises(Died):
        await retire(interrupted(store, die, before=looks + moment))
    await retire(store)

    assert not await queues.exists(store, QUEUE)
    assert shard_of(store).queue_counters(QUEUE) not in all_keys(backend)


# Workers


async def test_a_silent_workers_record_is_kept_for_an_hour(
    store: Store, db: Any, backend: Embedded
) -> None:
    await heartbeat(store, Heartbeat("w1"))
    await heartbeat(store, Heartbeat("w2"))
    home = store.keys.shard_of_worker("w1")
    age_worker(db, home, "w1", HOUR - MINUTE)
    assert await retention.remove_leftovers(store, home) == 0
    assert (await workers.get(store, "w1")).id == "w1"

    age_worker(db, home, "w1", 2 * MINUTE)
    assert await retention.remove_leftovers(store, home) == 1
    with pytest.raises(NotFound):
        await workers.get(store, "w1")
    assert not [key for key in all_keys(backend) if b"w:w1" in key]
    assert [info.id for info in (await lists.list_workers(store, limit=10))[0]] == ["w2"]


async def over_with_foreign_ids(store: Store, db: Any, ids: list[str]) -> None:
    """Make jobs with these ids of the client's, settled aliases, and a retention that is over."""
    await enqueue_many(store, [new_job(id=job_id) for job_id in ids])
    for job in await take(store, count=len(ids)):
        await ack(store, job)
    for job_id in ids:
        age_claim(db, store.keys.shard_of_id(job_id), job_id, HOUR)
        age_job(db, shard_of(store), job_id, 8 * DAY)


async def test_jobs_with_ids_of_the_clients_go_with_a_script_per_shard(
    store: Store, db: Any, backend: Embedded, consistent: Check
) -> None:
    homes, each = 20, 10
    ids = [foreign_id(store, step=1 + number % homes) for number in range(homes * each)]
    await over_with_foreign_ids(store, db, ids)
    counted, client = lossy(store)
    result = await retention.purge_due(counted, shard_of(store), len(ids))

    assert result.done == len(ids)
    assert client.calls == {"purge": 1, "settle_alias": homes, "delete_jobs": len(ids) / 100}
    assert not any(b":j:" in key for key in all_keys(backend))
    consistent()


async def test_an_alias_that_cannot_be_reached_keeps_only_its_own_job(
    store: Store, db: Any, backend: Embedded, consistent: Check
) -> None:
    stuck = [foreign_id(store, step=1) for _ in range(3)]
    free = [foreign_id(store, step=2) for _ in range(3)]
    await over_with_foreign_ids(store, db, [*stuck, *free])
    for number, job_id in enumerate([*stuck, *free]):
        db.zadd(shard_of(store).finished, {job_id: number})  # the stuck ones are due first
    half = without(store, store.keys.shard_of_id(stuck[0]))
    results = [await retention.purge_due(half, shard_of(store), 3) for _ in range(2)]

    assert [result.done for result in results] == [0, 3]
    assert results[0].more, "there was more, which was not in its way"
    for job_id in stuck:
        assert (await read_jobs.get(store, job_id)).id == job_id
        db.zadd(shard_of(store).finished, {job_id: 1})
    assert (await retention.purge_due(store, shard_of(store), 3)).done == 3
    assert not any(b":j:" in key for key in all_keys(backend))
    consistent()


async def test_a_claim_that_cannot_be_checked_delays_no_other(store: Store, db: Any) -> None:
    home = store.keys.shard((shard_of(store).index + 1) % 64)
    other = sibling_elsewhere(store, home)
    await put(store, id=foreign_id(store))
    await put(store, other, id=id_in(home.index))
    for job_id in db.zrange(home.alias_claims, 0, -1):
        age_claim(db, home, job_id.decode(), HOUR)
    await retention.remove_leftovers(without(store, shard_of(store)), home)

    [left] = db.zrange(home.alias_claims, 0, -1)
    assert (await read_jobs.get(store, left.decode())).queue == QUEUE
    age_claim(db, home, left.decode(), HOUR)
    await retention.remove_leftovers(store, home)
    assert not db.exists(home.alias_claims)


def sibling_elsewhere(store: Store, home: Shard) -> str:
    """A queue in another shard than the usual queue and ``home``."""
    return next(
        name
        for name in queues_in_other_shards(store, 5)
        if shard_of(store, name) not in (shard_of(store), home)
    )
