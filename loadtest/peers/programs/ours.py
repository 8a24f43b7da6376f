"""Produce or run jobs with ``ojs_client``."""

from __future__ import annotations

import asyncio

from loadtest.peers.programs.base import (
    Spec,
    fail_first,
    handle,
    produce_async,
    produce_batches,
    read_spec,
    say,
    stay,
    text,
)
from ojs_client import Client, JobOptions, RetryPolicy, RunningJob, Unique, Worker, new_job
from ojs_client import batch as batch_of
from ojs_client import chain as chain_of

TYPE = "bench.noop"


def options_of(spec: Spec, number: int) -> JobOptions:
    """Return the options of a job."""
    options = JobOptions(queue=spec.queue)
    if spec.kind == "delayed":
        options["delay"] = 1.0
    elif spec.kind == "retry":
        options["retry"] = RetryPolicy(initial_interval=0.1, jitter=False)
    elif spec.kind == "unique":
        options["unique"] = Unique(keys=["args"])
    elif spec.kind == "priority":
        options["priority"] = number % 10
    elif spec.kind == "rate":
        rate = {"limit": 1_000_000, "period": "PT1S"}
        options["rate_limit"] = {"key": "bench", "rate": rate}
    elif spec.kind == "concurrency":
        options["rate_limit"] = {"key": "bench", "concurrency": 1_000_000}
    return options


async def run_producer(spec: Spec) -> None:
    """Enqueue the jobs."""
    number = 0

    async def enqueue(argument: str) -> None:
        nonlocal number
        number += 1
        await client.enqueue(TYPE, argument, **options_of(spec, number))

    async def enqueue_many(arguments: list[str]) -> None:
        await client.enqueue_many(
            [new_job(TYPE, argument, queue=spec.queue) for argument in arguments]
        )

    async with Client(spec.url) as client:
        if spec.kind == "batch":
            await produce_batches(spec, enqueue_many)
        else:
            await produce_async(spec, enqueue)


async def run_flow(spec: Spec) -> None:
    """Create a workflow of ``jobs`` jobs; the last one of a group is its callback."""
    async with Client(spec.url) as client:
        await client.enqueue("bench.other", queue=f"{spec.queue}-other")  # opens a connection
        say("began")
        steps = [new_job(TYPE, text(number), queue=spec.queue) for number in range(spec.jobs)]
        if spec.kind == "chain":
            await client.start(chain_of(*steps))
        else:
            await client.start(batch_of(*steps[1:], on_complete=steps[0]))
        say("ended")


def run_worker(spec: Spec) -> None:
    """Run the jobs."""
    worker = Worker(spec.url, queues=[spec.queue], concurrency=spec.tasks)
    act = fail_first if spec.kind == "retry" else handle

    async def noop(job: RunningJob) -> None:
        act(str(job.args[0]))

    worker.handler(TYPE)(noop)
    worker.run()


def main() -> None:
    """Do what the command line describes."""
    spec = read_spec()
    if spec.role == "work":
        run_worker(spec)
    else:
        asyncio.run(run_flow(spec) if spec.role == "flow" else run_producer(spec))
    stay()


if __name__ == "__main__":
    main()
