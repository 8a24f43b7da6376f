"""Long poll: fetches that wait for a job, woken by pub/sub (spec: ojs-worker-protocol, FETCH).

A transition publishes a queue's name when the queue stops being empty, and only then. One waiter
of each process is woken; when it got a job it wakes the next, so a burst of jobs reaches all
waiters one after the other, an idle queue costs nothing, and a busy one publishes nothing. Waking
everybody would make a thousand waiters fetch for one job.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.fetch.fetch import Quiet, fetch_unless_quiet
from ojs_cluster.store.fetch.ranked_fetch import read_depths
from ojs_cluster.store.jobs.record import JobRecord

LOOK_AGAIN_S = 5.0
"""Each queue that is waited for is looked at this often: the bound on what a lost message can cost.
One waiter of a process looks for all others of the queue, and only reads how many jobs there are.
"""


SUBSCRIBE_S = 1.0
"""Longest wait in seconds for the channels of shards that answer."""


class _Waiter:
    """One waiting fetch, and the queues it was woken for since it last looked."""

    __slots__ = ("_event", "woken")

    def __init__(self) -> None:
        self._event = trio.Event()
        self.woken: set[str] = set()

    def wake(self, queue: str) -> None:
        self.woken.add(queue)
        self._event.set()

    def rearm(self) -> None:
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Waiters:
    """The waiting fetches of this process."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[_Waiter, None]] = {}
        self._looked_at: dict[str, float] = {}
        self._watched: set[Shard] = set()
        self._drained = trio.Event()

    def drain(self) -> None:
        """Send every waiter home with what it has: nothing. Later ones do not wait at all."""
        self._drained.set()
        self._wake_all()

    @property
    def draining(self) -> bool:
        return self._drained.is_set()

    async def drained(self) -> None:
        """Wait until ``drain``."""
        await self._drained.wait()

    def __len__(self) -> int:
        """How many queues are waited for."""
        return len(self._waiting)

    async def watch(self, store: Store, queues: Iterable[str]) -> None:
        """Subscribe to the shards of ``queues``. Channels are per shard, so there are few.

        A shard whose channel cannot be had yet is asked for it again by the next call: until then
        its jobs are found by the waiter's own looks. No waiter waits for a shard that is silent.
        """
        shards = {
            shard for queue in queues for shard in await store.partitions.open_shards(store, queue)
        }
        missing = shards - self._watched
        if not missing:
            return
        deadline = trio.current_time() + SUBSCRIBE_S
        for shard in missing:
            work = partial(self._subscribe, store, shard)
            await store.background.once(("wake", id(self), shard.index), work, 0)
        for shard in missing:
            if shard not in self._watched and store.redis.is_responsive(shard.slot):
                work = partial(self._subscribe, store, shard)
                wait_s = deadline - trio.current_time()
                await store.background.once(("wake", id(self), shard.index), work, wait_s)

    async def _subscribe(self, store: Store, shard: Shard) -> None:
        if shard not in self._watched:
            on_message = partial(self._on_message, store, shard)
            await store.redis.subscribe(shard.wake_channel, shard.slot, on_message, self._wake_all)
            self._watched.add(shard)

    def join(self, queues: Iterable[str]) -> _Waiter:
        waiter = _Waiter()
        for queue in queues:
            self._waiting.setdefault(queue, {})[waiter] = None
            self._looked_at.setdefault(queue, trio.current_time())
        return waiter

    def leave(self, waiter: _Waiter, queues: Iterable[str]) -> None:
        for queue in queues:
            waiting = self._waiting.get(queue)
            if waiting is not None:
                waiting.pop(waiter, None)
                if not waiting:
                    del self._waiting[queue]
                    self._looked_at.pop(queue, None)

    def pass_on(self, queues: Iterable[str]) -> None:
        """There may be more in ``queues``: wake the next waiter of each."""
        for queue in queues:
            waiting = self._waiting.get(queue)
            if waiting:
                next(iter(waiting)).wake(queue)

    async def look_around(self, store: Store, waiter: _Waiter, queues: Iterable[str]) -> None:
        """Wake a waiter of each queue that has jobs, unless it was looked at lately.

        A shard that does not answer wakes ``waiter``, whose own fetch finds out what is wrong.
        """
        now = trio.current_time()
        due: dict[Shard, list[str]] = {}
        before = {queue: self._looked_at.get(queue, now) for queue in queues}
        claimed = {queue: at for queue, at in before.items() if at <= now - LOOK_AGAIN_S}
        self._looked_at.update(dict.fromkeys(claimed, now))

        async def look(shard: Shard) -> None:
            try:
                depths = await store.depths.read(shard, due[shard], partial(read_depths, store))
            except BackendUnavailable:
                waiter.wake(due[shard][0])
                return
            filled = [queue for queue in due[shard] if depths[queue]]
            store.hints.filled(store.keys, shard, filled)
            self.pass_on(filled)

        try:
            for queue in claimed:
                for shard in await store.partitions.open_shards(store, queue):
                    due.setdefault(shard, []).append(queue)
            await over_shards(due, look)
        except BaseException:  # cancelled: others of these queues look in its place
            for queue in claimed.keys() & self._looked_at.keys():
                self._looked_at[queue] = claimed[queue]
            raise

    def next_look_at(self, queues: Iterable[str]) -> float:
        """When the next of the queues is to be looked at, in trio's time."""
        return LOOK_AGAIN_S + min(self._looked_at[queue] for queue in queues)

    def _on_message(self, store: Store, shard: Shard, payload: bytes) -> None:
        queue = payload.decode()
        store.hints.filled(store.keys, shard, [queue])
        self.pass_on([queue])

    def _wake_all(self) -> None:
        for queue, waiting in self._waiting.items():
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
    on_wait: Callable[[], None] = lambda: None,
) -> list[JobRecord]:
    """As ``fetch``, and when there is nothing wait up to ``wait_ms`` for the first job.

    ``on_wait`` is called when the waiting begins.

    Raises:
        BackendUnavailable: as ``fetch``.
    """

    async def look() -> list[JobRecord]:
        return await fetch_unless_quiet(store, queues, count, worker_id, visibility_timeout_ms)

    deadline = trio.current_time() + wait_ms / 1000
    if wait_ms > 0:
        extend_deadline(wait_ms / 1000)
    try:
        jobs = await look()
        if jobs or wait_ms <= 0 or waiters.draining:
            return jobs
        await ensure_task()
        on_wait()
        return await _wait(store, waiters, queues, worker_id, look, deadline)
    except Quiet:
        # It would eat the wake-ups of those who may fetch, so it waits apart from them. It does
        # wait: a worker that is told "nothing" at once would ask again at once.
        await ensure_task()
        on_wait()
        with trio.move_on_at(deadline):
            await waiters.drained()
        return []


