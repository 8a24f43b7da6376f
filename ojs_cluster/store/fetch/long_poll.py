"""Long poll: fetches that wait for a job, woken by pub/sub (spec: ojs-worker-protocol, FETCH).

A waiter is a fetch that found no job and waits. A transition publishes a queue's name only when the
queue stops being empty, so an idle or a busy queue publishes nothing. Each process then wakes one
waiter. A waiter that got a job wakes the next one, so many new jobs reach all waiters one after the
other. A fetch for one tenant waits for a message of its own, ``<queue> <tenant>``. When a pause or
a limit ends, jobs of any tenant may start, so ``<queue> *`` wakes one waiter of each tenant. Waking
all waiters at once was refused: a thousand waiters would fetch for one job.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from math import inf

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.fetch.fetch import WorkerIsQuiet, fetch_unless_quiet
from ojs_cluster.store.fetch.ranked_fetch import read_depths
from ojs_cluster.store.jobs.record import JobRecord

FetchNow = Callable[[Store, Sequence[str], int, str, int | None, str], Awaitable[list[JobRecord]]]
"""A function with the parameters of ``fetch_unless_quiet``."""
CHECK_EVERY_S = 5.0
"""Time in seconds between two reads of the depth of a queue that has waiters.

It is the longest delay that a lost message causes. One waiter reads the depth for all waiters of
the queue in its process."""
EACH_TENANT = "*"
"""What a message has in place of a tenant to wake one waiter of each (``wake_queue.lua``)."""
EACH_TENANT_EVERY_S = 0.1
"""Shortest time in seconds between two wake-ups of one waiter of each tenant of a queue.

