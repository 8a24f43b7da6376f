"""A worker whose handlers do nothing: ``_noop_worker URL QUEUE N C P LOOP``.

It runs N jobs with the concurrency C and the prefetch P, which is a number or ``auto``. It prints
its time and processor time in seconds, as JSON. The clock starts with the first handler and stops
when the server has all acks.
"""

from __future__ import annotations

import json
import sys
import time

import anyio

from ojs_client import RunningJob, Worker


async def run(url: str, queue: str, jobs: int, concurrency: int, prefetch: int | None) -> None:
    """Run the jobs and print the result."""
    worker = Worker(url, queues=[queue], concurrency=concurrency, prefetch=prefetch)
    ended = anyio.Event()
    left = jobs
    began = began_cpu = 0.0

    @worker.handler("bench.noop")
    async def noop(job: RunningJob) -> None:
        nonlocal left, began, began_cpu
        if left == jobs:
            began, began_cpu = time.perf_counter(), time.process_time()
        left -= 1
        if not left:
            ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(worker.serve)
        await ended.wait()
        while worker.held:  # noqa: ASYNC110 - an event in the library would cost each job
            await anyio.sleep(0.001)
        spent, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        worker.stop()
    print(json.dumps({"seconds": spent, "cpu_s": cpu}))


def main() -> None:
    """Run the worker that the arguments describe."""
    url, queue, jobs, concurrency, prefetch, loop = sys.argv[1:]
    ahead = None if prefetch == "auto" else int(prefetch)
    anyio.run(run, url, queue, int(jobs), int(concurrency), ahead, backend=loop)


if __name__ == "__main__":
    main()
