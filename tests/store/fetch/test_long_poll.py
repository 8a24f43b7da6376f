"""Fetches that wait: woken by what makes a job available, one after the other, losing nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest
import trio

from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.redis import Client
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.fetch import long_poll
from ojs_cluster.store.engine.fetch.fetch import release
from ojs_cluster.store.engine.fetch.long_poll import Waiters, fetch_or_wait
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.activate import activate
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.process_state import touch
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    active,
    home_id,
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
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.moments import Moment, at_moments
from tests.support.timeshift import age_job, age_worker

Check = Callable[[], InvariantReport]
PATIENCE_S = 60.0
NEVER_S = 3600.0


@pytest.fixture(autouse=True)
def look_again_s(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiters do not check by themselves: a waiter with a job was woken, however long it took."""
    monkeypatch.setattr(long_poll, "CHECK_EVERY_S", getattr(request, "param", NEVER_S))


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
    wait_ms: int = 120_000,
    tenant: str = "",
) -> list[JobRecord]:
    return await fetch_or_wait(
        *(store, waiters, names or (QUEUE,)),
        count=count,
        worker_id=worker,
        wait_ms=wait_ms,
        tenant=tenant,
    )


async def waiting(waiters: Waiters, tasks: int = 1) -> None:
    """Until that many fetches have looked in vain and sleep."""

    async def asleep() -> int:
        found = {
            waiter
            for of_queue in waiters._waiting.values()
            for of_tenant in of_queue.values()
            for waiter in of_tenant
        }
        return sum(waiter._event.statistics().tasks_waiting for waiter in found)

    await until(asleep, lambda number: number == tasks)


async def lose_worker(store: Store, db: Any, job: JobRecord) -> None:
    """Let the worker of a job die. No busy worker takes the job then, however long the test is."""
    assert job.worker_id
    shard = shard_of(store, job.queue)
    await heartbeat(store, Heartbeat(job.worker_id))
    age_worker(db, store.keys.shard_of_worker(job.worker_id), job.worker_id, HOUR)
    age_job(db, shard, job.id, HOUR)
    await reap_all(store, job.queue)
    db.hincrby(shard.job(job.id), f.ENQUEUED, HOUR)


async def served_after(
    store: Store, waiters: Waiters, cause: Callable[[], Awaitable[Any]], **kind: Any
) -> list[JobRecord]:
    """What a waiting fetch gets from what ``cause`` does."""
    got: list[JobRecord] = []

    async def wait() -> None:
        got.extend(await wait_for(store, waiters, **kind))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await waiting(waiters)
        await cause()
        with trio.fail_after(PATIENCE_S):
            while not got:  # noqa: ASYNC110 - what is polled is this test's own list
                await trio.sleep(0.01)
    return got


async def test_what_is_there_is_not_waited_for(store: Store, waiters: Waiters) -> None:
    job = await put(store)
    with trio.fail_after(PATIENCE_S):
        assert [found.id for found in await wait_for(store, waiters)] == [job.id]


async def test_without_a_wait_an_empty_queue_answers_at_once(
    store: Store, waiters: Waiters
) -> None:
    with trio.fail_after(PATIENCE_S):
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


@pytest.mark.parametrize("message", [b"!\xff w", b"\xff\xff", b""])
async def test_a_message_of_another_program_ends_no_wait(
    store: Store, waiters: Waiters, message: bytes
) -> None:
    shard = shard_of(store)

    async def publish_and_put() -> None:
        await store.redis.call(shard.slot, "SPUBLISH", shard.wake_channel, message)
        await put(store)

    assert len(await served_after(store, waiters, publish_and_put)) == 1


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
    await pauses.pause_or_resume(store, QUEUE, "pause")
    await put(store)
    await put(store)

    async def resume() -> None:
        await pauses.pause_or_resume(store, QUEUE, "resume")

    assert await served_after(store, waiters, resume)