async def _wait(
    store: Store,
    waiters: Waiters,
    queues: Sequence[str],
    worker_id: str,
    look: Callable[[], Awaitable[list[JobRecord]]],
    deadline: float,
) -> list[JobRecord]:
    jobs: list[JobRecord] = []
    waiter = waiters.join(queues)
    owed: set[str] = set()
    try:
        while not jobs:
            await waiters.watch(store, queues)  # again: a queue may have got more partitions
            waiter.rearm()
            owed, waiter.woken = waiter.woken, set()
            jobs = await look()  # may end in Quiet: then what it owes is passed on
            if jobs:
                owed |= {job.queue for job in jobs}
                break
            owed = set()
            now = trio.current_time()
            if now >= deadline or waiters.draining:
                break
            await _until_woken(store, waiters, waiter, queues, worker_id, deadline)
        return jobs
    finally:
        # Also when cancelled: a wake-up that this waiter cannot use is another's.
        waiters.leave(waiter, queues)
        waiters.pass_on(owed | waiter.woken)


async def _until_woken(
    store: Store,
    waiters: Waiters,
    waiter: _Waiter,
    queues: Sequence[str],
    worker_id: str,
    deadline: float,
) -> None:
    """Wait until there may be a job, or ``deadline``."""
    while not waiter.woken and not waiters.draining and trio.current_time() < deadline:
        with trio.move_on_at(min(deadline, waiters.next_look_at(queues))):
            await waiter.wait()
            return
        if trio.current_time() < deadline:
            await store.fetch_touches.touch(store, worker_id)
            await waiters.watch(store, queues)
            await waiters.look_around(store, waiter, queues)
