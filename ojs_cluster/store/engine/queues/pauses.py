"""Pause, drain and resume queues: the flags ``paused`` and ``draining``.

The end of a drain restores the defaults that a deletion of the queue has removed.

The scripts that fetch and enqueue can read the flags only in the shard of the jobs. So each
partition has them. The flags of the other partitions are copies of those of partition 0
(``mirrored_fields.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import mirrored_fields
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.engine.queues.queues import QueueStatus, queue_status
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.process_state.queue_defaults import restore_removed

QueueAction = Literal["pause", "drain", "undrain", "resume"]
"""A transition of a queue (spec: ojs-queue-config 5.1). ``resume`` ends a pause and a drain."""
_FLAG_CHANGES: Final[Mapping[QueueAction, tuple[str, str]]] = {
    "pause": ("set", "keep"),
    "drain": ("keep", "set"),
    "undrain": ("keep", "remove"),
    "resume": ("remove", "remove"),
}
"""What each transition does to the flags ``paused`` and ``draining``."""


async def pause_or_resume(store: Store, queue: str, action: QueueAction) -> tuple[int, QueueStatus]:
    """Pause, drain or resume a queue; return the server's time in Unix milliseconds and the state.

    Repeating it changes nothing. Jobs can be enqueued while a queue is paused (spec:
    ojs-admin-api). A draining queue takes no new jobs, and workers empty it. Each partition has
    these flags, which the scripts that fetch and enqueue jobs read. The flags of partition 0 are
    authoritative. This function copies them to the other partitions before it returns.

    Raises:
        TooManyQueues: the queue is new, and the registry of queue names is full.
        BackendUnavailable: Redis did not answer in time.
    """
    return await change_flags(store, queue, action)


async def change_flags(
    store: Store, queue: str, action: QueueAction, token: str = "", before_ms: int = 0
) -> tuple[int, QueueStatus]:
    """Change the flags, for an operator or for the deletion with this token.

    Args:
        store: the store.
        queue: the queue's name.
        action: the transition.
        token: the token of a deletion, '' for an operator.
        before_ms: Unix time in ms, by the clock of the queue's first shard, from which on nothing
            is changed any more; 0 for never.

    Raises:
        TooManyQueues: the queue is new, and the registry of queue names is full.
        BackendUnavailable: Redis did not answer in time, or the time ``before_ms`` has passed.
    """
    await store.queues.ensure(store, [queue])
    shard = store.keys.shard_of_queue(queue)
    reply = await store.run(
        shard,
        "pause_queue",
        [shard.queue_counters(queue), shard.queue_available(queue), shard.events],
        [
            *(store.events_arg, queue, *_FLAG_CHANGES[action], token),
            *(("", before_ms) if before_ms else ()),
        ],
        idempotent=True,
    )
    if reply[0] == b"late":
        raise BackendUnavailable(
            f"the request has taken too long to drain queue '{queue}'; repeat it",
            outcome="not_applied",
        )
    now, effects, paused, draining, removed = reply
    await deliver(store, shard, effects)
    with after_first_write():
        if removed:  # the deletion has no token any more, so it does not delete the queue
            await restore_defaults(store, queue, removed)
        await mirror_flags(store, queue)
    return int(now), queue_status(paused=bool(paused), draining=bool(draining))


async def restore_defaults(store: Store, queue: str, removed: bytes) -> None:
    """Restore defaults that a deletion has removed, then remove them from partition 0.

    Args:
        store: the store.
        queue: the queue's name.
        removed: the field ``removed_defaults`` of partition 0 (``pause_queue.lua``).

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await restore_removed(store, queue, removed.partition(b"|")[2])
    shard = store.keys.shard_of_queue(queue)
    await store.run(
        shard,
        "pause_queue",
        [shard.queue_counters(queue), shard.queue_available(queue), shard.events],
        [store.events_arg, queue, "keep", "keep", "", removed],
        idempotent=True,
    )


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
