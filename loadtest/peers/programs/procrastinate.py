"""Produce or run jobs with Procrastinate over PostgreSQL. Finished jobs are deleted."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from procrastinate import App, PsycopgConnector, RetryStrategy

from loadtest.peers.programs.base import (
    Spec,
    fail_first,
    handle,
    produce_async,
    produce_batches,
    read_spec,
    say,
    stay,
)


async def run(spec: Spec) -> None:
    """Enqueue or run the jobs."""
    connector = PsycopgConnector(conninfo=spec.url, max_size=max(4, min(spec.tasks, 20)))
    app: Any = App(connector=connector)
    act = fail_first if spec.kind == "retry" else handle

    async def noop(argument: str) -> None:
        act(argument)

    retry = RetryStrategy(max_attempts=3, wait=0) if spec.kind == "retry" else None
    task = app.task(noop, name="noop", queue=spec.queue, retry=retry)
    numbers = itertools.count()

    async def enqueue(argument: str) -> None:
        options: dict[str, Any] = {}
        if spec.kind == "delayed":
            options["schedule_in"] = {"seconds": 1}
        elif spec.kind == "unique":
            options["queueing_lock"] = f"{spec.queue}-{next(numbers)}"
        elif spec.kind == "priority":
            options["priority"] = next(numbers) % 10
        await task.configure(**options).defer_async(argument=argument)

    async def enqueue_many(arguments: list[str]) -> None:
        await task.batch_defer_async(*({"argument": argument} for argument in arguments))

    async with app.open_async():
        if spec.role == "schema":
            await app.schema_manager.apply_schema_async()
            say("ended")
        elif spec.role == "work":
            await app.run_worker_async(
                queues=[spec.queue],
                concurrency=spec.tasks,
                delete_jobs="successful",
                install_signal_handlers=False,
                fetch_job_polling_interval=0.2,  # retried jobs do not notify
            )
        elif spec.kind == "batch":
            await produce_batches(spec, enqueue_many)
        else:
            await produce_async(spec, enqueue)
        stay()


if __name__ == "__main__":
    asyncio.run(run(read_spec()))
