"""Statistics by job type for three days: summed once per hour, bounded, and read as a series."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ojs_cluster.core.histograms import WaitsAndRuns
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.statistics import type_hours
from ojs_cluster.store.features.statistics.series import Periods, Point, type_series
from ojs_cluster.store.features.statistics.type_hours import (
    KEPT_HOURS,
    HourRollUp,
    list_types_by_hour,
    read_type_hours,
)
from ojs_cluster.store.ground.process_state.job_counts import WIDTH
from ojs_cluster.store.ground.process_state.type_minutes import FINE, KEPT_MINUTES, FineRecords
from tests.store.shortcuts import queues_in_other_shards
from tests.store.statistics.test_type_minutes import numbers

HOUR_MS = 3_600_000
LEFT_S = 20


@pytest.fixture(autouse=True)
def within_an_hour() -> None:
    """Let the hour begin that would begin during the test, which counts from the present one."""
    left = 3600 - time.time() % 3600
    if left < LEFT_S:
        time.sleep(left)


async def present_hour(store: Store) -> int:
    now: Any = await store.redis.call(store.keys.meta.slot, "TIME")
    return int(now[0]) // 3600


def text(number: int, values: list[int]) -> str:
    return ",".join(map(str, [number, *values]))


async def write_minutes(store: Store, db: Any, name: str, hour: int, *minutes: int) -> None:
    """Write records of one completed job, and that the type had jobs."""
    shard = store.keys.shard_of_queue(name)
    for minute in (hour * 60 + each for each in minutes):
        record = text(minute, numbers(1, 2))
        db.hset(shard.type_history(name), str(minute % KEPT_MINUTES), record)
    db.zadd(shard.job_types, {name: 4e12})


async def hourly(store: Store, name: str, hours: int = 72) -> list[Point]:
    now_ms = await present_hour(store) * HOUR_MS + HOUR_MS - 1
    return await type_series(store, name, Periods.between(now_ms - hours * HOUR_MS, now_ms, 60))


async def test_the_last_full_hour_is_summed_once(store: Store, db: Any) -> None:
    hour = await present_hour(store) - 1
    await write_minutes(store, db, "a", hour, 1, 30, 60)
    # Records of the hours before and after it.
    await write_minutes(store, db, "a", hour, 0, 61)
    roll_up = HourRollUp(store, WIDTH)
    for _ in range(2):
        await roll_up.run((hour + 1) * 60)
    await HourRollUp(store, WIDTH).run((hour + 1) * 60)
    assert await read_type_hours(store, "a", WIDTH) == {hour: numbers_of(3)}
    key = store.keys.shard_of_queue("a").type_hour_history("a")
    assert 0 < db.pttl(key) <= KEPT_HOURS * HOUR_MS
    db.delete(key)
    await roll_up.run((hour + 1) * 60)
    assert not db.exists(key), "the hour is done in this shard"


async def test_the_last_full_hour_has_its_quantiles(store: Store, db: Any) -> None:
    hour = await present_hour(store) - 1
    await write_minutes(store, db, "a", hour, 1, 30)
    shard = store.keys.shard_of_queue("a")
    for minute, run_ms in ((1, 100), (30, 5_000), (0, 70_000), (61, 80_000)):
        fine = WaitsAndRuns()
        fine.runs.add(run_ms)
        number = hour * 60 + minute
        field = FINE + b"%d" % (number % KEPT_MINUTES)
        db.hset(shard.type_history("a"), field, f"{number} {fine.encode()}")
    await HourRollUp(store, WIDTH).run((hour + 1) * 60)
    found: FineRecords = {}
    await read_type_hours(store, "a", WIDTH, found)
    assert (found[hour].runs.quantile(0.5), found[hour].runs.max_ms) == (100, 5_000)
    [point] = [each for each in await hourly(store, "a") if each.start_ms == hour * HOUR_MS]
    assert point.run_ms(1) == 5_000


def numbers_of(jobs: int) -> list[int]:
    return [count * jobs for count in numbers(1, 2)]


async def test_a_series_goes_back_three_days(store: Store, db: Any) -> None:
    hour = await present_hour(store)
    key = store.keys.shard_of_queue("a").type_hour_history("a")
    for ago in (1, 50, 71):
        db.hset(key, str((hour - ago) % KEPT_HOURS), text(hour - ago, numbers_of(ago)))
    db.hset(key, "99", text(hour - 100, numbers_of(9)))  # of an earlier round
    points = {point.start_ms // HOUR_MS - hour: point for point in await hourly(store, "a")}
    completed = {ago: point.totals["acked"] for ago, point in points.items()}
    assert {ago: count for ago, count in completed.items() if count} == {-71: 71, -50: 50, -1: 1}
    assert points[-50].run_ms(0.5) > 0
    assert points[-50].complete
    await write_minutes(store, db, "a", hour - 1, 5)
    assert sum(each.totals["acked"] for each in await hourly(store, "a")) == 71 + 50 + 1, (
        "not twice"
    )


async def test_a_list_of_hours_has_each_full_hour_and_the_minutes_since(
    store: Store, db: Any
) -> None:
    async def completed(hours: int) -> dict[str, int]:
        listed, unread = await list_types_by_hour(store, hours, WIDTH)
        assert unread == 0
        return {one.name: one.completed for one in listed}

    hour = await present_hour(store)
    shard = store.keys.shard_of_queue("a")
    for ago in (1, 24, 25, 72, 73):
        db.hset(
            shard.type_hour_history("a"),
            str((hour - ago) % KEPT_HOURS),
            text(hour - ago, numbers_of(ago)),
        )
    db.zadd(shard.type_hours, {"a": hour - 1})
    # The minutes of the last full hour are a part of its sums, and the first one of this hour not.
    await write_minutes(store, db, "a", hour - 1, 20, 61)
    assert await completed(24) == {"a": 1 + 24 + 1}
    assert await completed(72) == {"a": 1 + 24 + 25 + 72 + 1}
    db.zadd(shard.type_hours, {"a": hour - 2})
    db.hdel(shard.type_hour_history("a"), str((hour - 1) % KEPT_HOURS))
    assert await completed(24) == {"a": 24 + 2}, "the sums of the last hour are not stored yet"


async def test_types_without_recent_jobs_make_room(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type_hours, "MAX_HOURLY_TYPES", 2)
    [name] = queues_in_other_shards(store, 1)
    shard = store.keys.shard_of_queue(name)
    hour = await present_hour(store) - 1
    for ago, old in enumerate(("x", "y"), 5):
        db.zadd(shard.type_hours, {old: hour - ago})
        db.hset(shard.type_hour_history(old), "1", "1")
    await write_minutes(store, db, name, hour, 7)
    await HourRollUp(store, WIDTH).run((hour + 1) * 60)
    assert set(db.zrange(shard.type_hours, 0, -1)) == {b"x", name.encode()}
    assert not db.exists(shard.type_hour_history("y"))
    assert db.exists(shard.type_hour_history("x"))
