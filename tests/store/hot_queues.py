"""Helpers to spread queues over partitions, and to put jobs into a given one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.partitions import DRAIN_MS, PROPAGATION_MS
from ojs_cluster.core.rate_limit import unpack_limits
from ojs_cluster.keys import Shard
from ojs_cluster.redis import Client
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues.partition_maintenance import advance_changes, set_partitions
from tests.store.shortcuts import QUEUE, id_in, put
from tests.support.lossy import LossyClient
from tests.support.timeshift import age_partitions


async def spread(store: Store, db: Any, count: int, queue: str = QUEUE) -> list[Shard]:
    """Give a queue ``count`` partitions, as if long ago; return their shards."""
    await set_partitions(store, queue, count)
    if count > 1:
        await pass_time(store, db, PROPAGATION_MS, queue)
    return store.keys.partitions(queue, count)


async def pass_time(store: Store, db: Any, ms: int, queue: str = QUEUE) -> None:
    """Move the last change of a queue's partitions ``ms`` into the past, and read the table."""
    age_partitions(db, store.keys.meta, queue, ms)
    await store.partitions.read(store)


async def close_empty(store: Store, db: Any, queue: str = QUEUE) -> None:
    """Run the janitor's step for partitions twice, half a minute apart."""
    for _ in range(2):
        if db.hexists(store.keys.meta.partitions, queue):
            await pass_time(store, db, DRAIN_MS, queue)
        await advance_changes(store)


async def put_into(store: Store, shard: Shard, queue: str = QUEUE, **members: Any) -> JobRecord:
    """Enqueue a job into the partition in ``shard``, which a client's id selects."""
    job = await put(store, queue, id=id_in(shard.index), **members)
    return job


def sum_of_quotas(store: Store, db: Any, queue: str = QUEUE) -> int:
    """Return the sum of the concurrency quotas of a queue's open partitions."""
    shards = store.keys.partitions(queue, store.partitions.layout(queue).open_count)
    packed = [db.hget(shard.queue_counters(queue), "limits") for shard in shards]
    limits = [unpack_limits(text.decode()) for text in packed if text is not None]
    return sum(quota.concurrency or 0 for quota in limits)


def failing(store: Store, fails: Callable[[str, int], bool]) -> Store:
    """Return a store whose calls fail if ``fails`` is true for their script and slot."""

    class Failing(LossyClient):
        async def script(self, slot: int, script: Any, keys: Any, args: Any, **kind: Any) -> Any:
            if fails(script.name, slot):
                raise BackendUnavailable("no connection", outcome="not_applied")
            return await super().script(slot, script, keys, args, **kind)

    return replace(store, redis=cast(Client, Failing(store.redis, lambda *_: False)))
