"""The scheduler's entry: stand for election in every shard, and lead where elected."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from dataclasses import dataclass
from random import Random

import trio

from ojs_cluster.keys import META
from ojs_cluster.store.context import Store
from ojs_cluster.store.operations import leader
from scheduler.election import Call, campaign
from scheduler.runner import Work
from scheduler.settings import SchedulerSettings
from scheduler.stats import ElectionStats, Stats
from scheduler.wakeups import Wakeups

log = logging.getLogger("ojs.scheduler")

# Between two looks at how many shards are led, in seconds: one line in the log for all of a turn.
_REPORT_S = 1.0


async def run_scheduler(
    store: Store, settings: SchedulerSettings, *, stats: Stats | None = None
) -> None:
    """Be one of the schedulers of a group until cancelled.

    When cancelled, the work on each shard that it leads stops, then the shard's lease is released,
    so that another process leads it after a round trip. The scope that is cancelled must be inside
    the store's: a client that is cancelled at the same moment cannot carry the release.

    :param store: an open store; stays open.
    :param stats: counters to use, for someone who reports them.
    """
    stats = stats or Stats()
    random = Random()  # noqa: S311 - jitter, nothing secret
    identity = new_identity()
    log.info("scheduler started", extra={"identity": identity, "group": settings.group})
    wakeups = Wakeups(store.redis, (*store.keys, store.keys.meta), random=random)
    terms = settings.terms
    work = Work(store, settings, stats, random)
    calls = {shard: Call() for shard in (META, *range(len(store.keys)))}
    wakeups.on_free_lease(lambda shard: calls[shard].ring())
    stats.election.shards = len(calls)
    with wakeups.heard_by(*work.urgent):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wakeups.run)
            nursery.start_soon(work.run_unled)
            nursery.start_soon(_report, stats.election)
            async with trio.open_nursery() as campaigns:
                for shard, call in calls.items():
                    leases = StoreLeases(
                        store, shard, settings.group, identity, round(terms.key_ttl_s * 1000)
                    )

                    async def stand(
                        shard: int = shard, leases: StoreLeases = leases, call: Call = call
                    ) -> None:
                        await campaign(
                            *(shard, leases, terms, work.lead),
                            stats=stats.election,
                            random=random,
                            call=call,
                        )

                    campaigns.start_soon(stand)


def new_identity() -> str:
    """Name this process start: a restarted process must not take itself for its predecessor."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"


async def _report(stats: ElectionStats) -> None:
    """Log how many shards are led, whenever that has changed."""
    shown = 0
    while True:
        await trio.sleep(_REPORT_S)
        if len(stats.held) != shown:
            shown = len(stats.held)
            log.info("leading", extra={"shards": shown, "of": stats.shards})


@dataclass(frozen=True, slots=True)
class StoreLeases:
    """One shard's lease for one identity (a :class:`scheduler.election.Leases`)."""

    store: Store
    shard: int
    group: str
    identity: str
    ttl_ms: int

    async def acquire(self, *, insist: bool) -> leader.AcquireReply:
        """Ask for the lease."""
        return await leader.acquire(
            self.store, self.shard, self.group, self.identity, self.ttl_ms, insist=insist
        )

    async def renew(self, lease: leader.LeaderLease) -> leader.Renewal:
        """Give the lease its whole life again."""
        return await leader.renew(self.store, lease)

    async def release(self, lease: leader.LeaderLease) -> None:
        """End the lease."""
        await leader.release(self.store, lease)

    async def leave(self) -> None:
        """End the lease and the candidacy."""
        await leader.leave(self.store, self.shard, self.group, self.identity, self.ttl_ms)
