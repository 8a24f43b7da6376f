"""Long poll: fetches that wait for a job, woken by pub/sub (spec: ojs-worker-protocol, FETCH).

A waiter is a fetch that found no job and waits. A transition publishes a queue's name only when the
queue stops being empty, so an idle or a busy queue publishes nothing. Each process then wakes one
waiter. A waiter that got a job wakes the next one, so many new jobs reach all waiters one after the
other. Of waiters that name different job types, each process wakes one of each kind, because only
one kind may run the job. A fetch that parks jobs publishes ``<queue> * <digest>``, with the digest
of its own types. It wakes one waiter of each kind with other types.

A queue with suspects does not become empty, because only an idle worker takes one at once. So its
further jobs are not published. As long as waiters leave suspects, one waiter after the other
fetches, each after ``_SUSPECTS_EVERY_S``.

A fetch for one tenant waits for a message of its own, ``<queue> <tenant>``. When a pause or a limit
ends, jobs of any tenant may start, so ``<queue> *`` wakes one waiter of each tenant. Waking all
waiters at once was rejected: a thousand waiters would fetch for one job.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from math import inf
from typing import NamedTuple

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError, OutOfTime
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import (
    FetchIsUnfinished,
    SentFetch,
    SuspectsAreLeft,
    WorkerIsQuiet,
    fetch_unless_quiet,
    resume,
)
from ojs_cluster.store.engine.fetch.fetch_script import digest_of
from ojs_cluster.store.engine.fetch.ranked_fetch import read_depths
from ojs_cluster.store.engine.fetch.worker_messages import WorkerMessages
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.depth_reader import FilledQueues

FetchNow = Callable[
    [Store, Sequence[str], int, str, int | None, str, str], Awaitable[list[JobRecord]]
]
"""A function with the parameters of ``fetch_unless_quiet``."""
CHECK_EVERY_S = 5.0
"""Time in seconds between two reads of all queues that have waiters.

It is about the longest delay that a lost message causes. One task reads for all waiters of a
process. If each did so itself, a thousand waiters would wake up for it every few milliseconds."""
_ISOLATED_S = 1.0
"""Longest wait in seconds of a worker that runs a suspect. It may get other jobs soon after."""
_SUSPECTS_EVERY_S = 0.5
"""Time in seconds from a fetch that has left suspects to that of the next waiter of its queues."""
_TOUCHES_AT_ONCE = 50
"""Number of waiting workers that are recorded at once."""
CHECK_S = 1.0
"""Longest time in seconds to read the depths of a shard with jobs. Then its waiters fetch."""
_QUEUES_PER_CHECK = 1000
"""Maximum number of queues that one of these reads calls at once."""
_RECENT_MESSAGES = 256
"""Number of messages that a process remembers.

If no message for its queues has arrived since a fetch began, its waiter need not fetch again."""
_MAX_COVERED = 10_000
"""Maximum number of lists of queues that a process knows to be subscribed."""
EACH_TENANT = "*"
"""What a message has in place of a tenant to wake one waiter of each (``wake_queue.lua``)."""
EACH_TENANT_EVERY_S = 0.1
"""Shortest time in seconds between two wake-ups of one waiter of each tenant of a queue.

