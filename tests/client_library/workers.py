"""Run a worker for the time of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from ojs_client import Client, Job, Worker

QUEUE = "library"


def new_worker(client: Client, **options: Any) -> Worker:
    """Return a worker of the client's server."""
    return Worker(client.url, **{"queues": [QUEUE], "poll": 1.0, **options})


@asynccontextmanager
async def serving_jobs(worker: Worker) -> AsyncIterator[Worker]:
    """Run a worker; at the end of the block it drains."""
    async with anyio.create_task_group() as group:
        group.start_soon(worker.serve)
        try:
            yield worker
        except BaseException:
            group.cancel_scope.cancel()
            raise
        worker.stop()


async def until(condition: Callable[[], Any]) -> Any:
    """Return what the condition returns when it holds. The caller limits the time."""
    while True:
        if found := condition():
            return found
        await anyio.sleep(0.01)


async def job_in(client: Client, job_id: str, *states: str) -> Job:
    """Return the job when it is in one of the states. The caller limits the time."""
    while True:
        job = await client.get(job_id)
        if job.state in states:
            return job
        await anyio.sleep(0.02)


async def error_of(client: Client, job_id: str) -> Any:
    """Return the error of the job's attempt when one has failed. The caller limits the time."""
    while True:
        error = (await client.get(job_id)).error
        if error is not None:
            return error
        await anyio.sleep(0.02)
