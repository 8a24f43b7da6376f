"""``on_exhaustion`` of a queue: what happens to its jobs after their last attempt.

An operator sets it. It is a field of the queue's hash, in each partition, because the script that
ends the last attempt must read it in the same step. The ``on_exhaustion`` of a job's retry policy
overrides it. ``OJS_ON_EXHAUSTION`` holds for jobs and queues without a setting.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ojs_cluster.keys import Shard
from ojs_cluster.store.engine.mirrored_fields import MirroredText, reader_of
from ojs_cluster.store.engine.outbox.outbox import deliver

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store


async def _write(store: Store, shard: Shard, queue: str, decision: str) -> None:
    keys, args = [shard.queue_counters(queue)], [queue, decision]
    effects = await store.run(shard, "set_on_exhaustion", keys, args, idempotent=True)
    await deliver(store, shard, effects)


ON_EXHAUSTION: Final = MirroredText(
    reader_of("on_exhaustion", re.compile(rb"discard|dead_letter")), _write
)


async def set_on_exhaustion(store: Store, queue: str, decision: str | None) -> None:
    """Set ``on_exhaustion`` of a queue, as ``MirroredText.set``.

    Args:
        store: the store.
        queue: the queue's name.
        decision: ``discard`` or ``dead_letter``; None to use ``OJS_ON_EXHAUSTION``.
    """
    await ON_EXHAUSTION.set(store, queue, decision or "")


async def get_on_exhaustion(store: Store, queue: str) -> str | None:
    """Return the ``on_exhaustion`` that an operator has set for a queue, None for none."""
    return await ON_EXHAUSTION.get(store, queue) or None