A queue at its concurrency limit has such a message for each ack, and only one of the woken fetches
gets a job."""
SUBSCRIBE_S = 1.0
"""Longest time in seconds that a waiter waits for its subscriptions."""


class _Kind(NamedTuple):
    """Which jobs a waiter takes.

    Attributes:
        tenant: those of this tenant, '' for any.
        types: those of these types, as ``pack_types``; '' for any.
    """

    tenant: str
    types: str


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
        self.worker_messages = WorkerMessages()
        self._waiting: dict[str, dict[_Kind, dict[_Waiter, None]]] = {}
        """The waiters of each queue by the jobs that they take."""
        self._fetches: dict[_Waiter, tuple[tuple[str, ...], str]] = {}
        """The queues and the worker of each waiter."""
        self._is_tended = False
        self._checked_at = -inf
        self._covered_until: dict[tuple[str, ...], float] = {}
        """Until when no new shard needs a subscription for a list of queues."""
        self._recent: deque[tuple[str, str]] = deque(maxlen=_RECENT_MESSAGES)
        """The queues and digests of the latest messages."""
        self._messages = 0
        self._tenants_due: dict[str, float] = {}
        """When one waiter of each tenant of a queue may be woken again."""
        self._delayed: set[str] = set()
        """Queues whose tenants are woken when that time has come."""
        self._with_suspects: set[tuple[str, _Kind]] = set()
        """Queues in which suspects were left, each with the kind of waiter that has left them."""
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
        names = tuple(queues)
        if self.covers(names):
            return
        shards = {
            shard for queue in names for shard in await store.partitions.open_shards(store, queue)
        }
        await self.subscribe_to_shards(store, shards)
        if shards <= self._subscribed:
            if len(self._covered_until) >= _MAX_COVERED:
                self._covered_until.clear()
            self._covered_until[names] = trio.current_time() + CHECK_EVERY_S

    async def subscribe_to_shards(self, store: Store, shards: Iterable[Shard]) -> None:
        """Subscribe to the wake channels of some shards, as ``subscribe``."""
        missing = set(shards) - self._subscribed
        deadline = trio.current_time() + SUBSCRIBE_S
        for shard in missing:
            work = partial(self._subscribe, store, shard)
            await store.background.once(("subscribe", id(self), shard.index), work, 0)
        for shard in missing - self._subscribed:
            if store.redis.is_responsive(shard.slot):
                work = partial(self._subscribe, store, shard)
                wait_s = deadline - trio.current_time()
                await store.background.once(("subscribe", id(self), shard.index), work, wait_s)

    def covers(self, queues: tuple[str, ...]) -> bool:
        """Return whether messages for all of the queues reach this process.

        A queue may get more partitions, so a subscription is checked again after
        ``CHECK_EVERY_S``.
        """
        return self._covered_until.get(queues, -inf) > trio.current_time()

    def position(self, queues: Sequence[str], wait_ms: int) -> int | None:
        """Return the number of messages before a fetch that may wait, for ``has_message``.

        It is None if the fetch does not wait, or if not all messages reach this process.
        """
        return self._messages if wait_ms > 0 and self.covers(tuple(queues)) else None

    def has_message(self, queues: Sequence[str], since: int, types: str = "") -> bool:
        """Return whether one of the queues had a message after the first ``since`` messages.

        Messages of fetches that name the same types do not count.
        """
        count = self._messages - since
        if count > len(self._recent):
            return True
        recent = islice(reversed(self._recent), max(0, count))
        own = digest_of(types)
        return any(queue in queues and (not by or by != own) for queue, by in recent)

    async def _subscribe(self, store: Store, shard: Shard) -> None:
        if shard not in self._subscribed:
            on_message = partial(self._on_message, store, shard)
            await store.redis.subscribe(shard.wake_channel, shard.slot, on_message, self.wake_all)
            self._subscribed.add(shard)

    def add(
        self, queues: Iterable[str], tenant: str = "", types: str = "", worker_id: str = ""
    ) -> _Waiter:
        """Register a fetch that waits for jobs of ``queues``.

        Args:
            queues: the queues.
            tenant: the tenant whose jobs it waits for, '' for any.
            types: the types whose jobs it waits for, as ``pack_types``; '' for any.
            worker_id: the worker that waits, '' for an anonymous one.
        """
        waiter, kind = _Waiter(), _Kind(tenant, types)
        self._fetches[waiter] = (tuple(queues), worker_id)
        for queue in queues:
            self._waiting.setdefault(queue, {}).setdefault(kind, {})[waiter] = None
        return waiter

    def remove(
        self, waiter: _Waiter, queues: Iterable[str], tenant: str = "", types: str = ""
    ) -> None:
        """Unregister a fetch. Queues without a waiter are not checked."""
        kind = _Kind(tenant, types)
        self._fetches.pop(waiter, None)
        for queue in queues:
            waiting = self._waiting.get(queue)
            if waiting is not None:
                of_kind = waiting.get(kind, {})
                of_kind.pop(waiter, None)
                if not of_kind:
                    waiting.pop(kind, None)
                if not waiting:
                    del self._waiting[queue]
                    self._tenants_due.pop(queue, None)

    def wake_next(self, queues: Iterable[str], tenant: str = "", types: str = "") -> None:
        """Wake the first waiter of each of ``queues``, of those that take the same jobs."""
        for queue in queues:
            waiting = self._waiting.get(queue, {}).get(_Kind(tenant, types))
            if waiting:
                next(iter(waiting)).wake(queue)

    def wake_later(
        self, store: Store, queues: Iterable[str], tenant: str = "", types: str = ""
    ) -> None:
        """Wake the next waiter of queues in which a fetch has left suspects, in a short time."""
        left = {(queue, _Kind(tenant, types)) for queue in queues} - self._with_suspects
        if left:
            self._with_suspects |= left
            store.background.start("waiters for suspects", partial(self._wake_later, left))

    async def _wake_later(self, left: set[tuple[str, _Kind]]) -> None:
        try:
            await trio.sleep(_SUSPECTS_EVERY_S)
        finally:
            self._with_suspects -= left
        for queue, kind in left:
            waiting = self._waiting.get(queue, {}).get(kind)
            if waiting:
                waiter = next(iter(waiting))
                waiting[waiter] = waiting.pop(waiter)  # the next time, the next one is woken
                waiter.wake(queue)

    def _wake_kinds(self, queue: str, is_woken: Callable[[_Kind], object]) -> None:
        """Wake the first waiter of each kind of a queue that ``is_woken``."""
        for kind, waiting in self._waiting.get(queue, {}).items():
            if is_woken(kind):
                next(iter(waiting)).wake(queue)

    def _wake_types(self, queue: str, types: str) -> None:
        self._wake_kinds(queue, lambda kind: kind.types == types)

    def tend(self, store: Store) -> None:
        """Do every few seconds what all waiters need, as long as there are any."""
        if not self._is_tended:
            self._is_tended = True
            store.background.start("waiters", partial(self._tend, store))

    async def _tend(self, store: Store) -> None:
        try:
            while True:
                await trio.sleep(CHECK_EVERY_S)
                if not self._fetches:
                    return
                with suppress(OJSError):  # their own fetches raise it
                    await self.check_queues(store)
                lists = {names for names, _ in self._fetches.values()}
                with suppress(OJSError):
                    await run_concurrently(lists, partial(self.subscribe, store))
                workers = list({worker for _, worker in self._fetches.values()})
                for start in range(0, len(workers), _TOUCHES_AT_ONCE):
                    some = workers[start : start + _TOUCHES_AT_ONCE]
                    await run_concurrently(some, partial(store.fetch_touches.touch, store))
        finally:
            self._is_tended = False

    async def check_queues(self, store: Store) -> None:
        """Wake waiters of each queue that has jobs, unless the queues were checked recently.

        If a shard does not answer, a waiter of each of its queues is woken: its fetch then raises
        the error.
        """
        checked_at, now = self._checked_at, trio.current_time()
        if now < checked_at + CHECK_EVERY_S:
            return
        self._checked_at = now  # before the check, so that no other waiter checks, too
        waiting = list(self._waiting)
        try:
            for first in range(0, len(waiting), _QUEUES_PER_CHECK):
                queues_of: dict[Shard, list[str]] = {}
                for queue in waiting[first : first + _QUEUES_PER_CHECK]:
                    for shard in await store.partitions.open_shards(store, queue):
                        queues_of.setdefault(shard, []).append(queue)
                filled = await store.depth_reader.find_filled(store, queues_of)
                await run_concurrently(filled.queues, partial(self._check, store, filled))
                for shard in (*filled.unanswered, *filled.doubtful):
                    for queue in queues_of[shard]:
                        self._wake_kinds(queue, bool)
        except BaseException:  # a cancelled check counts as not made: another waiter makes it
            self._checked_at = checked_at
            raise

    async def _check(self, store: Store, filled: FilledQueues, shard: Shard) -> None:
        """Wake waiters of each queue of a shard that has jobs."""
        queues: dict[str, list[str]] = {}  # by the types of their waiters
        for queue in sorted(filled.queues[shard]):
            for types in {kind.types for kind in self._waiting.get(queue, ())}:
                queues.setdefault(types, []).append(queue)
        for types, names in queues.items():
            depths: Mapping[str, int] = {}
            with (
                trio.move_on_after(CHECK_S),
                suppress(BackendUnavailable),
            ):  # then the fetch of the waiter raises the error
                depths = await read_depths(store, shard, names, types=types)
                store.depth_cache.mark_filled(store.keys, shard, filter(depths.get, names), types)
            for queue in names:
                if depths.get(queue, 1):
                    self._wake_types(queue, types)

    def _on_message(self, store: Store, shard: Shard, payload: bytes) -> None:
        if self.worker_messages.deliver(payload):
            return
        queue, _, rest = payload.decode(errors="replace").partition(" ")
        tenant, _, by = rest.partition(" ")
        self._recent.append((queue, by))
        self._messages += 1
        store.depth_cache.mark_filled(store.keys, shard, [queue])
        if by:
            self._wake_kinds(queue, lambda kind: not kind.tenant and digest_of(kind.types) != by)
        if tenant != EACH_TENANT:
            self._wake_kinds(queue, lambda kind: kind.tenant == tenant)
        elif (
            any(kind.tenant for kind in self._waiting.get(queue, ())) and queue not in self._delayed
        ):
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
        """Wake one waiter of each kind that waits for a tenant."""
        if queue in self._waiting:
            self._tenants_due[queue] = trio.current_time() + EACH_TENANT_EVERY_S
            self._wake_kinds(queue, lambda kind: kind.tenant)

    def wake_all(self) -> None:
        """Make each waiter call its ``check`` and fetch again, and those that begin to wait now."""
        self._messages += _RECENT_MESSAGES + 1
        self.worker_messages.tell_all()
        for queue, kinds in self._waiting.items():
            for waiting in kinds.values():
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
    types: str = "",
    on_wait: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
    fetch_now: FetchNow = fetch_unless_quiet,
    sent: SentFetch | None = None,
) -> list[JobRecord]:
    """Fetch as ``fetch`` does; when there is no job, wait up to ``wait_ms`` for the first one.

    A wait goes on while shards do not answer, for example during a failover.

    Args:
        store: the store.
        waiters: the waiters of this process.
        queues: the queues in order, as for ``fetch``.
        count: maximum number of jobs.
        worker_id: the holder of the leases, '' for an anonymous worker.
        visibility_timeout_ms: length of the leases in milliseconds; None for that of each job.
        wait_ms: longest wait in milliseconds.
        tenant: the tenant whose jobs are fetched, '' for any.
        types: the job types that the worker runs, as ``pack_types``; '' for any.
        on_wait: called when the wait begins.
        check: called before each fetch during the wait. It raises ``OJSError`` to end the wait.
        fetch_now: fetches without a wait; for a worker pool, by its strategy.
        sent: the first call of the fetch, if it is sent already.

    Raises:
        BackendUnavailable: as ``fetch``; if it waits, then at the end of its wait.
        OJSError: ``check`` has raised it.
    """
    deadline = -inf  # most fetches do not wait, and need no clock
    if wait_ms > 0:
        deadline = trio.current_time() + wait_ms / 1000
        extend_deadline(wait_ms / 1000)
    since = waiters.position(queues, wait_ms) if sent is None else sent.since
    jobs: list[JobRecord] = []
    kind = _Kind(tenant, types)
    fetch_once = partial(
        fetch_now, store, queues, count, worker_id, visibility_timeout_ms, tenant, types
    )
    try:
        try:
            if sent is None:
                jobs = await fetch_once()
            else:
                jobs = await resume(store, queues, count, worker_id, types, sent)
        except FetchIsUnfinished:
            since = None
        except SuspectsAreLeft:
            if wait_ms > 0:
                waiters.wake_later(store, queues, *kind)
        except BackendUnavailable as error:
            if wait_ms <= 0 or waiters.draining or isinstance(error, OutOfTime):
                raise
            since = None
        if jobs or wait_ms <= 0 or waiters.draining:
            return jobs
        await ensure_task()
        on_wait()
        return await _wait(
            store, waiters, queues, kind, worker_id, fetch_once, check, deadline, since
        )
    except WorkerIsQuiet as quiet:
        # A quiet worker does not become a waiter: it would take wake-ups that other workers need.
        # It still waits, because after an immediate empty response it would fetch again at once.
        await ensure_task()
        on_wait()
        if quiet.isolated:
            deadline = min(deadline, trio.current_time() + _ISOLATED_S)
        with trio.move_on_at(deadline):
            await waiters.drained()
        return []


async def _wait(
    store: Store,
    waiters: Waiters,
    queues: Sequence[str],
    kind: _Kind,
    worker_id: str,
    fetch_once: Callable[[], Awaitable[list[JobRecord]]],
    check: Callable[[], None],
    deadline: float,
    since: int | None,
) -> list[JobRecord]:
    jobs: list[JobRecord] = []
    waiter = waiters.add(queues, *kind, worker_id)
    waiters.tend(store)
    queues_to_wake: set[str] = set()
    pauses = _pauses()
    try:
        if since is not None and not waiters.has_message(queues, since, kind.types):
            # The first fetch has missed no job whose message this waiter does not get.
            await _until_woken(waiters, waiter, deadline)
            if not waiter.woken:
                return []
        while not jobs:
            await waiters.subscribe(store, queues)  # a queue may have more partitions now
            waiter.reset()
            check()
            # If the fetch raises, another waiter is woken for these queues.
            queues_to_wake, waiter.woken = waiter.woken, set()
            is_unfinished, look_at = False, deadline
            try:
                jobs = await fetch_once()
            except FetchIsUnfinished:
                is_unfinished = True
            except SuspectsAreLeft:
                waiters.wake_later(store, queues, *kind)
            except BackendUnavailable as error:
                now = trio.current_time()
                if now >= deadline or waiters.draining or isinstance(error, OutOfTime):
                    raise
                look_at = min(deadline, now + next(pauses))
            if jobs:
                queues_to_wake |= {job.queue for job in jobs}
                break
            queues_to_wake = set()
            now = trio.current_time()
            if now >= deadline or waiters.draining:
                break
            if is_unfinished:
                continue
            await _until_woken(waiters, waiter, look_at)
        return jobs
    finally:
        # Also when cancelled: the queues may have jobs for another waiter.
        waiters.remove(waiter, queues, *kind)
        waiters.wake_next(queues_to_wake | waiter.woken, *kind)


def _pauses() -> Iterator[float]:
    """Yield times in seconds from a fetch that failed to the next one: 1, 2, 4, and then the last.

    They are random by half, because all waiters of a shard fail at once.
    """
    pause = 1.0
    while True:
        yield pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        pause = min(2 * pause, CHECK_EVERY_S)


async def _until_woken(waiters: Waiters, waiter: _Waiter, deadline: float) -> None:
    """Wait until there may be a job, or until ``deadline`` in seconds of trio's clock."""
    if not waiters.draining:
        with trio.move_on_at(deadline):
            await waiter.wait()
