"""Remove the available jobs of a queue (spec: ojs-admin-api)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import trio

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.aliases import remove_expired_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.partial_failures import after_first_write

_MAX_PURGED = 500
"""Jobs that one script purges."""
PURGE_S = 20.0
"""Time in seconds after which a purge stops and returns; the caller repeats it."""


async def purge(store: Store, queue: str) -> tuple[int, int]:
    """Remove a queue's available jobs; return how many were removed and how many remain.

    Raises:
        BackendUnavailable: Redis did not answer in time; some jobs may have been removed.
    """
    removed = remaining = 0
    extend_deadline(PURGE_S)
    deadline = trio.current_time() + PURGE_S

    async def purge_one(shard: Shard) -> None:
        nonlocal removed, remaining
        removed_here, remaining_here = await _purge_partition(store, shard, queue, deadline)
        removed, remaining = removed + removed_here, remaining + remaining_here

    shards = await store.partitions.occupied_shards(store, queue)
    # When one partition fails, jobs of others may have been removed.
    with after_first_write(when=len(shards) > 1):
        await run_concurrently(shards, purge_one)
    return removed, remaining


async def _purge_partition(
    store: Store, shard: Shard, queue: str, deadline: float
) -> tuple[int, int]:
    """Remove a queue's available jobs from one shard until none is left or time is up.

    Args:
        store: the store.
        shard: the shard.
        queue: the queue's name.
        deadline: the end of the purge, in seconds of trio's clock.

    Returns:
        How many jobs were removed, and how many remain.
    """
    removed = remaining = 0
    while True:
        with after_first_write(when=removed > 0):
            purged, not_removed, remaining = await store.run(
                shard,
                "purge_queue",
                [
                    *(shard.queue_available(queue), shard.queue_counters(queue)),
                    *(shard.finished, shard.dead, shard.expiring, shard.queue_blocked(queue)),
                    shard.tenant_turns(queue),
                ],
                [_MAX_PURGED, shard.index, len(store.keys)],
                idempotent=True,
            )
        with after_first_write():
            purged += await _cancel_and_remove(store, shard, [i.decode() for i in not_removed])
        removed += purged
        if not purged or trio.current_time() >= deadline:
            return removed, remaining


async def _cancel_and_remove(store: Store, shard: Shard, job_ids: Sequence[str]) -> int:
    """Cancel and remove jobs that ``purge_queue.lua`` cannot remove; return how many it cancelled.

    The removal of such a job also changes other shards: its alias, workflow, lock or token.

    The jobs are cancelled first, so that no worker gets them. A job whose id was fixed in advance,
    such as a workflow's step, stays cancelled for a while before it is removed (see
    ``removal_time`` in ``store/include/jobs/removal_time.lua``).
    """
    cancelled: list[str] = []

    async def cancel_one(job_id: str) -> None:
        with suppress(NotFound, Conflict):  # a worker may have fetched it in between
            await cancel(store, job_id, keep_ms=0, only="available")
            cancelled.append(job_id)

    await run_concurrently(job_ids, cancel_one)
    removal = await remove_expired_jobs(store, shard, cancelled)
    if removal.error is not None:
        raise removal.error
    return len(cancelled)
