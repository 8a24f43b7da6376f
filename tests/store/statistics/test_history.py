"""Statistics over time: samples of the queues, and the series that are read from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.statistics.record_minutes import MinuteRecorder
from ojs_cluster.store.features.statistics.records import HOURS, MINUTES, QUEUE_MINUTES
from ojs_cluster.store.features.statistics.series import (
    Periods,
    Point,
    cluster_series,
    queue_series,
)
from tests.store.hot_queues import spread
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    active,
    nack,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
)
from tests.support.timeshift import age_job, age_queue

NAMES = ("enqueued", "acked", "failed", "retried_total", "discarded_total", "cancelled_total")


async def minute_of(store: Store) -> int:
    """The present minute of Redis."""
    time: Any = await store.redis.call(store.keys.meta.slot, "TIME")
    return int(time[0]) // 60


async def series(
    store: Store, minute: int, *, queue: str | None = None, length: int = 1, count: int = 5
) -> list[Point]:
    """The periods up to ``minute``."""
    periods = Periods(minute - length * count, length, count)
    if queue is None:
        return await cluster_series(store, periods)
    return await queue_series(store, queue, periods)


def numbers(point: Point) -> list[int]:
    return [point.totals[name] for name in NAMES]


def column(points: Sequence[Point], name: str) -> list[int]:
    return [point.totals[name] for point in points]


async def test_each_minute_has_what_happened_in_it(store: Store) -> None:
    recorder, now = MinuteRecorder(store), await minute_of(store)
    await put(store, "before")
    assert await recorder.record(now - 3)
    await ack(store, await active(store, "one"))
    await put(store, "two")
    assert await recorder.record(now - 2)
    retried = await active(store, "one")
    await nack(store, retried)
    await nack(store, await active(store, "one", retry={"max_attempts": 1}))
    await cancel(store, (await put(store, "two")).id)
    assert await recorder.record(now - 1)
    assert await recorder.record(now)

    points = await series(store, now)

    assert [point.start_ms // 60_000 for point in points] == [now - 3, now - 2, now - 1]
    assert all(point.complete for point in points)
    assert [numbers(point) for point in points] == [
        [2, 1, 0, 0, 0, 0],
        [3, 0, 2, 1, 1, 1],
        [0, 0, 0, 0, 0, 0],
    ]
    depths = {State.AVAILABLE: 2, State.RETRYABLE: 1}
    none = dict.fromkeys((State.SCHEDULED, State.PENDING, State.ACTIVE, State.RETRYABLE), 0)
    assert points[-1].depths == {**none, **depths}


async def test_a_queue_has_its_own_series(store: Store, db: Any) -> None:
    recorder, now = MinuteRecorder(store), await minute_of(store)
    await spread(store, db, 4, QUEUE)
    assert await recorder.record(now - 4)
    for _ in range(8):
        await put(store)
    await put(store, "other")
    assert await recorder.record(now - 3)
    assert await recorder.record(now - 2)
    await ack(store, (await take(store))[0])
    assert await recorder.record(now - 1)

    points = await series(store, now - 1, queue=QUEUE)

    assert column(points, "enqueued")[-3:] == [8, 0, 0]
    assert column(points, "acked")[-3:] == [0, 0, 1]
    assert [point.depths[State.AVAILABLE] for point in points[-3:]] == [8, 8, 7]
    assert (await series(store, now, queue="unknown"))[-1].totals["enqueued"] == 0


async def test_samples_count_nothing_twice(store: Store, other_store: Store) -> None:
    now = await minute_of(store)
    await MinuteRecorder(store).record(now - 2)
    await put(store)
    for opened in (store, other_store, store):
        await MinuteRecorder(opened).record(now - 1)
    await MinuteRecorder(other_store).record(now)

    assert column(await series(store, now), "enqueued") == [1, 0]
    assert column(await series(store, now, queue=QUEUE), "enqueued")[-2:] == [1, 0]


async def test_a_missed_minute_loses_nothing(store: Store) -> None:
    now = await minute_of(store)
    await MinuteRecorder(store).record(now - 4)
    for _ in range(8):
        await put(store)
    await MinuteRecorder(store).record(now)

    assert column(await series(store, now), "enqueued") == [2, 2, 2, 2]
    assert column(await series(store, now, length=4, count=1), "enqueued") == [8]


async def test_missed_minutes_are_gaps(store: Store) -> None:
    now = await minute_of(store)
    for minute in (now - 4, now):
        await put(store)
        await MinuteRecorder(store).record(minute)
    for queue in (None, QUEUE):
        points = await series(store, now, queue=queue)
        assert [point.recorded for point in points][-4:] == [False, False, False, True]
        assert (await series(store, now, queue=queue, length=5, count=1))[-1].recorded


async def test_missed_hours_are_gaps(store: Store) -> None:
    hour = await minute_of(store) // 60 * 60
    for minute in (hour - 60 * 5 + 3, hour):
        await MinuteRecorder(store).record(minute)
    points = await series(store, hour, length=60)
    assert [point.recorded for point in points] == [True, False, False, False, True]


async def test_a_queue_has_no_points_before_it_exists(store: Store, db: Any) -> None:
    recorder, now = MinuteRecorder(store), await minute_of(store)
    for minute in range(now - 5, now - 2):
        await recorder.record(minute)
    await put(store)
    await recorder.record(now - 2)
    await recorder.record(now)
    starts = [point.start_ms // 60_000 for point in await series(store, now, queue=QUEUE)]
    assert starts == [now - 3, now - 2, now - 1]
    age_queue(db, shard_of(store), QUEUE, HOUR)
    assert len(await series(store, now, queue=QUEUE)) == 5, "it had no jobs, but it existed"


async def test_removed_queues_stay_counted(store: Store, db: Any) -> None:
    recorder, now = MinuteRecorder(store), await minute_of(store)
    await put(store, "first")
    await recorder.record(now - 2)
    done = await ack(store, (await take(store, "first"))[0])
    shard = shard_of(store, "first")
    age_job(db, shard, done.id, 100 * 24 * HOUR)
    await retention.purge_due(store, shard, 10)
    age_queue(db, shard, "first", 2 * HOUR)
    assert await retention.retire_queues(store) == (1, "")
    assert not db.exists(shard.queue_history("first"))
    await recorder.record(now - 1)
    await put(store, "first")
    await recorder.record(now)

    points = await series(store, now)
    assert column(points, "acked") == [1, 0]
    assert column(points, "enqueued") == [0, 1]


async def test_all_ends_of_attempts_are_counted(store: Store, db: Any) -> None:
    recorder, now = MinuteRecorder(store), await minute_of(store)
    await recorder.record(now - 1)
    # A lost lease is a failed attempt that is retried at once; the last one discards the job.
    lost = await active(store, retry={"max_attempts": 2})
    for _ in range(2):
        age_job(db, shard_of(store), lost.id, HOUR)
        await reap_all(store)
        await take(store)
    expiring = await put(store, expires_at="+PT1H")
    age_job(db, shard_of(store), expiring.id, 2 * HOUR)
    await reap_all(store)
    await recorder.record(now)

    [point] = await series(store, now)
    assert numbers(point) == [2, 0, 2, 1, 2, 0]
    assert point.totals["expired_total"] == 1


async def test_hours_have_the_sums_of_their_minutes(store: Store, db: Any) -> None:
    recorder, now = MinuteRecorder(store), await minute_of(store)
    hour = now // 60 * 60
    await recorder.record(hour - 120)
    for minute in (hour - 90, hour - 61, hour - 60, hour - 1, hour):
        await put(store)
        await recorder.record(minute)
    # Older minutes are replaced; the records of hours remain.
    db.delete(store.keys.meta.history_minutes)
    await recorder.record(now)

    points = await series(store, hour, length=60, count=2)
    assert column(points, "enqueued") == [3, 2]
    [day] = await series(store, hour, length=1440, count=1)
    assert day.totals["enqueued"] == 5


async def test_the_present_hour_is_shown_as_incomplete(store: Store) -> None:
    recorder, now = MinuteRecorder(store), await minute_of(store)
    await recorder.record(now - 1)
    await put(store)
    await recorder.record(now)
    periods = Periods(now - 1, 60, 1)
    [point] = await cluster_series(store, periods)
    assert (point.complete, point.totals["enqueued"]) == (False, 1)
    assert await cluster_series(store, replace(periods, length=5)) == []


@pytest.mark.parametrize("age", [1, 9, 10, 11, 60])
async def test_the_newest_record_is_found_at_any_age(store: Store, age: int) -> None:
    recorder, newest = MinuteRecorder(store), await minute_of(store) - age
    await recorder.record(newest - 1)
    await put(store)
    await recorder.record(newest)
    assert column(await series(store, newest, count=1), "enqueued") == [1]


async def test_records_have_fixed_numbers_of_slots(store: Store, db: Any) -> None:
    recorder, meta = MinuteRecorder(store), store.keys.meta
    await put(store)
    for minute in (10**7, 10**7 + MINUTES, 10**7 + 60 * HOURS, 10**7 + QUEUE_MINUTES):
        await put(store)
        await recorder.record(minute)
    assert db.hlen(meta.history_minutes) == 3  # one of the four has replaced another one
    for key, most in ((meta.history_minutes, MINUTES), (meta.history_hours, HOURS)):
        assert all(int(slot) < most for slot in db.hkeys(key))
    slots = [slot for slot in db.hkeys(shard_of(store).queue_history(QUEUE)) if slot != b"last"]
    assert all(int(slot) < QUEUE_MINUTES for slot in slots)


@pytest.mark.parametrize("damage", [b"", b"x", b"1,2", b"1,,2", b"9" * 400])
async def test_damaged_records_are_left_out(store: Store, db: Any, damage: bytes) -> None:
    recorder, now = MinuteRecorder(store), await minute_of(store)
    shard, meta = shard_of(store), store.keys.meta
    await put(store)
    await recorder.record(now - 2)
    db.hset(meta.history_minutes, (now - 1) % MINUTES, damage)
    db.hset(meta.history_hours, now // 60 % HOURS, damage)
    db.hset(shard.queue_history(QUEUE), "last", damage)
    db.hset(shard.queue_history(QUEUE), "7", damage)
    db.hset(shard.queue_counters(QUEUE), "failed", damage)
    db.hset(shard.history_totals, "failed", damage)
    await put(store)
    await recorder.record(now - 1)
    await put(store)
    await recorder.record(now)

    assert column(await series(store, now), "enqueued")[-1] == 1
    assert column(await series(store, now, length=60, count=1), "failed") in ([], [0])
    assert column(await series(store, now, queue=QUEUE), "enqueued")[-1] == 1


async def test_no_record_is_stored_without_the_numbers_of_a_shard(
    backend: Embedded, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, away = await minute_of(store), shard_of(store)
    answers = store.redis.is_responsive
    recorder = MinuteRecorder(store)
    with monkeypatch.context() as patched:
        patched.setattr(type(store.redis), "is_responsive", lambda _, slot: slot != away.slot)
        assert not await recorder.record(now - 1)
    assert answers(away.slot)
    await put(store)
    assert await recorder.record(now - 1)
    with monkeypatch.context() as patched:
        patched.setattr(type(store.redis), "is_responsive", lambda _, slot: slot != away.slot)
        assert await recorder.record(now)  # with the numbers that the process knows
    assert column(await series(store, now), "enqueued") == [0]


@pytest.mark.parametrize("name", ["counters", "available", "blocked", "history", "times"])
async def test_a_queue_with_a_damaged_key_does_not_end_the_statistics(
    store: Store, db: Any, name: str
) -> None:
    recorder, now = MinuteRecorder(store), await minute_of(store)
    shard = shard_of(store)
    await put(store)
    await recorder.record(now - 1)
    key = getattr(shard, f"queue_{name}")(QUEUE)
    db.delete(key)
    db.set(key, "damaged")
    await put(store, "other")
    assert await recorder.record(now)

    [point] = await series(store, now, count=1)
    assert point.totals["enqueued"] == 1


async def test_a_shard_that_fails_keeps_its_last_numbers(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ojs_cluster.store.features.statistics.record_minutes._CHUNK", 1)
    recorder, now = MinuteRecorder(store), await minute_of(store)
    shard = shard_of(store)
    near = [name for name in (f"near{n}" for n in range(1000)) if shard_of(store, name) is shard]
    far = queues_in_other_shards(store, 1)[0]
    for queue in (near[0], QUEUE, far):
        await put(store, queue)
    await recorder.record(now - 2)
    await put(store, far)
    run = Store.run

    async def fail_second(
        self: Store, at: Any, script: str, keys: Any, *args: Any, **kw: Any
    ) -> Any:
        if at is shard and shard.queue_counters(max(near[0], QUEUE)) in keys:
            raise RedisReplyError("ERR the script fails")
        return await run(self, at, script, keys, *args, **kw)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "run", fail_second)
        assert await recorder.record(now - 1)
        # A new process does not know all numbers.
        assert not await MinuteRecorder(store).record(now - 1)
    points = await series(store, now - 1, count=1)
    assert column(points, "enqueued") == [1]
    assert points[0].depths[State.AVAILABLE] == 4


async def test_a_minute_is_recorded_once(store: Store) -> None:
    recorder = MinuteRecorder(store)
    minute, left_ms = await recorder.minute_to_record()
    assert minute is not None
    assert 0 < left_ms <= 60_000
    await recorder.record(minute)
    again, _ = await MinuteRecorder(store).minute_to_record()
    assert again in (None, minute + 1)


async def test_many_queues_are_sampled_in_slices(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr("ojs_cluster.store.features.statistics.record_minutes._PAGE", 3)
    monkeypatch.setattr("ojs_cluster.store.features.statistics.record_minutes._CHUNK", 2)
    now = await minute_of(store)
    await MinuteRecorder(store).record(now - 1)
    names = [*queues_in_other_shards(store, 4), *(f"more{n}" for n in range(6))]
    for name in names:
        await put(store, name)
    await MinuteRecorder(store).record(now)
    [point] = await series(store, now)
    assert point.totals["enqueued"] == point.depths[State.AVAILABLE] == len(names)
    assert len((await queues.list_queues(store, limit=100))[0]) == len(names)
