"""The sums over many queues agree with the numbers of each queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.queues import pauses, queue_sums, queues
from ojs_cluster.store.engine.queues.queue_sums import sum_queues
from tests.store.hot_queues import put_into, spread
from tests.store.shortcuts import HOUR, ack, active, nack, put, reap_all, shard_of, take
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]


async def many_states(store: Store, db: Any, queue: str) -> None:
    for wait_ms, run_ms in ((100_000, 400_000), (300_000, 600_000)):
        job = await put(store, queue)
        age_job(db, shard_of(store, queue), job.id, wait_ms)
        await take(store, queue)
        age_job(db, shard_of(store, queue), job.id, run_ms)
        await ack(store, job)
    await nack(store, await active(store, queue))
    dead: dict[str, Any] = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}
    await nack(store, await active(store, queue, **dead))
    await cancel(store, (await put(store, queue)).id)
    await active(store, queue)
    await put(store, queue, scheduled_at="+PT1H")
    await put(store, queue, pending=True)
    await put(store, queue)


async def expected(store: Store) -> tuple[queues.QueueStats, int]:
    """Return the sums of what is read queue by queue, and the number of paused queues."""
    listed, *_ = await queues.list_queues(store, limit=1000)
    return queues.sum_stats(listed), sum(queue.paused for queue in listed)


async def test_the_sums_are_those_of_the_queues(
    store: Store, db: Any, consistent: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_sums, "_CHUNK", 2)
    monkeypatch.setattr(queue_sums, "_PAGE", 3)
    for name in ("a", "b"):
        await many_states(store, db, name)
    for shard in await spread(store, db, 3, "hot"):
        await put_into(store, shard, "hot")
    for name in [f"q{number}" for number in range(9)]:
        await put(store, name)
    for name in ("hot", "q3"):
        await pauses.pause_or_resume(store, name, "pause")
    lost = await active(store, "lost")
    age_job(db, shard_of(store, "lost"), lost.id, HOUR)
    await reap_all(store, "lost")

    sums = await sum_queues(store, 1000)

    stats, paused = await expected(store)
    assert (sums.queues, sums.counted, sums.paused, paused) == (13, 13, 2, 2)
    shown = replace(
        stats,
        name="",
        paused_ms=None,
        now_ms=sums.stats.now_ms,
        avg_wait_ms=sums.stats.avg_wait_ms,
        avg_duration_ms=sums.stats.avg_duration_ms,
        ended_minute=0,  # the sums do not have it
    )
    assert sums.stats == shown
    assert stats.has_run_since(minutes=5)
    assert sums.stats.completed_last_hour == 4
    assert sums.stats.failed_last_hour == 5
    assert sums.stats.avg_duration_ms == pytest.approx(stats.avg_duration_ms, abs=2)
    assert sums.stats.avg_wait_ms == pytest.approx(stats.avg_wait_ms, abs=2)
    consistent()


async def test_only_the_first_queues_are_summed(store: Store) -> None:
    for name in ("c", "a", "b"):
        await put(store, name)
    await put(store, "c")
    first = await sum_queues(store, 2)
    within = await sum_queues(store, 1000, QueuePatterns(["c", "d"]))

    assert (first.queues, first.counted, first.stats.counts[State.AVAILABLE]) == (3, 2, 2)
    assert (within.queues, within.counted, within.stats.counts[State.AVAILABLE]) == (1, 1, 2)


async def test_the_rates_cover_the_life_of_the_oldest_queue(store: Store, db: Any) -> None:
    for name in ("old", "young"):
        for _ in range(3):
            await ack(store, await active(store, name))
    await nack(store, await active(store, "young"))
    for name, minutes in (("old", 30), ("young", 2)):
        counters = shard_of(store, name).queue_counters(name)
        db.hincrby(counters, "created", -minutes * 60_000)

    stats = (await sum_queues(store, 10)).stats

    assert stats.minutes_counted == pytest.approx(30, abs=2)
    assert stats.completed_per_minute == pytest.approx(6 / 30, abs=0.02)
    assert stats.failed_per_minute == pytest.approx(1 / 30, abs=0.01)


@pytest.mark.parametrize("minutes", [59, 60, 119])
async def test_records_older_than_an_hour_are_left_out(store: Store, db: Any, minutes: int) -> None:
    await ack(store, await active(store, "q"))
    shard = shard_of(store, "q")
    key = shard.queue_minutes("q")
    [(slot, record)] = db.hgetall(key).items()
    minute, _, totals = record.partition(b",")
    # The clock of a slow test may reach the next minute.
    moved = int(minute) - minutes + (minutes == 59)
    db.delete(key)
    db.hset(key, moved % 60, b"%d,%b" % (moved, totals))
    db.hset(shard.queue_counters("q"), "minute", moved)
    assert slot == b"%d" % (int(minute) % 60)

    sums = await sum_queues(store, 10)

    assert sums.stats.completed_last_hour == int(minutes == 59)
    assert sums.stats.completed_last_hour == (await expected(store))[0].completed_last_hour
    assert sums.stats.acked == 1


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1e400", "-", "0x"])
async def test_damaged_numbers_count_as_none(store: Store, db: Any, text: str) -> None:
    await ack(store, await active(store, "q"))
    shard = shard_of(store, "q")
    db.hset(shard.queue_counters("q"), mapping={"active": text, "acked": text, "minute": text})
    db.hset(shard.queue_counters("q"), "created", text)
    sums = await sum_queues(store, 10)

    assert (sums.stats.counts[State.ACTIVE], sums.stats.acked) == (0, 0)
    assert sums.stats.created_ms is None
    assert sums.stats.counts == (await expected(store))[0].counts
