"""A scheduler whose event loop is busy: it keeps its leases for a while, but not permanently."""

from __future__ import annotations

import signal
import time

import trio

from ojs_cluster.server.embedded.servers import Embedded
from ojs_scheduler.main import run_scheduler
from ojs_scheduler.settings import SchedulerSettings
from ojs_scheduler.stats import Stats
from tests.scheduler.running import LEASES, eventually, schedulers, shared, store_at

LEASE_S = 5.0


async def test_a_busy_event_loop_keeps_its_leases(cluster: Embedded) -> None:
    stats = Stats()
    settings = SchedulerSettings(lease_ttl_ms=int(LEASE_S * 1000))
    election = stats.election
    async with store_at(cluster.url) as store, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run_scheduler(store, settings, stats=stats))
        await eventually(lambda: len(election.led_shards) == LEASES, what="it leads")
        tokens, terms = dict(election.led_shards), election.terms
        end = time.monotonic() + 2 * LEASE_S
        while time.monotonic() < end:
            pass
        # Leases that were lost meanwhile would be noticed within two renewals.
        await trio.sleep(2 * settings.lease_times.renew_s)
        assert election.led_shards == tokens
        assert (election.terms, election.lost) == (terms, 0)
        nursery.cancel_scope.cancel()


async def test_an_event_loop_that_never_answers_loses_its_leases(cluster: Embedded) -> None:
    async with schedulers(cluster.url, 2, lease_ttl_ms=2000) as running:
        await shared(running)
        first, other = running
        first.process.send_signal(signal.SIGUSR1)
        await eventually(lambda: first.line == "blocked", what="it is busy")
        blocked_at = trio.current_time()
        await eventually(lambda: other.leads, what="the other one leads all")
        # Three lease times of patience, and the time of the last renewal.
        assert other.at - blocked_at > 3 * 2.0
