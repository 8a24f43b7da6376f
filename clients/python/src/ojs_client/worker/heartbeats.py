"""The heartbeats of a worker, which keep the leases of its jobs (spec: ojs-worker-protocol)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import uniform
from typing import Any, Final, Literal

import anyio

from ojs_client.errors import ApiError, ConnectionFailed, NotFound
from ojs_client.options import JSON
from ojs_client.transport import Repeat, Transport, segment
from ojs_client.worker.held_jobs import HeldJob, HeldJobs
from ojs_client.worker.signal import Signal

log: Final = logging.getLogger("ojs_client.worker")

_JOBS_PER_HEARTBEAT: Final = 1000
_CHECKS_AT_ONCE: Final = 10
_WAIT_MS: Final = 20_000
"""Longest time in ms that a heartbeat waits for news."""
_MIN_GAP_S: Final = 0.5
"""Shortest time in seconds between two heartbeats that wait."""
_SIGN_OFF_LIMIT_S: Final = 2.0
"""Maximum time of the last heartbeat and the removal from the list of workers, in seconds."""
_RETRY_S: Final = 2.0
"""Time in seconds after one that failed."""

Directive = Literal["running", "quiet", "terminate"]


@dataclass(slots=True)
class Heartbeats:
    """Sends the heartbeats of a worker.

    Args:
        transport: sends the requests.
        held: the held jobs.
        worker_id: the worker.
        interval_s: time between two heartbeats in seconds.
        describe: returns the members that describe the worker, its state included.
        obey: called with the state that the server wants the worker to be in.
    """

    transport: Transport
    held: HeldJobs
    worker_id: str
    interval_s: float
    describe: Callable[[], dict[str, JSON]]
    obey: Callable[[Directive], None]
    _due: Signal = field(default_factory=Signal)
    _desired: Directive = "running"
    """The state that the last answer wanted the worker to be in."""

    @property
    def _timeout_s(self) -> float:
        """Maximum time of a heartbeat in seconds.

        At a third of the lease, two heartbeats can fail before a lease expires.
        """
        return max(self.interval_s, self.held.lease_s / 3)

    def send_soon(self) -> None:
        """Make ``run`` send the next heartbeat now, because the worker's state has changed."""
        self._due.set()

    async def run(self) -> None:
        """Send heartbeats, and wait for news between them, until the task is cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen)
            await self._beat()

    async def _beat(self) -> None:
        while True:
            self._due.clear()
            await self.try_to_send()
            with anyio.move_on_after(self.interval_s):
                await self._due.wait()

    async def _listen(self) -> None:
        """Wait for news from the server: a cancelled job, or another state of the worker.

        They name the leases, because a job may be cancelled between two of them, but extend none:
        the answer would come too late for the worker to know. A server of an earlier version does
        not wait. Then there is no news between the other heartbeats.
        """
        while True:
            pause_s = self.interval_s
            try:
                if await self._wait_for_news():
                    pause_s = _MIN_GAP_S
            except (ApiError, ConnectionFailed) as error:
                log.debug("cannot wait for news: %s", error)
                pause_s = min(_RETRY_S, self.interval_s)
            # After a failover, the waits of all workers end at once.
            await anyio.sleep(pause_s * uniform(1, 1.5))  # noqa: S311 - no secret

    async def _wait_for_news(self) -> bool:
        """Send a heartbeat that waits, and obey its answer; return whether the server can wait."""
        jobs = [job for job in self.held if job.lost is None][:_JOBS_PER_HEARTBEAT]
        body = {
            **self.describe(),
            "worker_id": self.worker_id,
            "active_jobs": len(self.held),
            "leases": {job.id: job.lease_id for job in jobs},
            "wait_ms": _WAIT_MS,
            "known_state": self._desired,
        }
        timeout_s = _WAIT_MS / 1000 + self._timeout_s
        reply = await self.transport.request(
            "POST", "/workers/heartbeat", body, repeat=Repeat.NEVER, timeout_s=timeout_s
        )
        self._follow(reply)
        cancelled = set(reply.get("jobs_cancelled") or ())
        for job in self.held:
            if job.id in cancelled and job in self.held and job.lost is None and not job.ended:
                job.lose("cancelled")
        return "waited" in reply

    def _follow(self, reply: Any) -> None:
        self._desired = reply.get("state", "running")
        self.obey(self._desired)

    async def try_to_send(self, state: str | None = None) -> None:
        """Send one heartbeat, and log a failure.

        Args:
            state: the state to report; None for the current one.
        """
        try:
            await self._send_all(state)
        except ConnectionFailed as error:
            log.warning("heartbeat failed: %s", error)
        except ApiError as error:
            log.warning("heartbeat refused: %s", error)

    async def sign_off(self) -> None:
        """Send the last heartbeat, and remove the worker from the server's list of workers.

        Call it when ``run`` has ended: a later heartbeat would add the worker again.
        """
        with anyio.move_on_after(_SIGN_OFF_LIMIT_S):
            await self.try_to_send("terminate")
            if self.held:  # operators can see who holds the jobs until their leases expire
                return
            path = f"/workers/{segment(self.worker_id)}"
            try:
                await self.transport.request("DELETE", path, repeat=Repeat.NEVER)
            except (ApiError, ConnectionFailed) as error:
                log.debug("the worker stays listed until its record expires: %s", error)

    async def _send_all(self, state: str | None) -> None:
        """Send a heartbeat for all held jobs, extend the leases, and find the lost ones."""
        for part in self._parts():
            body: dict[str, JSON] = {"active_jobs": [job.id for job in part]}
            if state is not None:
                body["state"] = state
            reply, extended = await self._send(part, body)
            self._follow(reply)
            cancelled = set(reply.get("jobs_cancelled") or ())
            for job in part:
                if job.id in cancelled and self._is_missing(job, extended) and not job.ended:
                    job.lose("cancelled")
            missing = [job for job in part if self._is_missing(job, extended)]
            if missing:
                await self._check(missing)

    async def extend_over(self, transport: Transport) -> None:
        """Extend the leases of the held jobs, in another thread and over its transport.

        The event loop finds by its own heartbeats which jobs are lost.
        """
        for part in self._parts():
            await self._send(part, {"active_jobs": [job.id for job in part]}, transport)

    def _parts(self) -> Iterator[list[HeldJob]]:
        """Yield the jobs of each heartbeat: the held ones, and none if there is none.

        A process that was suspended may find leases that have ended, and gives their jobs up. They
        must not be extended by the thread at the same moment.
        """
        now = time.monotonic()
        held = [job for job in self.held if job.lost is None]
        jobs = [job for job in held if job.ended or job.expires_at > now]
        for start in range(0, max(1, len(jobs)), _JOBS_PER_HEARTBEAT):
            yield jobs[start : start + _JOBS_PER_HEARTBEAT]

    async def _send(
        self,
        jobs: Sequence[HeldJob],
        members: dict[str, JSON],
        transport: Transport | None = None,
    ) -> tuple[Any, set[str]]:
        """Send a heartbeat for some jobs; return its response and the ids of extended jobs."""
        body = {
            **self.describe(),
            "worker_id": self.worker_id,
            "leases": {job.id: job.lease_id for job in jobs},
            "visibility_timeout_ms": round(self.held.lease_s * 1000),
            **members,
        }
        sent_at = time.monotonic()
        reply = await (transport or self.transport).request(
            "POST", "/workers/heartbeat", body, repeat=Repeat.NEVER, timeout_s=self._timeout_s
        )
        extended = set(reply.get("jobs_extended") or ())
        self.held.extend([job for job in jobs if job.id in extended], sent_at)
        return reply, extended

    def _is_missing(self, job: HeldJob, extended: set[str]) -> bool:
        return job.id not in extended and job in self.held and job.lost is None

    async def _check(self, jobs: list[HeldJob]) -> None:
        """Find out which of these jobs are lost.

        The response to a heartbeat for many jobs omits both lost jobs and the jobs of a shard that
        does not answer. A heartbeat for a single job fails if the shard does not answer.
        """
        limiter = anyio.CapacityLimiter(_CHECKS_AT_ONCE)

        async def check(job: HeldJob) -> None:
            async with limiter:
                body = {"active_jobs": len(self.held), "job_id": job.id}
                try:
                    _, extended = await self._send([job], body)
                except NotFound:
                    extended = set()
                except (ApiError, ConnectionFailed) as error:
                    log.warning("job %s: its shard does not answer: %s", job.id, error)
                    return
                if self._is_missing(job, extended) and not job.ended:
                    log.warning("job %s: the lease is lost", job.id)
                    job.lose("server")

        async with anyio.create_task_group() as group:
            for job in jobs:
                group.start_soon(check, job)
