"""The fake server that tests use."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

import anyio
import anyio.lowlevel
import httpx2

from ojs_client.client import Client
from ojs_client.jobs import Job
from ojs_client.options import Duration, milliseconds
from ojs_client.testing.fake_crons import CronStore
from ojs_client.testing.fake_jobs import FakeJob
from ojs_client.testing.fake_workflows import WorkflowStore
from ojs_client.testing.job_store import JobStore
from ojs_client.testing.refusals import Refusal
from ojs_client.testing.routes import Routes
from ojs_client.worker.worker import Worker

_URL: Final = "http://fake-ojs"
_LIMIT_S: Final = 30.0
_EVENTS: Final = "/ojs/v1/events/stream"
_HEARTBEAT_S: Final = 0.1
"""Time in seconds between two heartbeats; short, so that handlers of cancelled jobs end soon."""

_Served = tuple[Sequence[str], Sequence[str] | None]
"""The queues and the types of a running worker; None for any type."""


class FakeServer:
    """An OJS server in memory. It needs no network, and its clock moves only if the test moves it.

    Use one for each test, in one event loop. It has jobs, retries, schedules, unique jobs,
    cancellation, results, progress, checkpoints, leases, workflows, cron jobs, events, and the rate
    limits that jobs declare. It stores schemas without using them. Backoffs have no jitter.

    Args:
        now: the time at which its clock starts; None for the current time.
        pools: the queues of each worker pool, for workers that name one.

    Attributes:
        url: an address for ``Client`` and ``Worker``.
        transport: the transport for ``Client``, ``SyncClient`` and ``Worker``.
    """

    def __init__(
        self,
        *,
        now: datetime | None = None,
        pools: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._workflows = WorkflowStore(lambda: self._jobs)
        self._jobs = JobStore(now, self._on_job_ended)
        self._crons = CronStore(self._jobs)
        self._served: list[_Served] = []
        """The queues of the running workers."""
        self.url = _URL
        self._routes = Routes(self._jobs, self._workflows, self._crons, pools or {})
        self.transport: Any = _FakeTransport(self._routes)

    def client(self) -> Client:
        """Return a client of this server. Use it with ``async with``."""
        return Client(self.url, transport=self.transport)

    @property
    def now(self) -> datetime:
        """The time of the server."""
        return datetime.fromtimestamp(self._jobs.now_ms / 1000, UTC)

    def jobs(
        self, *, type: str | None = None, queue: str | None = None, state: str | None = None
    ) -> list[Job]:
        """Return the jobs that match, in the order in which they were enqueued.

        Args:
            type: their type; None for any.
            queue: their queue; None for any.
            state: their state; None for any.
        """
        return [
            Job.from_json(job.json())
            for job in self._jobs
            if type in (None, job.type)
            and queue in (None, job.queue)
            and state in (None, job.state)
        ]

    @asynccontextmanager
    async def running(self, *workers: Worker) -> AsyncIterator[None]:
        """Run workers for the time of the block; at its end, handlers that still run are cancelled.

        The workers themselves do not change: copies of them with the same handlers run. So a test
        can use the worker that the application defines.

        Raises:
            ValueError: a worker names a pool that the server does not have, or none of its queues.
        """
        copies = [
            worker.copy(self.url, transport=self.transport, heartbeat=_HEARTBEAT_S, grace=0)
            for worker in workers
        ]
        served: list[_Served] = []
        for worker in copies:
            try:
                queues = self._routes.queues_of(worker.pool, worker.queues)
                served.append((queues, worker.types))
            except Refusal as refusal:
                raise ValueError(f"{refusal}: see FakeServer(pools=...)") from None
        raised: Exception | None = None
        async with anyio.create_task_group() as group:
            for copy in copies:
                group.start_soon(copy.serve)
            self._served += served
            try:
                yield
            except Exception as error:
                # Raised below: the task group would wrap it.
                raised = error
            finally:
                for copy in copies:
                    copy.stop()
                for each in served:
                    self._served.remove(each)
        if raised is not None:
            raise raised

    async def run_all(self, *, limit_s: float = _LIMIT_S) -> None:
        """Wait until the workers have run all jobs that are available.

        Scheduled jobs and jobs that wait for a retry or a rate limit do not run: ``advance`` makes
        them due.

        Args:
            limit_s: maximum time in real seconds.

        Raises:
            RuntimeError: jobs are available in queues without a running worker.
            TimeoutError: handlers run for longer than ``limit_s``.
        """
        with anyio.move_on_after(limit_s) as scope:
            while self._unfinished():
                await self._jobs.changes.wait()
        if scope.cancelled_caught:
            running = ", ".join(f"{job.type} ({job.state})" for job in self._unfinished())
            raise TimeoutError(f"jobs did not end within {limit_s:g} s: {running}")
        waiting = {job.queue for job in self._jobs if job.state == "available"}
        if waiting and not self._served:
            raise RuntimeError(
                f"no worker runs, and jobs wait in {sorted(waiting)}: use `server.running(worker)`"
            )

    async def advance(self, duration: Duration, *, limit_s: float = _LIMIT_S) -> None:
        """Move the clock, and run each job at its time.

        The clock stops at each time at which a job becomes available, may start or expires, or a
        cron job is due. ``run_all`` runs the jobs before the clock moves on.

        Args:
            duration: how far the clock moves.
            limit_s: maximum time in real seconds of each stop.

        Raises:
            TimeoutError: handlers run for longer than ``limit_s``.
        """
        end_ms = self._jobs.now_ms + milliseconds(duration)
        while True:
            if self._served:
                await self.run_all(limit_s=limit_s)
            times = (self._jobs.next_due_ms(), self._crons.next_due_ms())
            next_ms = min((time for time in times if time is not None), default=None)
            if next_ms is None or next_ms > end_ms:
                break
            self._jobs.move_to(next_ms)
            self._crons.fire_due()
        self._jobs.move_to(end_ms)

    def lose_leases(self) -> None:
        """End the leases of all active jobs, as if no heartbeat of their workers had arrived.

        The jobs are available again, and their attempts count. The workers learn it from their next
        heartbeats and cancel the handlers.
        """
        for job in self._jobs:
            if job.state == "active":
                self._jobs.lose(job)

    def _on_job_ended(self, job: FakeJob) -> None:
        if job.workflow is not None:
            self._workflows.on_job_ended(job)
        self._crons.on_job_ended(job)

    def _unfinished(self) -> list[FakeJob]:
        """Return the jobs that run, or that a running worker will fetch now."""
        return [
            job
            for job in self._jobs
            if job.state == "active"
            or (
                job.state == "available"
                and any(
                    job.queue in queues and (types is None or job.type in types)
                    for queues, types in self._served
                )
                and not self._jobs.is_blocked(job)
            )
        ]


class _FakeTransport(httpx2.AsyncBaseTransport):
    """Passes the requests of httpx2 to the routes."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await anyio.lowlevel.checkpoint()  # as a request over the network
        path, query = unquote(request.url.path), dict(request.url.params)
        if (request.method, path) == ("GET", _EVENTS):
            return self._stream(request, query)
        content = await request.aread()
        body = json.loads(content) if content else None
        status, reply = await self._routes.answer(request.method, path, query, body)
        return httpx2.Response(status, content=json.dumps(reply).encode(), request=request)

    def _stream(self, request: httpx2.Request, query: Mapping[str, str]) -> httpx2.Response:
        try:
            events = self._routes.events(query, request.headers.get("last-event-id", ""))
        except Refusal as refusal:
            return httpx2.Response(refusal.status, json={"error": refusal.json()}, request=request)
        if events is None:
            return httpx2.Response(204, request=request)
        return httpx2.Response(200, stream=_Body(events), request=request)


class _Body(httpx2.AsyncByteStream):
    """The body of a response that does not end before its reader does."""

    def __init__(self, parts: AsyncGenerator[bytes]) -> None:
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts

    async def aclose(self) -> None:
        await self._parts.aclose()
