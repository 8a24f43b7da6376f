"""The jobs that a worker holds, and the time at which their leases expire."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import anyio

from ojs_client.jobs import parse_time
from ojs_client.options import JSON
from ojs_client.worker.signal import Signal

log: Final = logging.getLogger("ojs_client.worker")

WARN_S: Final = 1.0
"""Minimum time in seconds for which the event loop stands still that is worth a line."""

Loss = Literal["server", "cancelled", "expired"]
Outcome = Literal["completed", "failed", "snoozed", "requeued", "lost"]


@dataclass(slots=True, eq=False)
class HeldJob:
    """A job that the worker has fetched, until the server has its ack or nack.

    Attributes:
        id: the job.
        lease_id: the lease.
        members: the envelope.
        fetched_at: when the worker got the job, on the clock of ``time.monotonic``, which child
            processes share.
        expires_at: when the lease expires at the earliest, on the same clock, if no heartbeat
            extends it.
        lost: why the lease is lost: ``cancelled`` if a client has cancelled the job, ``server`` if
            the server says that the worker does not hold it, ``expired`` if no heartbeat was
            answered in time; None while the worker holds the job.
        scope: the scope of the handler.
        in_thread: whether the handler is a sync one. Its thread cannot be cancelled.
        ended: whether the ack or nack is decided, or none will be sent. The handler may still run.
        requeued: whether a sync handler must end, because the worker requeues its job.
        outcome: how the attempt has ended, for metrics: ``completed``, ``failed``, ``snoozed``,
            ``requeued`` or ``lost``.
        loss_read: whether the handler has read from ``lease_lost`` that the job is lost or
            requeued. Its result or exception is then ignored.
    """

    id: str
    lease_id: str
    members: Mapping[str, JSON]
    fetched_at: float
    expires_at: float
    lost: Loss | None = None
    scope: anyio.CancelScope = field(default_factory=lambda: anyio.CancelScope())
    in_thread: bool = False
    ended: bool = False
    requeued: bool = False
    loss_read: bool = False
    outcome: Outcome = "requeued"

    def server_time(self) -> datetime:
        """Return the time on the server's clock, slightly late: the clock here may be wrong.

        The server has sent its time with the job. If it has not, this is the time here.
        """
        started_at = parse_time(self.members.get("started_at"))
        if started_at is None:
            return datetime.now(UTC)
        return started_at + timedelta(seconds=time.monotonic() - self.fetched_at)

    @property
    def taken(self) -> bool:
        """Whether the server says that the worker does not hold the job, so no nack is needed."""
        return self.lost in ("server", "cancelled")

    def lose(self, why: Loss) -> None:
        """Record that the lease is lost, and cancel the handler unless it runs in a thread."""
        if not self.taken:
            if why == "cancelled":
                log.warning("job %s: it was cancelled, so its handler is, too", self.id)
            self.lost = why
        if not self.in_thread:
            self.scope.cancel()


@dataclass(slots=True)
class HeldJobs:
    """The held jobs of a worker.

    Args:
        lease_s: length of a lease in seconds.
    """

    lease_s: float
    _by_id: dict[str, HeldJob] = field(default_factory=dict)
    _replaced: set[HeldJob] = field(default_factory=set)
    """Jobs whose handlers still run, although this worker has fetched them again."""
    _added: Signal = field(default_factory=Signal)
    _next_check_at: float = -math.inf
    """When ``watch`` checks the leases next, on the clock of ``time.monotonic``."""

    def __len__(self) -> int:
        """Return the number of held jobs."""
        return len(self._by_id) + len(self._replaced)

    def __iter__(self) -> Iterator[HeldJob]:
        """Iterate over a copy of the held jobs."""
        return iter([*self._by_id.values(), *self._replaced])

    def __contains__(self, job: HeldJob) -> bool:
        """Return whether the worker holds the job with the same lease."""
        return self._by_id.get(job.id) is job or job in self._replaced

    def add(self, members: Mapping[str, JSON]) -> HeldJob:
        """Add a job that a fetch has returned just now.

        The lease began when the server sent the response. If this process was suspended since then,
        the lease may be lost, which the next heartbeat finds. If the worker still runs the same
        job, it has lost the earlier lease.
        """
        fetched_at = time.monotonic()
        expires_at = fetched_at + self.lease_s
        job = HeldJob(members["id"], members.get("lease_id") or "", members, fetched_at, expires_at)
        earlier = self._by_id.get(job.id)
        if earlier is not None and not earlier.ended:
            log.warning("job %s: the lease is lost, and this worker has the next one", job.id)
            # It stays in this collection, so that a drain can end its thread.
            self._replaced.add(earlier)
            earlier.lose("server")
        self._by_id[job.id] = job
        if expires_at < self._next_check_at:  # else the next check comes in time
            self._added.set()
        return job

    def remove(self, job: HeldJob) -> None:
        """Remove a job that is lost, or whose ack or nack the server has."""
        self._replaced.discard(job)
        # The worker may have fetched the same job again, with another lease.
        if self._by_id.get(job.id) is job:
            del self._by_id[job.id]

    def extend(self, jobs: Iterable[HeldJob], sent_at: float) -> None:
        """Record that the server has extended the leases of jobs.

        Args:
            jobs: the jobs.
            sent_at: when the request was sent, on the clock of ``time.monotonic``.
        """
        for job in jobs:
            job.expires_at = max(job.expires_at, sent_at + self.lease_s)

    async def watch(self) -> None:
        """Cancel handlers whose leases have expired, until the task is cancelled.

        No heartbeat was answered in time, so the server may have given the job to another worker.
        """
        while True:
            self._added.clear()
            now = time.monotonic()
            for job in self:
                if job.lost is None and job.expires_at <= now:
                    late_s = now - job.expires_at
                    reason = "without an answered heartbeat"
                    if late_s >= WARN_S:
                        reason = f"while the event loop stood still for {late_s:.0f} s or more"
                    log.warning("job %s: the lease expired %s", job.id, reason)
                    job.lose("expired")
            next_at = min((job.expires_at for job in self if job.lost is None), default=math.inf)
            self._next_check_at = next_at
            with anyio.move_on_after(next_at - time.monotonic()):
                await self._added.wait()
