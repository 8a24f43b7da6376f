"""A worker of the client library whose handlers kill it or hang.

``python -m tests.server.dying_worker URL QUEUE``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import anyio

from ojs_client import ProcessJob, RunningJob, Worker


def hang(job: ProcessJob) -> int:
    """Hang in the first attempt of a job with an argument, the file for the id of the process."""
    if job.args and job.attempt == 1:
        Path(job.args[0]).write_text(f"{os.getpid()}\n")
        time.sleep(3600)
    return job.attempt


def main() -> None:
    """Work on a queue until the process ends."""
    url, queue = sys.argv[1:]
    worker = Worker(url, queues=[queue], concurrency=4, lease=5, heartbeat=0.3, poll=5, grace=0)

    @worker.handler("poison")
    async def poison(_job: RunningJob) -> None:
        await anyio.sleep(1)  # the others begin
        os.kill(os.getpid(), signal.SIGKILL)

    @worker.handler("innocent")
    async def innocent(job: RunningJob) -> int:
        await anyio.sleep(3)
        return job.attempt

    worker.handler("hang", process=True)(hang)
    worker.run()


if __name__ == "__main__":
    main()