async def test_a_waiter_for_one_tenant_is_woken_by_a_resume_a_limit_and_a_free_slot(
    store: Store, waiters: Waiters
) -> None:
    """The job of the tenant was in the queue before, so no message about its arrival follows."""

    async def resume() -> None:
        await pauses.pause_or_resume(store, QUEUE, "resume")

    async def limit() -> None:
        await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=2))

    await pauses.pause_or_resume(store, QUEUE, "pause")
    for _ in range(3):
        await enqueue_many(store, [msgspec.structs.replace(new_job(), tenant="a")])
    assert await served_after(store, waiters, resume, tenant="a")
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=0))
    [second] = await served_after(store, waiters, limit, tenant="a")
    assert await served_after(store, waiters, lambda: ack(store, second), tenant="a")


async def test_many_messages_for_each_tenant_wake_a_waiter_of_each_a_few_times(
    store: Store, waiters: Waiters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_poll, "EACH_TENANT_EVERY_S", 0.2)
    each = [waiters.add([QUEUE], tenant) for tenant in ("a", "b")]

    def woken() -> list[bool]:
        found = [bool(waiter.woken) for waiter in each]
        for waiter in each:
            waiter.woken.clear()
        return found

    def receive() -> None:
        waiters._on_message(store, shard_of(store), QUEUE.encode() + b" *")

    receive()
    assert woken() == [True, True]
    for _ in range(100):
        receive()
    assert woken() == [False, False]

    async def count() -> int:
        return sum(bool(waiter.woken) for waiter in each)

    await until(count, (2).__eq__)  # the last message is not lost
    assert woken() == [True, True]
    for waiter, tenant in zip(each, ("a", "b"), strict=True):
        waiters.remove(waiter, [QUEUE], tenant)
    receive()
    assert (waiters._tenants_due, waiters._delayed) == ({}, set())


async def test_a_waiter_of_many_queues_is_woken_by_any(store: Store, waiters: Waiters) -> None:
    names = queues_in_other_shards(store, 5)
    got: list[JobRecord] = []

    async def wait() -> None:
        got.extend(await wait_for(store, waiters, *names))

    for name in names:
        got.clear()
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await waiting(waiters)
                await put(store, name)
        assert [job.queue for job in got] == [name]


@pytest.mark.parametrize("look_again_s", [0.1], indirect=True)
async def test_a_worker_that_waits_is_seen(
    store: Store, waiters: Waiters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(touch, "_FETCH_TOUCH_INTERVAL_S", 0.0)

    async def last_seen() -> int:
        return (await workers.get(store, "w1")).last_seen_ms

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for, store, waiters)
        await waiting(waiters)
        before = await last_seen()
        await until(last_seen, lambda seen: seen > before)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("one_by_one", [True, False])
async def test_a_burst_of_as_many_jobs_as_waiters_serves_all_of_them(
    store: Store, other_store: Store, one_by_one: bool, consistent: Check
) -> None:
    processes = [(store, Waiters()), (other_store, Waiters())]
    got: list[str] = []

    async def wait(number: int) -> None:
        of, waiters = processes[number % 2]
        got.extend(job.id for job in await wait_for(of, waiters, worker=f"w{number}"))

    with trio.fail_after(PATIENCE_S):
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
        await heartbeat(store, Heartbeat("silent", state="quiet"))
    got: list[str | None] = []

    async def wait(worker: str) -> None:
        found = await wait_for(store, waiters, worker=worker)
        got.extend(job.worker_id for job in found)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "silent")
        if marked == "while it waits":
            await waiting(waiters)
            await heartbeat(store, Heartbeat("silent", state="quiet"))
        nursery.start_soon(wait, "eager")
        await waiting(waiters, 1 if marked == "before it waits" else 2)
        await put(store)
        with trio.fail_after(PATIENCE_S):
            while not got:  # noqa: ASYNC110 - what is polled is this test's own list
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert got == ["eager"]
    consistent()


