"""A process whose tasks enqueue one job after the other: ``_producer URL QUEUE N C P LOOP``.

C tasks share N jobs and one client; P is not used. It prints its time and processor time in
seconds, as JSON.
"""

from __future__ import annotations

import json
import sys
import time

import anyio

from ojs_client import Client


async def run(url: str, queue: str, jobs: int, tasks: int) -> None:
    """Enqueue the jobs and print the result."""
    left = jobs

    async def produce(client: Client) -> None:
        nonlocal left
        while left:
            left -= 1
            await client.enqueue("bench.noop", queue=queue)

    async with Client(url) as client:
        await client.enqueue("bench.noop", queue=queue)  # opens a connection
        began, began_cpu = time.perf_counter(), time.process_time()
        async with anyio.create_task_group() as group:
            for _ in range(tasks):
                group.start_soon(produce, client)
        spent, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    print(json.dumps({"seconds": spent, "cpu_s": cpu}))


def main() -> None:
    """Run the producer that the arguments describe."""
    url, queue, jobs, tasks, _, loop = sys.argv[1:]
    anyio.run(run, url, queue, int(jobs), int(tasks), backend=loop)


if __name__ == "__main__":
    main()
