"""Damaged fields of a queue stop neither its readers, fetches and maintenance, nor other queues."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.rate_limit import Rate, RateLimits
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits.depth_bounds import get_bound, set_bound
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.engine.queues.exhaustion import get_on_exhaustion, set_on_exhaustion
from ojs_cluster.store.engine.queues.partition_maintenance import maintain_queue
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.retention.retention import retire_queues
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.operators.operations import metrics
from tests.store.hot_queues import put_into, spread
from tests.store.shortcuts import QUEUE, ack, nack, put, shard_of, take

DAMAGED = [b"\xff\xfe", b"", "²".encode(), b"-3", b"7.5", b"x" * 400, b"1" * 400]
DECLARED_FIELDS = (
    *("max_per_second", "declared_at", "declared_starts"),
    *("declared_by", "undeclared_at"),
)
"""Fields of a limit that jobs declare."""


@pytest.mark.parametrize("damaged", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("field", ["bound", "on_exhaustion"])
async def test_damaged_values_are_no_values(
    store: Store, db: Any, field: str, damaged: bytes
) -> None:
    [shard] = await spread(store, db, 1)
    db.hset(shard.queue_counters(QUEUE), field, damaged)
    assert await get_bound(store, QUEUE) is None
    assert await get_on_exhaustion(store, QUEUE) is None
    await maintain_queue(store, QUEUE)


@pytest.mark.parametrize("partition", [0, 2])
async def test_maintenance_removes_or_corrects_damaged_values(
    store: Store, db: Any, partition: int
) -> None:
    await set_bound(store, QUEUE, 9)
    await set_on_exhaustion(store, QUEUE, "dead_letter")
    shards = await spread(store, db, 3)
    key = shards[partition].queue_counters(QUEUE)
    db.hset(key, mapping={"bound": b"\xff", "on_exhaustion": b"\xff"})

    await maintain_queue(store, QUEUE)

    expected = [None, None] if partition == 0 else [b"9", b"dead_letter"]
    for shard in shards:
        assert db.hmget(shard.queue_counters(QUEUE), "bound", "on_exhaustion") == expected


async def test_a_damaged_name_of_the_registry_is_removed(store: Store, db: Any) -> None:
    await put(store)
    db.zadd(store.keys.meta.queues, {b"a\xff": 0, b"z\xff": 0})
    after = ""
    for _ in range(3):
        _, after = await retire_queues(store, after, 2)
        if not after:
            break
    assert not after
    assert db.zrange(store.keys.meta.queues, 0, -1) == [QUEUE.encode()]
    assert [found.name for found in (await queues.list_queues(store, limit=9)).entries] == [QUEUE]


@pytest.mark.parametrize(
    ("field", "partitions"),
    [
        *((name, 1) for name in ("starts", "next_start", "active", "acked", "created")),
        *(("minutes", 1), ("limits", 1)),
        # In several partitions ``limits`` is the quota of one, and ``queue_limits`` are the whole.
        *(("limits", 2), ("queue_limits", 2)),
    ],
)
async def test_a_damaged_queue_is_shown(store: Store, db: Any, field: str, partitions: int) -> None:
    """By every reader, and the janitor comes through its round."""
    rate = Rate(1000, 1000)
    shards = await spread(store, db, partitions)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(1000, rate, rate))
    await put(store, rate_limit={"max_per_second": 1000})
    await ack(store, (await take(store))[0])
    await put_into(store, shards[0])
    key, name = shards[0].queue_counters(QUEUE), field
    if field == "minutes":
        key, name = shards[0].queue_minutes(QUEUE), "0"
    for value in (b"text", b"9" * 400, b"1,x,0:0", b"\xff", b""):
        db.hset(key, name, value)

        assert (await rate_limits.get_queue_limits(store, QUEUE)).usage.active >= 0
        assert (await queues.get_stats(store, QUEUE)).has_live_jobs
        numbers = await metrics.collect(store, max_queues=9)
        assert numbers.queues[QUEUE].jobs[State.AVAILABLE] == 1
        assert (await retire_queues(store))[1] == ""


async def test_a_malformed_job_hides_no_numbers(store: Store, db: Any) -> None:
    job = await put(store)
    db.hset(shard_of(store).job(job.id), f.CREATED, b"text")
    db.hdel(shard_of(store).job(job.id), f.ENQUEUED)

    numbers = await metrics.collect(store, max_queues=9)
    assert numbers.queues[QUEUE].jobs[State.AVAILABLE] == 1


@pytest.mark.parametrize(
    "field", [*DECLARED_FIELDS, "limits", "limited_at", "starts", "next_start", "active"]
)
@pytest.mark.parametrize("value", ["text", "", "-1", "nan", "9" * 400, "text,text,text"])
async def test_a_damaged_limit_stops_no_fetch(
    store: Store, db: Any, field: str, value: str
) -> None:
    rate = Rate(1000, 1000)
    await rate_limits.set_queue_limits(store, QUEUE, RateLimits(1000, rate, rate))
    await put(store, rate_limit={"max_per_second": 1000})
    [first] = await take(store)
    await put(store, rate_limit={"max_per_second": 1000})
    db.hset(shard_of(store).queue_counters(QUEUE), field, value)

    assert len(await take(store, count=9)) == 1
    if field in DECLARED_FIELDS:
        await rate_limits.get_queue_limits(store, QUEUE)
    await put(store)
    assert len(await take(store, count=9)) == 1
    await nack(store, first, requeue=True, release=True)
    assert len(await take(store, count=9)) == 1
