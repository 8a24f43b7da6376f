"""The work of a shard's leader: every loop works on the shard until the leader's term ends.

The loops live as long as the process, so their limiters limit the work on all led shards together.
When the process becomes the leader of a shard, each loop starts to work on this shard. When the
term ends, that work is cancelled.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from random import Random

import trio

from ojs_cluster.keys import META
from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.operations.leader import LeaderLease
from ojs_scheduler.loops import (
    bulk,
    cron,
    dead_workers,
    janitor,
    migrations,
    outbox,
    pressure,
    promote,
    rate_limits,
    reap,
    statistics,
)
from ojs_scheduler.loops.webhooks import WebhookLoop, WebhookSender
from ojs_scheduler.pacing import Pace, ShardLoop, Step, StepLimiter
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
        pace = _pace(settings)
        # A step of many scripts has no time limit: each of its scripts has one.
        unlimited = replace(pace, call_timeout_s=math.inf)
        slow = replace(unlimited, max_sleep_s=settings.janitor_sleep_ms / 1000)
        slowest = replace(unlimited, max_sleep_s=settings.tidy_interval_ms / 1000)
        recover = dead_workers.step(
            dead_workers.RedisWorkerStore(store, settings.worker_batch),
            range(len(store.keys)),
            limiter=StepLimiter(settings.shard_concurrency),
            call_timeout_s=pace.call_timeout_s,
        )

        def loop(name: str, step: Step, pace: Pace, concurrency: int = 0) -> ShardLoop:
            """Make a loop, by default with the configured concurrency."""
            return ShardLoop(
                name,
                step,
                pace=pace,
                limiter=StepLimiter(concurrency or settings.shard_concurrency),
                stats=stats.loop(name),
                random=random,
            )

        outbox_blocked = loop(
            "outbox_blocked", outbox.blocked_step(store, settings.outbox_batch), slow
        )
        # When the outbox step finds an unreachable shard, it announces the next attempt to the loop
        # of blocked entries.
        on_blocked = outbox_blocked.on_deadline
        announced = (
            loop("promote", promote.step(store, settings.promote_batch), pace),
            loop("reap", reap.step(store, settings.reap_batch), pace),
            loop("rate_limits", rate_limits.step(store, settings.promote_batch), unlimited),
            loop("outbox", outbox.step(store, settings.outbox_batch, on_blocked), unlimited),
        )
        cron_loop = loop("cron", cron.step(store, settings.cron_batch), unlimited)
        bulk_loop = loop("bulk", bulk.step(store), unlimited, 1)
        pressure_loop = loop("pressure", pressure.step(store), unlimited, 1)
        self._sender = sender = WebhookSender(store, store.settings.webhooks)
        webhook_loop = WebhookLoop(sender, partial(loop, "webhooks", pace=unlimited))
        self.announced_loops = (
            *(*announced, cron_loop, bulk_loop, pressure_loop),
            webhook_loop.shards,
        )
        self._shard_loops = (
            *announced,
            webhook_loop,
            outbox_blocked,
            loop("dead_workers", recover, unlimited),
            loop("purge", janitor.purge_step(store, settings.janitor_batch), slow, 1),
            loop("workflows", janitor.workflows_step(store, settings.janitor_batch), slow, 1),
            loop("tidy", janitor.tidy_step(store, settings.janitor_batch), slowest, 1),
        )
        self._meta_loops = (
            cron_loop,
            bulk_loop,
            pressure_loop,
            webhook_loop,
            loop("retire", janitor.retire_step(store), slowest, 1),
            loop("partitions", janitor.partitions_step(store), unlimited, 1),
            loop("weights", janitor.weights_step(store), unlimited, 1),
            loop("statistics", statistics.step(store), slow, 1),
            loop("migrations", migrations.step(store, may_begin=settings.migrate), unlimited, 1),
        )
        self._eviction = loop("eviction", janitor.eviction_step(store), slow, 1)

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

    def close(self) -> None:
        """Release what the loops hold, after all of them have ended."""
        self._sender.close()


def _pace(settings: SchedulerSettings) -> Pace:
    return Pace(
        max_sleep_s=settings.max_sleep_ms / 1000,
        call_timeout_s=settings.call_timeout_ms / 1000,
        backoff_min_s=settings.backoff_min_ms / 1000,
        backoff_max_s=settings.backoff_max_ms / 1000,
    )
