"""What time causes in one shard, as the scheduler drives it: promote and reap."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store


@dataclass(frozen=True, slots=True)
class Tick:
    """What one run did. Times are ms of the shard's own clock.

    Parameters
    ----------
    done: jobs that changed.
    next_ms: when there is next something to do, None when nothing is under a deadline.
    more: there was more to do than the limit allowed.
    """

    done: int
    next_ms: int | None
    now_ms: int
    more: bool


async def promote(store: Store, shard: Shard, limit: int) -> Tick:
    """Make due scheduled and retryable jobs available (spec: ojs-core, ojs-retry).

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    done, now, following = await store.run(
        shard,
        "promote",
        [shard.due, shard.expiring, shard.finished, shard.events],
        [store.settings.events_per_shard, limit, store.settings.retention_discarded_ms],
        idempotent=True,
    )
    return Tick(done, _moment(following), now, done >= limit)


async def reap(store: Store, shard: Shard, limit: int) -> Tick:
    """End lost leases, execution timeouts and expired jobs (spec: ojs-timeouts, ojs-retry 9).

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    settings = store.settings
    lost, timeouts, expired, now, following = await store.run(
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
    return Tick(
        lost + timeouts + expired,
        _moment(following),
        now,
        max(lost, timeouts, expired) >= limit,
    )


def _moment(value: int) -> int | None:
    return None if value < 0 else value
