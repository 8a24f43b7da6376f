"""What time causes in one shard, as the scheduler drives it: promote and reap."""

from __future__ import annotations

import random

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.outbox import deliver
from ojs_cluster.store.tick import Tick


async def promote(store: Store, shard: Shard, limit: int) -> Tick:
    """Make due scheduled and retryable jobs available (spec: ojs-core, ojs-retry).

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    done, now, following, owed = await store.run(
        shard,
        "promote",
        [shard.due, shard.expiring, shard.finished, shard.events],
        [store.settings.events_per_shard, limit, store.settings.retention_discarded_ms],
        idempotent=True,
    )
    await deliver(store, shard, owed)
    return Tick(done, _moment(following), now, done >= limit)


async def reap(store: Store, shard: Shard, limit: int) -> Tick:
    """End lost leases, execution timeouts and expired jobs (spec: ojs-timeouts, ojs-retry 9).

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    settings = store.settings
    lost, timeouts, expired, now, following, owed = await store.run(
        shard,
        "reap",
        [
            *(shard.active, shard.running, shard.expiring, shard.due),
            *(shard.pending, shard.finished, shard.dead, shard.events),
        ],
        [
            *(settings.events_per_shard, limit, random.random()),  # noqa: S311 - jitter
            *(settings.errors_kept, settings.retention_discarded_ms),
            *(settings.retention_dead_ms, settings.dead_letter_max),
        ],
        idempotent=True,
    )
    await deliver(store, shard, owed)
    return Tick(
        lost + timeouts + expired,
        _moment(following),
        now,
        max(lost, timeouts, expired) >= limit,
    )


def _moment(value: int) -> int | None:
    return None if value < 0 else value
