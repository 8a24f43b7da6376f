"""The pause flag of a queue with several partitions.

The fetch script can read the flag only in the shard of the jobs. So each partition has a flag. The
flags of the other partitions are copies of the flag of partition 0 (``mirrored_fields.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ojs_cluster.keys import Shard
from ojs_cluster.store.queues import mirrored_fields

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store


async def mirror_pause_flag(store: Store, queue: str) -> None:
    """Make the pause flags of all partitions agree with that of partition 0.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """

    async def read(shard: Shard) -> bool:
        key = shard.queue_counters(queue)
        flag = await store.redis.call(shard.slot, "HGET", key, "paused", idempotent=True)
        return flag is not None

    async def write(shard: Shard, paused: bool) -> None:
        # 0 switches events off: only the write to partition 0 adds an event.
        await store.run(
            shard,
            "pause_queue",
            [shard.queue_counters(queue), shard.queue_available(queue), shard.events],
            [0, queue, "pause" if paused else "resume"],
            idempotent=True,
        )

    await mirrored_fields.mirror_field(store, queue, read, write)
