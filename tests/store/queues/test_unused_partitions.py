"""Entries of the partition table whose queues do not exist are removed."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any, cast

import pytest

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.partitions import DRAIN_MS
from ojs_cluster.keys import Shard
from ojs_cluster.redis import Client
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.engine.queues.partition_maintenance import (
    advance_changes,
    remove_unused_entries,
    set_partitions,
)
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.ground.process_state import partitions
from tests.store.hot_queues import pass_time, put_into, spread
from tests.store.shortcuts import DAY, HOUR, QUEUE, put, shard_of, take
from tests.support.invariants import InvariantReport
from tests.support.lossy import LossyClient
from tests.support.moments import Moment, at_moments

Consistent = Callable[[], InvariantReport]


def entry(store: Store, db: Any, queue: str = QUEUE) -> bytes | None:
    found: bytes | None = db.hget(store.keys.meta.partitions, queue)
    return found


async def rounds(store: Store, db: Any, queue: str = QUEUE) -> None:
    """Run the janitor's step for partitions several times, half a minute apart."""
    for _ in range(4):
        await advance_changes(store)
        if entry(store, db, queue) is not None:
            await pass_time(store, db, DRAIN_MS, queue)


async def test_the_entry_of_an_unused_queue_is_removed_after_two_days(
    store: Store, db: Any
) -> None:
    await set_partitions(store, QUEUE, 4)
    await pass_time(store, db, DAY - HOUR)
    await rounds(store, db)
    assert entry(store, db) is not None
    await pass_time(store, db, HOUR)
    await rounds(store, db)
    assert store.partitions.layout(QUEUE).count == 1
    await pass_time(store, db, DAY)
    await rounds(store, db)
    assert entry(store, db) is None


async def test_the_entry_of_a_queue_that_exists_stays(
    store: Store, db: Any, consistent: Consistent
) -> None:
    await spread(store, db, 4)
    await put(store)
    await pass_time(store, db, 30 * DAY)
    await rounds(store, db)
    assert store.partitions.layout(QUEUE).count == 4
    consistent()


async def test_names_that_are_never_used_do_not_block_others_for_long(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "MAX_ENTRIES", 3)
    for number in range(3):
        await set_partitions(store, f"unused{number}", 4)
    with pytest.raises(InvalidRequest):
        await set_partitions(store, QUEUE, 4)

    for number in range(3):
        await pass_time(store, db, HOUR, f"unused{number}")
    for _ in range(4):
        for number in range(3):
            if entry(store, db, f"unused{number}") is not None:
                await pass_time(store, db, HOUR, f"unused{number}")
        await advance_changes(store)
    assert (await set_partitions(store, QUEUE, 4)).count == 4


async def test_a_job_that_arrives_while_its_queues_entry_is_removed_is_found(
    store: Store, db: Any, consistent: Consistent
) -> None:
    """A producer that has read the old number stores it in a partition that is being closed."""
    shards = await spread(store, db, 4)
    await pass_time(store, db, DAY)
    await remove_unused_entries(store, store.partitions.entries())
    assert store.partitions.layout(QUEUE).count == 1
    job = await put_into(store, shards[3])
    await rounds(store, db)

    consistent()
    assert [taken.id for taken in await take(store)] == [job.id]


def asleep(store: Store) -> Store:
    """Return the store of a producer that is suspended until its next job is stored."""
    known = copy(store.partitions)
    known._next_read_at = known._read_at = float("inf")

    async def wake(moment: Moment) -> None:
        if moment.script == "enqueue" and moment.when == "after":
            known._next_read_at = known._read_at = float("-inf")

    return at_moments(replace(store, partitions=known), wake)


async def closed_beside_a_sleeper(store: Store, db: Any) -> tuple[Store, Shard]:
    """Partitions that were closed while a producer slept: its store, and the last of them."""
    shards = await spread(store, db, 4)
    late = asleep(store)
    await pass_time(store, db, DAY)
    await rounds(store, db)
    return late, shards[-1]


async def test_a_job_that_arrives_after_the_partitions_were_closed_is_found(
    store: Store, db: Any, consistent: Consistent
) -> None:
    """Its producer was suspended from before the change until the partitions were closed."""
    late, last = await closed_beside_a_sleeper(store, db)
    assert store.partitions.layout(QUEUE).open_count == 1
    job = await put_into(late, last)
    assert db.exists(last.job(job.id))
    await advance_changes(store)

    assert [taken.id for taken in await take(store)] == [job.id]
    consistent()


async def test_a_late_job_in_a_closed_partition_keeps_its_retired_queue_listed(
    store: Store, db: Any, consistent: Consistent
) -> None:
    """It opens the partition again right before the name is removed."""
    late, last = await closed_beside_a_sleeper(store, db)
    stored = []

    class Overtaken(LossyClient):
        async def call(self, slot: int, *args: Any, **kind: Any) -> Any:
            if args[0] == "ZREM":
                stored.append(await put_into(late, last))
            return await store.redis.call(slot, *args, **kind)

    overtaken = replace(store, redis=cast(Client, Overtaken(store.redis, lambda *_: False)))
    await retention.unregister_queue(overtaken, shard_of(store), QUEUE.encode())

    [listed], *_ = await queues.list_queues(store, limit=9)
    assert (listed.name, listed.counts[State.AVAILABLE]) == (QUEUE, 1)
    assert [taken.id for taken in await take(store)] == [job.id for job in stored]
    consistent()


async def test_an_entry_that_cannot_be_read_ends_no_process(store: Store, db: Any) -> None:
    await put(store)
    db.hset(store.keys.meta.partitions, mapping={"other": "x", "#": 2**40})
    store.partitions._next_read_at = store.partitions._read_at = float("-inf")
    await put(store)
    assert len(await take(store, count=9)) == 2
