"""What the leader of a shard does: its part of every loop, under one scope that its term ends.

The loops live as long as the process, so their slots bound its work on all shards together. A term
adds its shard to each of them and removes it again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import trio

from ojs_cluster.keys import META
from ojs_cluster.store.context import Store
from ojs_cluster.store.operations.leader import LeaderLease
from scheduler.loops import cron, dead_workers, janitor, outbox, promote, rate_limits, reap
from scheduler.pacing import Pace, ShardLoop, Slots, Step
from scheduler.settings import SchedulerSettings
from scheduler.stats import Stats

_EVERYWHERE = 0
"""Stands for the whole cluster in a loop that belongs to no shard."""


class Work:
    """The work of one scheduler process in all of its terms.

    :ivar urgent: loops that want to hear of deadlines that other processes announce.
    """

    def __init__(
        self, store: Store, settings: SchedulerSettings, stats: Stats, random: Random
    ) -> None:
        pace = _pace(settings)
        # Each recovery script has a time limit of its own; a step is many of them.
        patient = replace(pace, call_timeout_s=math.inf)
        late = replace(patient, max_sleep_s=settings.janitor_sleep_ms / 1000)
        seldom = replace(patient, max_sleep_s=settings.tidy_interval_ms / 1000)
        recover = dead_workers.step(
            dead_workers.RedisWorkerStore(store, settings.worker_batch),
            range(len(store.keys)),
            slots=Slots(settings.shard_concurrency),
            call_timeout_s=pace.call_timeout_s,
        )

        def loop(name: str, step: Step, pace: Pace, slots: int = 0) -> ShardLoop:
            """Make a loop; with the configured concurrency, unless told."""
            return ShardLoop(
                name,
                step,
                pace=pace,
                slots=Slots(slots or settings.shard_concurrency),
                stats=stats.loop(name),
                random=random,
            )

        waiting = loop("waiting", outbox.waiting_step(store, settings.outbox_batch), late)
        urgent = (
            loop("promote", promote.step(store, settings.promote_batch), pace),
            loop("reap", reap.step(store, settings.reap_batch), pace),
            loop("rate_limits", rate_limits.step(store, settings.promote_batch), patient),
            loop("outbox", outbox.step(store, settings.outbox_batch, waiting.hear), patient),
        )
        crons = loop("cron", cron.step(store, settings.cron_batch), patient)
        self.urgent = (*urgent, crons)
        self._of_shards = (
            *urgent,
            waiting,
            loop("dead_workers", recover, patient),
            loop("purge", janitor.purge_step(store, settings.janitor_batch), late, 1),
            loop("workflows", janitor.workflows_step(store, settings.janitor_batch), late, 1),
            loop("tidy", janitor.tidy_step(store, settings.janitor_batch), seldom, 1),
        )
        self._of_meta = (
            crons,
            loop("retire", janitor.retire_step(store), seldom, 1),
            loop("partitions", janitor.partitions_step(store), patient, 1),
        )
        self._eviction = loop("eviction", janitor.eviction_step(store), late, 1)

    async def lead(self, lease: LeaderLease) -> None:
        """Run every loop on the lease's shard until cancelled.

        A failing step is its loop's affair and ends nothing. The token needs no passing on: no step
        writes anything that a second leader's same step would damage.
        """
        async with trio.open_nursery() as nursery:
            for loop in self._of_meta if lease.shard == META else self._of_shards:
                nursery.start_soon(loop.serve, lease.shard)

    async def run_unled(self) -> None:
        """Run until cancelled what needs no lease."""
        await self._eviction.serve(_EVERYWHERE)


def _pace(settings: SchedulerSettings) -> Pace:
    return Pace(
        max_sleep_s=settings.max_sleep_ms / 1000,
        call_timeout_s=settings.call_timeout_ms / 1000,
        backoff_min_s=settings.backoff_min_ms / 1000,
        backoff_max_s=settings.backoff_max_ms / 1000,
    )
