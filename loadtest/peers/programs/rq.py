"""Produce or run jobs with RQ, one at a time, no results."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from redis import Redis
from rq import Queue, Retry, SimpleWorker, Worker
from rq.job import Dependency

from loadtest.peers.programs.base import (
    Spec,
    fail_first,
    handle,
    produce,
    produce_batches,
    read_spec,
    say,
    stay,
    text,
)


def run_producer(spec: Spec, queue: Any) -> None:
    """Enqueue the jobs."""
    act = fail_first if spec.kind == "retry" else handle

    def enqueue(argument: str) -> None:
        if spec.kind == "delayed":
            queue.enqueue_in(timedelta(seconds=1), act, argument, result_ttl=0)
        elif spec.kind == "retry":
            queue.enqueue(act, argument, result_ttl=0, retry=Retry(max=1))
        elif spec.kind == "unique":
            queue.enqueue(act, argument, result_ttl=0, job_id=argument, unique=True)
        else:
            queue.enqueue(act, argument, result_ttl=0)

    async def enqueue_many(arguments: list[str]) -> None:
        queue.enqueue_many(
            [Queue.prepare_data(act, (argument,), result_ttl=0) for argument in arguments]
        )

    if spec.kind == "batch":
        asyncio.run(produce_batches(spec, enqueue_many))
    else:
        produce(spec, enqueue)


def run_flow(spec: Spec, queue: Any) -> None:
    """Create a workflow of ``jobs`` jobs; the last one of a group is its callback."""
    queue.connection.ping()
    say("began")
    if spec.kind == "chain":
        before = None
        for number in range(spec.jobs):
            before = queue.enqueue(handle, text(number), depends_on=before)
    else:
        steps = [queue.enqueue(handle, text(number)) for number in range(1, spec.jobs)]
        queue.enqueue(handle, text(0), depends_on=Dependency(jobs=steps))
    say("ended")


def main() -> None:
    """Do what the command line describes. A worker with ``tasks`` 0 forks for every job."""
    spec = read_spec()
    connection = Redis.from_url(spec.url)
    queue = Queue(spec.queue, connection=connection)
    if spec.role == "work":
        kind = SimpleWorker if spec.tasks else Worker
        worker = kind([queue], connection=connection)
        worker.work(logging_level="CRITICAL", with_scheduler=spec.kind in ("delayed", "retry"))
    elif spec.role == "flow":
        run_flow(spec, queue)
    else:
        run_producer(spec, queue)
    stay()


if __name__ == "__main__":
    main()
