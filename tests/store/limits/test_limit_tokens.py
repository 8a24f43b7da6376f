"""Rate limits by key: tokens, the protocol between shards, and deaths in the middle of it."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio

from ojs_cluster.core.events import (
    RATE_LIMIT_ADJUSTED,
    RATE_LIMIT_DROPPED,
    RATE_LIMIT_EXCEEDED,
    RATE_LIMIT_RELEASED,
)
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.rate_limit import Rate, RateLimits
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.fetch import long_poll
from ojs_cluster.store.engine.fetch.long_poll import Waiters, fetch_or_wait
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.features.rate_limits import rate_limits, rate_tokens
from ojs_cluster.store.features.search.lists import list_jobs
from ojs_cluster.store.ground import job_fields as f
from tests.store.limit_jobs import (
    age_key,
    assert_no_token_left,
    expire_grants,
    key_in,
    keyed,
    per_hour,
    settle,
    token_counts,
)
from tests.store.shortcuts import (
    DAY,
    HOUR,
    MINUTE,
    QUEUE,
    ack,
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
from tests.store.unique_jobs import keys_there
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.timeshift import age_job

LIMIT_EVENTS = {
    *(RATE_LIMIT_ADJUSTED, RATE_LIMIT_DROPPED),
    *(RATE_LIMIT_EXCEEDED, RATE_LIMIT_RELEASED),
}
Consistent = Callable[[], InvariantReport]


@pytest.fixture(params=["key at home", "key elsewhere"])
def key(request: pytest.FixtureRequest, store: Store) -> str:
    return key_in(store, home=request.param == "key at home")


async def test_a_fetch_of_zero_jobs_finds_blocked_jobs(
    store: Store, other_store: Store, db: Any
) -> None:
    for _ in range(2):
        await keyed(store, "one", concurrency=1)
    assert len([*await take(store), *await take(store)]) == 1
    shard, now_ms = shard_of(store), time.time_ns() // 1_000_000
    db.hset(shard.queue_counters(QUEUE), "demand_at", now_ms + 600_000)
    db.zadd(shard.token_demand(QUEUE), {"without a request": -1})
    assert await take(other_store, count=0) == []


async def test_a_job_with_a_free_key_takes_one_fetch_and_returns_its_token(
    store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    job = await keyed(store, key, concurrency=1)

    [taken] = await take(store)
    assert taken.id == job.id
    assert await token_counts(store, key) == (1, 0)
    consistent()
    await ack(store, taken)
    assert await token_counts(store, key) == (0, 0)
    assert_no_token_left(store, db)
    consistent()


async def test_fetch_takes_the_token_itself_when_job_and_key_share_a_shard(
    store: Store,
) -> None:
    for home in (True, False):
        key = key_in(store, home=home)
        await keyed(store, key, concurrency=1, rate=per_hour(9))
        process, client = lossy(store)
        [job] = await take(process)
        assert client.calls["fetch_full"] == 1
        assert client.calls["fetch"] == 1, "after a token was granted, or at first"
        assert ("limit_request" in client.calls) == (not home)
        found = await rate_limits.get_key(store, key)
        assert (found.usage.active, found.usage.started) == (1, 1)
        await ack(store, job)


async def test_no_more_jobs_of_a_key_are_active_than_its_concurrency(
    store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    for _ in range(6):
        await keyed(store, key, concurrency=2)

    first, second = await take(store, count=9)
    assert await take(store, count=9) == []
    consistent()
    await ack(store, first)
    [third] = await take(store, count=9)
    await nack(store, second)
    [fourth] = await take(store, count=9)
    await nack(store, third, requeue=True)
    age_job(db, shard_of(store), fourth.id, HOUR)
    await reap_all(store)
    assert len(await take(store, count=9)) == 2
    assert await take(store, count=9) == []
    consistent()


async def test_keys_are_independent_and_span_queues_and_shards(store: Store) -> None:
    names = queues_in_other_shards(store, 3)
    for name in names:
        for key in ("a", "b"):
            await keyed(store, key, name, concurrency=1)

    taken = await take(store, *names, count=9)
    assert Counter(job.fields[b"rl"].split()[0] for job in taken) == {b"a": 1, b"b": 1}


async def test_a_limited_job_does_not_block_the_jobs_behind_it(
    store: Store, consistent: Consistent, key: str
) -> None:
    limit = {"key": key, "concurrency": 0}
    await enqueue_many(store, [new_job(rate_limit=limit, priority=9) for _ in range(600)])
    free = await put(store)

    assert [job.id for job in await take(store)] == [free.id]
    counts = (await queues.get_stats(store, QUEUE)).counts
    assert counts[State.AVAILABLE] == 600
    consistent()
    for _ in range(3):
        assert await take(store, count=60) == []
    assert await token_counts(store, key) == (0, 100)  # no more, however many wait
    consistent()


async def test_one_fetch_gets_the_job_behind_many_limited_ones(store: Store, key: str) -> None:
    limit = {"key": key, "concurrency": 0}
    for _ in range(4):
        await enqueue_many(store, [new_job(rate_limit=limit, priority=9) for _ in range(400)])
    free = await put(store)
    assert [job.id for job in await take(store)] == [free.id]


async def test_jobs_of_a_key_keep_priority_and_order(store: Store, key: str) -> None:
    low = [(await keyed(store, key, concurrency=0)).id for _ in range(2)]
    high = [(await keyed(store, key, concurrency=0, priority=5)).id for _ in range(2)]
    assert await take(store, count=4) == []
    await rate_limits.override_key(store, key, RateLimits(concurrency=1), None)

    order = []
    for _ in range(4):
        [job] = await take(store)
        order.append(job.id)
        await ack(store, job)
    assert order == high + low


async def test_a_window_of_a_key_counts_starts(
    store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    for _ in range(5):
        await keyed(store, key, rate=per_hour(2))

    taken = await take(store, count=9)
    assert len(taken) == 2
    for job in taken:
        await ack(store, job)
    assert await take(store, count=9) == []
    await age_key(store, db, key, HOUR)
    assert len(await take(store, count=9)) == 2
    assert await take(store, count=9) == []
    consistent()


async def test_an_unused_token_does_not_use_up_the_window(
    store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    await keyed(store, key, rate=per_hour(1))
    await rate_limits.override_key(store, key, RateLimits(concurrency=0), None)
    assert await take(store) == []
    await rate_limits.override_key(store, key, RateLimits(), None)  # granted, but not fetched
    assert await token_counts(store, key) == (1, 0)
    consistent()

    await expire_grants(store, db)
    assert await token_counts(store, key) == (0, 0)
    consistent()
    assert len(await take(store)) == 1


async def test_a_released_job_gives_its_start_back_and_a_requeued_one_does_not(
    store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    """The worker has not started a released job, so the window has room for another start."""
    for _ in range(3):
        await keyed(store, key, rate=per_hour(2))

    first, second = await take(store, count=9)
    await nack(store, second, requeue=True, release=True)
    assert (await rate_limits.get_key(store, key)).usage.started == 1
    await nack(store, first, requeue=True)
    assert len(await take(store, count=9)) == 1
    assert await take(store, count=9) == []
    consistent()


async def test_a_throttle_of_a_key_gives_back_only_its_last_start(store: Store, key: str) -> None:
    for _ in range(2):
        await keyed(store, key, throttle=per_hour(1))

    [job] = await take(store, count=9)
    await nack(store, job, requeue=True, release=True)
    assert len(await take(store, count=9)) == 1
    assert await take(store, count=9) == []


async def test_a_change_of_the_limits_keeps_earlier_starts(store: Store, key: str) -> None:
    """The new limits may not have counted the start, so they do not give it back."""
    for _ in range(3):
        await keyed(store, key, throttle=per_hour(72_000))

    [job] = await take(store)
    await rate_limits.override_key(store, key, RateLimits(rate=Rate(1, HOUR)), None)
    [_] = await take(store)
    await nack(store, job, requeue=True, release=True)
    assert await take(store) == []


@pytest.mark.parametrize("end", ["removed", "by time"])
async def test_the_end_of_an_override_keeps_earlier_starts(
    store: Store, db: Any, key: str, end: str
) -> None:
    """The override has forgotten the first start, and the declared rate counts the second one."""
    for _ in range(3):
        await keyed(store, key, rate=per_hour(1))
    await rate_limits.override_key(store, key, RateLimits(rate=Rate(1000, 1)), None)
    [first] = await take(store)
    await trio.sleep(0.005)  # the period of the override
    [_] = await take(store)
    if end == "removed":
        await rate_limits.override_key(store, key, RateLimits(), None)
    else:
        ended_at = int(time.time() * 1000)
        db.hset(store.keys.shard_of_limit(key).rate_limit(key), "override_until", ended_at)
    await nack(store, first, requeue=True, release=True)
    await settle(store, db)
    assert await take(store) == []


async def test_a_token_of_a_job_that_left_its_queue_blocks_no_others(
    store: Store, db: Any, key: str
) -> None:
    """The job was quarantined and repaired: it is in no queue, and later jobs continue."""
    for _ in range(2):
        await keyed(store, key, concurrency=2)
    await rate_limits.override_key(store, key, RateLimits(concurrency=0), None)
    assert await take(store, count=2) == []
    await rate_limits.override_key(store, key, RateLimits(concurrency=2), None)
    assert await token_counts(store, key) == (2, 0)
    shard = shard_of(store)
    first = db.zrange(shard.queue_available(QUEUE), 0, 0)[0]
    db.zrem(shard.queue_available(QUEUE), first)

    await expire_grants(store, db)
    assert await token_counts(store, key) == (0, 0)
    assert db.zcard(shard.token_grants) == 0
    [other] = await take(store)
    assert other.id != first.decode()


async def test_a_throttle_of_a_key_spaces_starts(store: Store, db: Any, key: str) -> None:
    for _ in range(3):
        await keyed(store, key, throttle=per_hour(6))

    for _ in range(3):
        [job] = await take(store, count=3)
        await ack(store, job)
        assert await take(store, count=3) == []
        await age_key(store, db, key, 9 * MINUTE)
        assert await take(store, count=3) == []
        await age_key(store, db, key, MINUTE)


async def test_limits_of_queue_and_key_hold_together(store: Store, key: str) -> None:
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(rate=Rate(1, HOUR)))
    for _ in range(3):
        await keyed(store, key, concurrency=5)

    assert len(await take(store, count=9)) == 1
    assert await take(store, count=9) == []


@pytest.mark.parametrize("when", ["never read", "requested", "granted", "active"])
@pytest.mark.parametrize("how", ["cancel", "expire", "purge"])
async def test_a_token_is_returned_by_every_end_of_its_job(
    store: Store, db: Any, consistent: Consistent, key: str, when: str, how: str
) -> None:
    blocked = when == "requested"
    first = await keyed(store, key, concurrency=0 if blocked else 1, ttl=3600)
    if when == "granted":
        await rate_limits.override_key(store, key, RateLimits(concurrency=0), None)
        await take(store)
        await rate_limits.override_key(store, key, RateLimits(), None)
        assert await token_counts(store, key) == (1, 0)
    elif when != "never read":
        await take(store)
    if how == "cancel":
        await cancel(store, first.id)
    elif how == "purge":
        await purges.purge(store, QUEUE)
    else:
        age_job(db, shard_of(store), first.id, 2 * HOUR)
        await reap_all(store)

    if how == "purge" and when == "active":
        assert await token_counts(store, key) == (1, 0)
        await ack(store, first)
    assert await token_counts(store, key) == (0, 0)
    assert_no_token_left(store, db)
    consistent()


async def test_a_queue_without_workers_keeps_no_token(
    store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    """The first of many grants shows that no worker fetches from the queue any more."""
    other = queues_in_other_shards(store, 1)[0]
    for _ in range(30):
        await keyed(store, key, concurrency=1)
    await keyed(store, key, other, concurrency=1)
    [active] = await take(store)
    assert await take(store, count=29) == []
    assert await take(store, other) == []
    shard = shard_of(store)
    db.hincrby(shard.queue_counters(QUEUE), "demand_at", -MINUTE)

    await ack(store, active)
    assert await token_counts(store, key) == (1, 0)
    assert len(await take(store, other)) == 1
    consistent()


async def test_every_token_of_queues_without_workers_is_returned(
    store: Store, db: Any, consistent: Consistent
) -> None:
    """However many other jobs of these queues have requested tokens."""
    key, shard = key_in(store, home=False), shard_of(store)
    names = [f"idle{i}" for i in range(1000) if shard_of(store, f"idle{i}") is shard][:3]
    policy = {"key": key, "concurrency": 1}
    await keyed(store, key, concurrency=1)
    assert len(await take(store)) == 1
    asks = []
    for name in names:
        await enqueue_many(store, [new_job(name, rate_limit=policy) for _ in range(100)])
        assert await take(store, name, count=100) == []
        db.hincrby(shard.queue_counters(name), "demand_at", -MINUTE)
        first = db.zrange(shard.queue_blocked(name), 0, 0)[0].decode()
        asks.append(f"{first}/{db.hget(shard.job(first), f.OPEN_TOKEN_REQUEST).decode()}")
    await rate_tokens._apply_answer(store, shard, key, "+", asks)
    for ask in asks:
        assert not db.hexists(shard.job(ask.partition("/")[0]), f.OPEN_TOKEN_REQUEST)
    consistent()


async def test_a_rescheduled_job_returns_when_there_is_room(
    store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    await keyed(store, key, rate=per_hour(1))
    # Taken first: requests with different ``on_limit`` are sent at the same time, in any order.
    assert len(await take(store)) == 1
    second = await keyed(store, key, rate=per_hour(1), on_limit="reschedule")
    assert await take(store) == []

    found = await read_jobs.get(store, second.id)
    assert found.state == State.SCHEDULED
    assert found.due_ms is not None
    assert found.due_ms > found.created_ms + 50 * MINUTE
    consistent()
    age_job(db, shard_of(store), second.id, HOUR)
    await age_key(store, db, key, HOUR)
    await promote_all(store)
    assert [job.id for job in await take(store)] == [second.id]
    consistent()


async def test_a_job_that_is_dropped_at_the_limit_is_discarded(
    store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    await keyed(store, key, concurrency=1)
    [active] = await take(store)
    second = await keyed(store, key, concurrency=1, on_limit="drop", ttl=3600)

    assert await take(store) == []
    assert (await read_jobs.get(store, second.id)).state == State.DISCARDED
    consistent()
    await ack(store, active)
    assert_no_token_left(store, db)


async def test_events_report_exceeded_limits_and_released_jobs(store: Store, key: str) -> None:
    await keyed(store, key, concurrency=1)
    [active] = await take(store)
    second = await keyed(store, key, concurrency=1)
    assert await take(store) == []
    third = await keyed(store, key, concurrency=1, on_limit="drop")
    assert await take(store) == []
    await nack(store, active, {"message": "429", "rate_limit_until": "2999-01-01T00:00:00Z"})
    await rate_limits.override_key(store, key, RateLimits(concurrency=3), None)
    await release_hold(store, key)

    page = await read_events(store, EventFilter(), limit=100)
    told = [event for event in map(json.loads, page.events) if event["type"] in LIMIT_EVENTS]
    assert {event["subject"] for event in told} == {key}
    data: dict[str, list[Any]] = {}
    for event in told:
        assert event["data"].pop("key") == key
        data.setdefault(event["type"], []).append(event["data"])
    limit = {"strategy": "concurrency", "limit": 1, "current": 1}
    assert data[RATE_LIMIT_EXCEEDED][0] == {"job_id": second.id, **limit}
    assert data[RATE_LIMIT_EXCEEDED][1]["job_id"] == third.id
    assert data[RATE_LIMIT_DROPPED] == [
        {"job_id": third.id, "job_type": "mail.send", "queue": QUEUE}
    ]
    [adjusted] = data[RATE_LIMIT_ADJUSTED]
    assert adjusted["reason"] == "rate_limit_until"
    assert data[RATE_LIMIT_RELEASED] == [{"job_id": second.id, "strategy": "concurrency"}]


async def release_hold(store: Store, key: str) -> None:
    """End the time until which a worker has stopped the key."""
    shard = store.keys.shard_of_limit(key)
    await store.redis.call(shard.slot, "HDEL", shard.rate_limit(key), "hold_until")
    await rate_tokens.run_key_script(store, "limit_refresh", key, [])


async def test_an_override_holds_for_its_time(store: Store, db: Any, key: str) -> None:
    for _ in range(3):
        await keyed(store, key, concurrency=1)
    now = (await rate_limits.get_key(store, key)).now_ms
    await rate_limits.override_key(store, key, RateLimits(concurrency=0), now + HOUR)
    assert await take(store) == []
    await age_key(store, db, key, HOUR)

    assert len(await take(store, count=9)) == 1


async def test_an_override_of_a_lost_key_keeps_the_other_limits(
    store: Store, db: Any, key: str
) -> None:
    """A failover has lost the key, or it ended while its jobs waited for longer than a day."""
    for _ in range(3):
        await keyed(store, key, concurrency=1)
    shard = store.keys.shard_of_limit(key)
    db.delete(shard.rate_limit(key))
    db.zrem(shard.rate_limits, key)
    db.zrem(shard.rate_limit_checks, key)
    await rate_limits.override_key(store, key, RateLimits(rate=Rate(100, HOUR)), None)

    assert len(await take(store, count=9)) == 1


async def test_the_newest_job_declares_the_limits(store: Store, key: str) -> None:
    for _ in range(4):
        await keyed(store, key, concurrency=1)
    await keyed(store, key, concurrency=3)

    assert len(await take(store, count=9)) == 3


async def test_listing_and_counts_include_blocked_jobs(store: Store, key: str) -> None:
    for _ in range(3):
        await keyed(store, key, concurrency=0)
    assert await take(store) == []

    for wanted in (JobFilter(), JobFilter(state=State.AVAILABLE), JobFilter(queue=QUEUE)):
        assert len((await list_jobs(store, wanted, limit=10)).jobs) == 3
    assert (await queues.get_stats(store, QUEUE)).depth == 3
    assert await purges.purge(store, QUEUE) == (3, 0)


async def test_a_key_is_removed_a_day_after_its_last_use(store: Store, db: Any, key: str) -> None:
    job = await keyed(store, key, rate=per_hour(5))
    await take(store)
    await age_key(store, db, key, 2 * DAY)
    assert await token_counts(store, key) == (1, 0)  # its job is still active
    await ack(store, job)
    await age_key(store, db, key, DAY)

    shard = store.keys.shard_of_limit(key)
    assert not keys_there(db) & {shard.rate_limit(key), shard.rate_limits, shard.rate_limit_checks}


async def test_waiters_are_woken_by_a_token(
    store: Store, other_store: Store, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_poll, "CHECK_EVERY_S", 1000)
    for _ in range(2):
        await keyed(store, key, concurrency=1)
    [active] = await take(store)
    waiters = Waiters()
    got: list[JobRecord] = []

    async def wait() -> None:
        got.extend(
            await fetch_or_wait(store, waiters, [QUEUE], count=1, worker_id="w", wait_ms=HOUR)
        )

    async def asked() -> int:
        return (await token_counts(store, key))[1]

    # A waiter that is not woken takes the job only at the end of its wait.
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(asked, bool)
            await ack(other_store, active)
    assert len(got) == 1


async def test_requests_lost_in_a_failover_are_repeated(
    store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    for _ in range(3):
        await keyed(store, key, concurrency=1)
    [active] = await take(store)
    assert await take(store, count=2) == []
    shard = store.keys.shard_of_limit(key)
    db.delete(shard.token_requesters(key))
    await ack(store, active)
    assert await token_counts(store, key) == (0, 0)

    await expire_grants(store, db, again=True)
    assert await token_counts(store, key) == (1, 1)
    consistent()
    assert len(await take(store)) == 1


async def test_answers_lost_in_a_failover_are_repeated(
    store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    await keyed(store, key, concurrency=1)
    [active] = await take(store)
    await keyed(store, key, concurrency=1)
    assert await take(store) == []
    shard = store.keys.shard_of_limit(key)
    [token] = db.zrange(shard.token_requesters(key), 0, -1)
    db.delete(shard.token_requesters(key))
    await ack(store, active)
    db.zadd(shard.token_holders(key), {token: 0})

    await expire_grants(store, db, again=True)
    consistent()
    assert len(await take(store)) == 1
    consistent()


async def test_tokens_of_jobs_lost_in_a_failover_are_returned(
    store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    await keyed(store, key, concurrency=2)
    [active] = await take(store)
    lost = {f"{shard_of(store).index}/{active.id[:-4]}f{n:03}/1": 1 for n in range(600)}
    db.zadd(store.keys.shard_of_limit(key).token_holders(key), lost)
    for _ in range(4):  # it checks 500 at a time
        await age_key(store, db, key, HOUR)
        await settle(store, db)

    assert await token_counts(store, key) == (1, 0)
    consistent()


async def active_jobs(store: Store) -> list[JobRecord]:
    return (await list_jobs(store, JobFilter(state=State.ACTIVE), limit=99)).jobs


async def waiting_jobs(store: Store) -> list[JobRecord]:
    return (await list_jobs(store, JobFilter(state=State.AVAILABLE), limit=99)).jobs


async def test_lost_replies_grant_no_token_twice(
    store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    scripts = ("limit_request", "limit_grant", "limit_free", "limit_start")
    process, client = lossy(store, *scripts, "outbox_record_delivered")
    for _ in range(4):
        await keyed(process, key, concurrency=1, rate=per_hour(100))
    done = 0
    while done < 4:
        taken = await take(process, count=4)
        assert len(taken) <= 1
        for job in taken:
            await ack(process, job)
            done += 1
        await settle(process, db)
    assert {"limit_request", "limit_grant"} <= set(client.lost)
    assert_no_token_left(store, db)
    consistent()


@pytest.mark.parametrize(
    "seed", [0, 3, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(4, 12))]
)
async def test_random_operations_exceed_no_limit_and_leak_no_token(
    store: Store, other_store: Store, db: Any, consistent: Consistent, seed: int
) -> None:
    """Queues of several shards, two keys, two processes, and everything that ends an attempt."""
    chance = random.Random(seed)
    names = queues_in_other_shards(store, 1 + seed % 4)
    limits = {"a": 2, "b": 3}
    processes = (store, other_store)
    active: dict[str, JobRecord] = {}

    def of_key(job: JobRecord) -> str:
        return job.fields[b"rl"].split()[0].decode()

    async def step() -> None:
        process = chance.choice(processes)
        what = chance.choice(("put", "put", "take", "take", "take", "end", "end", "pass"))
        if what == "put":
            key = chance.choice("ab")
            await keyed(process, key, chance.choice(names), concurrency=limits[key])
        elif what == "take":
            wanted = chance.sample(names, chance.randint(1, len(names)))
            for job in await take(process, *wanted, count=chance.randint(1, 3)):
                active[job.id] = job
        elif what == "pass":
            await expire_grants(store, db, chance.choice(names))
            await settle(store, db)
        elif active:
            job = active.pop(chance.choice(sorted(active)))
            end = chance.choice(("ack", "nack", "requeue", "cancel", "lose"))
            if end == "ack":
                await ack(process, job)
            elif end == "cancel":
                await cancel(process, job.id)
            elif end == "lose":
                age_job(db, shard_of(store, job.queue), job.id, HOUR)
                await reap_all(store, job.queue)
            else:
                await nack(process, job, requeue=end == "requeue")

    for _ in range(120):
        await step()
        counts = Counter(of_key(job) for job in active.values())
        assert all(counts[key] <= limits[key] for key in limits), counts
    consistent()
    await finish_all(store, db, names)
    assert_no_token_left(store, db)
    consistent()


async def finish_all(store: Store, db: Any, names: list[str]) -> None:
    """Work until no job waits."""
    for job in await active_jobs(store):
        await ack(store, job.id)
    with trio.fail_after(60):
        while await waiting_jobs(store):
            for job in await take(store, *names, count=9):
                await ack(store, job)
            await settle(store, db)
    for name in names:
        await expire_grants(store, db, name)
    await settle(store, db)


async def test_concurrent_workers_never_exceed_a_limit(
    store: Store, other_store: Store, db: Any, consistent: Consistent, key: str
) -> None:
    for _ in range(40):
        await keyed(store, key, concurrency=3)
    working = most = done = 0

    async def worker(process: Store) -> None:
        nonlocal working, most, done
        while done < 40:
            for job in await take(process):
                working += 1
                most = max(most, working)
                await trio.lowlevel.checkpoint()
                working -= 1
                await ack(process, job)
                done += 1
            await trio.sleep(0.005)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(worker, (store, other_store)[number % 2])
    assert most <= 3
    await settle(store, db)
    assert_no_token_left(store, db)
    consistent()


async def test_a_late_declaration_changes_nothing(store: Store, key: str) -> None:
    await keyed(store, key, concurrency=3)
    await rate_tokens.handle_declaration(store, shard_of(store), f"{key} 1,-,- w 1".encode())

    assert (await rate_limits.get_key(store, key)).usage.limits == RateLimits(concurrency=3)
