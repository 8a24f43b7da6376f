"""Scenarios that run on a server and on the fake server of ``ojs_client.testing``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import trio

from ojs_client import Client, Job, NewWorkflow, RetryPolicy, Worker, Workflow, new_job
from ojs_client.testing import FakeServer
from tests.client_library.workers import QUEUE, job_in, serving_jobs

LIMIT_S = 120
SOON = 0.05
"""A delay or backoff in seconds that passes during a test on a server."""
LATER = 3600.0
POOL, POOL_QUEUES = "library", [QUEUE, "library.second"]
"""A worker pool of the fake server, and its queues."""
FAST = RetryPolicy(max_attempts=3, initial_interval=SOON, jitter=False)


@dataclass(frozen=True, slots=True)
class World:
    """A client of a server or of a fake server."""

    client: Client
    fake: FakeServer | None

    def running(self, worker: Worker) -> AbstractAsyncContextManager[Any]:
        """Run a worker for the time of a block."""
        if self.fake is not None:
            return self.fake.running(worker)
        return serving_jobs(worker.copy(self.client.url, transport=None, poll=1, heartbeat=0.1))

    async def passes(self, seconds: float) -> None:
        """Let time pass. A server's time passes while the test waits for a result."""
        if self.fake is not None:
            await self.fake.advance(seconds)

    async def ended(self, job: Job) -> Job:
        """Return the job when it has ended."""
        return await job_in(self.client, job.id, "completed", "discarded", "cancelled")

    async def run(self, workflow: NewWorkflow) -> Workflow:
        """Start a workflow and return it when it has ended."""
        started = await self.client.start(workflow)
        return await self.client.workflow(started.id, wait=60)


Scenario = Callable[[World], Awaitable[None]]
Play = Callable[[Scenario], Awaitable[None]]


async def in_loop(scenario: Scenario, url: str | None, loop: str) -> None:
    """Run a scenario in an event loop of its own, on a server or on a fake server."""

    async def limited() -> None:
        fake = FakeServer(pools={POOL: POOL_QUEUES}) if url is None else None
        with anyio.fail_after(LIMIT_S):
            async with fake.client() if fake is not None else Client(url) as client:
                await scenario(World(client, fake))

    await trio.to_thread.run_sync(partial(anyio.run, limited, backend=loop))


def new_worker(**options: Any) -> Worker:
    """Return a worker without a server."""
    return Worker(queues=[QUEUE], **options)


job = partial(new_job, queue=QUEUE)
