"""What queues did in each of the last minutes, for the list of queues."""

from __future__ import annotations

from typing import Any

from ojs_cluster.store.context import Store
from ojs_cluster.store.features.statistics.recent_minutes import recent_minutes
from ojs_cluster.store.features.statistics.record_minutes import MinuteRecorder
from ojs_cluster.store.features.statistics.records import QUEUE_MINUTES
from tests.store.hot_queues import spread
from tests.store.shortcuts import QUEUE, ack, active, nack

NOW = 29_000_000
"""The present minute in these tests, in Unix minutes."""


async def read(store: Store, *names: str) -> dict[str, list[tuple[int, int]]]:
    return await recent_minutes(store, names, 4, NOW)


async def test_each_minute_has_completed_jobs_and_failed_attempts(store: Store) -> None:
    recorder = MinuteRecorder(store)
    await ack(store, await active(store, "one"))
    await recorder.record(NOW - 2)
    await ack(store, await active(store, "one"))
    await nack(store, await active(store, "one"))
    await ack(store, await active(store, "two"))
    await recorder.record(NOW)

    assert await read(store, "one", "two", "none") == {
        "one": [(0, 0), (1, 0), (0, 0), (1, 1)],
        "two": [(0, 0), (0, 0), (0, 0), (1, 0)],
        "none": [(0, 0)] * 4,
    }


async def test_older_minutes_in_the_same_fields_are_left_out(store: Store) -> None:
    recorder = MinuteRecorder(store)
    await ack(store, await active(store, "one"))
    await recorder.record(NOW - QUEUE_MINUTES)
    assert await read(store, "one") == {"one": [(0, 0)] * 4}


async def test_the_partitions_of_a_queue_are_summed(store: Store, db: Any) -> None:
    recorder = MinuteRecorder(store)
    await spread(store, db, 3)
    for _ in range(12):
        await ack(store, await active(store, QUEUE))
    await recorder.record(NOW - 1)
    assert await read(store, QUEUE) == {QUEUE: [(0, 0), (0, 0), (12, 0), (0, 0)]}


async def test_a_damaged_record_counts_nothing(store: Store, db: Any) -> None:
    key = store.keys.shard_of_queue("one").queue_history("one")
    slot = NOW % QUEUE_MINUTES
    db.hset(key, mapping={str(slot): b"x,1,2", str(slot - 1): b"29", str(slot - 2): b""})
    assert await read(store, "one") == {"one": [(0, 0)] * 4}
