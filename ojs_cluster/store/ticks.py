"""What time causes in one shard, as the scheduler drives it: promote and reap."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.outbox import deliver
from ojs_cluster.store.tick import Tick

log = logging.getLogger("ojs.store")


async def promote(store: Store, shard: Shard, limit: int) -> Tick:
    """Make due scheduled and retryable jobs available (spec: ojs-core, ojs-retry).

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    done, now, following, owed, sick = await store.run(
        shard,
        "promote",
        [shard.due, shard.expiring, shard.finished, shard.events],
        [store.settings.events_per_shard, limit, store.settings.retention_discarded_ms],
        idempotent=True,
    )
    await deliver(store, shard, owed)
    _report(shard, sick)
    done += len(sick)
    return Tick(done, _moment(following), now, done >= limit, len(sick))


async def reap(store: Store, shard: Shard, limit: int) -> Tick:
    """End lost leases, execution timeouts and expired jobs (spec: ojs-timeouts, ojs-retry 9).

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    settings = store.settings
    lost, timeouts, expired, now, following, owed, sick = await store.run(
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
    _report(shard, sick)
    return Tick(
        lost + timeouts + expired + len(sick),
        _moment(following),
        now,
        max(lost, timeouts, expired) + len(sick) >= limit,
        len(sick),
    )


def _report(shard: Shard, sick: Sequence[bytes]) -> None:
    for job_id in dict.fromkeys(sick):
        log.error(
            "job %s of shard %d is put aside for an hour: fields of it are missing or no numbers",
            job_id.decode(),
            shard.index,
        )


def _moment(value: int) -> int | None:
    return None if value < 0 else value
