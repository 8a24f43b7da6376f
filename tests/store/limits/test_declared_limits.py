"""``max_per_second`` that jobs declare for their queue: when it ends, and what ends it."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.features.rate_limits import rate_limits
from tests.store.hot_queues import spread
from tests.store.shortcuts import HOUR, MINUTE, QUEUE, ack, put, shard_of, take
from tests.support.lossy import lossy
from tests.support.timeshift import age_declared

DECLARED = {"max_per_second": 1}


async def in_force(store: Store) -> int | None:
    return (await rate_limits.get_queue_limits(store, QUEUE)).max_per_second


@pytest.mark.parametrize("end", ["ack", "cancel", "purge"])
async def test_a_declared_limit_ends_an_hour_after_its_last_job(
    store: Store, db: Any, end: str
) -> None:
    job = await put(store, rate_limit=DECLARED)
    if end == "ack":
        await ack(store, (await take(store))[0])
    elif end == "cancel":
        await cancel(store, job.id)
    else:
        await purges.purge(store, QUEUE)
    age_declared(db, shard_of(store), QUEUE, 50 * MINUTE)
    assert await in_force(store) == 1
    age_declared(db, shard_of(store), QUEUE, 10 * MINUTE)
    assert await in_force(store) is None

    for _ in range(5):
        await put(store)
    assert len(await take(store, count=9)) == 5
    fields = db.hkeys(shard_of(store).queue_counters(QUEUE))
    assert not [name for name in fields if name.startswith((b"max_per_second", b"declared_"))]
    assert await in_force(store) is None


async def test_a_fetch_after_the_end_of_a_declared_limit_takes_the_fast_path(
    store: Store, other_store: Store, db: Any
) -> None:
    await put(store, rate_limit=DECLARED)
    await ack(store, (await take(store))[0])
    age_declared(db, shard_of(store), QUEUE, HOUR)
    await put(store)
    assert len(await take(store)) == 1, "it removes the limit"

    await put(store)
    process, client = lossy(other_store)  # it does not remember the limit
    assert len(await take(process)) == 1
    assert (client.calls["fetch"], client.calls.get("fetch_full")) == (1, None)


async def test_a_declared_limit_holds_as_long_as_its_job_waits(store: Store, db: Any) -> None:
    for _ in range(3):
        await put(store, priority=1)
    await put(store, rate_limit=DECLARED, delay_until="2999-01-01T00:00:00Z")
    age_declared(db, shard_of(store), QUEUE, 24 * HOUR)

    assert await in_force(store) == 1
    assert len(await take(store, count=9)) == 1


async def test_jobs_that_waited_longer_declare_their_limit_again(store: Store, db: Any) -> None:
    """The job that declared it last has ended, and others that declare it still wait."""
    first = await put(store, rate_limit=DECLARED)
    last = await put(store, rate_limit={"max_per_second": 5})
    await cancel(store, last.id)
    age_declared(db, shard_of(store), QUEUE, 2 * HOUR)
    assert await in_force(store) is None

    assert [job.id for job in await take(store)] == [first.id]
    assert await in_force(store) == 1


async def test_each_start_of_a_job_that_declares_it_prolongs_a_limit(store: Store, db: Any) -> None:
    await put(store, rate_limit=DECLARED)
    last = await put(store, rate_limit={"max_per_second": 5})
    await cancel(store, last.id)
    age_declared(db, shard_of(store), QUEUE, 50 * MINUTE)
    assert len(await take(store)) == 1
    age_declared(db, shard_of(store), QUEUE, 50 * MINUTE)

    assert await in_force(store) == 5


@pytest.mark.parametrize("partitions", [1, 4])
async def test_an_operator_ends_a_declared_limit(store: Store, db: Any, partitions: int) -> None:
    await spread(store, db, partitions)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(concurrency=8))
    for _ in range(5):
        await put(store, rate_limit=DECLARED)
    assert len(await take(store, count=9)) == 1

    await rate_limits.clear_declared_limit(store, QUEUE)
    found = await rate_limits.get_queue_limits(store, QUEUE)
    assert (found.max_per_second, found.usage.limits.concurrency) == (None, 8)
    assert len(await take(store, count=1)) == 1
    assert await in_force(store) is None, "jobs that were there do not declare it again"
    await put(store, rate_limit={"max_per_second": 7})
    assert await in_force(store) == 7


async def test_ending_the_limit_of_an_unknown_queue_creates_none(store: Store, db: Any) -> None:
    await rate_limits.clear_declared_limit(store, QUEUE)
    assert not db.exists(shard_of(store).queue_counters(QUEUE))
