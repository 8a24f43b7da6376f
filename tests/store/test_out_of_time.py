"""A request that is out of time fails alone: it takes no shard that answers for one away."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.deadline import start_deadline
from ojs_cluster.store.context import Store
from tests.store.hot_queues import spread
from tests.store.shortcuts import QUEUE, put, queues_in_other_shards, shard_of, take


async def test_an_effect_does_not_note_the_shard(store: Store) -> None:
    shard = shard_of(store)
    watched, client = store.for_effect(patient=False)
    start_deadline().at = trio.current_time()
    with pytest.raises(BackendUnavailable):
        await watched.redis.call(shard.slot, "EXISTS", shard.due)
    assert shard.slot not in store.unreachable_shards
    assert client.failed_slot is None


async def test_a_fetch_doubts_no_shard(store: Store) -> None:
    names = [QUEUE, *queues_in_other_shards(store, 4)]
    for name in names:
        await put(store, name)
    deadline = start_deadline()
    before = deadline.at
    for some in (names[:2], names):
        deadline.at = trio.current_time()
        with pytest.raises(BackendUnavailable):
            await take(store, *some, count=5)
        assert not store.depth_reader.any_unreachable(shard_of(store, name) for name in names)
    deadline.at = before
    assert len(await take(store, *names, count=5)) == 5


async def test_a_fetch_leaves_no_partition_alone(store: Store, db: Any) -> None:
    await spread(store, db, 4)
    for _ in range(8):
        await put(store)
    deadline = start_deadline()
    before, deadline.at = deadline.at, trio.current_time()
    for _ in range(2):
        with pytest.raises(BackendUnavailable):
            await take(store, count=8)
    deadline.at = before
    assert len(await take(store, count=8)) == 8


async def test_who_reads_depths_for_others_fails_alone(store: Store) -> None:
    shard = shard_of(store)
    await put(store)
    found: list[int] = []

    async def late() -> None:
        start_deadline().at = trio.current_time()
        await store.depth_reader.find_filled(store, {shard: [QUEUE]})

    async def in_time() -> None:
        filled = await store.depth_reader.find_filled(store, {shard: [QUEUE]})
        assert not filled.doubtful
        found.append(len(filled.queues))

    for _ in range(10):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(late)
                nursery.start_soon(in_time)
    assert found == [1] * 30
