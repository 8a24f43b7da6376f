"""The scheduler's entry: stand for election, and lead when elected."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from dataclasses import dataclass
from random import Random

import trio

from ojs_cluster.store import leader
from ojs_cluster.store.context import Store
from scheduler.election import campaign
from scheduler.runner import Leader
from scheduler.settings import SchedulerSettings
from scheduler.stats import Stats
from scheduler.wakeups import Wakeups

log = logging.getLogger("ojs.scheduler")


async def run_scheduler(
    store: Store, settings: SchedulerSettings, *, stats: Stats | None = None
) -> None:
    """Be one of the schedulers of a group until cancelled.

    When cancelled while leading, all work stops, then the lease is released, so that another
    process leads within one poll. The scope that is cancelled must be inside the store's: a client
    that is cancelled at the same moment cannot carry the release.

    :param store: an open store; stays open.
    :param stats: counters to use, for someone who reports them.
    """
    stats = stats or Stats()
    random = Random()  # noqa: S311 - jitter, nothing secret
    identity = new_identity()
    log.info("scheduler started", extra={"identity": identity, "group": settings.group})
    wakeups = Wakeups(store.redis, (*store.keys, store.keys.meta), random=random)
    terms = settings.terms
    leases = StoreLeases(store, settings.group, identity, round(terms.key_ttl_s * 1000))
    work = Leader(store, settings, wakeups, stats, random).work
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakeups.run)
        await campaign(leases, terms, work, stats=stats.election, random=random)


def new_identity() -> str:
    """Name this process start: a restarted process must not take itself for its predecessor."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True)
class StoreLeases:
    """One group's lease for one identity (a :class:`scheduler.election.Leases`)."""

    store: Store
    group: str
    identity: str
    ttl_ms: int

    async def acquire(self) -> leader.Lease | None:
        """Ask for the lease."""
        return await leader.acquire(self.store, self.group, self.identity, self.ttl_ms)

    async def renew(self, lease: leader.Lease) -> bool:
        """Give the lease its whole life again."""
        return await leader.renew(self.store, lease)

    async def release(self, lease: leader.Lease) -> None:
        """End the lease."""
        await leader.release(self.store, lease)
