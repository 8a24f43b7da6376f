"""The pause mark of a queue that has several partitions.

Fetch reads the mark in its pop, in the shard it takes jobs from, so each partition has one. That of
partition 0 says what is wanted, and the others follow (``mirrors``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ojs_cluster.keys import Shard
from ojs_cluster.store.queues import mirrored_fields

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store


async def mirror(store: Store, queue: str) -> None:
    """Make the marks of all partitions agree.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """

    async def read(shard: Shard) -> bool:
        key = shard.queue_counters(queue)
        return (
            await store.redis.call(shard.slot, "HGET", key, "paused", idempotent=True) is not None
        )

    async def write(shard: Shard, paused: bool) -> None:
        # No events: the queue is paused once, not once for each partition.
        await store.run(
            shard,
            "switch_queue",
            [shard.queue_counters(queue), shard.queue_available(queue), shard.events],
            [0, queue, "pause" if paused else "resume"],
            idempotent=True,
        )

    await mirrored_fields.mirror(store, queue, read, write)
