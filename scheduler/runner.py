"""What a leader does: all loops over all shards, under one scope that its term ends."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import trio

from ojs_cluster.keys import META
from ojs_cluster.store.context import Store
from ojs_cluster.store.leader import Lease
from scheduler import cron, dead_workers, janitor, outbox, promote, rate_limits, reap
from scheduler.pacing import Pace, ShardLoop, Slots, Step
from scheduler.settings import SchedulerSettings
from scheduler.stats import Stats
from scheduler.wakeups import Wakeups

log = logging.getLogger("ojs.scheduler")


@dataclass(frozen=True, slots=True)
class Leader:
    """The work of one scheduler process in any of its terms."""

    store: Store
    settings: SchedulerSettings
    wakeups: Wakeups
    stats: Stats
    random: Random

    async def work(self, lease: Lease) -> None:
        """Run every loop until cancelled. A failing step is its loop's affair and ends nothing.

        The token of `lease` needs no passing on: no step writes anything that a second leader's
        same step would damage.
        """
        settings, store = self.settings, self.store
        pace = _pace(settings)
        # Each recovery script has a time limit of its own; a step is many of them.
        patient = replace(pace, call_timeout_s=math.inf)
        late = replace(patient, max_sleep_s=settings.janitor_sleep_ms / 1000)
        seldom = replace(patient, max_sleep_s=settings.tidy_interval_ms / 1000)
        recover = dead_workers.step(
            dead_workers.StoreWard(store, settings.worker_batch),
            range(len(store.keys)),
            slots=Slots(settings.shard_concurrency),
            call_timeout_s=pace.call_timeout_s,
        )
        waiting = self._loop("waiting", outbox.waiting_step(store, settings.outbox_batch), late)
        drain = outbox.step(store, settings.outbox_batch, waiting.hear)
        urgent = (
            self._loop("promote", promote.step(store, settings.promote_batch), pace),
            self._loop("reap", reap.step(store, settings.reap_batch), pace),
            self._loop("rate_limits", rate_limits.step(store, settings.promote_batch), patient),
            self._loop("outbox", drain, patient),
            self._loop("cron", cron.step(store, settings.cron_batch), patient, shards=(META,)),
        )
        others = (
            waiting,
            self._loop("dead_workers", recover, patient),
            self._loop("purge", janitor.purge_step(store, settings.janitor_batch), late, 1),
            self._loop("workflows", janitor.workflows_step(store, settings.janitor_batch), late, 1),
            self._loop("tidy", janitor.tidy_step(store, settings.janitor_batch), seldom, 1),
            self._loop("retire", janitor.retire_step(store), seldom, 1, shards=(0,)),
            self._loop("partitions", janitor.partitions_step(store), patient, 1, shards=(META,)),
            self._loop("eviction", janitor.eviction_step(store), late, 1, shards=(META,)),
        )
        with self.wakeups.heard_by(*urgent):
            async with trio.open_nursery() as nursery:
                for loop in (*urgent, *others):
                    nursery.start_soon(loop.run)

    def _loop(
        self,
        name: str,
        step: Step,
        pace: Pace,
        slots: int | None = None,
        shards: Sequence[int] | None = None,
    ) -> ShardLoop:
        """Make a loop; over all shards, and with the configured concurrency, unless told."""
        return ShardLoop(
            name,
            step,
            shards or range(len(self.store.keys)),
            pace=pace,
            slots=Slots(slots or self.settings.shard_concurrency),
            stats=self.stats.loop(name),
            random=self.random,
        )


def _pace(settings: SchedulerSettings) -> Pace:
    return Pace(
        max_sleep_s=settings.max_sleep_ms / 1000,
        call_timeout_s=settings.call_timeout_ms / 1000,
        backoff_min_s=settings.backoff_min_ms / 1000,
        backoff_max_s=settings.backoff_max_ms / 1000,
    )
