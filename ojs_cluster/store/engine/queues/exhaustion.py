"""``on_exhaustion`` of a queue: what happens to its jobs after their last attempt.

An operator sets it. It is a field of the queue's hash, in each partition, because the script that
ends the last attempt must read it in the same step. The ``on_exhaustion`` of a job's retry policy
overrides it. ``OJS_ON_EXHAUSTION`` holds for jobs and queues without a setting.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ojs_cluster.keys import Shard
from ojs_cluster.store.engine import mirrored_fields
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.ground.partial_failures import after_first_write

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store

_FIELD: Final = "on_exhaustion"
_DECISION: Final = re.compile(rb"discard|dead_letter")


async def set_on_exhaustion(store: Store, queue: str, decision: str | None) -> None:
    """Set ``on_exhaustion`` of a queue, in all its partitions. The queue need not exist.

    Args:
        store: the store.
        queue: the queue's name.
        decision: ``discard`` or ``dead_letter``; None to use ``OJS_ON_EXHAUSTION``.

    Raises:
        TooManyQueues: the queue is new, and the registry of queue names is full.
        BackendUnavailable: Redis did not answer in time.
    """
    await store.queues.ensure(store, [queue])
    await store.partitions.try_read(store)
    await _write(store, store.keys.shard_of_queue(queue), queue, decision or "")
    with after_first_write():
        await mirror_on_exhaustion(store, queue)


async def get_on_exhaustion(store: Store, queue: str) -> str | None:
    """Return the ``on_exhaustion`` that an operator has set for a queue, None for none.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return await _read(store, store.keys.shard_of_queue(queue), queue) or None


async def mirror_on_exhaustion(store: Store, queue: str) -> None:
    """Make ``on_exhaustion`` of all partitions agree with partition 0.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await mirrored_fields.mirror_text(
        store,
        queue,
        lambda shard: _read(store, shard, queue),
        lambda shard, decision: _write(store, shard, queue, decision),
    )


async def _read(store: Store, shard: Shard, queue: str) -> str | None:
    return await mirrored_fields.read_text(store, shard, queue, _FIELD, _DECISION)


async def _write(store: Store, shard: Shard, queue: str, decision: str) -> None:
    keys, args = [shard.queue_counters(queue)], [queue, decision]
    effects = await store.run(shard, "set_on_exhaustion", keys, args, idempotent=True)
    await deliver(store, shard, effects)
