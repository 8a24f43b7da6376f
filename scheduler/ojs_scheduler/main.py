"""The entry point of the scheduler: become the leader of shards, and do the work of a leader."""

from __future__ import annotations

import logging
from contextlib import closing
from random import Random

import trio

from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.operations.processes import (
    describe_process,
    new_identity,
    report_process,
)
from ojs_scheduler.election_thread import ElectionThread
from ojs_scheduler.runner import LeaderWork
from ojs_scheduler.settings import SchedulerSettings
from ojs_scheduler.stats import ElectionStats, Stats
from ojs_scheduler.wakeups import Wakeups

log = logging.getLogger("ojs.scheduler")

_REPORT_S = 1.0
"""Time in seconds between two checks of how many shards are led. Only their number is logged, so an
election makes one log line and not one per shard."""


async def run_scheduler(
    store: Store, settings: SchedulerSettings, *, stats: Stats | None = None
) -> None:
    """Run one scheduler of a group until cancelled.

    When cancelled, the work on each led shard stops first, then the shard's lease is released, so
    that another process leads after one round trip. The caller must close the store afterwards, not
    at the same time: without its Redis client the leases could not be released.

    Args:
        store: an open store. The function does not close it.
        settings: the settings.
        stats: counters that the caller reports, by default new counters.
    """
    stats = stats or Stats()
    random = Random()  # noqa: S311 - jitter, nothing secret
    identity = new_identity()
    log.info("scheduler started", extra={"identity": identity, "group": settings.group})
    wakeups = Wakeups(store.redis, (*store.keys, store.keys.meta), random=random)
    work = LeaderWork(store, settings, stats, random)
    election = ElectionThread(store, settings, identity, work.lead, stats.election)
    wakeups.on_free_lease(election.on_free_lease)
    with closing(work), wakeups.forwarded_to(*work.announced_loops):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wakeups.run)
            nursery.start_soon(work.run_without_lease)
            nursery.start_soon(_report, stats.election)
            nursery.start_soon(
                report_process, store, describe_process(store, "scheduler"), identity
            )
            await election.run()


async def _report(stats: ElectionStats) -> None:
    """Log how many shards are led, whenever that has changed."""
    shown = 0
    while True:
        await trio.sleep(_REPORT_S)
        if len(stats.led_shards) != shown:
            shown = len(stats.led_shards)
            log.info("leading", extra={"shards": shown, "of": stats.shards})
