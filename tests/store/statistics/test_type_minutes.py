"""Statistics over time by job type: where they lie, what bounds them, and what a series shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from ojs_cluster.core.histograms import FineTimes, WaitsAndRuns
from ojs_cluster.redis import Client
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from ojs_cluster.store.features.statistics.series import Periods, Point, type_series
from ojs_cluster.store.ground.process_state import type_minutes
from ojs_cluster.store.ground.process_state.job_counts import (
    MAX_ROWS,
    TIMES,
    WIDTH,
    JobCounts,
)
from ojs_cluster.store.ground.process_state.type_minutes import (
    FINE,
    KEPT_MINUTES,
    MAX_TYPES,
    OTHER,
    add_type_minutes,
    list_types,
)
from tests.store.shortcuts import (
    ack,
    active,
    failure,
    nack,
    new_job,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.support.longest_step import measured_steps
from tests.support.lossy import LossyClient

HOUR_MS = 3_600_000


def numbers(completed: int, run_bucket: int = 0) -> list[int]:
    """Numbers of jobs that have run for as long as a bucket says."""
    found = [0] * WIDTH
    found[TIMES.index("r1") + run_bucket] = completed
    found[-4:] = [completed + 1, completed, 1, 2]
    return found


async def types(store: Store, minutes: int = 60) -> dict[str, tuple[int, int, int]]:
    listed, unread = await list_types(store, minutes, WIDTH)
    assert unread == 0
    return {one.name: (one.enqueued, one.completed, one.discarded) for one in listed}


async def series(store: Store, job_type: str) -> list[Point]:
    time: Any = await store.redis.call(store.keys.meta.slot, "TIME")
    now_ms = int(time[0]) * 1000
    return await type_series(store, job_type, Periods.between(now_ms - 2 * HOUR_MS, now_ms, 1))


async def test_jobs_are_counted_by_type_over_all_queues(store: Store) -> None:
    for queue in queues_in_other_shards(store, 2):
        await ack(store, await active(store, queue, type="mail.send"))
    await nack(store, await active(store, type="a", retry={"max_attempts": 1}))
    await store.job_counts.flush(store)
    await store.job_counts.flush(store)
    assert await types(store) == {"mail.send": (2, 2, 0), "a": (1, 0, 1)}


async def test_failed_attempts_are_counted_once_each(store: Store) -> None:
    await ack(store, await active(store, type="b"))
    job = await active(store, type="a")
    for _ in range(2):  # the second one repeats the first
        await nack(store, job, lease_id=job.lease_id)
    await enqueue_many(store, [new_job(type="a") for _ in range(5)])
    jobs = await take(store, count=5)
    snooze = replace(failure(), action="snooze", delay_ms=1000)
    nacks = [
        *(Nack(job.id, job.lease_id, failure(), False) for job in jobs[:2]),
        Nack(jobs[2].id, jobs[2].lease_id, snooze, False),
        Nack(jobs[3].id, jobs[3].lease_id, failure(), True),
    ]
    for _ in range(2):
        await nack_many(store, nacks, worker_id="w1")
    await nack(store, jobs[4], requeue=True)
    await store.job_counts.flush(store)
    listed, _ = await list_types(store, 60, WIDTH)
    assert {one.name: (one.failed, one.failed_share) for one in listed} == {
        "a": (3, 1.0),
        "b": (0, 0.0),
    }


async def test_records_of_earlier_versions_have_no_failed_attempts(store: Store, db: Any) -> None:
    await add_type_minutes(store, {b"a": numbers(3)})
    shard = store.keys.shard_of_queue("a")
    [(slot, text)] = db.hgetall(shard.type_history("a")).items()
    db.hset(shard.type_history("a"), slot, text.rpartition(b",")[0])
    await add_type_minutes(store, {b"a": numbers(2)})
    listed, _ = await list_types(store, 60, WIDTH)
    assert [(one.completed, one.failed) for one in listed] == [(5, 2)]
    assert sum(point.totals["acked"] for point in await series(store, "a")) <= 5


async def test_counts_kept_for_a_shard_that_is_away_are_added_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = shard_of(store, "q")
    names = (f"t{number}" for number in range(1000))
    job_type = next(name for name in names if shard_of(store, name).slot != away.slot)
    await ack(store, await active(store, "q", type=job_type))
    with monkeypatch.context() as patched:
        patched.setattr(type(store.redis), "is_responsive", lambda _, slot: slot != away.slot)
        for _ in range(3):
            await store.job_counts.flush(store)
    await store.job_counts.flush(store)
    assert await types(store) == {job_type: (1, 1, 0)}


async def test_a_client_that_invents_types_causes_few_scripts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type_minutes, "MAX_TYPES_ADDED", 2)
    invented = {b"t%d" % number: numbers(1) for number in range(50)}
    await add_type_minutes(store, {**invented, b"a": numbers(3), OTHER: numbers(2)})
    # 50 invented types with 2, 1 and 1 jobs each
    assert await types(store) == {"a": (4, 3, 1), "other": (103, 52, 51)}


async def test_counts_of_many_types_are_added_up_beside_the_event_loop(store: Store) -> None:
    counts = JobCounts()
    for number in range(MAX_ROWS):
        for run_ms in (number, 3 * number):
            counts.count_completed(b"q%d" % (number % 4), b"t.n%d" % number, run_ms)
    with measured_steps() as longest:
        await counts.flush(store)
    assert longest.seconds < 0.05


async def test_minutes_add_up_and_old_ones_are_replaced(store: Store, db: Any) -> None:
    await add_type_minutes(store, {b"a": numbers(3)})
    await add_type_minutes(store, {b"a": numbers(2, 4)})
    shard = store.keys.shard_of_queue("a")
    key = shard.type_history("a")
    records = db.hgetall(key)
    assert 1 <= len(records) <= 2  # the minute may have ended in between
    assert await types(store) == {"a": (7, 5, 2)}
    assert 0 < db.pttl(key) <= KEPT_MINUTES * 60_000
    slot, text = next(iter(records.items()))
    minute = int(text.split(b",")[0])
    # The same place in the hash, one round earlier.
    db.delete(key)
    db.hset(key, slot, f"{minute - KEPT_MINUTES},{','.join('9' * WIDTH)}")
    assert await types(store) == {}
    db.hset(key, slot, b"damaged,,x")
    assert await types(store) == {}
    assert await series(store, "a") == []


async def test_further_types_of_a_shard_are_counted_as_other(store: Store, db: Any) -> None:
    shard = store.keys.shard_of_queue("a")
    names = (f"t{number}" for number in range(100_000))
    here = [name for name in names if store.keys.shard_of_queue(name) is shard]
    here = here[: MAX_TYPES + 20]
    for name in here:
        await add_type_minutes(store, {name.encode(): numbers(1)})
    assert db.zcard(shard.job_types) <= MAX_TYPES + 1
    found = await types(store)
    assert found["other"] == (40, 20, 20)
    assert {name for name in found if name != "other"} == set(here[:MAX_TYPES])
    # A known type still has its own record, and types without jobs make room.
    await add_type_minutes(store, {here[0].encode(): numbers(1), here[-1].encode(): numbers(1)})
    assert (await types(store))[here[0]] == (4, 2, 2)
    assert (await types(store))["other"] == (42, 21, 21)
    db.zadd(shard.job_types, {here[1]: 1, here[2]: 1})
    await add_type_minutes(store, {here[-1].encode(): numbers(1)})
    assert (await types(store))[here[-1]] == (2, 1, 1)
    assert sum(point.totals["acked"] for point in await series(store, "other")) <= 21


async def test_a_series_has_counts_and_quantiles(store: Store, db: Any) -> None:
    await add_type_minutes(store, {b"a": numbers(10, 5)})
    shard = store.keys.shard_of_queue("a")
    key = shard.type_history("a")
    [text] = db.hvals(key)
    minute, rest = text.split(b",", 1)
    # The record ended three minutes ago.
    db.delete(key)
    db.hset(key, (int(minute) - 3) % KEPT_MINUTES, b"%d,%s" % (int(minute) - 3, rest))
    points = await series(store, "a")
    assert points[0].totals["acked"] == 10
    assert sum(point.totals["acked"] for point in points) == 10
    assert points[0].totals["enqueued"] == 11
    assert points[0].totals["discarded_total"] == 1
    assert 100 < points[0].run_ms(0.5) < points[0].run_ms(0.95) <= 250
    assert points[0].depths == {}


async def test_a_list_and_a_series_have_exact_quantiles(store: Store, db: Any) -> None:
    fine = WaitsAndRuns()
    for run_ms in (100, 2_000, 600_000):
        fine.runs.add(run_ms)
    for _ in range(2):
        await add_type_minutes(store, {b"a": numbers(3, 5)}, {b"a": fine})
    listed, _ = await list_types(store, 60, WIDTH)
    assert [listed[0].run_ms(share) for share in (0.3, 0.6, 0.95)] == [100, 2_000, 600_000]
    assert sum(listed[0].fine.runs.counts.values()) == 6
    shard = store.keys.shard_of_queue("a")
    key = shard.type_history("a")
    for field, text in db.hgetall(key).items():  # they ended three minutes ago
        mark, separator = (FINE, b" ") if field.startswith(FINE) else (b"", b",")
        number, _, rest = text.partition(separator)
        ago = int(number) - 3
        db.hset(key, mark + b"%d" % (ago % KEPT_MINUTES), b"%d%s%s" % (ago, separator, rest))
        db.hdel(key, field)
    points = [point for point in await series(store, "a") if any(point.times)]
    assert {point.run_ms(1) for point in points} == {600_000}


async def test_further_types_have_their_times_under_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type_minutes, "MAX_TYPES_ADDED", 1)
    fine = {}
    for name, run_ms, jobs in ((b"a", 10, 9), (b"b", 300, 2), (b"c", 4_000, 1)):
        fine[name] = WaitsAndRuns()
        for _ in range(jobs):
            fine[name].runs.add(run_ms)
    await add_type_minutes(store, {b"a": numbers(9), b"b": numbers(2), b"c": numbers(1)}, fine)
    listed, _ = await list_types(store, 60, WIDTH)
    assert {one.name: one.run_ms(1) for one in listed} == {"a": 10, "other": 4_000}


async def test_a_type_named_other_is_counted_with_them(store: Store) -> None:
    await add_type_minutes(store, {OTHER: numbers(2), b"a": numbers(1)})
    assert await types(store) == {"other": (3, 2, 1), "a": (2, 1, 1)}


async def test_no_counts_write_nothing(store: Store, db: Any) -> None:
    await add_type_minutes(store, {})
    await JobCounts().flush(store)
    assert await types(store) == {}
    assert not list(db.scan_iter("ojs:{*}:job_types"))


async def test_statistics_by_type_can_be_switched_off(store: Store) -> None:
    quiet = replace(store, settings=replace(store.settings, metrics_types=0))
    await ack(quiet, await active(quiet, type="a"))
    await quiet.job_counts.flush(quiet)
    assert await types(store) == {}


async def test_the_fullest_records_of_a_type_are_summed_in_portions(store: Store, db: Any) -> None:
    """One script over 60 of them would take 20 ms."""
    full = WaitsAndRuns(*(FineTimes(dict.fromkeys(range(300), 7), 10**9) for _ in "wr"))
    await add_type_minutes(store, {b"t": numbers(3)}, {b"t": full})
    shard = store.keys.shard_of_queue("t")
    key = shard.type_history("t")
    stored = db.hgetall(key)
    newest = next(int(value.split(b",")[0]) for name, value in stored.items() if name.isdigit())
    for minute in range(newest - 59, newest):
        for name, value in stored.items():
            text = value.replace(b"%d" % newest, b"%d" % minute, 1)
            prefix = b"f" if name.startswith(b"f") else b""
            db.hset(key, prefix + b"%d" % (minute % KEPT_MINUTES), text)

    args = [WIDTH, 60, KEPT_MINUTES, 1]
    args = [WIDTH, 60, KEPT_MINUTES, 1]
    summed, _, first, _ = await store.run(shard, "sum_type_minutes", [key], [*args, 1, ""])
    assert 2 <= first <= 20
    assert summed[-3] == 3 * (first - 1)
    listed, _ = await list_types(store, 59, WIDTH)  # the minute may have ended by now
    [one] = listed
    assert one.completed in (3 * 58, 3 * 59)
    assert one.fine.runs.counts[299] == 7 * one.completed // 3

    class MinuteEnds(LossyClient):
        """Runs the first script of the type as one that ran in the minute before."""

        async def script(self, slot: int, script: Any, keys: Any, args: Any, **kind: Any) -> Any:
            if script.name == "sum_type_minutes" and args[4] == 1:
                args = [*args[:5], newest - 1]
            return await super().script(slot, script, keys, args, **kind)

    late = replace(store, redis=cast(Client, MinuteEnds(store.redis, lambda *_: False)))
    listed, _ = await list_types(late, 60, WIDTH)
    # The oldest of the 60 minutes has no record.
    assert [one.completed for one in listed] == [3 * 59], "each record counts once"
