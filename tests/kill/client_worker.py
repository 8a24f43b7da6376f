"""A worker of the client library: ``python -m tests.kill.client_worker`` and its arguments.

They are URL QUEUE NAME LOOP GO GRACE_S. A job of type ``kill.waits`` ends when the file GO exists,
``kill.short`` after some milliseconds, ``kill.sticks`` never, in a thread. Each step of a handler
is printed as a line: ``start``, ``end`` or ``cancelled``, and the id of the job. The result of a
job is NAME.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import anyio

from ojs_client import BlockingJob, RunningJob, Worker


def main() -> None:
    url, queue, name, loop, go, grace = sys.argv[1:]
    worker = Worker(
        url,
        queues=[queue],
        worker_id=name,
        concurrency=10,
        lease=5,
        heartbeat=0.3,
        poll=2,
        grace=float(grace),
    )

    @worker.handler("kill.waits")
    async def waits(job: RunningJob) -> str:
        _print("start", job.id)
        try:
            await _exists(Path(go))
        except BaseException:
            _print("cancelled", job.id)
            raise
        _print("end", job.id)
        return name

    @worker.handler("kill.short")
    async def short(job: RunningJob) -> str:
        _print("start", job.id)
        await anyio.sleep(0.02)
        _print("end", job.id)
        return name

    @worker.handler("kill.sticks")
    def sticks(job: BlockingJob) -> None:
        _print("start", job.id)
        threading.Event().wait()

    worker.run(backend="trio" if loop == "trio" else "asyncio")


async def _exists(path: Path) -> None:
    while True:
        if await anyio.Path(path).exists():
            return
        await anyio.sleep(0.05)


def _print(step: str, job_id: str) -> None:
    print(step, job_id, flush=True)


if __name__ == "__main__":
    main()