A queue at its concurrency limit has such a message for each ack, and only one of the woken fetches
gets a job."""
SUBSCRIBE_S = 1.0
"""Longest time in seconds that a waiter waits for its subscriptions."""


class _Waiter:
    """One waiting fetch, and the queues that it was woken for since its last fetch."""

    __slots__ = ("_event", "woken")

    def __init__(self) -> None:
        self._event = trio.Event()
        self.woken: set[str] = set()

    def wake(self, queue: str) -> None:
        self.woken.add(queue)
        self._event.set()

    def reset(self) -> None:
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Waiters:
    """The waiters of this process."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, dict[_Waiter, None]]] = {}
        """The waiters of each queue by their tenant, '' for those that take any job."""
        self._checked_at: dict[str, float] = {}
        self._tenants_due: dict[str, float] = {}
        """When one waiter of each tenant of a queue may be woken again."""
        self._delayed: set[str] = set()
        """Queues whose tenants are woken when that time has come."""
        self._subscribed: set[Shard] = set()
        self._draining = trio.Event()

    def drain(self) -> None:
        """End all waits without a job. Later fetches do not wait."""
        self._draining.set()
        self.wake_all()

    @property
    def draining(self) -> bool:
        """Whether ``drain`` was called."""
        return self._draining.is_set()

    async def drained(self) -> None:
        """Wait until ``drain`` is called."""
        await self._draining.wait()

    def __len__(self) -> int:
        """Return the number of queues that have a waiter."""
        return len(self._waiting)

    async def subscribe(self, store: Store, queues: Iterable[str]) -> None:
        """Subscribe to the wake channels of the shards of ``queues``.

        There is one channel per shard. The next call tries a failed subscription again. Until then
        ``check_queues`` finds the jobs of that shard. The call does not wait for a shard that does
        not answer.
        """
        shards = {
            shard for queue in queues for shard in await store.partitions.open_shards(store, queue)
        }
        missing = shards - self._subscribed
        if not missing:
            return
        deadline = trio.current_time() + SUBSCRIBE_S
        for shard in missing:
            work = partial(self._subscribe, store, shard)
            await store.background.once(("subscribe", id(self), shard.index), work, 0)
        for shard in missing:
            if shard not in self._subscribed and store.redis.is_responsive(shard.slot):
                work = partial(self._subscribe, store, shard)
                wait_s = deadline - trio.current_time()
                await store.background.once(("subscribe", id(self), shard.index), work, wait_s)

    async def _subscribe(self, store: Store, shard: Shard) -> None:
        if shard not in self._subscribed:
            on_message = partial(self._on_message, store, shard)
            await store.redis.subscribe(shard.wake_channel, shard.slot, on_message, self.wake_all)
            self._subscribed.add(shard)

    def add(self, queues: Iterable[str], tenant: str = "") -> _Waiter:
        """Register a fetch that waits for jobs of ``queues``.

        Args:
            queues: the queues.
            tenant: the tenant whose jobs it waits for, '' for any.
        """
        waiter = _Waiter()
        for queue in queues:
            self._waiting.setdefault(queue, {}).setdefault(tenant, {})[waiter] = None
            self._checked_at.setdefault(queue, trio.current_time())
        return waiter

    def remove(self, waiter: _Waiter, queues: Iterable[str], tenant: str = "") -> None:
        """Unregister a fetch. A queue without a waiter is not checked any more."""
        for queue in queues:
            waiting = self._waiting.get(queue)
            if waiting is not None:
                of_tenant = waiting.get(tenant, {})
                of_tenant.pop(waiter, None)
                if not of_tenant:
                    waiting.pop(tenant, None)
                if not waiting:
                    del self._waiting[queue]
                    self._checked_at.pop(queue, None)
                    self._tenants_due.pop(queue, None)

    def wake_next(self, queues: Iterable[str], tenant: str = "") -> None:
        """Wake the first waiter of each of ``queues``, of those that wait for ``tenant``."""
        for queue in queues:
            waiting = self._waiting.get(queue, {}).get(tenant)
            if waiting:
                next(iter(waiting)).wake(queue)

    async def check_queues(self, store: Store, waiter: _Waiter, queues: Iterable[str]) -> None:
        """Wake a waiter of each queue that has jobs, unless the queue was checked recently.

        If a shard does not answer, ``waiter`` is woken: its fetch then raises the error.

        Args:
            store: the store.
            waiter: the waiter that makes the check.
            queues: the queues of this waiter.
        """
        now = trio.current_time()
        queues_of: dict[Shard, list[str]] = {}
        checked_at = {queue: self._checked_at.get(queue, now) for queue in queues}
        due = {queue: at for queue, at in checked_at.items() if at <= now - CHECK_EVERY_S}
        # Set before the check, so that no other waiter checks these queues too.
        self._checked_at.update(dict.fromkeys(due, now))

        async def check(shard: Shard) -> None:
            try:
                depths = await store.depth_reader.read(
                    shard, queues_of[shard], partial(read_depths, store)
                )
            except BackendUnavailable:
                waiter.wake(queues_of[shard][0])
                return
            filled = [queue for queue in queues_of[shard] if depths[queue]]
            store.depth_cache.mark_filled(store.keys, shard, filled)
            for queue in filled:
                for tenant in self._waiting.get(queue, ()):
                    self.wake_next([queue], tenant)

        try:
            for queue in due:
                for shard in await store.partitions.open_shards(store, queue):
                    queues_of.setdefault(shard, []).append(queue)
            await run_concurrently(queues_of, check)
        except BaseException:  # a cancelled check counts as not made: another waiter makes it
            for queue in due.keys() & self._checked_at.keys():
                self._checked_at[queue] = due[queue]
            raise

    def next_check_at(self, queues: Iterable[str]) -> float:
        """Return the time of the next check of any of the queues, in seconds of trio's clock."""
        return CHECK_EVERY_S + min(self._checked_at[queue] for queue in queues)

    def _on_message(self, store: Store, shard: Shard, payload: bytes) -> None:
        queue, _, tenant = payload.decode().partition(" ")
        store.depth_cache.mark_filled(store.keys, shard, [queue])
        if tenant != EACH_TENANT:
            self.wake_next([queue], tenant)
        elif any(self._waiting.get(queue, ())) and queue not in self._delayed:
            due = self._tenants_due.get(queue, 0.0)
            if trio.current_time() >= due:
                self._wake_tenants(queue)
            else:
                self._delayed.add(queue)
                wake = partial(self._wake_tenants_at, queue, due)
                store.background.start(("wake", queue), wake)

    async def _wake_tenants_at(self, queue: str, due: float) -> None:
        try:
            await trio.sleep_until(due)
        finally:
            self._delayed.discard(queue)
        self._wake_tenants(queue)

    def _wake_tenants(self, queue: str) -> None:
        """Wake one waiter of each tenant."""
        if queue in self._waiting:
            self._tenants_due[queue] = trio.current_time() + EACH_TENANT_EVERY_S
            for tenant in filter(None, self._waiting[queue]):
                self.wake_next([queue], tenant)

    def wake_all(self) -> None:
        """Make each waiter call its ``check`` and fetch again."""
        for queue, tenants in self._waiting.items():
            for waiting in tenants.values():
                for waiter in waiting:
                    waiter.wake(queue)


