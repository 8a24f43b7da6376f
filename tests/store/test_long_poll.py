"""Fetches that wait: woken by what makes a job available, one after the other, losing nothing."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from ojs_cluster.core.states import State
from ojs_cluster.store import jobs, queues
from ojs_cluster.store.activate import activate
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue import enqueue_many
from ojs_cluster.store.fetch import release
from ojs_cluster.store.heartbeat import Beat, heartbeat
from ojs_cluster.store.record import JobRecord
from ojs_cluster.store.wake import LOOK_AGAIN_S, Waiters, fetch_or_wait
from tests.store.jobs import (
    HOUR,
    QUEUE,
    ack,
    active,
    nack,
    new_job,
    promote_all,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
    until,
)
from tests.support.invariants import Census
from tests.support.lossy import lossy
from tests.support.timeshift import age_job

Check = Callable[[], Census]
SOON_S = LOOK_AGAIN_S * 0.8
"""Less than a waiter's own look: who is served in this time was woken."""


@pytest.fixture
async def waiters(store: Store) -> AsyncIterator[Waiters]:
    """The waiting fetches of one process."""
    process = Waiters()
    yield process
    assert len(process) == 0, "a waiter was left behind"


async def wait_for(
    store: Store,
    waiters: Waiters,
    *names: str,
    count: int = 1,
    worker: str = "w1",
    wait_ms: int = 15_000,
) -> list[JobRecord]:
    return await fetch_or_wait(
        store, waiters, names or (QUEUE,), count=count, worker_id=worker, wait_ms=wait_ms
    )


async def waiting(waiters: Waiters, tasks: int = 1) -> None:
    """Until that many fetches have looked in vain and sleep."""

    async def asleep() -> int:
        found = {waiter for of_queue in waiters._waiting.values() for waiter in of_queue}
        return sum(waiter._event.statistics().tasks_waiting for waiter in found)

    await until(asleep, lambda number: number == tasks)


async def served_after(
    store: Store, waiters: Waiters, cause: Callable[[], Awaitable[Any]], **kind: Any
) -> list[JobRecord]:
    """What a waiting fetch gets from what ``cause`` does, if it gets it soon."""
    got: list[JobRecord] = []

    async def wait() -> None:
        got.extend(await wait_for(store, waiters, **kind))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await waiting(waiters)
        await cause()
        with trio.move_on_after(SOON_S):
            while not got:  # noqa: ASYNC110 - what is polled is this test's own list
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    return got


async def test_what_is_there_is_not_waited_for(store: Store, waiters: Waiters) -> None:
    job = await put(store)
    with trio.fail_after(SOON_S):
        assert [found.id for found in await wait_for(store, waiters)] == [job.id]


async def test_without_a_wait_an_empty_queue_answers_at_once(
    store: Store, waiters: Waiters
) -> None:
    with trio.fail_after(SOON_S):
        assert await wait_for(store, waiters, wait_ms=0) == []


async def test_a_wait_ends_after_its_time_with_nothing(store: Store, waiters: Waiters) -> None:
    began = trio.current_time()
    assert await wait_for(store, waiters, wait_ms=200) == []
    assert trio.current_time() - began >= 0.19


async def test_an_enqueue_wakes_a_waiter(
    store: Store, other_store: Store, waiters: Waiters, consistent: Check
) -> None:
    got = await served_after(store, waiters, lambda: put(other_store))
    assert [job.attempt for job in got] == [1]
    consistent()


async def test_a_batch_wakes_a_waiter_who_takes_what_it_asked_for(
    store: Store, waiters: Waiters
) -> None:
    async def batch() -> None:
        await enqueue_many(store, [new_job() for _ in range(5)])

    assert len(await served_after(store, waiters, batch, count=3)) == 3


async def test_a_promotion_wakes_a_waiter(store: Store, db: Any, waiters: Waiters) -> None:
    job = await put(store, scheduled_at="+PT1H")

    async def promotion() -> None:
        age_job(db, shard_of(store), job.id, HOUR)
        await promote_all(store)

    assert await served_after(store, waiters, promotion)


async def test_a_lost_lease_wakes_a_waiter(store: Store, db: Any, waiters: Waiters) -> None:
    job = await active(store, worker="w2")

    async def loss() -> None:
        age_job(db, shard_of(store), job.id, HOUR)
        await reap_all(store)

    assert [found.attempt for found in await served_after(store, waiters, loss)] == [2]


async def test_a_requeue_a_release_and_an_activation_wake_a_waiter(
    store: Store, waiters: Waiters
) -> None:
    first = await active(store, worker="w2")
    assert await served_after(store, waiters, lambda: nack(store, first, requeue=True))
    second = await active(store, worker="w2")
    assert await served_after(store, waiters, lambda: release(store, [second]))
    third = await put(store, pending=True)
    assert await served_after(store, waiters, lambda: activate(store, third.id))


async def test_a_resume_wakes_waiters_and_a_pause_keeps_them(
    store: Store, waiters: Waiters
) -> None:
    await queues.switch(store, QUEUE, "pause")
    await put(store)
    await put(store)

    async def resume() -> None:
        await queues.switch(store, QUEUE, "resume")

    assert await served_after(store, waiters, resume)


