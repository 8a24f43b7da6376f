"""The end of everything that is kept: finished jobs, worker records, aliases, idle queues."""

from __future__ import annotations

from typing import Any

from ojs_cluster.keys import Shard
from ojs_cluster.store import deals, unique
from ojs_cluster.store.aliases import remove_due, settle_claims
from ojs_cluster.store.context import Store
from ojs_cluster.store.tick import Tick

IDLE_QUEUE_MS = 60 * 60_000
"""A queue younger than this is not retired, however empty."""


async def purge_due(store: Store, shard: Shard, limit: int) -> Tick:
    """Remove up to ``limit`` jobs of a shard whose retention is over.

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    removed, foreign, now, following = await store.run(
        shard,
        "purge",
        [shard.finished, shard.dead, shard.expiring],
        [limit, shard.index, len(store.keys)],
        idempotent=True,
    )
    for job_id in foreign:
        removed += await remove_due(store, shard, job_id.decode())
    return Tick(removed, None if following < 0 else following, now, removed >= limit)


async def tidy(store: Store, shard: Shard, limit: int = 500) -> int:
    """Remove old worker records, lapsed quiet marks, aliases, locks and deals.

    Returns how many were removed or, of locks, looked at.
    """
    records = await store.run(
        shard,
        "tidy",
        [shard.workers, shard.watched, shard.quiet],
        [limit, store.settings.worker_retention_ms],
        idempotent=True,
    )
    removed = int(records) + await settle_claims(store, shard, limit)
    looked_at = await unique.sweep(store, shard, limit)
    return removed + looked_at + await deals.tidy(store, shard, limit)


async def retire_queues(store: Store, after: str = "", limit: int = 100) -> tuple[int, str]:
    """Forget idle queues among the ``limit`` names after ``after``.

    Returns how many were forgotten and the name to go on from, '' at the end. The name goes
    first; when the queue turns out to be used it comes back. A process that enqueues to the queue
    meanwhile registers it again within a minute (see ``registry``).
    """
    meta = store.keys.meta
    names: Any = await store.redis.call(
        meta.slot,
        *("ZRANGEBYLEX", meta.queues, f"({after}" if after else "-", "+", "LIMIT", 0, limit),
        idempotent=True,
    )
    retired = 0
    for raw in names:
        queue = raw.decode()
        if not await _looks_idle(store, queue):
            continue
        await store.redis.call(meta.slot, "ZREM", meta.queues, queue, idempotent=True)
        shard = store.keys.shard_of_queue(queue)
        gone = await store.run(
            shard,
            "retire_queue",
            [shard.queue(queue), shard.available(queue), shard.minutes(queue)],
            [IDLE_QUEUE_MS],
            idempotent=True,
        )
        if gone:
            retired += 1
        else:
            await store.redis.call(meta.slot, "ZADD", meta.queues, 0, queue, idempotent=True)
    return retired, names[-1].decode() if len(names) == limit else ""


async def _looks_idle(store: Store, queue: str) -> bool:
    """A cheap look before the name is taken away: most queues are in use."""
    shard = store.keys.shard_of_queue(queue)
    flat: Any = await store.redis.call(shard.slot, "HGETALL", shard.queue(queue), idempotent=True)
    items = iter(flat)
    fields = dict(zip(items, items, strict=True))
    busy = any(
        value != b"0"
        for name, value in fields.items()
        if name not in (b"created", b"seq", b"acked")
    )
    waiting = await store.redis.call(shard.slot, "EXISTS", shard.available(queue), idempotent=True)
    return not busy and not waiting
