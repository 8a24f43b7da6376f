"""Produce or run jobs with Taskiq over a stream of Redis, whose jobs are acknowledged."""

from __future__ import annotations

import asyncio
from typing import Any

from taskiq import SimpleRetryMiddleware
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from loadtest.peers.programs.base import Spec, fail_first, handle, produce_async, read_spec, stay


async def run(spec: Spec) -> None:
    """Enqueue or run the jobs."""
    broker: Any = RedisStreamBroker(spec.url, queue_name=spec.queue, consumer_id="0")
    labels = {}
    if spec.kind == "retry":
        broker = broker.with_middlewares(SimpleRetryMiddleware())
        labels = {"retry_on_error": True}
    act = fail_first if spec.kind == "retry" else handle

    async def noop(argument: str) -> None:
        act(argument)

    task = broker.register_task(noop, task_name="bench:noop", **labels)
    broker.is_worker_process = spec.role == "work"
    await broker.startup()
    if spec.role == "work":
        await run_receiver_task(broker, max_async_tasks=spec.tasks)
    else:
        await produce_async(spec, task.kiq)
        stay()


if __name__ == "__main__":
    asyncio.run(run(read_spec()))