async def fetch_or_wait(
    store: Store,
    waiters: Waiters,
    queues: Sequence[str],
    *,
    count: int,
    worker_id: str,
    visibility_timeout_ms: int | None = None,
    wait_ms: int = 0,
    tenant: str = "",
    on_wait: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
    fetch_now: FetchNow = fetch_unless_quiet,
) -> list[JobRecord]:
    """Fetch as ``fetch`` does; when there is no job, wait up to ``wait_ms`` for the first one.

    Args:
        store: the store.
        waiters: the waiters of this process.
        queues: the queues in order, as for ``fetch``.
        count: maximum number of jobs.
        worker_id: the holder of the leases, '' for an anonymous worker.
        visibility_timeout_ms: length of the leases in milliseconds; None for that of each job.
        wait_ms: longest wait in milliseconds.
        tenant: the tenant whose jobs are fetched, '' for any.
        on_wait: called when the wait begins.
        check: called before each fetch during the wait. It raises ``OJSError`` to end the wait.
        fetch_now: fetches without a wait; for a worker pool, by its strategy.

    Raises:
        BackendUnavailable: as ``fetch``.
        OJSError: ``check`` has raised it.
    """
    deadline = -inf  # most fetches do not wait, and need no clock
    if wait_ms > 0:
        deadline = trio.current_time() + wait_ms / 1000
        extend_deadline(wait_ms / 1000)
    try:
        jobs = await fetch_now(store, queues, count, worker_id, visibility_timeout_ms, tenant)
        if jobs or wait_ms <= 0 or waiters.draining:
            return jobs
        await ensure_task()
        on_wait()
        fetch_once = partial(
            fetch_now, store, queues, count, worker_id, visibility_timeout_ms, tenant
        )
        return await _wait(store, waiters, queues, tenant, worker_id, fetch_once, check, deadline)
    except WorkerIsQuiet:
        # A quiet worker does not become a waiter: it would take wake-ups that other workers need.
        # It still waits, because after an immediate empty response it would fetch again at once.
        await ensure_task()
        on_wait()
        with trio.move_on_at(deadline):
            await waiters.drained()
        return []


async def _wait(
    store: Store,
    waiters: Waiters,
    queues: Sequence[str],
    tenant: str,
    worker_id: str,
    fetch_once: Callable[[], Awaitable[list[JobRecord]]],
    check: Callable[[], None],
    deadline: float,
) -> list[JobRecord]:
    jobs: list[JobRecord] = []
    waiter = waiters.add(queues, tenant)
    queues_to_wake: set[str] = set()
    try:
        while not jobs:
            await waiters.subscribe(store, queues)  # a queue may have more partitions now
            waiter.reset()
            check()
            # If the fetch raises, another waiter is woken for these queues.
            queues_to_wake, waiter.woken = waiter.woken, set()
            jobs = await fetch_once()
            if jobs:
                queues_to_wake |= {job.queue for job in jobs}
                break
            queues_to_wake = set()
            now = trio.current_time()
            if now >= deadline or waiters.draining:
                break
            await _until_woken(store, waiters, waiter, queues, worker_id, deadline)
        return jobs
    finally:
        # Also when cancelled: the queues may have jobs for another waiter.
        waiters.remove(waiter, queues, tenant)
        waiters.wake_next(queues_to_wake | waiter.woken, tenant)


async def _until_woken(
    store: Store,
    waiters: Waiters,
    waiter: _Waiter,
    queues: Sequence[str],
    worker_id: str,
    deadline: float,
) -> None:
    """Wait until there may be a job, or until ``deadline`` in seconds of trio's clock."""
    while not waiter.woken and not waiters.draining and trio.current_time() < deadline:
        with trio.move_on_at(min(deadline, waiters.next_check_at(queues))):
            await waiter.wait()
            return
        if trio.current_time() < deadline:
            await store.fetch_touches.touch(store, worker_id)
            await waiters.subscribe(store, queues)
            await waiters.check_queues(store, waiter, queues)
