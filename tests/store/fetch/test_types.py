"""Fetches that name job types: jobs of other types leave their way, and keep their places."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
import trio

from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes.purges import purge
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.fetch import long_poll
from ojs_cluster.store.engine.fetch.fetch_script import digest_of, pack_types, queues_per_call
from ojs_cluster.store.engine.fetch.long_poll import Waiters, fetch_or_wait
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.limits.partition_quotas import set_limits
from ojs_cluster.store.engine.queues.fair_share import set_fair_share
from ojs_cluster.store.engine.queues.partition_maintenance import set_partitions
from ojs_cluster.store.engine.queues.pauses import pause_or_resume
from ojs_cluster.store.features.rate_limits import rate_tokens
from tests.store.archives import export_text, import_text
from tests.store.shortcuts import QUEUE, ack, new_job, put, reap_all, shard_of, take, until
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy

Check = Callable[[], InvariantReport]
OLD, NEW = pack_types(["mail.send"]), pack_types(["mail.bounce"])


async def put_new(store: Store, **options: Any) -> JobRecord:
    return await put(store, type="mail.bounce", **options)


async def types_of(store: Store, types: str, count: int = 10) -> list[str]:
    """The types of the jobs that a fetch returns, each acked."""
    jobs = await take(store, count=count, types=types)
    for job in jobs:
        await ack(store, job)
    return [job.type for job in jobs]


async def test_a_fetch_gets_only_jobs_of_its_types(store: Store, consistent: Check) -> None:
    new = [await put_new(store), await put_new(store)]
    old = await put(store)

    assert [job.id for job in await take(store, types=OLD)] == [old.id]
    assert await take(store, types=OLD) == []
    for job in new:
        assert (await read_jobs.get(store, job.id)).state is State.AVAILABLE
    assert consistent().count()["available"] == 2

    assert [job.id for job in await take(store, count=10, types=NEW)] == [job.id for job in new]
    consistent()


@pytest.mark.parametrize("types", [NEW, "", pack_types(["mail.bounce", "mail.send"])])
async def test_a_parked_job_keeps_its_place(store: Store, types: str, consistent: Check) -> None:
    late = await put_new(store, priority=-5)
    first = await put_new(store)
    assert await take(store, types=OLD) == []
    urgent = await put_new(store, priority=5)
    second = await put_new(store)

    got = [(await take(store, types=types))[0].id for _ in range(4)]

    assert got == [urgent.id, first.id, second.id, late.id]
    consistent()


async def test_jobs_of_several_parked_types_come_in_order(store: Store, consistent: Check) -> None:
    names = ["a", "b", "c", "b", "a", "c", "c", "a"]
    jobs = [await put(store, type=name) for name in names]
    assert await take(store, types=OLD) == []

    got = await take(store, count=5, types=pack_types(["a", "b", "c"]))
    got += await take(store, count=5)

    assert [job.id for job in got] == [job.id for job in jobs]
    consistent()


@pytest.mark.parametrize("types", [OLD, NEW])
async def test_looks_of_a_fetch_are_bounded(store: Store, types: str, consistent: Check) -> None:
    for _ in range(10):
        await enqueue_many(store, [new_job(type="nothing.runs") for _ in range(200)])
    job = await put(store, type=types.strip())
    counted, client = lossy(store)

    assert [found.id for found in await take(counted, types=types)] == [job.id]
    assert client.calls["fetch_full"] < 20
    client.calls.clear()
    job = await put(store, type=types.strip())

    assert [found.id for found in await take(counted, types=types)] == [job.id]
    assert await take(counted, types=types) == []
    for by_time in ("read_partitions", "touch_worker"):  # what any fetch does now and then
        client.calls.pop(by_time, None)
    assert client.calls == {"fetch": 2}
    consistent()


async def test_parked_jobs_do_not_hide_jobs_that_wait_for_tokens(
    store: Store, consistent: Check
) -> None:
    limited: dict[str, Any] = {"rate_limit": {"key": "k", "concurrency": 1}}
    first, second = await put(store, **limited), await put(store, **limited)
    new = await put_new(store, **limited)
    [job] = await take(store, count=10, types=OLD)
    assert job.id == first.id
    await take(store, types=OLD)
    await ack(store, job)

    for types, expected in ((OLD, second), (NEW, new)):
        [found] = await until(partial(take, store, types=types), bool)
        assert found.id == expected.id
        await ack(store, found)
    consistent()


async def test_a_parked_job_can_be_cancelled_and_purged(store: Store, consistent: Check) -> None:
    jobs = [await put_new(store) for _ in range(3)]
    assert await take(store, types=OLD) == []

    await cancel(store, jobs[1].id)
    assert consistent().count()["available"] == 2
    await purge(store, QUEUE)

    assert consistent().count()["available"] == 0
    assert await take(store, types=NEW) == []


async def test_the_reaper_keeps_parked_jobs(store: Store, db: Any, consistent: Check) -> None:
    """They are quarantined for earlier versions, whose reapers return them to the queue."""
    shard, job = shard_of(store), await put_new(store)
    assert await take(store, types=OLD) == []
    db.zadd(shard.quarantine, {job.id: 1})

    await reap_all(store)

    assert db.zscore(shard.quarantine, job.id) > 1
    assert consistent().count()["available"] == 1
    assert db.zcard(shard.queue_available(QUEUE)) == 0
    await cancel(store, job.id)
    assert not db.exists(shard.quarantine)


async def test_a_fetch_of_one_tenant_gets_its_parked_job(store: Store, consistent: Check) -> None:
    made = new_job(type="mail.bounce")
    for _ in range(3):
        await enqueue(store, msgspec.structs.replace(made, tenant="other"))
    job = await enqueue(store, msgspec.structs.replace(made, tenant="own"))
    assert await take(store, types=OLD, count=10) == []

    assert [found.id for found in await take(store, types=NEW, tenant="own")] == [job.id]
    consistent()


async def test_parked_jobs_of_a_queue_with_partitions_are_found(
    store: Store, consistent: Check
) -> None:
    await set_partitions(store, QUEUE, 4)
    new = [await put_new(store) for _ in range(8)]
    assert await take(store, types=OLD, count=10) == []

    assert await take(store, types=OLD, count=10) == []
    found = await take(store, types=NEW, count=10)
    while more := await take(store, types=NEW, count=10):
        found += more

    assert sorted(job.id for job in found) == sorted(job.id for job in new)
    consistent()


async def wait_for(store: Store, waiters: Waiters, types: str) -> list[JobRecord]:
    return await fetch_or_wait(
        *(store, waiters, [QUEUE]), count=1, worker_id="w1", wait_ms=60_000, types=types
    )


def is_waiting(waiters: Waiters, types: str) -> bool:
    return any(kind.types == types for kind in waiters._waiting.get(QUEUE, {}))


async def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - waiters begin to wait without an event
        await trio.sleep(0.01)


@pytest.mark.parametrize("first", [OLD, NEW])
async def test_a_job_wakes_a_waiter_that_can_run_it(
    store: Store, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_poll, "CHECK_EVERY_S", 3600.0)
    waiters, got = Waiters(), dict[str, list[str]]()

    async def wait(types: str) -> None:
        got[types] = [job.type for job in await wait_for(store, waiters, types)]

    second = NEW if first is OLD else OLD
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for types in (first, second):
                nursery.start_soon(wait, types)
                await wait_until(partial(is_waiting, waiters, types))
            await put_new(store)
            await wait_until(partial(got.__contains__, NEW))
            await put(store)

    assert got == {OLD: ["mail.send"], NEW: ["mail.bounce"]}


def tenant_job(tenant: str, job_type: str, **options: Any) -> NewJob:
    return msgspec.structs.replace(new_job(type=job_type, **options), tenant=tenant)


async def test_expired_and_blocked_parked_jobs_do_not_hide_others(
    store: Store, db: Any, consistent: Check
) -> None:
    limited = new_job(type="mail.bounce", priority=5, rate_limit={"key": "k", "concurrency": 1})
    await enqueue_many(store, [limited] * 100)
    expired = [await put_new(store, expires_at="2999-01-01T00:00:00Z") for _ in range(3)]
    job = await put_new(store)
    assert await take(store, types=OLD) == []
    for each in expired:
        db.hset(shard_of(store).job(each.id), "xp", 1)
        db.zadd(shard_of(store).expiring, {each.id: 1})

    got = [(await until(partial(take, store, types=NEW), bool))[0] for _ in range(2)]

    assert [found.id == job.id for found in got].count(True) == 1
    await reap_all(store)
    consistent()


async def test_a_paused_queue_keeps_its_parked_jobs(store: Store, consistent: Check) -> None:
    job = await put_new(store)
    assert await take(store, types=OLD) == []
    await pause_or_resume(store, QUEUE, "pause")
    assert await take(store, types=NEW) == []
    assert await take(store) == []
    consistent()

    await pause_or_resume(store, QUEUE, "resume")

    assert [found.id for found in await take(store, types=NEW)] == [job.id]


async def test_limits_of_the_queue_hold_for_parked_jobs(store: Store, consistent: Check) -> None:
    for _ in range(5):
        await put_new(store)
    assert await take(store, types=OLD) == []
    await set_limits(store, QUEUE, RateLimits(concurrency=2))

    assert len(await take(store, types=NEW, count=10)) == 2
    assert await take(store, count=10) == []
    consistent()


async def test_a_held_token_of_another_type_returns(store: Store, consistent: Check) -> None:
    """Without a worker for its type, a job with a token must not stop the others of its key."""
    limited: dict[str, Any] = {"rate_limit": {"key": "k", "concurrency": 1}}
    [running] = [await put(store, **limited)]
    assert [job.id for job in await take(store, types=OLD)] == [running.id]
    new, old = await put_new(store, **limited), await put(store, **limited)
    assert await take(store) == []  # both are blocked, and the first requests a token
    await ack(store, running)

    async def own() -> list[JobRecord]:
        found = await take(store, types=OLD)
        for shard in store.keys:
            await rate_tokens.return_unused_tokens(store, shard, 100)
        return found

    [found] = await until(own, bool)
    assert found.id == old.id
    await ack(store, found)
    [found] = await until(partial(take, store, types=NEW), bool)
    assert found.id == new.id
    await ack(store, found)
    consistent()


async def test_tenants_take_turns_also_with_parked_jobs(store: Store, consistent: Check) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await enqueue_many(store, [tenant_job("busy", "mail.bounce") for _ in range(20)])
    await enqueue_many(store, [tenant_job("calm", "mail.bounce") for _ in range(2)])
    assert await take(store, types=OLD) == []
    await enqueue_many(store, [tenant_job("late", "mail.bounce") for _ in range(2)])

    got = [(await take(store, types=NEW))[0].fields[b"tn"] for _ in range(6)]

    assert sorted(got) == [b"busy"] * 2 + [b"calm"] * 2 + [b"late"] * 2
    consistent()


async def test_idle_workers_of_other_types_and_tenants_rest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that no waiter runs are parked by one fetch each, and then cost no more calls."""
    monkeypatch.setattr(long_poll, "CHECK_EVERY_S", 0.2)
    counted, client = lossy(store)
    waiters = Waiters()
    kinds = [(OLD, ""), (OLD, "t1"), (NEW, "t1"), (NEW, "t2"), (pack_types(["c"]), "")]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for types, tenant in kinds:
                wait = partial(fetch_or_wait, counted, waiters, [QUEUE], count=1, worker_id="w1")
                wait = partial(wait, wait_ms=60_000, types=types, tenant=tenant)
                nursery.start_soon(wait)
            await wait_until(lambda: len(waiters._waiting.get(QUEUE, ())) == len(kinds))
            client.calls.clear()
            made = [tenant_job("t3", "other.job"), new_job(type="other.job")] * 3
            for job in made:
                await enqueue(store, job)
                await trio.sleep(0.05)
            await trio.sleep(1)
            calls = client.calls.get("fetch", 0) + client.calls.get("fetch_full", 0)
            assert 2 <= calls <= len(made) * 2 * len(kinds)
            client.calls.clear()
            await trio.sleep(1)
            assert "fetch" not in client.calls
            assert "fetch_full" not in client.calls
            nursery.cancel_scope.cancel()


