"""An operator's limits of a queue hold over all its partitions, which have quotas."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.rate_limit import Rate, RateLimits
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.limits import partition_quotas
from ojs_cluster.store.engine.queues.copied_settings import ensure_open
from ojs_cluster.store.engine.queues.partition_maintenance import (
    advance_changes,
    get_partitions,
    set_partitions,
)
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.retention import retention
from tests.store.archives import export_text, import_text
from tests.store.hot_queues import close_empty, put_into, spread, sum_of_quotas
from tests.store.shortcuts import HOUR, QUEUE, ack, put, take
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_limits

Check = Callable[[], InvariantReport]


def concurrencies(store: Store, db: Any, count: int) -> list[str]:
    """Return the packed quota of each partition, as fetch reads it."""
    found = [
        db.hget(shard.queue_counters(QUEUE), "limits")
        for shard in store.keys.partitions(QUEUE, count)
    ]
    return [text.decode().partition(",")[0] if text else "" for text in found]


@pytest.mark.parametrize(
    ("limit", "parts"),
    [(8, ["2", "2", "2", "2"]), (6, ["2", "2", "1", "1"]), (0, ["0", "0", "0", "0"])],
)
async def test_as_many_jobs_run_as_the_concurrency_allows(
    store: Store, other_store: Store, db: Any, consistent: Check, limit: int, parts: list[str]
) -> None:
    for shard in await spread(store, db, 4):
        for _ in range(4):
            await put_into(store, shard)
    await other_store.partitions.read(other_store)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=limit))

    assert concurrencies(store, db, 4) == parts
    running: list[JobRecord] = []

    async def race(of: Store) -> None:
        running.extend(await take(of, count=5))

    async with trio.open_nursery() as nursery:
        for of in (store, other_store) * 3:
            nursery.start_soon(race, of)
    assert len(running) == limit
    found = await rate_limits.get_queue_limits(other_store, QUEUE)
    assert (found.usage.limits, found.usage.active) == (RateLimits(concurrency=limit), limit)
    for job in running:
        await ack(store, job)
    assert len(await take(other_store, count=16)) == min(limit, 16 - limit)
    consistent()


async def test_limits_smaller_than_the_number_of_partitions_are_refused(
    store: Store, db: Any
) -> None:
    await spread(store, db, 4)
    hour = Rate(2, HOUR)
    for limits, name in (
        (RateLimits(concurrency=2), "concurrency"),
        (RateLimits(concurrency=9, rate=hour), "rate"),
        (RateLimits(throttle=hour), "throttle"),
    ):
        with pytest.raises(ValidationFailed, match=f"{name} 2 .* the 4 partitions"):
            await rate_limits.set_queue_limits(store, QUEUE, limits)
    assert concurrencies(store, db, 4) == [""] * 4


@pytest.mark.parametrize("where", [[0], [3], [0, 1, 2, 3], [1, 1, 2]])
async def test_a_rate_holds_in_any_window_wherever_the_jobs_are(
    store: Store, other_store: Store, db: Any, where: list[int]
) -> None:
    shards = await spread(store, db, 4)
    await other_store.partitions.read(other_store)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(rate=Rate(8, HOUR)))
    for _ in range(9):
        for number in where:
            await put_into(store, shards[number])

    started = 0
    for of in (store, other_store) * 3:
        for job in await take(of, count=5):
            await ack(of, job)
            started += 1
    assert started == 2 * len(set(where))
    found = (await rate_limits.get_queue_limits(store, QUEUE)).usage
    assert (found.limits.rate, found.started) == (Rate(8, HOUR), started)
    assert found.resets_ms is not None
    for shard in shards:
        age_limits(db, shard.queue_counters(QUEUE), HOUR)
    assert len(await take(store, count=9)) == started


async def test_a_throttle_is_divided_among_partitions(store: Store, db: Any) -> None:
    for shard in await spread(store, db, 4):
        for _ in range(2):
            await put_into(store, shard)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(throttle=Rate(4, HOUR)))

    assert len(await take(store, count=9)) == 4
    assert await take(store, count=9) == []
    usage = (await rate_limits.get_queue_limits(store, QUEUE)).usage
    assert usage.limits.throttle == Rate(4, HOUR)
    assert usage.next_ms is not None


async def test_quotas_follow_limits_that_change_and_are_removed_with_them(
    store: Store, db: Any, consistent: Check
) -> None:
    shards = await spread(store, db, 3)
    for limit, parts in ((7, ["3", "2", "2"]), (3, ["1", "1", "1"]), (0, ["0"] * 3)):
        await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=limit))
        assert concurrencies(store, db, 3) == parts
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits())
    for shard in shards:
        assert db.hmget(shard.queue_counters(QUEUE), "limits", "queue_limits") == [None, None]
    assert (await rate_limits.get_queue_limits(store, QUEUE)).usage.limits == RateLimits()
    consistent()


async def test_the_partitions_of_a_queue_with_limits_stay_as_they_are(
    store: Store, other_store: Store, db: Any
) -> None:
    limits = RateLimits(concurrency=4)
    await spread(store, db, 4)
    await rate_limits.set_queue_limits(store, QUEUE, limits)
    for count in (1, 2, 8):
        with pytest.raises(ValidationFailed, match="divided among its 4 partitions"):
            await set_partitions(other_store, QUEUE, count)
    assert (await set_partitions(other_store, QUEUE, 4)).count == 4

    await rate_limits.set_queue_limits(store, QUEUE, RateLimits())
    await set_partitions(other_store, QUEUE, 1)
    with pytest.raises(ValidationFailed, match="in 4 partitions instead of 1"):
        await rate_limits.set_queue_limits(store, QUEUE, limits)
    await close_empty(store, db)
    await rate_limits.set_queue_limits(store, QUEUE, limits)
    assert concurrencies(store, db, 4) == ["4", "1", "1", "1"], "a late job there must not wait"
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits())
    assert concurrencies(store, db, 4) == [""] * 4


async def test_a_closed_partition_that_is_opened_again_gets_its_quota(
    store: Store, db: Any
) -> None:
    shards = await spread(store, db, 4)
    await set_partitions(store, QUEUE, 1)
    await close_empty(store, db)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=8))

    await ensure_open(store, shards[3], [QUEUE])
    await advance_changes(store)

    assert concurrencies(store, db, 4) == ["2", "2", "2", "2"]
    assert (await rate_limits.get_queue_limits(store, QUEUE)).usage.limits == RateLimits(
        concurrency=8
    )
    await close_empty(store, db)
    await advance_changes(store)
    assert concurrencies(store, db, 1) == ["8"]
    assert not db.hexists(shards[0].queue_counters(QUEUE), "queue_limits")


async def test_limits_and_another_number_of_partitions_at_the_same_moment(
    store: Store, other_store: Store, db: Any
) -> None:
    limits = RateLimits(concurrency=4)
    for number in range(20):
        queue = f"q{number}"
        done: list[str] = []

        async def limit() -> None:
            with suppress(ValidationFailed):
                await rate_limits.set_queue_limits(store, queue, limits)  # noqa: B023 - awaited here
                done.append("limits")  # noqa: B023 - as above

        async def part() -> None:
            with suppress(ValidationFailed):
                await set_partitions(other_store, queue, 4)  # noqa: B023 - awaited here
                done.append("partitions")  # noqa: B023 - as above

        async with trio.open_nursery() as nursery:
            nursery.start_soon(limit)
            nursery.start_soon(part)
        limited = await partition_quotas.get_limits(store, queue) == limits
        parted = (await get_partitions(store, queue)).count > 1
        assert ("limits" in done, "partitions" in done) == (limited, parted)
        assert sum_of_quotas(store, db, queue) == 4 * limited


async def test_two_operators_and_a_janitor_at_once_leave_consistent_quotas(
    store: Store, other_store: Store, db: Any
) -> None:
    chance = random.Random(7)
    await spread(store, db, 4)
    await other_store.partitions.read(other_store)
    for _ in range(10):
        async with trio.open_nursery() as nursery:
            for of in (store, other_store):
                limits = RateLimits(concurrency=chance.randint(4, 40))
                nursery.start_soon(rate_limits.set_queue_limits, of, QUEUE, limits)
                nursery.start_soon(partition_quotas.update_quotas, of, QUEUE)
        assert (
            sum_of_quotas(store, db)
            == (await partition_quotas.get_limits(store, QUEUE)).concurrency
        )


async def test_the_janitor_corrects_quotas(store: Store, db: Any) -> None:
    shards = await spread(store, db, 4)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=8))
    db.hdel(shards[1].queue_counters(QUEUE), "limits")
    db.hset(shards[2].queue_counters(QUEUE), "limits", "7,-,-")
    await retention.retire_queues(store)
    assert concurrencies(store, db, 4) == ["2", "2", "2", "2"]


async def test_an_archive_has_the_limits_of_the_whole_queue(store: Store, db: Any) -> None:
    await spread(store, db, 4)
    await put(store)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=9))
    text = await export_text(store)
    db.flushall()
    await store.partitions.read(store)
    await import_text(store, text)
    assert (await rate_limits.get_queue_limits(store, QUEUE)).usage.limits == RateLimits(
        concurrency=9
    )
    assert concurrencies(store, db, 4) == ["3", "2", "2", "2"]
