"""The short scripts for plain jobs and those for any job leave the same behind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import Conflict
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.keys import Shard
from ojs_cluster.redis.durability import Durability
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.fetch import long_poll
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.placement import PlacedJob
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.process_state.depth_cache import LimitedQueues
from ojs_cluster.store.ground.scripts import load_scripts
from tests.store.fetch.test_long_poll import waiting
from tests.store.limit_jobs import EveryQueueLimited, key_in, keyed
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    active,
    nack,
    new_job,
    plain_job,
    promote_all,
    put,
    queues_in_other_shards,
    shard_of,
    take,
    until,
)
from tests.store.unique_jobs import locks_left, once
from tests.store.workflow_jobs import chain, run_one, step
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.timeshift import age_job

JOBS: Sequence[dict[str, Any]] = (
    {},
    {"priority": 7},
    {"timeout_ms": 2 * HOUR, "visibility_timeout_ms": HOUR},
    {"retry": {"max_attempts": 4}},
    {"priority": -7},
)


async def one_life(store: Store, db: Any, queue: str) -> list[JobRecord]:
    """Jobs of all kinds that short scripts serve: enqueued, fetched, failed, completed."""
    stored = [await put(store, queue, **options) for options in JOBS]
    [first] = await take(store, queue)
    failed, *others = await take(store, queue, count=3)
    await nack(store, failed)
    age_job(db, shard_of(store, queue), failed.id, HOUR)
    await promote_all(store, queue)
    await take(store, queue, worker="")
    answers = [await ack(store, first, worker_id="w1", lease_id=first.lease_id, result=b'{"n":1}')]
    answers += [await ack(store, job) for job in (*others, failed)]
    assert await take(store, queue, count=9) != []
    return [*stored, first, failed, *others, *answers]


def everything(db: Any, shard: Shard, ids: Sequence[str]) -> dict[str, Any]:
    """All keys of a shard, without what differs from one life to the next: ids, times, leases."""
    prefix = shard.due[: -len(b"due")]

    def masked(value: Any) -> str:
        text = value.decode() if isinstance(value, bytes) else repr(value)
        for number, job_id in enumerate(dict.fromkeys(ids)):
            text = text.replace(job_id, f"job{number}")
        text = re.sub(r"lease_[0-9a-f]+", "lease", text)
        return re.sub(r"\b1[0-9]{12}(\.0)?\b", "time", text)

    found: dict[str, Any] = {}
    for key in db.scan_iter(match=prefix + b"*", count=1000):
        kind, short = db.type(key), key[len(prefix) :]
        if kind == b"hash":
            pairs = db.hgetall(key)
            if short[:2] == b"c:":  # how long jobs have waited and run, and in which minute
                pairs = {
                    name: v for name, v in pairs.items() if name not in (b"run_ms", b"wait_ms")
                }
                pairs.pop(b"minute", None)
            if short[:2] == b"m:":
                pairs = {}
            found[masked(short)] = {masked(name): masked(v) for name, v in pairs.items()}
        elif kind == b"zset":
            members = db.zrange(key, 0, -1, withscores=True)
            found[masked(short)] = sorted((masked(name), masked(score)) for name, score in members)
        elif kind == b"stream":
            entries = [fields for _, fields in db.xrange(key)]
            durations = [{k: v for k, v in fields.items() if k != b"d"} for fields in entries]
            found[masked(short)] = [{k: masked(v) for k, v in each.items()} for each in durations]
    return found


async def test_plain_jobs_end_the_same_on_the_fast_and_the_full_path(
    store: Store,
    db: Any,
    consistent: Callable[[], InvariantReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short, long = queues_in_other_shards(store, 2)
    seen, client = lossy(store)
    plain = await one_life(seen, db, short)
    assert client.calls["enqueue_one"] == len(JOBS)
    assert client.calls["enqueue"] == 1, "the queue's first job registers the queue's name"
    assert client.calls.get("ack_full", 0) <= 1, "a new minute has begun"
    assert "fetch_full" not in client.calls

    monkeypatch.setattr(PlacedJob, "plain", False)
    scripts = {**store.scripts, "ack": store.scripts["ack_full"]}
    seen, client = lossy(replace(store, scripts=scripts, limited_queues=EveryQueueLimited()))
    other = await one_life(seen, db, long)
    assert not {"enqueue_one", "fetch", "ack"} & client.calls.keys()

    def told(job: JobRecord, jobs: Sequence[JobRecord], queue: str) -> str:
        text = job.json(lease=True).decode().replace(f'"{queue}"', '"queue"')
        for number, job_id in enumerate(dict.fromkeys(one.id for one in jobs)):
            text = text.replace(job_id, f"job{number}")
        text = re.sub(r"lease_[0-9a-f]+", "lease", text)
        return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "time", text)

    assert [told(job, plain, short) for job in plain] == [told(job, other, long) for job in other]
    left = everything(db, shard_of(store, short), [job.id for job in plain])
    right = everything(db, shard_of(store, long), [job.id for job in other])
    assert {key.replace(f":{short}", ":queue"): value for key, value in left.items()} == {
        key.replace(f":{long}", ":queue"): _of(value, long, short) for key, value in right.items()
    }
    consistent()


def _of(value: Any, queue: str, other: str) -> Any:
    """The same as if it had been said of another queue."""
    if isinstance(value, dict):
        return {_of(name, queue, other): _of(each, queue, other) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_of(each, queue, other) for each in value)
    if isinstance(value, str) and value.startswith(f"{queue}\n"):  # a group of errors
        return other + value[len(queue) :]
    return other if value == queue else value


@pytest.mark.parametrize("waiting_jobs", [0, 1])
async def test_the_fast_path_stores_a_job_with_seven_commands(
    store: Store, db: Any, waiting_jobs: int
) -> None:
    await put(store)  # the first job registers the queue
    unchecked = replace(store, scripts=load_scripts())  # without the checks of the tests

    def commands() -> Counter[str]:
        stats = db.info("commandstats").items()
        return Counter({name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in stats})

    found: list[dict[str, int]] = []
    for _ in range(5):  # other scripts may run during one of them
        await take(store, count=9)
        for _ in range(waiting_jobs):
            await put(store)
        before = commands()
        await put(unchecked)
        ran = commands() - before
        found.append({name: ran[name] for name in ran if name not in ("eval", "evalsha", "info")})
    expected = {"exists": 1, "hmget": 1, "time": 1, "hset": 2, "zadd": 1, "xadd": 1}
    if not waiting_jobs:
        expected["spublish"] = 1
    assert expected in found


async def test_a_fetch_of_zero_jobs_returns_none(
    store: Store, consistent: Callable[[], InvariantReport]
) -> None:
    await put(store)
    assert await take(store, count=0) == []
    assert consistent().count() == {"available": 1}


async def test_acks_of_a_queue_with_limits_take_the_fast_path(
    store: Store, consistent: Callable[[], InvariantReport]
) -> None:
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=2))
    for _ in range(5):
        await put(store)
    seen, client = lossy(store)
    for _ in range(2):
        for job in await take(store, count=9):
            await ack(seen, job)
    assert client.calls["ack"] == 4
    assert client.calls.get("ack_full", 0) <= 2, "the first of its minute, and a minute may begin"
    assert consistent().count() == {"available": 1, "completed": 4}


async def test_the_fast_ack_wakes_a_waiter_below_the_limit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_poll, "CHECK_EVERY_S", 1000)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=1))
    for _ in range(3):
        await put(store)
    [first] = await take(store)
    await ack(store, first)  # its minute is noted now
    [holder] = await take(store)
    waiters, got = long_poll.Waiters(), []

    async def wait() -> None:
        got.extend(
            await long_poll.fetch_or_wait(
                store, waiters, [QUEUE], count=1, worker_id="w", wait_ms=HOUR
            )
        )

    # A waiter that is not woken takes the job only at the end of its wait.
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await waiting(waiters)
            await ack(store, holder)
    assert len(got) == 1


async def test_the_fast_ack_keeps_an_id_that_was_fixed_in_advance(store: Store, db: Any) -> None:
    await ack(store, await active(store))
    soon = replace(store, settings=replace(store.settings, retention_completed_ms=1))
    await enqueue(store, new_job(), fields=[f.FIXED_ID, b"1"])
    [run] = await take(store)
    done = await ack(soon, run)
    assert done.finished_ms is not None
    assert db.zscore(shard_of(store).finished, run.id) == done.finished_ms + 120_000


@pytest.mark.parametrize("damage", [b" 3", b"\n3", b"3\n"])
async def test_a_number_with_blanks_around_it_is_a_number(
    store: Store, db: Any, damage: bytes
) -> None:
    """The fast paths return the values of a plain job as lines."""
    await ack(store, await active(store))  # its minute is noted now
    for count in (1, 2):
        queued = [await enqueue(store, plain_job()) for _ in range(count)]
        db.hset(shard_of(store).job(queued[0].id), f.MAX_ATTEMPTS, damage)
        for job in await take(store, count=count):
            assert (job.queue, job.type, job.max_attempts) == (QUEUE, "mail.send", 3)
            done = await ack(store, job)
            assert (done.queue, done.type, done.max_attempts) == (QUEUE, "mail.send", 3)
            assert done.envelope() == job.envelope()


async def test_jobs_that_only_wait_for_tokens_are_left_to_the_long_fetch(
    store: Store, db: Any
) -> None:
    key = key_in(store, home=True)
    for _ in range(2):
        await keyed(store, key, concurrency=1)
    assert len(await take(store, count=9)) == 1
    shard = shard_of(store)
    assert (db.zcard(shard.queue_available(QUEUE)), db.zcard(shard.queue_blocked(QUEUE))) == (0, 1)

    await put(store, scheduled_at="+PT1H")  # also a set that the fast path must not find alone
    fresh, client = lossy(replace(store, limited_queues=LimitedQueues()))
    assert await take(fresh) == []
    assert (client.calls["fetch"], client.calls["fetch_full"]) == (1, 1)


async def test_a_fast_fetch_gives_a_quiet_worker_nothing_beside_scheduled_jobs(
    store: Store,
) -> None:
    await put(store, scheduled_at="+PT1H")
    job = await put(store)
    await heartbeat(store, Heartbeat("silent", state="quiet"))
    seen, client = lossy(store)
    assert await take(seen, worker="silent") == []
    assert [found.id for found in await take(seen, worker="w1")] == [job.id]
    assert client.calls == {"touch_worker": 2, "fetch": 2}


async def test_a_fast_fetch_announces_a_lease_that_ends_soon(store: Store) -> None:
    """A scheduler that is not notified may check the shard only after the end of the lease."""
    heard: list[bytes] = []
    settings = replace(store.settings, visibility_timeout_ms=10_000)
    seen, client = lossy(replace(store, settings=settings))
    shard = shard_of(store)
    await enqueue(store, plain_job())
    await store.redis.subscribe(shard.schedule_channel, shard.slot, heard.append, lambda: None)

    [job] = await take(seen)

    assert (client.calls["fetch"], client.calls.get("fetch_full", 0)) == (1, 0)
    await store.redis.call(shard.slot, "SPUBLISH", shard.schedule_channel, "the end")

    async def messages() -> list[bytes]:
        return heard

    await until(messages, lambda payloads: b"the end" in payloads)
    assert heard == [job.fields[f.DEADLINE], b"the end"]


@pytest.mark.parametrize("damage", ["1.5", "1e30", "-1e30"])
async def test_a_fast_fetch_does_not_count_on_from_a_damaged_number_of_active_jobs(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], damage: str
) -> None:
    counters = shard_of(store).queue_counters(QUEUE)
    job = await enqueue(store, plain_job())
    db.hset(counters, "active", damage)
    seen, client = lossy(store)

    assert [found.id for found in await take(seen)] == [job.id]

    assert (client.calls["fetch"], client.calls["fetch_full"]) == (1, 1)
    assert db.hget(counters, "active") == b"1"
    consistent()


async def test_an_ack_that_is_to_be_confirmed_is_one_call(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply of the fast path would wait for a confirmation before the full path runs."""
    monkeypatch.setattr(
        "ojs_cluster.store.engine.jobs.ack.required_durability", lambda _: Durability.REPLICA
    )
    job = await active(store)
    seen, client = lossy(store)
    await ack(seen, job)
    assert client.calls == {"ack_full": 1}


