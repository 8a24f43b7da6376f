"""The heartbeats of a worker, which keep the leases of its jobs (spec: ojs-worker-protocol)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
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
_MIN_GAP_S: Final = 0.5
"""Shortest time in seconds between two heartbeats, if the answer has waited or has news."""

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
        """Send heartbeats until the task is cancelled.

        The answer of each one waits for news, and then the next one is sent. If it has not waited,
        because the server is of an earlier version, the next one is sent after the interval.
        """
        while True:
            self._due.clear()
            began_at, again = anyio.current_time(), False
            async with anyio.create_task_group() as group:
                group.start_soon(self._stop_when_due, group.cancel_scope)
                again = await self.try_to_send(wait=True)
                group.cancel_scope.cancel()
            gap_s = min(self.interval_s, _MIN_GAP_S) if again else self.interval_s
            with anyio.move_on_after(began_at + gap_s - anyio.current_time()):
                await self._due.wait()

    async def _stop_when_due(self, scope: anyio.CancelScope) -> None:
        """Stop a heartbeat that waits for its answer when the next one is due."""
        await self._due.wait()
        scope.cancel()

    async def try_to_send(self, state: str | None = None, *, wait: bool = False) -> bool:
        """Send one heartbeat, and log a failure.

        Args:
            state: the state to report; None for the current one.
            wait: whether the answer may wait for news, for the interval at most.

        Returns:
            Whether the next heartbeat may follow at once: the answer has waited, or has news.
        """
        try:
            return await self._send_all(state, wait=wait)
        except ConnectionFailed as error:
            log.warning("heartbeat failed: %s", error)
        except ApiError as error:
            log.warning("heartbeat refused: %s", error)
        return False

    async def sign_off(self) -> None:
        """Send the last heartbeat, and remove the worker from the server's list of workers.

        Call it when ``run`` has ended: a later heartbeat would add the worker again.
        """
        await self.try_to_send("terminate")
        if self.held:  # operators can see who holds the jobs until their leases expire
            return
        path = f"/workers/{segment(self.worker_id)}"
        try:
            await self.transport.request("DELETE", path, repeat=Repeat.NEVER)
        except (ApiError, ConnectionFailed) as error:
            log.debug("the worker stays listed until its record expires: %s", error)

    async def _send_all(self, state: str | None, *, wait: bool) -> bool:
        """Send a heartbeat for all held jobs, extend the leases, and find the lost ones."""
        again = False
        jobs = [job for job in self.held if job.lost is None]
        for start in range(0, max(1, len(jobs)), _JOBS_PER_HEARTBEAT):
            part = jobs[start : start + _JOBS_PER_HEARTBEAT]
            body: dict[str, JSON] = {"active_jobs": [job.id for job in part]}
            if state is not None:
                body["state"] = state
            if wait and start + _JOBS_PER_HEARTBEAT >= len(jobs):
                body["wait_ms"] = round(self.interval_s * 1000)
                body["known_state"] = self._desired
            reply, extended = await self._send(part, body)
            desired = reply.get("state", "running")
            again |= desired != self._desired or bool(reply.get("waited"))
            self._desired = desired
            self.obey(desired)
            cancelled = set(reply.get("jobs_cancelled") or ())
            for job in self.held if cancelled else ():  # it may have been fetched during the wait
                if job.id in cancelled and self._is_missing(job, extended) and not job.ended:
                    again = True
                    job.lose("cancelled")
            missing = [job for job in part if self._is_missing(job, extended)]
            if missing:
                await self._check(missing)
        return again

    async def _send(self, jobs: list[HeldJob], members: dict[str, JSON]) -> tuple[Any, set[str]]:
        """Send a heartbeat for some jobs; return its response and the ids of extended jobs."""
        body = {
            **self.describe(),
            "worker_id": self.worker_id,
            "leases": {job.id: job.lease_id for job in jobs},
            "visibility_timeout_ms": round(self.held.lease_s * 1000),
            **members,
        }
        sent_at = anyio.current_time()
        timeout_s = self._timeout_s + (self.interval_s if "wait_ms" in members else 0)
        reply = await self.transport.request(
            "POST", "/workers/heartbeat", body, repeat=Repeat.NEVER, timeout_s=timeout_s
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
