"""The work of a shard's leader: every loop works on the shard until the leader's term ends.

The loops live as long as the process, so their limiters limit the work on all led shards together.
When the process becomes the leader of a shard, each loop starts to work on this shard. When the
term ends, that work is cancelled.
"""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import trio

from ojs_cluster.keys import META
from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.operations.leader import LeaderLease
from ojs_scheduler.loop_table import (
    OUTBOX_BLOCKED,
    Pacing,
    Row,
    cluster_rows,
    eviction_row,
    shard_rows,
)
from ojs_scheduler.loops.webhooks import WebhookLoop, WebhookSender
from ojs_scheduler.pacing import Pace, ShardLoop, StepLimiter
from ojs_scheduler.settings import SchedulerSettings
from ojs_scheduler.stats import Stats

_ALL_SHARDS = 0
"""Index that is passed to a step that concerns the whole cluster. The step ignores it."""


class LeaderWork:
    """The work of one scheduler process in all of its terms.

    Args:
        store: an open store.
        settings: the settings.
        stats: counters of the loops.
        random: source of jitter.

    Attributes:
        announced_loops: loops that react to deadlines which other processes announce.
    """

    def __init__(
        self, store: Store, settings: SchedulerSettings, stats: Stats, random: Random
    ) -> None:
        paces = _paces(settings)

        def loop(row: Row) -> ShardLoop:
            return ShardLoop(
                row.name,
                row.step,
                pace=paces[row.pacing],
                limiter=StepLimiter(row.concurrency or settings.shard_concurrency),
                stats=stats.loop(row.name),
                random=random,
            )

        on_shards = shard_rows(store, settings, self._on_blocked)
        on_cluster = cluster_rows(store, settings)
        loops = {row.name: loop(row) for row in (*on_shards, *on_cluster)}
        self._outbox_blocked = loops[OUTBOX_BLOCKED]
        self._eviction = loop(eviction_row(store))
        self._sender = sender = WebhookSender(store, store.settings.webhooks)
        webhooks = WebhookLoop(
            sender, lambda step: loop(Row("webhooks", step, Pacing.UNLIMITED, is_announced=True))
        )
        announced = (loops[row.name] for row in (*on_shards, *on_cluster) if row.is_announced)
        self.announced_loops = (*announced, webhooks.shards)
        self._shard_loops: tuple[ShardLoop | WebhookLoop, ...] = (
            *(loops[row.name] for row in on_shards),
            webhooks,
        )
        self._meta_loops: tuple[ShardLoop | WebhookLoop, ...] = (
            *(loops[row.name] for row in on_cluster),
            webhooks,
        )

    async def lead(self, lease: LeaderLease) -> None:
        """Run every loop on the lease's shard until cancelled.

        A failed step ends no loop. Steps do not check the fencing token of the lease: they are safe
        even if a second leader runs the same steps.

        Args:
            lease: the lease of the shard.
        """
        async with trio.open_nursery() as nursery:
            for loop in self._meta_loops if lease.shard == META else self._shard_loops:
                nursery.start_soon(loop.serve, lease.shard)

    async def run_without_lease(self) -> None:
        """Run the loops that need no lease until cancelled."""
        await self._eviction.serve(_ALL_SHARDS)

    def _on_blocked(self, shard: int, due_ms: int) -> None:
        self._outbox_blocked.on_deadline(shard, due_ms)

    def close(self) -> None:
        """Release what the loops hold, after all of them have ended."""
        self._sender.close()


def _paces(settings: SchedulerSettings) -> dict[Pacing, Pace]:
    timed = Pace(
        max_sleep_s=settings.max_sleep_ms / 1000,
        call_timeout_s=settings.call_timeout_ms / 1000,
        backoff_min_s=settings.backoff_min_ms / 1000,
        backoff_max_s=settings.backoff_max_ms / 1000,
    )
    unlimited = replace(timed, call_timeout_s=math.inf)
    return {
        Pacing.TIMED: timed,
        Pacing.UNLIMITED: unlimited,
        Pacing.SLOW: replace(unlimited, max_sleep_s=settings.janitor_sleep_ms / 1000),
        Pacing.SLOWEST: replace(unlimited, max_sleep_s=settings.tidy_interval_ms / 1000),
    }