async def test_a_fast_path_refers_other_jobs_to_the_full_path(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    seen, client = lossy(store)
    queue, *_ = queues_in_other_shards(store, 1)
    shard = shard_of(store, queue)

    gone, expired, there = [await put(store, queue, expires_at="+PT1H") for _ in range(3)]
    db.zrem(shard.expiring, gone.id)
    db.delete(shard.job(gone.id))
    db.hset(shard.job(expired.id), f.EXPIRES, 1)
    db.zadd(shard.expiring, {expired.id: 1})
    assert [job.id for job in await take(seen, queue, count=9)] == [there.id]
    assert client.calls == {"touch_worker": 1, "fetch": 1, "fetch_full": 1}

    due = await put(store, queue, scheduled_at="+PT1H")
    age_job(db, shard, due.id, HOUR)
    assert [job.id for job in await take(seen, queue, count=9)] == [due.id]
    assert client.calls["fetch_full"] == 2
    await take(seen, queue)
    assert (client.calls["fetch"], client.calls["fetch_full"]) == (3, 2), "nothing is remembered"
    assert consistent().count() == {"active": 2, "discarded": 1}


async def test_the_fast_ack_does_not_change_another_holders_job(store: Store) -> None:
    await ack(store, await active(store))  # its minute is noted now
    job = await active(store)
    for who in ({"worker_id": "w2"}, {"worker_id": "w1", "lease_id": "lease_of_another"}):
        with pytest.raises(Conflict):
            await ack(store, job, **who)
    assert (await ack(store, job, worker_id="w1", lease_id=job.lease_id)).state == "completed"


async def test_the_fast_ack_refers_jobs_with_effects_to_the_full_path(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    await ack(store, await active(store))  # its minute is noted now
    await chain(store, step("first"), step("second"))
    assert await run_one(store) == "first"
    assert await run_one(store) == "second"

    await once(store)
    [unique] = await take(store)
    await ack(store, unique)
    assert locks_left(store, db) == 0

    key = key_in(store, home=True)
    for _ in range(2):
        await keyed(store, key, concurrency=1)
    for _ in range(2):
        [limited] = await take(store, count=9)
        await ack(store, limited)
    consistent()


@pytest.mark.parametrize("seq", ["1.5", "inf", "-1e30", "nan"])
async def test_the_fast_enqueue_does_not_count_on_from_a_damaged_place(
    store: Store, db: Any, seq: str
) -> None:
    counters = shard_of(store).queue_counters(QUEUE)
    await put(store)
    db.hset(counters, "seq", seq)

    made = [await put(store) for _ in range(3)]

    assert db.hget(counters, "seq").isdigit()
    assert [job.id for job in await take(store, count=9)][-3:] == [job.id for job in made]
