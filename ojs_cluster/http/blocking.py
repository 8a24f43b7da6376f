"""Wait for room in full queues whose strategy is ``block`` (spec: ojs-backpressure 5.2).

A client that is willing to wait sends ``OJS-Block-Timeout`` in seconds. After growing pauses, the
process repeats the enqueue. If the request is large, it first asks Redis whether the jobs fit,
which sends names and counts only. Nothing of the request is in Redis while it waits, so a process
that dies leaves nothing behind, and each attempt compares and stores in one step. The first attempt
counts the jobs for the limits of their tenants, and the others do not: the handlers give all
attempts the same dict ``admitted``, in which the store notes what it has counted. A wait list in
Redis was refused: it would need an end for clients that have gone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from ojs_cluster.core.errors import InvalidRequest, QueueFull
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.http.maintenance import MaintenanceFlag
from ojs_cluster.http.messages import Request
from ojs_cluster.http.request_body.memory import BodyMemoryBudget
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits.depth_bounds import check_bounds

T = TypeVar("T")

MAX_BLOCK_S: Final = 60
"""Maximum time in seconds that a request waits; a longer timeout is shortened to it."""
MAX_BLOCKED: Final = 500
"""Maximum number of requests of a process that wait at the same time. Others are refused."""
_SMALL: Final = 16 * 1024
"""Size of a body in bytes up to which a try costs no more than to ask first."""
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 0.5


class BlockedRequests:
    """Counts the requests of a process that wait for room.

    Args:
        store: the store.
        memory: the body memory budget of the process.
        maintenance: ends all waits while it refuses new jobs.
        draining: ends all waits when it is set.
    """

    __slots__ = ("_draining", "_maintenance", "_memory", "_store", "count")

    def __init__(
        self,
        store: Store,
        memory: BodyMemoryBudget,
        maintenance: MaintenanceFlag,
        draining: trio.Event,
    ) -> None:
        self.count = 0
        self._store = store
        self._memory = memory
        self._maintenance = maintenance
        self._draining = draining

    async def until_stored(
        self, request: Request, jobs: Sequence[NewJob], attempt: Callable[[], Awaitable[T]]
    ) -> T:
        """Return the result of ``attempt``, repeated while a queue is full.

        Args:
            request: the request; its header ``ojs-block-timeout`` is the time to wait in seconds.
            jobs: the new jobs.
            attempt: enqueues the jobs; stores nothing when it raises ``QueueFull``. Its repetition
                does not count the jobs again for the limits of their tenants.

        Raises:
            QueueFull: the queue does not block, the jobs can never fit, too many requests or bytes
                wait already, or the queue is still full after the timeout.
            UnderMaintenance: maintenance mode refuses new jobs.
            InvalidRequest: the header is no whole number of seconds.
        """
        text = request.headers.get("ojs-block-timeout")
        if text is None:
            return await attempt()
        timeout_s, size, memory = _seconds(text), len(request.body), self._memory
        try:
            return await attempt()
        except QueueFull as full:
            crowded = self.count >= MAX_BLOCKED or size > memory.waiting_free
            if not timeout_s or crowded or not _may_fit(self._store, full, jobs):
                raise
        self.count += 1
        memory.waiting_free -= size
        try:
            await ensure_task()
            extend_deadline(timeout_s)
            return await self._repeat(timeout_s, jobs, attempt, is_large=size > _SMALL)
        finally:
            self.count -= 1
            memory.waiting_free += size

    async def _repeat(
        self,
        timeout_s: float,
        jobs: Sequence[NewJob],
        attempt: Callable[[], Awaitable[T]],
        *,
        is_large: bool,
    ) -> T:
        deadline, pause_s = trio.current_time() + timeout_s, _FIRST_PAUSE_S
        while True:
            remaining_s = deadline - trio.current_time()
            wait_s = min(remaining_s, pause_s * random.uniform(0.5, 1))  # noqa: S311 - jitter
            with trio.move_on_after(max(0, wait_s)):
                await self._draining.wait()
            self._maintenance.check("enqueue")
            is_last = self._draining.is_set() or trio.current_time() >= deadline
            try:
                if is_large and not is_last and _is_predictable(self._store, jobs):
                    await _check_room(self._store, jobs)
                return await attempt()
            except QueueFull as full:
                if is_last or not _may_fit(self._store, full, jobs):
                    raise
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _check_room(store: Store, jobs: Sequence[NewJob]) -> None:
    """Check that the queues have room, without sending the jobs.

    Raises:
        QueueFull: a queue has no room.
        BackendUnavailable: Redis did not answer in time.
    """
    await store.partitions.refresh_if_stale(store)
    shards = store.partitions.choose_shards(store, jobs)
    await check_bounds(store, zip(shards, (job.queue for job in jobs), strict=True))


def _may_fit(store: Store, full: QueueFull, jobs: Sequence[NewJob]) -> bool:
    """Return whether the full queue blocks, and has room for the jobs once it is empty.

    Of unique jobs only those are stored that are new, so they may always fit.
    """
    details = full.details
    if details.get("strategy") != "block":
        return False
    if any(job.unique is not None for job in jobs):
        return True
    queue = details["queue"]
    shards = store.partitions.choose_shards(store, [job for job in jobs if job.queue == queue])
    # The bound in the error is that of one partition, and most jobs of a batch share a partition.
    # Of several partitions each attempt chooses at random: this estimates its next choice.
    return bool(max(Counter(shards).values()) <= details["bound"])


def _is_predictable(store: Store, jobs: Sequence[NewJob]) -> bool:
    """Return whether a check of the bounds predicts the result of an enqueue.

    It does not if the enqueue chooses among partitions, or stores only the new ones of unique jobs.
    """
    return all(
        job.unique is None and store.partitions.producer_count(job.queue) == 1 for job in jobs
    )


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidRequest(
            "OJS-Block-Timeout must be a whole number of seconds",
            field="headers.ojs-block-timeout",
        )
    return min(int(text), MAX_BLOCK_S)