async def test_a_waiter_of_many_queues_is_woken_by_any(store: Store, waiters: Waiters) -> None:
    names = queues_in_other_shards(store, 5)
    got: list[JobRecord] = []

    async def wait() -> None:
        got.extend(await wait_for(store, waiters, *names))

    for name in names:
        got.clear()
        with trio.fail_after(SOON_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await waiting(waiters)
                await put(store, name)
        assert [job.queue for job in got] == [name]


@pytest.mark.parametrize("one_by_one", [True, False])
async def test_a_burst_of_as_many_jobs_as_waiters_serves_all_of_them(
    store: Store, other_store: Store, one_by_one: bool, consistent: Check
) -> None:
    processes = [(store, Waiters()), (other_store, Waiters())]
    got: list[str] = []

    async def wait(number: int) -> None:
        of, waiters = processes[number % 2]
        got.extend(job.id for job in await wait_for(of, waiters, worker=f"w{number}"))

    with trio.fail_after(SOON_S + 2):
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(wait, number)
            for _, waiters in processes:
                await waiting(waiters, 15)
            if one_by_one:
                for _ in range(30):
                    nursery.start_soon(put, store)
            else:
                await enqueue_many(store, [new_job() for _ in range(30)])

    assert len(set(got)) == 30
    assert consistent().count() == {"active": 30}


@pytest.mark.parametrize("marked", ["before it waits", "while it waits"])
async def test_a_quiet_workers_waiter_leaves_the_wake_up_to_others(
    store: Store, waiters: Waiters, marked: str, consistent: Check
) -> None:
    if marked == "before it waits":
        await heartbeat(store, Beat("silent", state="quiet"))
    got: list[str | None] = []

    async def wait(worker: str) -> None:
        found = await wait_for(store, waiters, worker=worker)
        got.extend(job.worker_id for job in found)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "silent")
        if marked == "while it waits":
            await waiting(waiters)
            await heartbeat(store, Beat("silent", state="quiet"))
        nursery.start_soon(wait, "eager")
        await waiting(waiters, 1 if marked == "before it waits" else 2)
        await put(store)
        with trio.fail_after(SOON_S):
            while not got:  # noqa: ASYNC110 - what is polled is this test's own list
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert got == ["eager"]
    consistent()


async def test_a_cancelled_waiter_claims_nothing_and_passes_its_wake_up_on(
    store: Store, waiters: Waiters, consistent: Check
) -> None:
    """Cancelled at every moment of a fetch, also while Redis is giving it the job."""
    chance = random.Random(7)
    delivered: set[str] = set()
    for _ in range(60):
        scopes = [trio.CancelScope() for _ in range(3)]

        async def impatient(scope: trio.CancelScope) -> None:
            with scope:
                delivered.update(job.id for job in await wait_for(store, waiters, wait_ms=5000))

        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(impatient, scope)
            if chance.random() < 0.3:
                await waiting(waiters, 3)
            nursery.start_soon(put, store)
            for scope in scopes:
                await trio.sleep(chance.random() * 0.002)
                scope.cancel()

        for job in await take(store, count=9, worker="rest"):
            assert job.attempt == 1, "an attempt that nobody saw was counted"
            await ack(store, job)

    census = consistent()
    leased = {job_id for job_id, state in census.states.items() if state == "active"}
    assert leased == delivered, "a lease that nobody holds, or a job given twice"
    assert census.count()["completed"] == 60 - len(delivered)
    assert 0 < len(delivered) < 60, "the moments of cancelling are not well chosen"


async def test_a_waiter_that_is_cancelled_after_its_wake_up_leaves_the_job_to_the_next(
    store: Store, waiters: Waiters, consistent: Check
) -> None:
    """The first waiter, the one that is woken, goes away; the second must not sleep on."""
    for _ in range(10):
        got: list[JobRecord] = []

        async def patient() -> None:
            got.extend(await wait_for(store, waiters, worker="patient"))  # noqa: B023

        async with trio.open_nursery() as nursery:
            first = await nursery.start(until_cancelled, store, waiters)
            await waiting(waiters)
            nursery.start_soon(patient)
            await waiting(waiters, 2)
            await put(store)
            first.cancel()
            with trio.move_on_after(SOON_S):
                while not got and not await finished_by_first(store):  # noqa: ASYNC110 - as above
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        for job in [*got, *await take(store, count=9)]:
            await ack(store, job)
    assert set(consistent().states.values()) == {"completed"}


async def finished_by_first(store: Store) -> bool:
    stats = await queues.stats(store, QUEUE)
    return stats.counts[State.ACTIVE] + stats.counts[State.AVAILABLE] == 0


async def until_cancelled(
    store: Store, waiters: Waiters, task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        for job in await wait_for(store, waiters, worker="fickle"):
            with trio.CancelScope(shield=True):
                await ack(store, job)


async def test_an_idle_wait_does_not_poll(store: Store, waiters: Waiters) -> None:
    counted, client = lossy(store)
    assert await wait_for(counted, waiters, wait_ms=2000) == []

    assert client.calls["fetch"] <= 3, "one look before, one after subscribing, one at the end"


async def test_a_busy_queue_publishes_only_when_it_was_empty(store: Store, db: Any) -> None:
    heard: list[bytes] = []
    shard = shard_of(store)
    await store.redis.subscribe(shard.wake, shard.slot, heard.append, lambda: None)
    for _ in range(10):
        await put(store)
    await take(store, count=9)
    await put(store)
    await take(store, count=2)
    await put(store)

    async def messages() -> int:
        return len(heard)

    await until(messages, lambda number: number >= 2)
    await trio.sleep(0.05)
    assert heard == [QUEUE.encode()] * 2


async def test_draining_sends_every_waiter_home(store: Store, waiters: Waiters) -> None:
    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait_for, store, waiters)
            await waiting(waiters, 3)
            waiters.drain()
        assert await wait_for(store, waiters) == []
    assert waiters.draining
    job = await put(store)
    assert [found.id for found in await wait_for(store, waiters)] == [job.id]
    assert (await jobs.get(store, job.id)).state is State.ACTIVE
