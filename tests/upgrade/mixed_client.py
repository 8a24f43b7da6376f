"""A program that uses ``ojs_client`` as applications do, with what every version has.

python mixed_client.py QUEUE
"""

from __future__ import annotations

import sys
from typing import Any

import anyio

import ojs_client
from ojs_client import (
    BlockingJob,
    Client,
    Discard,
    JobFailed,
    Retry,
    RetryPolicy,
    RunningJob,
    Unique,
    Worker,
    chain,
    new_job,
)

QUEUE = sys.argv[1]
SOON = RetryPolicy(max_attempts=3, initial_interval=0.1)
worker = Worker(queues=[QUEUE], poll=1.0)


@worker.handler("mixed.double")
async def double(job: RunningJob) -> Any:
    if job.attempt == 1:
        await job.save_checkpoint({"seen": 1})
        raise Retry("again")
    await job.progress(0.5, "half")
    return [job.args[0] * 2, job.checkpoint]


@worker.handler("mixed.last")
def last(job: BlockingJob) -> Any:
    job.progress(0.5)
    return job.parent_results


@worker.handler("mixed.refuse")
async def refuse(job: RunningJob) -> None:
    raise Discard("no")


@worker.handler("mixed.wait")
async def wait(job: RunningJob) -> None:
    await anyio.sleep_forever()


async def use(client: Client) -> None:
    """Enqueue, retry, follow, cancel and list jobs."""
    doubled = [21 * 2, {"seen": 1}]
    job = await client.enqueue("mixed.double", 21, queue=QUEUE, retry=SOON, tags=["mixed"])
    assert await client.result(job.id, wait=60) == doubled
    again = Unique(on_conflict="ignore")
    for _ in range(2):
        await client.enqueue("mixed.last", queue=QUEUE, delay=3600, unique=again)
    jobs = [new_job("mixed.double", 21, queue=QUEUE, retry=SOON) for _ in range(3)]
    for stored in await client.enqueue_many(jobs):
        assert await client.result(stored.id, wait=60) == doubled
    steps = chain(jobs[0], new_job("mixed.last", queue=QUEUE))
    ended = await client.workflow((await client.start(steps)).id, wait=60)
    assert (ended.state, ended.steps[-1].result) == ("completed", [doubled]), ended
    refused = await client.enqueue("mixed.refuse", queue=QUEUE)
    try:
        raise AssertionError(await client.result(refused.id, wait=60))
    except JobFailed:
        pass
    long = await client.enqueue("mixed.wait", queue=QUEUE)
    while (await client.get(long.id)).state != "active":  # noqa: ASYNC110
        await anyio.sleep(0.05)
    assert (await client.cancel(long.id)).state == "cancelled"
    while worker.held:  # noqa: ASYNC110
        await anyio.sleep(0.05)
    await client.cron.list_all()


async def main() -> None:
    """Run a worker and its producer."""
    async with Client() as client, anyio.create_task_group() as group:
        group.start_soon(worker.serve)
        with anyio.fail_after(300):
            await use(client)
        worker.stop()
    print(ojs_client.__file__)


if __name__ == "__main__":
    anyio.run(main)
