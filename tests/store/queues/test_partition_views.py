"""Reads and operations of a whole queue cover all its partitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.fetch import long_poll
from ojs_cluster.store.engine.fetch.long_poll import Waiters
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import pauses, queues
from ojs_cluster.store.engine.queues.deadlines import reap
from ojs_cluster.store.engine.queues.partition_maintenance import set_partitions
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.features.search.lists import list_jobs
from ojs_cluster.store.operators.operations import metrics
from tests.store.hot_queues import close_empty, put_into, spread
from tests.store.shortcuts import HOUR, QUEUE, ack, foreign_id, nack, put, take, until
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]
DEAD: dict[str, Any] = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}


async def make_dead_letter(store: Store, shard: Shard, **members: Any) -> JobRecord:
    """Make a dead letter in one partition."""
    await put_into(store, shard, **members, **DEAD)
    [job] = await take(store)
    return await nack(store, job)


async def test_numbers_are_summed(store: Store, db: Any, consistent: Check) -> None:
    shards = await spread(store, db, 4)
    for number, shard in enumerate(shards):
        for _ in range(number + 1):
            job = await put_into(store, shard)
            age_job(db, shard, job.id, 1000)
            [job] = await take(store)
            age_job(db, shard, job.id, 2000)
            await ack(store, job)
        await make_dead_letter(store, shard)
        await put_into(store, shard, scheduled_at="+PT1H")
    for shard in shards[2:]:
        await put_into(store, shard)
    stats = await queues.get_stats(store, QUEUE)
    [listed], *_ = await queues.list_queues(store, limit=5)

    assert listed.counts == stats.counts
    assert dict(stats.counts) == {
        **dict.fromkeys(State, 0),
        State.AVAILABLE: 2,
        State.SCHEDULED: 4,
        State.COMPLETED: 10,
        State.DISCARDED: 4,
    }
    assert (stats.acked, stats.dead, stats.depth) == (10, 4, 6)
    assert (stats.completed_last_hour, stats.failed_last_hour) == (10, 4)
    assert 2000 <= stats.avg_duration_ms < HOUR
    assert 1000 <= stats.avg_wait_ms < HOUR
    consistent()


async def test_numbers_stay_when_partitions_are_closed(store: Store, db: Any) -> None:
    for shard in await spread(store, db, 4):
        await put_into(store, shard)
        await ack(store, (await take(store))[0])
    await set_partitions(store, QUEUE, 1)
    await close_empty(store, db)

    assert (await queues.get_stats(store, QUEUE)).acked == 4
    page = await list_jobs(store, JobFilter(queue=QUEUE), limit=9)
    assert [job.state for job in page.jobs] == [State.COMPLETED] * 4


async def test_a_pause_holds_in_all_partitions_and_shows_once(
    store: Store, other_store: Store, db: Any, consistent: Check
) -> None:
    shards = await spread(store, db, 4)
    for shard in shards:
        await put_into(store, shard)
    await pauses.pause_or_resume(other_store, QUEUE, "pause")
    await pauses.pause_or_resume(store, QUEUE, "pause")
    assert await take(store, count=9) == []
    assert (await queues.get_stats(store, QUEUE)).paused
    for shard in shards:
        await put_into(store, shard)
    consistent()
    await pauses.pause_or_resume(store, QUEUE, "resume")
    assert len(await take(store, count=9)) == 8
    consistent()

    page = await read_events(store, EventFilter(types=["queue.*"]), limit=50)
    assert [b'"type":"queue.paused"' in event for event in page.events] == [True, False]


async def test_a_purge_empties_all_partitions(store: Store, db: Any, consistent: Check) -> None:
    for shard in await spread(store, db, 4):
        for _ in range(3):
            await put_into(store, shard)
        await put_into(store, shard, scheduled_at="+PT1H")
    await put(store, id=foreign_id(store))

    assert await purges.purge(store, QUEUE) == (13, 0)
    assert consistent().count() == {"scheduled": 4}


async def test_dead_letters_of_all_partitions_are_one_list(
    store: Store, db: Any, consistent: Check
) -> None:
    shards = await spread(store, db, 4)
    dead = []
    for number in range(8):
        shard = shards[number % 4]
        job = await make_dead_letter(store, shard)
        age_job(db, shard, job.id, (8 - number) * 1000)
        dead.append(job.id)

    pages = [
        await dead_letters.list_dead_letters(store, queue=QUEUE, limit=3, offset=offset)
        for offset in (0, 3, 6)
    ]
    assert [job.id for page, *_ in pages for job in page] == dead[::-1]
    assert {total for _, total, _ in pages} == {8}
    assert (await dead_letters.get_stats(store)).by_queue == {QUEUE: 8}
    with pytest.raises(InvalidRequest, match="several shards"):
        await dead_letters.list_dead_letters(
            store, queue=QUEUE, limit=1, offset=dead_letters.MAX_OFFSET
        )
    await dead_letters.retry(store, dead[3])
    await dead_letters.delete(store, dead[2])
    assert (await dead_letters.list_dead_letters(store, queue=QUEUE, limit=9))[1] == 6
    consistent()


@pytest.mark.parametrize("queue", [QUEUE, None])
async def test_listings_go_through_all_partitions_page_by_page(
    store: Store, db: Any, queue: str | None
) -> None:
    wanted = {(await put(store, name)).id for name in ("alpha", "zeta") if queue is None}
    for shard in await spread(store, db, 4):
        for options in ({}, {"scheduled_at": "+PT1H"}, {"pending": True}):
            wanted.add((await put_into(store, shard, **options)).id)
    got: list[str] = []
    cursor = None
    with trio.fail_after(30):
        while True:
            page = await list_jobs(store, JobFilter(queue=queue), limit=2, cursor=cursor)
            got += [job.id for job in page.jobs]
            cursor = page.next_cursor
            if cursor is None:
                break

    assert len(got) == len(wanted)
    assert set(got) == wanted
    of_state = await list_jobs(store, JobFilter(State.AVAILABLE, queue), limit=50)
    assert len(of_state.jobs) == 4 + 2 * (queue is None)


async def test_metrics_sum_all_partitions(store: Store, db: Any) -> None:
    shards = await spread(store, db, 4)
    for shard in shards:
        await put_into(store, shard)
    await pauses.pause_or_resume(store, QUEUE, "pause")
    numbers = await metrics.collect(store, 10)

    assert numbers.queues.keys() == {QUEUE}
    assert numbers.queues[QUEUE].jobs[State.AVAILABLE] == 4
    assert numbers.queues[QUEUE].paused


async def test_events_of_a_queue_come_from_all_partitions(store: Store, db: Any) -> None:
    ids = [(await put_into(store, shard)).id for shard in await spread(store, db, 4)]
    await put(store, "other")
    page = await read_events(store, EventFilter(queues=[QUEUE]), limit=50)

    assert len(page.events) == 4
    assert all(any(job_id.encode() in event for event in page.events) for job_id in ids)


async def test_jobs_of_any_partition_are_cancelled_by_id(
    store: Store, db: Any, consistent: Check
) -> None:
    for shard in await spread(store, db, 4):
        await cancel(store, (await put_into(store, shard)).id)
    await cancel(store, (await put(store, id=foreign_id(store))).id)

    assert await take(store, count=9) == []
    assert consistent().count() == {"cancelled": 5}


async def test_a_waiter_is_woken_whichever_partition_gets_the_job(
    store: Store, other_store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_poll, "CHECK_EVERY_S", 3600.0)  # nothing but a wake-up ends the wait
    shards = await spread(store, db, 8)
    await other_store.partitions.read(other_store)
    waiters = Waiters()
    got: list[str] = []

    async def wait() -> None:
        found = await long_poll.fetch_or_wait(
            store, waiters, [QUEUE], count=1, worker_id="w", wait_ms=60_000
        )
        got.extend(job.id for job in found)

    async def asleep() -> bool:
        found = waiters._waiting.get(QUEUE, {}).get(long_poll._Kind("", ""), {})
        return any(waiter._event.statistics().tasks_waiting for waiter in found)

    put_in: list[str] = []
    with trio.fail_after(50):
        for shard in shards:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await until(asleep, bool)
                put_in.append((await put_into(other_store, shard)).id)
    assert got == put_in


async def test_a_burst_over_partitions_serves_all_waiters(
    store: Store, other_store: Store, db: Any, consistent: Check
) -> None:
    await spread(store, db, 8)
    await other_store.partitions.read(other_store)
    processes = [(store, Waiters()), (other_store, Waiters())]
    got: list[str] = []

    async def wait(number: int) -> None:
        of, waiters = processes[number % 2]
        worker = f"w{number}"
        found = await long_poll.fetch_or_wait(
            of, waiters, [QUEUE], count=1, worker_id=worker, wait_ms=30_000
        )
        got.extend(job.id for job in found)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(wait, number)
            for _ in range(20):
                nursery.start_soon(put, store)

    assert len(set(got)) == 20
    assert consistent().count() == {"active": 20}


async def test_lost_leases_come_back_in_their_partition(
    store: Store, db: Any, consistent: Check
) -> None:
    for shard in await spread(store, db, 4):
        job = await put_into(store, shard)
        await take(store)
        age_job(db, shard, job.id, HOUR)
        await reap(store, shard, 10)
        [again] = await take(store)
        assert (again.id, again.attempt) == (job.id, 2)
    consistent()
