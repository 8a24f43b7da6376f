"""The pause flag of a queue that has several partitions.

Fetch reads the flag in the script that pops jobs, in the shard of the jobs. So each partition has a
flag. Partition 0 holds the wanted one, and the others follow (``mirrored_fields``).
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
        # Keeps no events: the queue is paused once, not once for each partition.
        await store.run(
            shard,
            "pause_queue",
            [shard.queue_counters(queue), shard.queue_available(queue), shard.events],
            [0, queue, "pause" if paused else "resume"],
            idempotent=True,
        )

    await mirrored_fields.mirror_field(store, queue, read, write)
