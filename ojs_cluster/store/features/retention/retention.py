"""Remove finished jobs, worker records and idle queues after their retention (the janitor)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import META, Shard
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.aliases import check_old_claims, remove_expired_jobs
from ojs_cluster.store.engine.enqueue import references
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.engine.queues import fair_share, partition_maintenance
from ojs_cluster.store.engine.queues.deadlines import log_malformed
from ojs_cluster.store.engine.queues.queues import exists, get_stats
from ojs_cluster.store.engine.transactions import purge_notes
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.features.error_groups.error_groups import purge_error_groups
from ojs_cluster.store.features.queue_drains.unfinished import end_unfinished_deletion
from ojs_cluster.store.features.webhooks.counts import remove_old_counts
from ojs_cluster.store.ground.process_state.registry import NO_NAME_LIMIT
from ojs_cluster.store.ground.runtime import Arg
from ojs_cluster.store.ground.sweep_result import SweepResult

log = logging.getLogger("ojs.store")

_POSTPONE_MS = 60_000
"""Time in milliseconds until the removal of a job is tried again after its owner shard failed."""
IDLE_QUEUE_MS = 60 * 60_000
"""Minimum age in milliseconds of a queue that is retired when it has no jobs."""


async def purge_due(store: Store, shard: Shard, limit: int) -> SweepResult:
    """Remove up to ``limit`` jobs of a shard whose retention is over.

    The removal of a job whose owner shard does not answer is postponed for a minute.

    Args:
        store: the store.
        shard: the shard.
        limit: maximum number of jobs.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    removed, foreign_ids, now, next_ms, malformed = await store.run(
        shard,
        "purge",
        [shard.finished, shard.dead, shard.expiring],
        [limit, shard.index, len(store.keys)],
        idempotent=True,
    )
    log_malformed(shard, malformed)
    postponed = 0
    if foreign_ids:
        job_ids = [job_id.decode() for job_id in foreign_ids]
        removal = await remove_expired_jobs(store, shard, job_ids)
        removed += removal.removed
        if removal.kept_ids:
            await _postpone(store, shard, removal.kept_ids, now)
            postponed = len(removal.kept_ids)
    quarantined = len(malformed)
    more = removed + postponed + quarantined >= limit
    next_ms = None if next_ms < 0 else next_ms
    return SweepResult(removed + quarantined, next_ms, now, more, quarantined)


async def _postpone(store: Store, shard: Shard, job_ids: Sequence[str], now_ms: int) -> None:
    """Postpone the removal of jobs, so that other jobs are removed first."""
    args: list[Arg] = [now_ms + _POSTPONE_MS, *job_ids]
    await store.run(shard, "postpone_members", [shard.finished], args, idempotent=True)


