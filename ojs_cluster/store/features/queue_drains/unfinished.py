"""End what a deletion has left in its queue when its process died, or when a master was away.

The janitor calls this for each queue with such fields, so a queue does not refuse jobs until an
operator resumes it. A deletion whose drain was ended too early is refused, and deletes nothing.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, Final

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.validate_job import read_number
from ojs_cluster.store.engine.queues.pauses import restore_defaults
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.queue_drains.drains import end_drain

log = logging.getLogger("ojs.store")

MAX_REQUEST_MS: Final = 60_000
"""Milliseconds that a deletion without jobs may take. A deletion with jobs has an operation, which
tells whether it has ended."""


async def end_unfinished_deletion(store: Store, queue: str) -> bool:
    """End the drain of a deletion that has ended, and restore defaults that it has removed.

    If an operator had drained the queue before the deletion, the queue keeps draining.

    Returns:
        Whether there was anything to end.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shard = store.keys.shard_of_queue(queue)
    found: Any = await store.redis.call(
        *(shard.slot, "HMGET", shard.queue_counters(queue)),
        *("deleting", "draining", "removed_defaults"),
        idempotent=True,
    )
    deletion, draining, removed = found
    if deletion is None:
        # A process has ended the drain, and died before it restored the defaults.
        if removed is None or not removed.startswith(b"|"):
            return False
        await restore_defaults(store, queue, removed)
        log.warning("the defaults of queue %s are restored: its deletion has not ended", queue)
        return True
    token = deletion.decode(errors="replace").removesuffix("*")
    # An operation is stored before its drain begins, so one that is not found has ended.
    if await operations.has_running_deletion(store, token):
        return False
    began_ms = _began_ms(token)
    if began_ms is None:  # a token of an earlier version, whose process may still be at work
        if deletion.endswith(b"*"):
            # An operator had drained the queue before. When an operator resumes it, the token is
            # removed, and the defaults are restored.
            return False
        began_ms = read_number(draining)
    if store.partitions.now_ms() - began_ms < MAX_REQUEST_MS:
        return False
    await end_drain(store, queue, token)
    log.warning("queue %s does not drain any more: its deletion has not ended", queue)
    return True


def _began_ms(token: str) -> int | None:
    """Return when a deletion began; None for a token of an earlier version, which has no time."""
    time, has_time, _ = token.partition("-")
    if has_time:
        with suppress(ValueError):
            return int(time, 16)
    return None
