"""Queues: the registry and the numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import TooManyQueues
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.queues import pauses, queues
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    active,
    nack,
    put,
    reap_all,
    shard_of,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]


async def test_counts_follow_every_transition(store: Store, consistent: Check) -> None:
    await ack(store, await active(store))
    await ack(store, await active(store))
    await nack(store, await active(store))
    await nack(store, await active(store, max_attempts=1, retry={"on_exhaustion": "dead_letter"}))
    await cancel(store, (await put(store)).id)
    await active(store)
    await put(store, scheduled_at="+PT1H")
    await put(store, pending=True)
    await put(store)
    stats = await queues.get_stats(store, QUEUE)

    assert dict(stats.counts) == {
        State.AVAILABLE: 1,
        State.ACTIVE: 1,
        State.SCHEDULED: 1,
        State.PENDING: 1,
        State.RETRYABLE: 1,
        State.COMPLETED: 2,
        State.CANCELLED: 1,
        State.DISCARDED: 1,
    }
    assert (stats.acked, stats.dead, stats.depth) == (2, 1, 3)
    assert not stats.paused
    consistent()


async def test_the_last_hour_counts_acks_and_failed_attempts(store: Store, db: Any) -> None:
    shard = shard_of(store)
    for wait_ms, run_ms in ((100_000, 400_000), (300_000, 600_000)):
        job = await put(store)
        age_job(db, shard, job.id, wait_ms)
        await take(store)
        age_job(db, shard, job.id, run_ms)
        await ack(store, job)
    await nack(store, await active(store))
    lost = await active(store)
    age_job(db, shard_of(store), lost.id, HOUR)
    await reap_all(store)
    stats = await queues.get_stats(store, QUEUE)

    assert (stats.completed_last_hour, stats.failed_last_hour) == (2, 2)
    assert stats.avg_duration_ms == pytest.approx(500_000, abs=60_000)
    assert stats.avg_wait_ms == pytest.approx(200_000, abs=60_000)


async def test_a_queue_that_only_fails_says_so(store: Store, db: Any) -> None:
    await nack(store, await active(store))
    stats = await queues.get_stats(store, QUEUE)
    assert (stats.completed_last_hour, stats.failed_last_hour) == (0, 1)
    assert stats.has_run_since(minutes=5)


async def test_attempts_older_than_an_hour_are_not_counted(store: Store, db: Any) -> None:
    await ack(store, await active(store))
    key = shard_of(store).queue_minutes(QUEUE)
    [(slot, note)] = db.hgetall(key).items()
    minute, _, sums = note.partition(b",")
    db.hset(key, slot, b"%d,%b" % (int(minute) - 60, sums))
    db.hincrby(shard_of(store).queue_counters(QUEUE), "minute", -60)
    assert (await queues.get_stats(store, QUEUE)).completed_last_hour == 0
    await ack(store, await active(store))

    assert (await queues.get_stats(store, QUEUE)).completed_last_hour == 1
    assert (await queues.get_stats(store, QUEUE)).acked == 2
    assert db.hlen(key) <= 2, "the ring's slot is used again"


async def test_an_unknown_queue_has_only_zeros_and_stays_unknown(store: Store, db: Any) -> None:
    stats = await queues.get_stats(store, "unknown")

    assert set(stats.counts.values()) == {0}
    assert (stats.created_ms, stats.paused_ms, stats.acked, stats.depth) == (None, None, 0, 0)
    assert stats.avg_duration_ms == stats.avg_wait_ms == 0
    assert not await queues.exists(store, "unknown")
    assert not db.exists(shard_of(store, "unknown").queue_counters("unknown"))


async def test_queues_are_listed_by_name_page_by_page(store: Store) -> None:
    names = sorted(f"q{number}" for number in range(23))
    for name in reversed(names):
        await put(store, name)
    pages = [await queues.list_queues(store, limit=10, offset=offset) for offset in (0, 10, 20, 30)]

    assert [stats.name for page, *_ in pages for stats in page] == names
    assert {total for _, total, _ in pages} == {23}
    assert {stats.counts[State.AVAILABLE] for page, *_ in pages for stats in page} == {1}


@pytest.mark.parametrize("within", [None, QueuePatterns(["q*"])], ids=["all", "some"])
async def test_a_page_starts_after_a_name_that_may_be_gone(
    store: Store, within: QueuePatterns | None
) -> None:
    for name in ("q1", "q2", "q3", "q5"):
        await put(store, name)

    after_q2 = await queues.list_queues(store, limit=1, after=("q2",), within=within)
    after_q4 = await queues.list_queues(store, limit=1, after=("q4",), within=within)

    assert ([queue.name for queue in after_q2.entries], after_q2.last) == (["q3"], ("q3",))
    assert ([queue.name for queue in after_q4.entries], after_q4.last) == (["q5"], None)
    assert after_q2.total == after_q4.total == 4


async def test_the_registry_is_bounded(store: Store, other_store: Store) -> None:
    settings = replace(store.settings, max_queues=2)
    store, other_store = (replace(of, settings=settings) for of in (store, other_store))
    await put(store, "a")
    await put(other_store, "b")
    for of in (store, other_store):
        with pytest.raises(TooManyQueues) as refusal:
            await put(of, "c")
        assert refusal.value.details["queue"] == "c"
        with pytest.raises(TooManyQueues):
            await pauses.pause_or_resume(of, "c", "pause")
        await put(of, "a")
        await put(of, "b")
    assert (await queues.list_queues(store, limit=10))[1] == 2
    assert not await queues.exists(store, "c")


async def test_pausing_registers_a_queue(store: Store) -> None:
    at, status = await pauses.pause_or_resume(store, "quiet", "pause")
    stats = await queues.get_stats(store, "quiet")

    assert (stats.paused_ms, stats.created_ms, status) == (at, at, "paused")
    assert await queues.exists(store, "quiet")


async def test_a_queue_is_as_old_as_its_oldest_partition(store: Store) -> None:
    one = await queues.get_stats(store, QUEUE)
    parts = [replace(one, created_ms=created) for created in (5, 3, None)]
    assert queues.sum_stats(parts).created_ms == 3


@pytest.mark.parametrize(
    ("age_min", "rate"), [(None, 120), (0.2, 120), (1, 120), (30, 4), (60, 2), (900, 2)]
)
async def test_rates_are_per_minute_of_the_time_that_a_queue_exists(
    store: Store, age_min: float | None, rate: float
) -> None:
    now = 10**12
    created = None if age_min is None else now - round(age_min * 60_000)
    empty = await queues.get_stats(store, QUEUE)
    one = replace(empty, now_ms=now, created_ms=created, completed_last_hour=120)
    assert one.completed_per_minute == pytest.approx(rate)
    # The sum over several queues covers the time since the oldest of them was created.
    nothing = replace(empty, now_ms=0, created_ms=None)
    assert queues.sum_stats([nothing, one]).completed_per_minute == pytest.approx(rate)


def test_the_last_hour_is_counted_from_its_oldest_note() -> None:
    sums = {b"acked": b"9", b"failed": b"4", b"run_ms": b"90", b"wait_ms": b"40"}
    notes = {b"1": b"100,2,1,20,10", b"2": b"101,5,3,50,30", b"3": b"60,0,0,0,0"}
    assert queues._growth_in_last_hour(sums, notes, 130) == [7, 3, 70, 30]
