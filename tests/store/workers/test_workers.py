"""Workers: their records, the quiet ones, the dead ones and what they held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.workers import lists, workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, HeartbeatReply, heartbeat
from ojs_cluster.store.features.workers.workers import DeadWorker
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.process_state.touch import touch_worker
from tests.store.shortcuts import (
    DAY,
    HOUR,
    MINUTE,
    QUEUE,
    ack,
    active,
    envelope,
    put,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.lossy import without
from tests.support.timeshift import age_job, age_worker

Check = Callable[[], InvariantReport]
SECOND = 1000


async def beat(
    store: Store, worker: str = "w1", *held: JobRecord, **members: Any
) -> HeartbeatReply:
    return await heartbeat(store, Heartbeat(worker, [job.id for job in held], **members))


async def beat_steadily(store: Store, worker: str = "w1", times: int = 3) -> None:
    for _ in range(times):
        await beat(store, worker)


async def recover_dead_workers(store: Store) -> int:
    """Do what the scheduler does: find the dead, recover everywhere, finish."""
    recovered = 0
    for home in store.keys:
        found, _, _ = await workers.find_dead(store, home, 100)
        for dead in found:
            for shard in store.keys:
                recovered += await recover(store, shard, dead)
            await workers.finish_recovery(store, home, dead)
    return recovered


async def recover(store: Store, shard: Any, dead: DeadWorker, limit: int = 500) -> int:
    total, cursor = 0, ""
    while True:
        done, following = await workers.recover(store, shard, [dead], cursor, limit)
        total += done[dead.id]
        if following is None:
            return total
        cursor = following


# Records


async def test_a_heartbeat_registers_a_worker_and_its_own_description(store: Store) -> None:
    reply = await beat(store, active_count=3, info=b'{"pid":7,"labels":["\\u00e9",1.0]}')
    info = await workers.get(store, "w1")

    assert reply.state == "running"
    assert (info.id, info.state, info.active) == ("w1", "running", 3)
    assert info.info == b'{"pid":7,"labels":["\\u00e9",1.0]}'
    assert info.first_seen_ms == info.last_seen_ms == info.last_heartbeat_ms == reply.now_ms


async def test_a_fetch_registers_a_worker_that_never_heartbeats(store: Store) -> None:
    await take(store, worker="w1")
    info = await workers.get(store, "w1")

    assert info.last_heartbeat_ms is None
    assert info.state == "running"
    assert (await lists.list_workers(store, limit=10))[1] == 1


async def test_an_anonymous_fetch_registers_no_worker(store: Store) -> None:
    await take(store, worker="")
    assert await lists.list_workers(store, limit=10) == ([], 0, None)


async def test_an_unknown_worker_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="worker"):
        await workers.get(store, "w1")
    with pytest.raises(NotFound, match="worker"):
        await workers.send_directive(store, "w1", "quiet")
    assert await lists.list_workers(store, limit=10) == ([], 0, None)


async def test_workers_are_listed_last_seen_first_page_by_page(store: Store, db: Any) -> None:
    for number in range(12):
        name = f"worker {number}"
        await beat(store, name)
        age_worker(db, store.keys.shard_of_worker(name), name, number * SECOND)

    pages = [await lists.list_workers(store, limit=5, offset=offset) for offset in (0, 5, 10, 15)]

    assert [info.id for page, *_ in pages for info in page] == [f"worker {n}" for n in range(12)]
    assert {total for _, total, _ in pages} == {12}


async def test_workers_are_listed_by_id_page_by_page(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"worker {number:02}" for number in range(12)]
    for name in reversed(names):
        await beat(store, name)

    async def read(limit: int, offset: int) -> tuple[list[str], int]:
        page, total, _ = await lists.list_by_name(store, limit=limit, offset=offset)
        return [info.id for info in page], total

    assert [await read(5, offset) for offset in (0, 5, 10, 15)] == [
        (names[:5], 12),
        (names[5:10], 12),
        (names[10:], 12),
        ([], 12),
    ]
    await beat(store, names[3])  # the order does not depend on heartbeats
    assert await read(5, 0) == (names[:5], 12)
    monkeypatch.setattr(lists, "_MAX_NAMED_PER_SHARD", 1)
    assert (await read(20, 0))[1] == 12, "workers that are not listed are counted"


async def test_records_are_bounded_per_shard(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ojs_cluster.store.ground.process_state.touch._RECORDS_PER_SHARD", 3)
    home = store.keys.shard(0)
    names = [f"w{n}" for n in range(2000) if store.keys.shard_of_worker(f"w{n}") is home][:5]
    for age, name in enumerate(names):
        await beat_steadily(store, name)
        age_worker(db, home, name, (10 - age) * SECOND)

    assert db.zcard(home.workers) == 3
    assert db.zcard(home.watched) == 3
    for name in names[:2]:
        with pytest.raises(NotFound):
            await workers.get(store, name)


# Quiet


@pytest.mark.parametrize("state", ["quiet", "terminate"])
async def test_a_worker_that_reports_quiet_gets_no_more_jobs_from_any_process(
    store: Store, other_store: Store, state: Any, consistent: Check
) -> None:
    names = queues_in_other_shards(store, 4)
    for name in names:
        await put(store, name)
    assert len(await take(other_store, *names)) == 1
    reply = await beat(store, state=state)

    assert reply.state == state
    for of in (store, other_store):
        assert await take(of, *names, count=9) == []
    assert len(await take(other_store, *names, worker="w2")) == 1
    consistent()


async def test_a_quiet_worker_may_finish_what_it_holds(store: Store, consistent: Check) -> None:
    job = await active(store)
    assert (await beat(store, "w1", job, state="quiet")).extended == [job.id]
    assert (await ack(store, job, worker_id="w1")).state is State.COMPLETED
    consistent()


async def test_a_worker_that_runs_again_gets_jobs_again(store: Store, other_store: Store) -> None:
    await put(store)
    await beat(store, state="quiet")
    assert await take(other_store) == []
    assert (await beat(store, state="running")).state == "running"

    assert len(await take(other_store)) == 1


@pytest.mark.parametrize("directive", ["quiet", "terminate"])
async def test_a_directive_is_in_the_next_heartbeat_reply_and_obeyed_by_the_next_fetch(
    store: Store, other_store: Store, directive: Any
) -> None:
    await put(store)
    await beat(store)
    assert await workers.send_directive(store, "w1", directive) == directive

    assert await take(other_store) == []
    assert (await beat(other_store)).state == directive
    assert (await workers.get(store, "w1")).directive == directive
    assert await workers.send_directive(store, "w1", "running") == "running"
    assert (await beat(other_store)).state == "running"
    assert len(await take(other_store)) == 1


async def test_the_stricter_of_report_and_directive_holds(store: Store) -> None:
    await beat(store)
    await workers.send_directive(store, "w1", "quiet")

    assert (await beat(store, state="terminate")).state == "terminate"
    assert (await beat(store, state="running")).state == "quiet"
    assert await workers.send_directive(store, "w1", "running") == "running"


async def test_a_quiet_flag_expires_no_later_than_the_record_that_can_remove_it(
    store: Store, db: Any
) -> None:
    """Otherwise a worker that returns after its record was removed gets no jobs, unnoticed."""
    store = replace(store, settings=replace(store.settings, worker_retention_ms=10 * MINUTE))
    await put(store)
    await beat(store, state="quiet")
    for shard in store.keys:
        age_worker(db, shard, "w1", 11 * MINUTE)
        await retention.remove_leftovers(store, shard)
    with pytest.raises(NotFound):
        await workers.get(store, "w1")

    assert (await beat(store, state="running")).state == "running"
    assert len(await take(store)) == 1


async def test_a_worker_that_stays_quiet_keeps_its_flags(store: Store, db: Any) -> None:
    await put(store)
    await beat(store, state="quiet")
    for _ in range(6):
        for shard in store.keys:
            age_worker(db, shard, "w1", 25 * MINUTE)
        await beat(store, state="quiet")

    assert await take(store) == []


# Death


async def test_a_worker_that_missed_three_beats_is_dead_and_loses_all_its_jobs(
    store: Store, db: Any, consistent: Check
) -> None:
    names = queues_in_other_shards(store, 6)
    held = [await active(store, name, visibility_timeout_ms=DAY) for name in names]
    others = await active(store, names[0], worker="w2")
    await beat_steadily(store)
    home = store.keys.shard_of_worker("w1")
    age_worker(db, home, "w1", 20 * SECOND)
    assert await recover_dead_workers(store) == 0
    age_worker(db, home, "w1", 11 * SECOND)

    assert await recover_dead_workers(store) == 6
    for job in held:
        found = await read_jobs.get(store, job.id)
        assert (found.state, found.attempt) == (State.AVAILABLE, 1)
        assert envelope(found)["error"]["code"] == "worker_lost"
    assert (await read_jobs.get(store, others.id)).state is State.ACTIVE
    assert await recover_dead_workers(store) == 0
    assert db.zcard(home.lost_workers) == 0
    consistent()


async def test_a_worker_that_could_not_report_is_watched_once_more(store: Store, db: Any) -> None:
    """The master of its record was unreachable for a minute: no heartbeat was recorded."""
    home = store.keys.shard_of_worker("w1")
    job = await active(store)
    await beat_steadily(store)
    assert await recover_dead_workers(store) == 0
    checked = int(db.get(home.last_worker_check))
    age_worker(db, home, "w1", MINUTE)
    db.set(home.last_worker_check, checked - MINUTE)

    dead, next_ms, now_ms = await workers.find_dead(store, home, 10)
    assert dead == []
    assert next_ms is not None
    assert next_ms - now_ms == 3 * store.settings.heartbeat_interval_ms
    await beat(store, "w1", job)
    assert await recover_dead_workers(store) == 0
    assert (await read_jobs.get(store, job.id)).state is State.ACTIVE


async def test_a_worker_that_stays_silent_after_an_outage_is_dead(store: Store, db: Any) -> None:
    home = store.keys.shard_of_worker("w1")
    await active(store)
    await beat_steadily(store)
    await recover_dead_workers(store)
    for recovered in (0, 1):
        checked = int(db.get(home.last_worker_check))
        age_worker(db, home, "w1", MINUTE)
        db.set(home.last_worker_check, checked - MINUTE)
        assert await recover_dead_workers(store) == recovered


async def test_find_dead_returns_when_the_next_worker_may_die(store: Store) -> None:
    home = store.keys.shard_of_worker("w1")
    assert (await workers.find_dead(store, home, 10))[:2] == ([], None)
    await beat_steadily(store)
    dead, next_ms, now_ms = await workers.find_dead(store, home, 10)

    assert dead == []
    assert next_ms is not None
    assert 20 * SECOND < next_ms - now_ms <= 30 * SECOND


async def test_the_dead_are_found_in_pages(store: Store, db: Any) -> None:
    home = store.keys.shard_of_worker("w1")
    db.zadd(home.lost_workers, {f"lost{number}": number for number in range(3)})
    await beat_steadily(store)
    age_worker(db, home, "w1", MINUTE)

    names = []
    for skip in (0, 2, 4):
        names += [dead.id for dead in (await workers.find_dead(store, home, 2, skip))[0]]
    assert names == ["lost0", "lost1", "lost2", "w1"]


async def test_a_job_that_outlived_its_last_worker_is_exhausted(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await active(store, max_attempts=1, visibility_timeout_ms=DAY)
    await beat_steadily(store)
    age_worker(db, store.keys.shard_of_worker("w1"), "w1", MINUTE)
    await recover_dead_workers(store)

    assert (await read_jobs.get(store, job.id)).state is State.DISCARDED
    consistent()


@pytest.mark.parametrize("beats", [1, 2])
async def test_a_worker_that_heartbeats_by_hand_is_not_watched(
    store: Store, db: Any, beats: int
) -> None:
    job = await active(store, visibility_timeout_ms=DAY)
    await beat_steadily(store, times=beats)
    for _ in range(3):
        await store.fetch_touches.touch(store, "w1")
    age_worker(db, store.keys.shard_of_worker("w1"), "w1", 10 * MINUTE)

    assert await recover_dead_workers(store) == 0
    assert (await read_jobs.get(store, job.id)).state is State.ACTIVE


async def test_a_worker_that_beats_seldom_is_given_three_of_its_own_intervals(
    store: Store, db: Any
) -> None:
    home = store.keys.shard_of_worker("w1")
    for _ in range(4):
        age_worker(db, home, "w1", 40 * SECOND)
        await beat(store)
    age_worker(db, home, "w1", 100 * SECOND)
    assert await recover_dead_workers(store) == 0
    assert (await workers.find_dead(store, home, 10))[0] == []
    age_worker(db, home, "w1", 25 * SECOND)

    assert [dead.id for dead in (await workers.find_dead(store, home, 10))[0]] == ["w1"]


async def test_a_worker_that_stops_beating_steadily_is_not_watched_any_more(
    store: Store, db: Any
) -> None:
    """It beat steadily, then once after a long pause: the old watch must not kill it."""
    home = store.keys.shard_of_worker("w1")
    for _ in range(4):
        age_worker(db, home, "w1", 50 * SECOND)
        await beat(store)
    job = await active(store, visibility_timeout_ms=DAY)
    age_worker(db, home, "w1", 100 * SECOND)
    await beat(store, "w1", job)
    age_worker(db, home, "w1", 70 * SECOND)
    age_job(db, shard_of(store), job.id, 70 * SECOND)

    assert await recover_dead_workers(store) == 0
    assert (await read_jobs.get(store, job.id)).state is State.ACTIVE


async def test_what_a_worker_took_after_it_came_back_is_kept(
    store: Store, db: Any, consistent: Check
) -> None:
    home = store.keys.shard_of_worker("w1")
    lost = await active(store, visibility_timeout_ms=DAY)
    extended = await active(store, visibility_timeout_ms=DAY)
    await beat_steadily(store)
    for job in (lost, extended):
        age_job(db, shard_of(store), job.id, MINUTE)
    age_worker(db, home, "w1", MINUTE)
    [dead], _, _ = await workers.find_dead(store, home, 10)
    db.zincrby(home.lost_workers, -5 * SECOND, "w1")
    dead = replace(dead, dead_ms=dead.dead_ms - 5 * SECOND)
    await beat(store, "w1", extended)
    taken = await active(store, visibility_timeout_ms=DAY)

    assert await recover(store, shard_of(store), dead) == 1
    await workers.finish_recovery(store, home, dead)
    states = [(await read_jobs.get(store, job.id)).state for job in (lost, extended, taken)]
    assert states == [State.AVAILABLE, State.ACTIVE, State.ACTIVE]
    assert db.zcard(home.lost_workers) == 0
    consistent()


@pytest.mark.parametrize("asked_ms", [10 * SECOND, 2 * DAY])
async def test_a_lease_of_another_length_does_not_confuse_the_recovery(
    store: Store, db: Any, asked_ms: int, consistent: Check
) -> None:
    """Whether a lease was extended before or after a death must not depend on its length."""
    home = store.keys.shard_of_worker("w1")
    before = await active(store, visibility_timeout_ms=DAY)
    after = await active(store, visibility_timeout_ms=DAY)
    await beat(store, "w1", before, after, visibility_timeout_ms=asked_ms)
    await beat_steadily(store)
    age_job(db, shard_of(store), before.id, MINUTE)
    age_worker(db, home, "w1", MINUTE)
    [dead], _, _ = await workers.find_dead(store, home, 10)
    dead = replace(dead, dead_ms=dead.dead_ms - 5 * SECOND)
    await beat(store, "w1", after, visibility_timeout_ms=asked_ms)

    assert await recover(store, shard_of(store), dead) == 1
    states = [(await read_jobs.get(store, job.id)).state for job in (before, after)]
    assert states == [State.AVAILABLE, State.ACTIVE]
    consistent()


async def test_the_recovery_of_a_worker_that_died_again_is_not_finished(
    store: Store, db: Any
) -> None:
    home = store.keys.shard_of_worker("w1")
    await beat_steadily(store)
    age_worker(db, home, "w1", MINUTE)
    [dead], _, _ = await workers.find_dead(store, home, 10)
    await workers.finish_recovery(store, home, replace(dead, dead_ms=dead.dead_ms - 1))

    assert (await workers.find_dead(store, home, 10))[0] == [dead]
    await workers.finish_recovery(store, home, dead)
    assert (await workers.find_dead(store, home, 10))[0] == []


async def test_recovery_goes_through_many_jobs_in_pieces_and_misses_none(
    store: Store, consistent: Check
) -> None:
    for number in range(120):
        await put(store, visibility_timeout_ms=DAY if number % 3 else HOUR)
    mine = await take(store, count=60)
    theirs = await take(store, count=60, worker="w2")
    dead = DeadWorker("w1", (mine[0].started_ms or 0) + MINUTE)

    assert await recover(store, shard_of(store), dead, limit=7) == 60
    assert {(await read_jobs.get(store, job.id)).state for job in theirs} == {State.ACTIVE}
    assert consistent().count() == {"available": 60, "active": 60}
    assert len(await take(store, QUEUE, count=100, worker="w3")) == 1, "a suspect runs alone"


async def test_a_worker_that_terminates_without_jobs_may_leave(
    store: Store, db: Any, consistent: Check
) -> None:
    """Whatever it fetches or reports afterwards as long as it says so: it is not watched."""
    home = store.keys.shard_of_worker("w1")
    job = await active(store, visibility_timeout_ms=DAY)
    await beat_steadily(store)
    assert db.zscore(home.watched, "w1") is not None
    await beat(store, state="terminate")
    assert db.zscore(home.watched, "w1") is None
    await beat(store)
    assert db.zscore(home.watched, "w1") is not None
    await beat(store, state="terminate")
    await touch_worker(store, "w1", "fetch", [])
    age_worker(db, home, "w1", HOUR)

    assert (await workers.find_dead(store, home, 10))[:2] == ([], None)
    assert (await read_jobs.get(store, job.id)).state is State.ACTIVE
    consistent()


@pytest.mark.parametrize("state", ["running", "terminate"])
async def test_a_dead_worker_is_distinguished_from_one_that_had_terminated(
    store: Store, db: Any, state: Any, consistent: Check
) -> None:
    """One that terminates and still runs jobs is watched: they are recovered should it die."""
    home = store.keys.shard_of_worker("w1")
    job = await active(store, visibility_timeout_ms=DAY)
    await beat_steadily(store)
    await beat(store, "w1", job, state=state)
    age_worker(db, home, "w1", HOUR)
    age_job(db, shard_of(store), job.id, MINUTE)
    [dead], _, _ = await workers.find_dead(store, home, 10)

    assert dead.terminated == (state == "terminate")
    assert (await workers.find_dead(store, home, 10))[0] == [dead]
    assert await recover(store, shard_of(store), replace(dead, dead_ms=2**52)) == 1
    assert (await read_jobs.get(store, job.id)).state is State.AVAILABLE
    consistent()


async def test_one_walk_recovers_the_jobs_of_many_workers(store: Store, consistent: Check) -> None:
    for _ in range(60):
        await put(store)
    for number in range(5):
        await take(store, count=10, worker=f"w{number}", lease_ms=DAY)
    dead = [DeadWorker(f"w{number}", 2**52) for number in range(4)]
    found, cursor = await workers.recover(store, shard_of(store), dead)

    assert (found, cursor) == ({f"w{number}": 10 for number in range(4)}, None)
    assert consistent().count() == {"available": 50, "active": 10}


async def test_one_call_recovers_a_bounded_number_of_jobs(
    store: Store, db: Any, consistent: Check
) -> None:
    """Also when all have one deadline, which a cursor cannot tell apart."""
    for _ in range(130):
        await put(store)
    held = await take(store, count=130, lease_ms=DAY)
    shard, deadline = shard_of(store), int(held[0].fields[f.DEADLINE])
    for job in held:
        db.zadd(shard.active, {job.id: deadline})
        db.hset(shard.job(job.id), f.DEADLINE, deadline)
    dead, sizes, cursor = [DeadWorker("w1", 2**52)], [], ""
    while True:
        found, following = await workers.recover(store, shard, dead, cursor)
        sizes.append(found["w1"])
        if following is None:
            break
        cursor = following

    assert sizes == [50, 50, 30]
    consistent()


async def test_large_jobs_are_recovered_a_few_at_a_time(store: Store, consistent: Check) -> None:
    for _ in range(8):
        body = b'{"type":"t","args":["%b"],"options":{"queue":"%b"}}'
        await enqueue(store, parse_job(body % (b"x" * 400_000, QUEUE.encode())))
    await take(store, count=8, lease_ms=DAY)
    found, cursor = await workers.recover(store, shard_of(store), [DeadWorker("w1", 2**52)])

    assert found == {"w1": 3}
    assert cursor is not None
    assert await recover(store, shard_of(store), DeadWorker("w1", 2**52)) == 5
    consistent()


@pytest.mark.parametrize("away", ["job", "record"])
async def test_an_unreachable_shard_costs_a_worker_no_lease_of_another_shard(
    store: Store, db: Any, away: str
) -> None:
    """It is not taken for dead, and what it holds in other shards is extended."""
    near, far = queues_in_other_shards(store, 2)
    home = next(
        shard for shard in store.keys if shard not in map(partial(shard_of, store), (near, far))
    )
    worker = next(
        name
        for name in map("worker-{}".format, range(10_000))
        if store.keys.shard_of_worker(name) is home
    )
    await beat_steadily(store, worker)
    for queue in (near, far):
        await put(store, queue=queue)
    held = [job for queue in (near, far) for job in await take(store, queue, worker=worker)]
    db.hset(home.worker(worker), "last_heartbeat", 1)
    half = without(store, shard_of(store, far) if away == "job" else home)
    reply = await beat(half, worker, *held)

    assert reply.extended == [job.id for job in (held[:1] if away == "job" else held)]
    assert db.hexists(shard_of(store, near).job(held[0].id), f.EXTENDED)
    if away == "job":
        assert int(db.hget(home.worker(worker), "last_heartbeat")) > 1, "its contact is noted"
    else:
        assert db.hexists(shard_of(store, far).job(held[1].id), f.EXTENDED)
