"""Remove what has reached the end of its retention: finished jobs, worker records, idle queues."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue import references
from ojs_cluster.store.enqueue.aliases import check_old_claims, remove_expired_jobs
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.queues import partition_maintenance
from ojs_cluster.store.queues.queues import exists, get_stats
from ojs_cluster.store.queues.registry import NO_NAME_LIMIT
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.sweeps.deadlines import log_malformed
from ojs_cluster.store.sweeps.sweep_result import SweepResult
from ojs_cluster.store.transactions import transactions
from ojs_cluster.store.unique import unique

log = logging.getLogger("ojs.store")

_POSTPONE_MS = 60_000
"""Pause in milliseconds before the next removal of a job whose owner shard does not answer."""
IDLE_QUEUE_MS = 60 * 60_000
"""Age in milliseconds below which a queue is not retired."""


async def purge_due(store: Store, shard: Shard, limit: int) -> SweepResult:
    """Remove up to ``limit`` jobs of a shard whose retention is over.

    A job whose owner shard does not answer is postponed for a minute.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    removed, foreign, now, following, malformed = await store.run(
        shard,
        "purge",
        [shard.finished, shard.dead, shard.expiring],
        [limit, shard.index, len(store.keys)],
        idempotent=True,
    )
    log_malformed(shard, malformed)
    postponed = 0
    if foreign:
        removal = await remove_expired_jobs(store, shard, [job_id.decode() for job_id in foreign])
        removed += removal.removed
        if removal.kept_ids:
            await _postpone(store, shard, removal.kept_ids, now)
            postponed = len(removal.kept_ids)
    quarantined = len(malformed)
    more = removed + postponed + quarantined >= limit
    following = None if following < 0 else following
    return SweepResult(removed + quarantined, following, now, more, quarantined)


async def _postpone(store: Store, shard: Shard, job_ids: Sequence[str], now_ms: int) -> None:
    """Move jobs that cannot be removed now behind others."""
    args: list[Arg] = [now_ms + _POSTPONE_MS, *job_ids]
    await store.run(shard, "postpone_removal", [shard.finished], args, idempotent=True)


async def remove_leftovers(store: Store, shard: Shard, limit: int = 500) -> int:
    """Remove old worker records, quiet flags, locks, transactions and aliases without a job.

    Returns:
        Number of checked entries; a full page means that there may be more.
    """
    records = await store.run(
        shard,
        "remove_old_workers",
        [shard.workers, shard.watched, shard.quiet_workers],
        [limit, store.settings.worker_retention_ms],
        idempotent=True,
    )
    removed = int(records) + await check_old_claims(store, shard, limit)
    checked = await unique.check_old_locks(store, shard, limit)
    checked += await references.check_references(store, shard, limit)
    return removed + checked + await transactions.purge_old(store, shard, limit)


async def retire_queues(store: Store, after: str = "", limit: int = 100) -> tuple[int, str]:
    """Remove idle queues among the ``limit`` names after ``after``.

    The queue's own keys are removed first. A crash then leaves a name, which the next round
    handles, and no keys without a name. The script that removes the last key appends the effect
    that removes the name.

    A complete round also maintains each queue's partitions. A queue with an unreachable shard is
    left to the next round, together with the partitions that a smaller default has closed.

    Args:
        store: the store.
        after: the name that the last call returned, '' at the beginning of a round.
        limit: most names.

    Returns:
        Number of removed queues, and the name to continue after, '' at the end of the round.
    """
    if not after:
        await partition_maintenance.begin_round(store)
    meta = store.keys.meta
    names: Any = await store.redis.call(
        meta.slot,
        *("ZRANGEBYLEX", meta.queues, f"({after}" if after else "-", "+", "LIMIT", 0, limit),
        idempotent=True,
    )
    retired = 0
    for raw in names:
        try:
            retired += await _retire(store, raw.decode())
        except BackendUnavailable as error:
            store.partitions.draining = None  # not every queue was maintained
            log.info(
                "cannot retire queue '%s', trying again in the next round: %s", raw.decode(), error
            )
    if len(names) == limit:
        return retired, names[-1].decode()
    await partition_maintenance.end_round(store)
    return retired, ""


async def _retire(store: Store, queue: str) -> bool:
    shards = await store.partitions.occupied_shards(store, queue)
    if not all(store.redis.is_responsive(shard.slot) for shard in shards):
        raise BackendUnavailable("a shard of the queue does not answer", outcome="not_applied")
    if len(shards) > 1:
        await partition_maintenance.maintain_queue(store, queue)
        # An idle partition keeps its counters while another one is in use.
        if (await get_stats(store, queue)).in_use:
            return False
    for shard in shards:
        gone, effects = await store.run(
            shard,
            "retire_queue",
            [
                *(
                    shard.queue_counters(queue),
                    shard.queue_available(queue),
                    shard.queue_minutes(queue),
                ),
                *(shard.queue_blocked(queue), shard.token_demand(queue)),
                *(shard.queue_history(queue), shard.history_totals),
            ],
            [IDLE_QUEUE_MS, queue if shard is shards[-1] else ""],
            idempotent=True,
        )
        if not gone:
            return False
        await deliver(store, shard, effects)
    return not await exists(store, queue)  # it may be in use again


async def unregister_queue(store: Store, _shard: Shard, payload: bytes) -> None:
    """Remove a retired queue's name from the registry, unless the queue is in use again.

    The effect of ``retire_queue.lua``. A new job may have registered the name before its removal.
    The check comes last, so that a repetition after a crash restores the name.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    queue, meta = payload.decode(), store.keys.meta
    await store.redis.call(meta.slot, "ZREM", meta.queues, queue, idempotent=True)
    # Read after the removal: a late producer may have opened a closed partition again before it.
    await store.partitions.read(store)
    shards = await store.partitions.occupied_shards(store, queue)
    for shard in shards:
        if await store.redis.call(
            shard.slot, "EXISTS", shard.queue_counters(queue), idempotent=True
        ):
            await store.run_meta("register_again", [meta.queues], [queue, NO_NAME_LIMIT])
            return
    if len(shards) > 1:
        await partition_maintenance.forget_closed_partitions(store, queue)
