"""Run the elections in a thread, where a busy event loop of the work cannot delay a renewal.

The thread has an event loop and a Redis client of its own. All of ``ojs_scheduler.election`` runs
there: it acquires, renews and releases the leases. The work of a leader runs in the event loop that
creates ``ElectionThread``. The thread only starts and cancels it, so the work stops before its
lease is released, as if both ran in one event loop.

A renewal says that the work goes on. So the thread also checks that the event loop answers. After
``SILENT_LEASES`` lease times without an answer the thread gives up all leases: it does not renew
them, so other processes acquire them when they expire. It takes part again when the event loop
answers.

Two event loops in one process may use the Redis client only because a scheduler has no driven
coroutines (``ojs_cluster.redis.driven_coroutines``).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import META
from ojs_cluster.redis.client import Client, open_client
from ojs_cluster.redis.errors import AuthenticationFailed
from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.operations.leader import LeaderLease, RedisLeaderLock
from ojs_scheduler.election import LeaseFreedSignal, campaign
from ojs_scheduler.settings import SchedulerSettings
from ojs_scheduler.stats import ElectionStats

log = logging.getLogger("ojs.scheduler")

SILENT_LEASES: Final = 3
"""After this number of lease times without an answer of the event loop, its leases are given up."""
_RETRY_S: Final = 1.0
"""Time in seconds between two attempts to reach Redis when the thread starts."""


@dataclass(eq=False, slots=True)
class _Term:
    """The work of one term.

    Attributes:
        lease: the lease.
        scope: cancels the work; only the event loop of the work uses it.
        ended: set when the work has ended; only the thread uses it.
        error: the exception that the work has raised.
    """

    lease: LeaderLease
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None


class ElectionThread:
    """The elections of one scheduler process.

    Create it in the event loop of the work.

    Args:
        store: an open store, whose client the work uses.
        settings: the settings.
        identity: the name of this process, new at each start.
        work: the work of a leader, which runs until it is cancelled.
        stats: counters.
    """

    def __init__(
        self,
        store: Store,
        settings: SchedulerSettings,
        identity: str,
        work: Callable[[LeaderLease], Awaitable[None]],
        stats: ElectionStats,
    ) -> None:
        self._store = store
        self._settings = settings
        self._identity = identity
        self._work = work
        self._stats = stats
        self._signals = {shard: LeaseFreedSignal() for shard in (META, *range(len(store.keys)))}
        self._loop = trio.lowlevel.current_trio_token()
        self._thread: trio.lowlevel.TrioToken | None = None
        self._stopped = False
        stats.shards = len(self._signals)

    def on_free_lease(self, shard: int) -> None:
        """Try to acquire the lease of a shard, because another process has released it."""
        self._call_thread(self._signals[shard].set)

    async def run(self) -> None:
        """Lead shards until cancelled; return when the work has stopped and the leases are free."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._run_thread)
            try:
                await trio.sleep_forever()
            finally:
                self._stopped = True
                self._call_thread(self._stop)

    async def _run_thread(self) -> None:
        await trio.to_thread.run_sync(trio.run, self._elect, limiter=trio.CapacityLimiter(1))

    def _call_thread(self, function: Callable[[], object]) -> None:
        """Call a function in the thread's event loop, if the thread runs."""
        if self._thread is not None:
            with suppress(trio.RunFinishedError):
                self._thread.run_sync_soon(function)

    def _begin(self, term: _Term) -> None:
        self._nursery.start_soon(self._run_work, term)

    async def _run_work(self, term: _Term) -> None:
        try:
            with term.scope:
                await self._work(term.lease)
        except Exception as error:  # the campaign raises it, after it has released the lease
            term.error = error
        finally:
            self._call_thread(term.ended.set)

    # The thread runs the following methods.

    async def _elect(self) -> None:
        self._thread = trio.lowlevel.current_trio_token()
        if self._stopped:  # before ``run`` could see the token
            return
        with trio.CancelScope() as self._scope:
            async with AsyncExitStack() as stack:
                store = replace(self._store, redis=await self._connect(stack))
                with trio.CancelScope() as self._scope:  # a stop needs the client
                    await self._lead_shards(store)

    def _stop(self) -> None:
        self._scope.cancel()

    async def _lead_shards(self, store: Store) -> None:
        while True:
            await self._answered()
            async with trio.open_nursery() as campaigns:
                campaigns.start_soon(self._cancel_if_silent, campaigns.cancel_scope)
                for shard in self._signals:
                    campaigns.start_soon(self._campaign, store, shard)

    async def _connect(self, stack: AsyncExitStack) -> Client:
        while True:
            try:
                return await stack.enter_async_context(open_client(self._store.redis.settings))
            except (BackendUnavailable, AuthenticationFailed) as error:
                log.warning("cannot take part in elections yet, trying again: %s", error)
            await trio.sleep(_RETRY_S)

    async def _answered(self) -> None:
        """Wait until the event loop of the work has run a callback."""
        answered = trio.Event()
        self._loop.run_sync_soon(self._call_thread, answered.set)
        await answered.wait()

    async def _cancel_if_silent(self, campaigns: trio.CancelScope) -> None:
        silence_s = SILENT_LEASES * self._settings.lease_ttl_ms / 1000
        while True:
            with trio.move_on_after(silence_s) as scope:
                await self._answered()
            if scope.cancelled_caught:
                log.error("the event loop was busy for %g s: its leases are given up", silence_s)
                campaigns.cancel()
            await trio.sleep(self._settings.lease_times.renew_s)

    async def _campaign(self, store: Store, shard: int) -> None:
        times = self._settings.lease_times
        ttl_ms = round(times.key_ttl_s * 1000)
        await campaign(
            shard,
            RedisLeaderLock(store, shard, self._settings.group, self._identity, ttl_ms),
            times,
            self._lead,
            stats=self._stats,
            random=Random(),  # noqa: S311 - jitter, nothing secret
            lease_freed=self._signals[shard],
        )

    async def _lead(self, lease: LeaderLease) -> None:
        """Run the work in its event loop. A cancellation waits until the work has stopped."""
        term = _Term(lease)
        self._loop.run_sync_soon(self._begin, term)
        try:
            await term.ended.wait()
        finally:
            if not term.ended.is_set():
                self._loop.run_sync_soon(term.scope.cancel)
                with trio.CancelScope(shield=True):
                    await term.ended.wait()
        if term.error is not None:
            raise term.error
