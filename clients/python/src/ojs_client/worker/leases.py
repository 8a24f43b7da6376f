"""The jobs that a worker holds, and the heartbeats that keep their leases."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import anyio

from ojs_client.errors import ApiError, ConnectionFailed, NotFound
from ojs_client.options import JSON
from ojs_client.transport import Repeat, Transport
from ojs_client.worker.signal import Signal

log = logging.getLogger("ojs_client.worker")

_JOBS_PER_HEARTBEAT: Final = 1000
_CHECKS_AT_ONCE: Final = 10
_PATH: Final = "/ojs/v1/workers/heartbeat"

Directive = Literal["running", "quiet", "terminate"]


@dataclass(slots=True, eq=False)
class HeldJob:
    """A job that the worker has fetched, until the server has its ack or nack.

    Attributes:
        id: the job.
        lease_id: the lease.
        members: the envelope.
        expires_at: when the lease expires at the earliest, on the clock of the event loop, if no
            heartbeat extends it.
        lost: why the lease is lost: ``server`` if the server says so, ``expired`` if no heartbeat
            was answered in time; None while the worker holds the job.
        scope: the scope of the handler.
        in_thread: whether the handler is a sync one. Its thread cannot be cancelled.
        ended: whether the ack or nack is decided, or none will be sent. The handler may still run.
        given_back: whether a sync handler must end, because the worker requeues its job.
        told: whether the handler has read from ``lease_lost`` that the job is lost or given back.
            Its result or exception is then ignored.
    """

    id: str
    lease_id: str
    members: Mapping[str, JSON]
    expires_at: float
    lost: Literal["server", "expired"] | None = None
    scope: anyio.CancelScope = field(default_factory=lambda: anyio.CancelScope())
    in_thread: bool = False
    ended: bool = False
    given_back: bool = False
    told: bool = False

    def lose(self, why: Literal["server", "expired"]) -> None:
        """Record that the lease is lost, and cancel the handler unless it runs in a thread."""
        if self.lost is None or why == "server":
            self.lost = why
        if not self.in_thread:
            self.scope.cancel()


@dataclass(slots=True)
class Leases:
    """The held jobs of a worker, and its heartbeats.

    Args:
        transport: sends the heartbeats.
        worker_id: the worker.
        lease_s: length of a lease in seconds.
        interval_s: time between two heartbeats in seconds.
        describe: returns the members that describe the worker, its state included.
        obey: called with the state that the server wants the worker to be in.
    """

    transport: Transport
    worker_id: str
    lease_s: float
    interval_s: float
    describe: Callable[[], dict[str, JSON]]
    obey: Callable[[Directive], None]
    _held: dict[str, HeldJob] = field(default_factory=dict)
    _beat: Signal = field(default_factory=Signal)
    _changed: Signal = field(default_factory=Signal)

    def __len__(self) -> int:
        """Return the number of held jobs."""
        return len(self._held)

    def __iter__(self) -> Iterator[HeldJob]:
        """Iterate over a copy of the held jobs."""
        return iter(list(self._held.values()))

    @property
    def _timeout_s(self) -> float:
        """Maximum time of a heartbeat in seconds.

        At a third of the lease, two heartbeats can fail before a lease expires.
        """
        return max(self.interval_s, self.lease_s / 3)

    def add(self, members: Mapping[str, JSON]) -> HeldJob:
        """Add a job that a fetch has returned just now.

        The lease began when the server sent the response. If this process was suspended since then,
        the lease may be lost, which the next heartbeat finds.
        """
        expires_at = anyio.current_time() + self.lease_s
        job = HeldJob(members["id"], members.get("lease_id") or "", members, expires_at)
        self._held[job.id] = job
        self._changed.set()
        return job

    def remove(self, job: HeldJob) -> None:
        """Remove a job that is lost, or whose ack or nack the server has."""
        # The worker may have fetched the same job again, with another lease.
        if self._held.get(job.id) is job:
            del self._held[job.id]

    def beat_now(self) -> None:
        """Send the next heartbeat at once, because the worker's state has changed."""
        self._beat.set()

    async def run(self) -> None:
        """Send heartbeats until the task is cancelled."""
        while True:
            self._beat.clear()
            try:
                await self.beat()
            except ConnectionFailed as error:
                log.warning("heartbeat failed: %s", error)
            except ApiError as error:
                log.warning("heartbeat refused: %s", error)
            with anyio.move_on_after(self.interval_s):
                await self._beat.wait()

    async def watch(self) -> None:
        """Cancel handlers whose leases have expired, until the task is cancelled.

        No heartbeat was answered in time, so the server may have given the job to another worker.
        """
        while True:
            self._changed.clear()
            now = anyio.current_time()
            for job in self:
                if job.lost is None and job.expires_at <= now:
                    log.warning("job %s: the lease expired without an answered heartbeat", job.id)
                    job.lose("expired")
            next_at = min((job.expires_at for job in self if job.lost is None), default=math.inf)
            with anyio.move_on_after(next_at - anyio.current_time()):
                await self._changed.wait()

    async def beat(self, state: str | None = None) -> None:
        """Send one heartbeat, extend the leases, and find the lost ones.

        Args:
            state: the state to report; None for the current one.

        Raises:
            ApiError: the server refused the heartbeat.
            ConnectionFailed: the server did not answer.
        """
        jobs = [job for job in self if job.lost is None]
        for start in range(0, max(1, len(jobs)), _JOBS_PER_HEARTBEAT):
            part = jobs[start : start + _JOBS_PER_HEARTBEAT]
            sent_at = anyio.current_time()
            reply = await self._send(part, state)
            self._extend(part, reply, sent_at)
            self.obey(reply.get("state", "running"))
            missing = [job for job in part if self._is_missing(job, reply)]
            if missing:
                await self._check(missing)

    async def _send(self, jobs: list[HeldJob], state: str | None) -> Any:
        body = self.describe() | {
            "worker_id": self.worker_id,
            "active_jobs": [job.id for job in jobs],
            "leases": {job.id: job.lease_id for job in jobs},
            "visibility_timeout_ms": round(self.lease_s * 1000),
        }
        if state is not None:
            body["state"] = state
        return await self.transport.request(
            "POST", _PATH, body, repeat=Repeat.NEVER, timeout_s=self._timeout_s
        )

    def _extend(self, jobs: list[HeldJob], reply: Any, sent_at: float) -> None:
        extended = set(reply.get("jobs_extended") or ())
        for job in jobs:
            if job.id in extended:
                job.expires_at = max(job.expires_at, sent_at + self.lease_s)

    def _is_missing(self, job: HeldJob, reply: Any) -> bool:
        extended = reply.get("jobs_extended") or ()
        return job.id not in extended and self._held.get(job.id) is job and job.lost is None

    async def _check(self, jobs: list[HeldJob]) -> None:
        """Find out which of these jobs are lost.

        The response to a heartbeat for many jobs omits both lost jobs and the jobs of a shard that
        does not answer. A heartbeat for a single job fails if the shard does not answer.
        """
        limiter = anyio.CapacityLimiter(_CHECKS_AT_ONCE)

        async def check(job: HeldJob) -> None:
            async with limiter:
                sent_at = anyio.current_time()
                body = self.describe() | {
                    "worker_id": self.worker_id,
                    "active_jobs": len(self),
                    "job_id": job.id,
                    "leases": {job.id: job.lease_id},
                    "visibility_timeout_ms": round(self.lease_s * 1000),
                }
                try:
                    reply = await self.transport.request(
                        "POST", _PATH, body, repeat=Repeat.NEVER, timeout_s=self._timeout_s
                    )
                except NotFound:
                    reply = {}
                except (ApiError, ConnectionFailed) as error:
                    log.warning("job %s: its shard does not answer: %s", job.id, error)
                    return
                self._extend([job], reply, sent_at)
                if self._is_missing(job, reply) and not job.ended:
                    log.warning("job %s: the lease is lost", job.id)
                    job.lose("server")

        async with anyio.create_task_group() as group:
            for job in jobs:
                group.start_soon(check, job)