async def remove_leftovers(store: Store, shard: Shard, limit: int = 500) -> int:
    """Remove expired records of a shard other than jobs.

    These are worker records, quiet flags, aliases without a job, locks, error groups,
    transactions, and counts of deleted webhook subscriptions.

    Args:
        store: the store.
        shard: the shard.
        limit: maximum number of entries of each kind.

    Returns:
        Number of checked entries. ``limit`` or more means that further entries may be due.
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
    removed += await purge_error_groups(store, shard, limit)
    removed += checked + await purge_notes.purge_old(store, shard, limit)
    # The master of the meta tag may be away. The next call then removes the counts.
    if store.redis.is_responsive(store.keys.meta.slot):
        await remove_old_counts(store, shard)
    return removed


async def retire_queues(store: Store, after: str = "", limit: int = 100) -> tuple[int, str]:
    """Handle the next ``limit`` queues: remove idle ones, maintain the partitions of the others.

    A round is a series of calls that handles each registered queue once. Its first call also
    removes the counts of deleted webhook subscriptions under the meta tag.

    The keys of a queue are removed first, and the script that removes the last of them appends the
    effect that removes the name. So a crash may leave a name without keys, which the next round
    removes, but no keys without a name.

    A name that is not UTF-8 is damaged and belongs to no queue. It is removed, because every list
    of queues would fail.

    A queue with an unreachable shard, or with a key of a wrong type, is left to the next round.
    Then the old partitions of the default layout also stay open until a later round (see
    ``partition_maintenance.end_round``).

    Args:
        store: the store.
        after: the name that the last call returned, '' at the beginning of a round.
        limit: maximum number of queues.

    Returns:
        Number of removed queues, and the last handled name, '' at the end of the round.
    """
    if not after:
        await partition_maintenance.begin_round(store)
        await remove_old_counts(store, store.keys.webhook_tag(META))
    meta = store.keys.meta
    names: Any = await store.redis.call(
        meta.slot,
        *("ZRANGEBYLEX", meta.queues, f"({after}" if after else "-", "+", "LIMIT", 0, limit),
        idempotent=True,
    )
    retired = 0
    for raw in names:
        try:
            retired += await _retire_or_remove(store, raw)
        except (BackendUnavailable, RedisReplyError) as error:
            # This round misses a queue, so ``end_round`` must not close partitions of the default.
            store.partitions.draining = None
            level = logging.INFO if isinstance(error, BackendUnavailable) else logging.WARNING
            text = "cannot retire queue '%s', trying again in the next round: %s"
            log.log(level, text, raw.decode(errors="replace"), error)
    if len(names) == limit:
        return retired, _last_name(names, after)
    await partition_maintenance.end_round(store)
    return retired, ""


async def _retire_or_remove(store: Store, raw: bytes) -> int:
    """Retire the queue with a name of the registry; remove a name that is damaged."""
    name = raw.decode(errors="replace")
    if name.encode() == raw:
        return await retire(store, name)
    log.error("a damaged name is removed from the registry of queue names: %r", raw)
    meta = store.keys.meta
    await store.redis.call(meta.slot, "ZREM", meta.queues, raw, idempotent=True)
    return 0


def _last_name(names: Sequence[bytes], after: str) -> str:
    """Return the last name that is not damaged, ``after`` if there is none."""
    for raw in reversed(names):
        with suppress(UnicodeDecodeError):
            return raw.decode()
    return after


async def retire(store: Store, queue: str) -> bool:
    """Remove a queue if it is idle, otherwise maintain its partitions; return whether removed.

    In a queue with a fair share, tenants without jobs lose their turns. The drain of a deletion
    whose process has died is ended.

    Raises:
        BackendUnavailable: a shard of the queue does not answer.
    """
    shards = await store.partitions.occupied_shards(store, queue)
    if not all(store.redis.is_responsive(shard.slot) for shard in shards):
        raise BackendUnavailable("a shard of the queue does not answer", outcome="not_applied")
    if len(shards) > 1:
        await partition_maintenance.maintain_queue(store, queue)
        await end_unfinished_deletion(store, queue)
        # An idle partition keeps its counters while another one is in use.
        if (await get_stats(store, queue)).in_use:
            if await fair_share.has_fair_share(store, queue):
                await fair_share.remove_idle_turns(store, queue, shards)
            return False
    for shard in shards:
        removed, effects, *found = await store.run(
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
                *(shard.queue_times(queue), shard.queue_types(queue)),
            ],
            [IDLE_QUEUE_MS, queue if shard is shards[-1] else ""],
            idempotent=True,
        )
        if not removed:
            is_fair, has_deletion = found
            if is_fair:
                await fair_share.remove_idle_turns(store, queue, shards)
            if has_deletion:
                await end_unfinished_deletion(store, queue)
            return False
        await deliver(store, shard, effects)
    return not await exists(store, queue)  # the queue may be in use again


async def unregister_queue(store: Store, _shard: Shard, payload: bytes) -> None:
    """Handle the effect ``unregister_queue``: remove a retired queue's name from the registry.

    A new job may have registered the name again before it is removed here. So the function then
    checks whether the queue has keys, and registers the name of such a queue again. If the process
    dies before the check, the effect is delivered again.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    queue, meta = payload.decode(), store.keys.meta
    await store.redis.call(meta.slot, "ZREM", meta.queues, queue, idempotent=True)
    # The table is read after the removal, because a producer may just have opened a closed
    # partition again.
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
