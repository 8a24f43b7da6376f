"""Copy the settings of a queue to its partitions, before any process uses a new one.

Scripts can read only the queue's hash in their own shard. So each partition has a copy of the
settings that these scripts need (``mirrored_fields.py``), and a quota of the limits. A partition is
*occupied* before it is *open*: from then on, each process that changes a setting also writes this
partition. Then this module copies what has been set before, and only after that workers and
producers use the partition.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits import depth_bounds, partition_quotas
from ojs_cluster.store.engine.queues import exhaustion, fair_share, pauses
from ojs_cluster.store.engine.queues.queues import get_partition_stats
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.partitions import NO_ENTRY_LIMIT

_FIELDS: Final = (
    *("paused", "draining", "bound", "overflow", "on_exhaustion", "fair"),
    *("limits", "queue_limits"),
)
"""Fields of a queue's hash that a setting of the queue has in each partition."""


async def copy_settings(store: Store, queue: str) -> bool:
    """Make the settings in all partitions agree with those of partition 0.

    Returns:
        Whether the queue has any setting. Most queues have none, which costs one call for each
        partition.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shards = await store.partitions.occupied_shards(store, queue)
    if len(shards) == 1:
        return False
    has_settings = False

    async def check(shard: Shard) -> None:
        nonlocal has_settings
        key = shard.queue_counters(queue)
        found: Any = await store.redis.call(shard.slot, "HMGET", key, *_FIELDS, idempotent=True)
        has_settings = has_settings or any(value is not None for value in found)

    await run_concurrently(shards, check)
    if has_settings:
        await pauses.mirror_flags(store, queue)
        await partition_quotas.update_quotas(store, queue)
        await depth_bounds.BOUND.mirror(store, queue)
        await exhaustion.ON_EXHAUSTION.mirror(store, queue)
        await fair_share.FAIR_SHARE.mirror(store, queue)
    return has_settings


async def ensure_open(store: Store, shard: Shard, queues: Iterable[str]) -> None:
    """Make sure that workers search ``shard`` for jobs of ``queues``.

    Call it before jobs are put into a shard that was chosen earlier. The partition may have been
    closed since.

    Raises:
        BackendUnavailable: Redis did not answer in time. Workers may not search the shard.
    """
    table = store.partitions
    await table.refresh_if_stale(store)
    for queue in queues:
        count = store.keys.partition_of(queue, shard) + 1
        if count <= table.layout(queue).open_count:
            continue
        await table.update(store, queue, partial(_reserved, count), max_entries=NO_ENTRY_LIMIT)
        await copy_settings(store, queue)
        await table.update(store, queue, partial(_opened, count), max_entries=NO_ENTRY_LIMIT)


def _reserved(count: int, layout: PartitionLayout, now_ms: int) -> PartitionLayout:
    return layout.reserved(count, now_ms)


def _opened(count: int, layout: PartitionLayout, now_ms: int) -> PartitionLayout:
    return layout.with_open(count, now_ms)


async def open_if_used(store: Store, shard: Shard, queue: str) -> None:
    """Make sure that workers search a partition of a queue, if it has waiting or active jobs.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.refresh_if_stale(store)
    number = store.keys.partition_of(queue, shard)
    if number < store.partitions.layout(queue).open_count:
        return
    if (await get_partition_stats(store, shard, queue)).has_live_jobs:
        await ensure_open(store, shard, [queue])
