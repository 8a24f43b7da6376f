"""The flags ``paused`` and ``draining`` of a queue with several partitions.

The scripts that fetch and enqueue can read the flags only in the shard of the jobs. So each
partition has them. The flags of the other partitions are copies of those of partition 0
(``mirrored_fields.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ojs_cluster.keys import Shard
from ojs_cluster.store.queues import mirrored_fields

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store


async def mirror_flags(store: Store, queue: str) -> None:
    """Make the flags of all partitions agree with those of partition 0.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """

    async def read(shard: Shard) -> tuple[bool, bool]:
        key = shard.queue_counters(queue)
        found: Any = await store.redis.call(
            shard.slot, "HMGET", key, "paused", "draining", idempotent=True
        )
        paused, draining = found
        return paused is not None, draining is not None

    async def write(shard: Shard, flags: tuple[bool, bool]) -> None:
        # 0 switches events off: only the write to partition 0 adds an event.
        await store.run(
            shard,
            "pause_queue",
            [shard.queue_counters(queue), shard.queue_available(queue), shard.events],
            [0, queue, *("set" if flag else "remove" for flag in flags)],
            idempotent=True,
        )

    await mirrored_fields.mirror_field(store, queue, read, write)