async def test_a_fetch_of_one_type_takes_one_call_when_others_are_parked(store: Store) -> None:
    await set_partitions(store, QUEUE, 4)
    for _ in range(8):
        await put_new(store)
    while await take(store, types=OLD, count=10):
        pass
    counted, client = lossy(store)
    client.calls.clear()

    assert await take(counted, types=OLD) == []

    assert "fetch" not in client.calls
    assert "fetch_full" not in client.calls


async def test_a_parked_job_is_not_parked_after_an_import(store: Store, consistent: Check) -> None:
    job = await put_new(store)
    assert await take(store, types=OLD) == []
    text = await export_text(store)
    await purge(store, QUEUE)

    await import_text(store, text)

    consistent()
    assert [found.id for found in await take(store, types=NEW)] == [job.id]


class Recorder(Waiters):
    """Keeps the messages that arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[bytes] = []

    def _on_message(self, store: Store, shard: Shard, payload: bytes) -> None:
        self.payloads.append(payload)
        super()._on_message(store, shard, payload)


async def test_parking_publishes_once(store: Store) -> None:
    """Waiters of the same types are not woken, and a parked job is not parked again."""
    waiters = Recorder()
    await waiters.subscribe(store, [QUEUE])
    same, other = waiters.add([QUEUE], types=OLD), waiters.add([QUEUE], types=NEW)
    for _ in range(3):
        await enqueue(store, new_job(type="other.job"))
    message = f"{QUEUE} * {digest_of(OLD)}".encode()
    with trio.fail_after(60):
        await wait_until(lambda: len(waiters.payloads) == 1)
        for waiter in (same, other):
            waiter.woken.clear()

        assert await take(store, types=OLD) == []
        assert await take(store, types=OLD) == []
        assert await take(store, types=NEW) == []

        await wait_until(lambda: message in waiters.payloads)
        assert (same.woken, other.woken) == (set(), {QUEUE})
        await put_new(store)
        await wait_until(lambda: waiters.payloads[-1] == QUEUE.encode())
    assert waiters.payloads == [QUEUE.encode(), message, QUEUE.encode()]
    waiters.remove(same, [QUEUE], types=OLD)
    waiters.remove(other, [QUEUE], types=NEW)


async def test_many_types_share_a_script_with_few_queues(store: Store) -> None:
    """A script looks up each type in each queue, so a fetch of many types has several calls."""
    names = pack_types(f"t.t{number}" for number in range(100))
    assert (queues_per_call(names), queues_per_call(""), queues_per_call("\na\n")) == (
        20,
        2000,
        2000,
    )
    home = shard_of(store, "q0")
    queues = [name for number in range(3000) if shard_of(store, name := f"q{number}") == home][:45]
    assert len(queues) == 45
    await enqueue_many(store, [new_job(queues[-1], type="t.t99"), new_job(queues[0], type="other")])
    (job,) = await take(store, *queues, types=names)
    assert job.queue == queues[-1]
