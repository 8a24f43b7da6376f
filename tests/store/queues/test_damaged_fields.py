"""Damaged mirrored fields of a queue stop neither its maintenance nor that of later queues."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits.depth_bounds import get_bound, set_bound
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.engine.queues.exhaustion import get_on_exhaustion, set_on_exhaustion
from ojs_cluster.store.engine.queues.partition_maintenance import maintain_queue
from ojs_cluster.store.features.retention.retention import retire_queues
from tests.store.hot_queues import spread
from tests.store.shortcuts import QUEUE, put

DAMAGED = [b"\xff\xfe", b"", "²".encode(), b"-3", b"7.5", b"x" * 400, b"1" * 400]


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
