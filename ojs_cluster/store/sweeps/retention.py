"""The end of everything that is kept: finished jobs, worker records, aliases, idle queues."""

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
from ojs_cluster.store.sweeps.deadlines import report_malformed
from ojs_cluster.store.sweeps.sweep_result import SweepResult
from ojs_cluster.store.transactions import transactions
from ojs_cluster.store.unique import unique

log = logging.getLogger("ojs.store")

_PUT_OFF_MS = 60_000
"""How long a job is left alone whose alias's shard does not answer."""
IDLE_QUEUE_MS = 60 * 60_000
"""A queue younger than this is not retired, however empty."""


async def purge_due(store: Store, shard: Shard, limit: int) -> SweepResult:
    """Remove up to ``limit`` jobs of a shard whose retention is over.

    Those whose alias's shard does not answer are put off for a minute.

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
    report_malformed(shard, malformed)
    put_off = 0
    if foreign:
        removal = await remove_expired_jobs(store, shard, [job_id.decode() for job_id in foreign])
        removed += removal.removed
        if removal.left:
            await _put_off(store, shard, removal.left, now)
            put_off = len(removal.left)
    aside = len(malformed)
    more = removed + put_off + aside >= limit
    return SweepResult(removed + aside, None if following < 0 else following, now, more, aside)


async def _put_off(store: Store, shard: Shard, job_ids: Sequence[str], now_ms: int) -> None:
    """Let jobs that cannot be removed now stand before no others."""
    args: list[Arg] = [now_ms + _PUT_OFF_MS, *job_ids]
    await store.run(shard, "postpone_removal", [shard.finished], args, idempotent=True)


async def tidy(store: Store, shard: Shard, limit: int = 500) -> int:
    """Remove old worker records, lapsed quiet marks, aliases without a job, locks and transactions.

    Returns how many entries were looked at, so that a full page means there may be more.
    """
    records = await store.run(
        shard,
        "tidy",
        [shard.workers, shard.watched, shard.quiet_workers],
        [limit, store.settings.worker_retention_ms],
        idempotent=True,
    )
    removed = int(records) + await check_old_claims(store, shard, limit)
    looked_at = await unique.check_old_locks(store, shard, limit)
    looked_at += await references.check_references(store, shard, limit)
    return removed + looked_at + await transactions.purge_old(store, shard, limit)


async def retire_queues(store: Store, after: str = "", limit: int = 100) -> tuple[int, str]:
    """Forget idle queues among the ``limit`` names after ``after``.

    Returns how many were forgotten and the name to go on from, '' at the end. The queue's own keys
    go first: a crash then leaves a name, which the next round meets again, and not keys that
    nothing leads to. The script that removes the last of them owes the removal of the name.

    A round from '' to '' has also looked after each queue's partitions. A queue whose shard is away
    is left to the next round, and with it the partitions that a smaller default has closed.
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
            store.partitions.draining = None  # not every queue was looked after
            log.info("queue '%s' is left to the next round: %s", raw.decode(), error)
    if len(names) == limit:
        return retired, names[-1].decode()
    await partition_maintenance.end_round(store)
    return retired, ""


async def _retire(store: Store, queue: str) -> bool:
    shards = await store.partitions.occupied_shards(store, queue)
    if not all(store.redis.is_responsive(shard.slot) for shard in shards):
        raise BackendUnavailable("a shard of the queue is away", outcome="not_applied")
    if len(shards) > 1:
        await partition_maintenance.maintain_queue(store, queue)
        # One idle partition keeps its counters while another is in use: they are the queue's.
        if (await get_stats(store, queue)).in_use:
            return False
    for shard in shards:
        gone, owed = await store.run(
            shard,
            "retire_queue",
            [
                *(
                    shard.queue_counters(queue),
                    shard.queue_available(queue),
                    shard.queue_minutes(queue),
                ),
                *(shard.queue_blocked(queue), shard.token_demand(queue)),
            ],
            [IDLE_QUEUE_MS, queue if shard is shards[-1] else ""],
            idempotent=True,
        )
        if not gone:
            return False
        await deliver(store, shard, owed)
    return not await exists(store, queue)  # it may be in use again


async def unlist(store: Store, _shard: Shard, payload: bytes) -> None:
    """Remove a retired queue's name from the registry, unless the queue is in use again.

    The effect of ``retire_queue.lua``. The next job may have come in between, and registered the
    name before it was removed: the look comes last, so that a repetition after a crash restores it.

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
        await partition_maintenance.forget_queue(store, queue)
