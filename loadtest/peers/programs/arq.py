"""Produce or run jobs with arq, no results.

It looks for jobs every half a second by default, which would limit it to 200 jobs per second.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from arq import Retry, Worker, create_pool
from arq.connections import RedisSettings

from loadtest.peers.programs.base import Spec, fail_first, handle, produce_async, read_spec, stay

POLL_S = 0.01


async def run(spec: Spec) -> None:
    """Enqueue or run the jobs."""
    settings = RedisSettings.from_dsn(spec.url)
    if spec.role == "work":

        async def noop(context: Any, argument: str) -> None:
            if spec.kind != "retry":
                handle(argument)
                return
            try:
                fail_first(argument)
            except ValueError as error:
                raise Retry(defer=0.1) from error

        worker = Worker(
            [noop],
            queue_name=spec.queue,
            redis_settings=settings,
            max_jobs=spec.tasks,
            poll_delay=POLL_S,
            keep_result=0,
            handle_signals=False,
        )
        await worker.async_run()
    pool = await create_pool(settings)
    ids = itertools.count()

    async def enqueue(argument: str) -> None:
        options: dict[str, Any] = {"_queue_name": spec.queue}
        if spec.kind == "delayed":
            options["_defer_by"] = 1
        elif spec.kind == "unique":
            options["_job_id"] = f"{spec.queue}-{next(ids)}"
        await pool.enqueue_job("run.<locals>.noop", argument, **options)

    await produce_async(spec, enqueue)
    stay()


if __name__ == "__main__":
    asyncio.run(run(read_spec()))
