"""Limits of a queue, read and counted by the script that pops jobs."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio

from ojs_cluster.core.rate_limit import Rate, RateLimits
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.fetch import long_poll
from ojs_cluster.store.engine.fetch.long_poll import Waiters, fetch_or_wait
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.ground.process_state.depth_cache import LimitedQueues
from tests.store.shortcuts import (
    HOUR,
    MINUTE,
    QUEUE,
    ack,
    nack,
    new_job,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    sibling_queue,
    take,
    until,
)
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.timeshift import age_job, age_limits, age_opening, age_queue


async def fill(store: Store, jobs: int, queue: str = QUEUE, **options: Any) -> None:
    await enqueue_many(store, [new_job(queue, **options) for _ in range(jobs)])


async def test_max_per_second_of_a_job_limits_its_queue(store: Store, db: Any) -> None:
    for number in itertools.count():
        queue = f"limited{number}"
        for _ in range(5):
            await put(store, queue, rate_limit={"max_per_second": 2})
        began = time.monotonic()
        taken = [len(await take(store, queue, count=9)) for _ in range(2)]
        age_limits(db, shard_of(store, queue).queue_counters(queue), 1000)
        taken += [len(await take(store, queue, count=count)) for count in (1, 9, 9)]
        if time.monotonic() - began < 1:
            break  # else the machine was so slow that the second was over
        assert number < 60
    assert taken == [2, 0, 1, 1, 0]


async def test_a_fetch_remembers_for_a_while_that_its_queue_is_limited(
    store: Store, monkeypatch: pytest.MonkeyPatch, consistent: Callable[[], InvariantReport]
) -> None:
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=1))
    await fill(store, 3)
    process, client = lossy(store)

    assert len(await take(process, count=9)) == 1
    assert await take(process, count=9) == []
    assert (client.calls["fetch"], client.calls["fetch_full"]) == (1, 2)
    consistent()

    await rate_limits.set_queue_limits(store, QUEUE, RateLimits())
    monkeypatch.setattr("ojs_cluster.store.ground.process_state.depth_cache.LIMITED_S", -1.0)
    process = replace(process, limited_queues=LimitedQueues())
    assert len(await take(process, count=9)) == 2
    assert client.calls["fetch_full"] == 2, "it has no limits any more"
    consistent()


async def test_the_last_job_to_declare_a_limit_wins(store: Store) -> None:
    await put(store, rate_limit={"max_per_second": 1})
    await put(store, rate_limit={"max_per_second": 4})
    await fill(store, 8)  # says nothing, changes nothing

    assert len(await take(store, count=99)) == 4


async def test_concurrency_of_a_queue_is_free_when_an_attempt_ends(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=3))
    await fill(store, 9)

    first, second, third = await take(store, count=9)
    assert await take(store, count=9) == []
    await ack(store, first)
    await nack(store, second)
    assert len(await take(store, count=9)) == 2
    age_job(db, shard_of(store), third.id, HOUR)
    await reap_all(store)
    assert len(await take(store, count=9)) == 1
    assert await take(store, count=9) == []
    consistent()


@pytest.mark.parametrize("limit", ["rate", "throttle"])
async def test_a_released_job_gives_the_start_of_its_queue_back(
    store: Store, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """A fetch that waits for the limit gets the job at once."""
    waiters, got = Waiters(), list[JobRecord]()
    monkeypatch.setattr(long_poll, "CHECK_EVERY_S", HOUR)
    limits: Any = {limit: Rate(1, HOUR)}
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(**limits))
    await fill(store, 2)
    [job] = await take(store, count=9)

    async def wait() -> None:
        options: Any = {"count": 1, "worker_id": "w", "wait_ms": HOUR}
        got.extend(await fetch_or_wait(store, waiters, [QUEUE], **options))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: _waiting(waiters), bool)
            await nack(store, job, requeue=True, release=True)
    assert [it.id for it in got] == [job.id]
    assert await take(store) == []


async def test_new_limits_of_a_queue_do_not_give_earlier_starts_back(store: Store) -> None:
    await fill(store, 3)
    [job] = await take(store)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(rate=Rate(1, HOUR)))
    [_] = await take(store)
    await nack(store, job, requeue=True, release=True)
    assert await take(store) == []


async def test_a_concurrency_of_zero_stops_a_queue(store: Store) -> None:
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=0))
    await put(store)

    assert await take(store) == []
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits())
    assert len(await take(store)) == 1


async def test_a_window_slides(store: Store, db: Any) -> None:
    key = shard_of(store).queue_counters(QUEUE)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(rate=Rate(4, HOUR)))
    await fill(store, 20)

    assert len(await take(store, count=3)) == 3
    age_limits(db, key, 30 * MINUTE)
    assert len(await take(store, count=9)) == 1
    age_limits(db, key, 31 * MINUTE)
    assert len(await take(store, count=9)) == 3
    assert await take(store, count=9) == []


async def test_no_window_of_the_period_has_more_starts_than_its_limit(
    store: Store, db: Any
) -> None:
    """Moves the time randomly, and records between which times each start was."""
    chance = random.Random(7)
    key = shard_of(store).queue_counters(QUEUE)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(rate=Rate(10, HOUR)))
    await fill(store, 120)
    at = 0
    starts: list[tuple[float, float]] = []
    for _ in range(80):
        step = chance.choice((0, MINUTE // 7, MINUTE, 5 * MINUTE, 20 * MINUTE))
        age_limits(db, key, step)
        at += step
        earliest = at + time.time() * 1000  # servers and tests share a machine, and its clock
        taken = await take(store, count=chance.randint(1, 6))
        starts += [(earliest, at + time.time() * 1000)] * len(taken)

    assert len(starts) > 40
    for begin, _ in starts:
        assert sum(begin <= first and last < begin + HOUR for first, last in starts) <= 10
    assert len(db.hget(key, "starts").split()) <= 65


async def test_a_throttle_spaces_starts_evenly(store: Store, db: Any) -> None:
    key = shard_of(store).queue_counters(QUEUE)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(throttle=Rate(6, HOUR)))
    await fill(store, 9)

    for _ in range(3):
        assert len(await take(store, count=9)) == 1
        assert await take(store, count=9) == []
        age_limits(db, key, 9 * MINUTE)
        assert await take(store, count=9) == []
        age_limits(db, key, MINUTE)


async def test_a_fast_throttle_lets_one_fetch_start_several_jobs(store: Store) -> None:
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(throttle=Rate(1000, MINUTE // 60)))
    await fill(store, 300)

    assert 99 <= len(await take(store, count=300)) <= 101


async def test_limits_of_operator_and_jobs_hold_together(store: Store) -> None:
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(2, Rate(5, HOUR), Rate(1000, 1000)))
    await fill(store, 9, rate_limit={"max_per_second": 3})

    taken = await take(store, count=9)
    assert len(taken) == 2
    found = await rate_limits.get_queue_limits(store, QUEUE)
    assert (found.usage.active, found.usage.started, found.max_per_second) == (2, 2, 3)


@pytest.mark.parametrize("place", ["same shard", "other shard"])
async def test_a_limited_queue_does_not_block_later_ones(store: Store, place: str) -> None:
    other = sibling_queue(store) if place == "same shard" else queues_in_other_shards(store, 1)[0]
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(rate=Rate(1, HOUR)))
    await fill(store, 5)
    await fill(store, 2, other)

    taken = await take(store, QUEUE, other, count=3)
    assert [job.queue for job in taken] == [QUEUE, other, other]


async def test_concurrent_fetches_never_exceed_a_limit(store: Store, other_store: Store) -> None:
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(rate=Rate(7, HOUR)))
    await fill(store, 40)
    taken: list[JobRecord] = []

    async def worker(process: Store) -> None:
        taken.extend(await take(process, count=2))

    async with trio.open_nursery() as nursery:
        for number in range(16):
            nursery.start_soon(worker, (store, other_store)[number % 2])

    assert len(taken) == 7


async def test_the_start_of_a_requeued_job_still_counts(store: Store) -> None:
    """A start without effect still counts: fewer starts than the limit are allowed, not more."""
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(rate=Rate(1, HOUR)))
    await fill(store, 2)
    [job] = await take(store)
    await nack(store, job, requeue=True)

    assert await take(store) == []


async def test_waiters_are_woken_by_time_and_by_the_end_of_an_attempt(
    store: Store, other_store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_poll, "CHECK_EVERY_S", 1000)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=1))
    await fill(store, 3)
    [held] = await take(store)
    waiters, got = Waiters(), []

    async def wait() -> None:
        got.extend(
            await fetch_or_wait(store, waiters, [QUEUE], count=1, worker_id="w", wait_ms=HOUR)
        )

    # A waiter that is not woken takes the job only at the end of its wait.
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: _waiting(waiters), bool)
            await ack(other_store, held)
    assert len(got) == 1

    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(rate=Rate(1, HOUR)))
    await fill(store, 3)
    assert len(await take(store)) == 1
    shard = shard_of(store)
    assert (await rate_limits.sweep_rate_limits(store, shard, 10)).done == 0
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: _waiting(waiters), bool)
            age_limits(db, shard.queue_counters(QUEUE), HOUR)
            age_opening(db, shard, QUEUE, HOUR)
            result = await rate_limits.sweep_rate_limits(other_store, shard, 10)
    assert result.done == 1
    assert result.next_ms is None
    assert len(got) == 2


async def _waiting(waiters: Waiters) -> int:
    return len(waiters)


async def test_a_queue_with_an_operators_limits_is_kept_and_one_with_declared_ones_retires(
    store: Store, db: Any
) -> None:
    await rate_limits.set_queue_limits(store, "kept", RateLimits(concurrency=1))
    job = await put(store, "gone", rate_limit={"max_per_second": 1})
    await take(store, "gone")
    shard = shard_of(store, "gone")
    await ack(store, job)
    age_job(db, shard, job.id, 30 * 24 * HOUR)
    await retention.purge_due(store, shard, 10)
    for name in ("kept", "gone"):
        age_queue(db, shard_of(store, name), name, 2 * HOUR)

    await retention.retire_queues(store)
    assert await queues.exists(store, "kept")
    assert not await queues.exists(store, "gone")
    await rate_limits.set_queue_limits(store, "kept", RateLimits())
    await retention.retire_queues(store)
    assert not await queues.exists(store, "kept")