@pytest.mark.parametrize("look", [1, 2, 3], ids=["first look", "subscribed", "woken"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_waiter_cancelled_while_it_is_given_a_job_leaves_it_to_the_next(
    store: Store, waiters: Waiters, look: int, when: str, consistent: Check
) -> None:
    """Cancelled as its request sets out or with the reply in hand; either leases the job to it."""
    job_id = home_id(store)
    got: list[JobRecord] = []
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:

            async def patient() -> None:
                got.extend(await wait_for(store, waiters, worker="patient"))

            async def act(moment: Moment) -> None:
                if moment == ("before", "fetch", look) and look < 3:
                    await put(store, id=job_id)
                if moment == (when, "fetch", look):
                    scope.cancel()
                if moment == ("after", "fetch", look):
                    assert (await read_jobs.get(store, job_id)).worker_id == "fickle"
                    nursery.start_soon(patient)
                    await waiting(waiters)

            with trio.CancelScope() as scope:
                if look == 3:
                    nursery.start_soon(put_when_asleep, store, waiters, job_id)
                await wait_for(at_moments(store, act), waiters, worker="fickle")

    assert scope.cancelled_caught
    assert [(found.id, found.attempt) for found in got] == [(job_id, 1)]
    consistent()


async def put_when_asleep(store: Store, waiters: Waiters, job_id: str) -> None:
    await waiting(waiters)
    await put(store, id=job_id)


async def test_cancelled_waiters_claim_nothing_and_pass_their_wake_up_on(
    store: Store, waiters: Waiters, consistent: Check
) -> None:
    """A job and three waiters, of whom some, or all, are cancelled at some moment of it all."""
    chance = random.Random(7)
    delivered: set[str] = set()
    for number in range(60):
        scopes = [trio.CancelScope() for _ in range(3)]
        cancel_at = {chance.randrange(1, 20): scope for scope in scopes[number % 2 :]}
        moments = itertools.count(1)
        got: list[str] = []

        async def act(_: Moment) -> None:
            if (scope := cancel_at.get(next(moments))) is not None:  # noqa: B023
                scope.cancel()

        async def impatient(scope: trio.CancelScope, store: Store) -> None:
            with scope:
                got.extend(job.id for job in await wait_for(store, waiters))  # noqa: B023

        told = at_moments(store, act)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for scope in scopes:
                    nursery.start_soon(impatient, scope, told)
                await put(told)
                # A remaining waiter must get the job: no wake-up is lost with a cancelled waiter.
                while not got and not all(  # noqa: ASYNC110 - polls this test's own list
                    scope.cancel_called for scope in scopes
                ):
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()

        assert got or number % 2 == 0, "the first waiter was not cancelled, and got no job"
        delivered.update(got)
        for job in await take(store, count=9, worker="rest"):
            assert job.attempt == 1, "an attempt without a worker was counted"
            await ack(store, job)

    report = consistent()
    leased = {job_id for job_id, state in report.states.items() if state == "active"}
    assert leased == delivered, "a lease without a holder, or a job delivered twice"
    assert report.count()["completed"] == 60 - len(delivered)


@pytest.mark.parametrize("look_again_s", [0.2], indirect=True)
async def test_a_lost_wake_up_is_made_good_by_looking_again(
    store: Store, other_store: Store, waiters: Waiters
) -> None:
    lost: list[bytes] = []
    deaf = replace(store, redis=cast(Client, DeafClient(store.redis, lost)))
    got: list[JobRecord] = []

    async def wait() -> None:
        got.extend(await wait_for(deaf, waiters))

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await waiting(waiters)
            job = await put(other_store)
    assert [found.id for found in got] == [job.id]

    async def messages() -> list[bytes]:
        return lost

    await until(messages, lambda heard: heard == [QUEUE.encode()])


class DeafClient:
    """A client whose subscriptions are confirmed, and whose messages all get lost."""

    def __init__(self, client: Client, lost: list[bytes]) -> None:
        self._client = client
        self._lost = lost

    async def subscribe(self, channel: bytes, slot: int, *_: Callable[..., None]) -> None:
        await self._client.subscribe(channel, slot, self._lost.append, lambda: None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


async def test_a_waiter_looks_again_when_its_subscription_was_interrupted(
    store: Store, backend: Embedded, db: Any, waiters: Waiters
) -> None:
    """A wake-up may have been published while nothing was subscribed."""
    job = await put(store)
    key = shard_of(store).queue_available(QUEUE)
    [(member, score)] = db.zrange(key, 0, -1, withscores=True)
    db.delete(key)

    async def come_back_unheard() -> None:
        db.zadd(key, {member: score})
        for node in backend.masters():
            with node.client() as admin:
                admin.client_kill_filter(_type="pubsub")

    got = await served_after(store, waiters, come_back_unheard)
    assert [found.id for found in got] == [job.id]


async def test_an_idle_wait_does_not_poll(store: Store, waiters: Waiters) -> None:
    counted, client = lossy(store)
    assert await wait_for(counted, waiters, wait_ms=2000) == []

    assert client.calls["fetch"] <= 3, "one look before, one after subscribing, one at the end"


async def test_a_busy_queue_publishes_only_when_it_was_empty(store: Store, db: Any) -> None:
    heard: list[bytes] = []
    shard = shard_of(store)
    await store.redis.subscribe(shard.wake_channel, shard.slot, heard.append, lambda: None)
    for _ in range(10):
        await put(store)
    await take(store, count=9)
    await put(store)
    await take(store, count=2)
    await put(store)

    # A channel's messages arrive in order: when the last is here, so is all that came before it.
    await store.redis.call(shard.slot, "SPUBLISH", shard.wake_channel, "the end")

    async def messages() -> list[bytes]:
        return heard

    await until(messages, lambda payloads: b"the end" in payloads)
    assert heard == [QUEUE.encode(), QUEUE.encode(), b"the end"]


async def test_a_deadline_that_is_near_is_announced_to_the_scheduler(store: Store) -> None:
    heard: list[bytes] = []
    shard = shard_of(store)
    await put(store)  # the queue's first job appends an effect, which has a deadline too
    await store.redis.subscribe(shard.schedule_channel, shard.slot, heard.append, lambda: None)
    far = await put(store, scheduled_at="+PT1H")
    near = await put(store, scheduled_at="+PT10S")
    await put(store, scheduled_at="+PT15S")  # not the shard's next one
    await store.redis.call(shard.slot, "SPUBLISH", shard.schedule_channel, "the end")

    async def messages() -> list[bytes]:
        return heard

    await until(messages, lambda payloads: b"the end" in payloads)
    assert heard == [b"%d" % (near.due_ms or 0), b"the end"]
    assert far.due_ms != near.due_ms


async def test_draining_sends_every_waiter_home(store: Store, waiters: Waiters) -> None:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait_for, store, waiters)
            await waiting(waiters, 3)
            waiters.drain()
        assert await wait_for(store, waiters) == []
    assert waiters.draining
    job = await put(store)
    assert [found.id for found in await wait_for(store, waiters)] == [job.id]
    assert (await read_jobs.get(store, job.id)).state is State.ACTIVE


async def test_a_busy_worker_gets_the_jobs_that_come_behind_a_suspect(
    store: Store, db: Any, waiters: Waiters
) -> None:
    await active(store, "held", worker="w1")
    suspect = await active(store, worker="dead")
    await lose_worker(store, db, suspect)
    # The queue is not empty, so the enqueue publishes nothing.
    [got] = await served_after(store, waiters, lambda: put(store))
    assert got.id != suspect.id


async def test_an_idle_worker_gets_a_suspect_that_the_waiters_before_it_leave(
    store: Store, db: Any, waiters: Waiters
) -> None:
    suspect = await active(store, worker="dead")
    for number in range(3):
        await active(store, "held", worker=f"busy{number}")
    got: list[JobRecord] = []

    async def wait(worker: str) -> None:
        got.extend(await wait_for(store, waiters, worker=worker))
        nursery.cancel_scope.cancel()

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for tasks, worker in enumerate(("busy0", "busy1", "busy2", "idle"), 1):
                nursery.start_soon(wait, worker)
                await waiting(waiters, tasks)
            await lose_worker(store, db, suspect)
    assert [(job.id, job.worker_id) for job in got] == [(suspect.id, "idle")]
