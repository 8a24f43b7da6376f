"""A worker of the client library: ``python -m tests.kill.library.worker`` and its arguments.

They are URL NAME LOOP GO FILE. It writes to FILE what its ``Recorder`` sees, and each ``start`` and
finish (``end``, ``failed``, ``cancelled``) of a handler. A job of type ``kill.holds`` ends when the
file GO exists.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import anyio

from ojs_client import BlockingJob, Discard, Retry, RunningJob, Worker
from tests.kill.library.recorder import Recorder

QUEUES: Final = ("chaos-a", "chaos-b", "chaos-c")
LEASE_S: Final = 3.0
GRACE_S: Final = 1.0


def main() -> None:
    url, name, loop, go, file = sys.argv[1:]
    recorder = Recorder(Path(file), LEASE_S)
    worker = Worker(
        url,
        queues=QUEUES,
        worker_id=name,
        concurrency=10,
        lease=LEASE_S,
        heartbeat=0.3,
        poll=1,
        grace=GRACE_S,
        transport=recorder,
    )

    @worker.handler("*")
    async def short(job: RunningJob) -> None:
        with _recorded(recorder, job):
            await anyio.sleep(0.002)  # so short that the worker fetches ahead

    @worker.handler("kill.thread")
    def thread(job: BlockingJob) -> None:
        with _recorded(recorder, job):
            time.sleep(0.01)

    @worker.handler("kill.retried")
    async def retried(job: RunningJob) -> None:
        with _recorded(recorder, job):
            if job.attempt <= job.args[0]:
                raise Retry("not yet")

    @worker.handler("kill.step")
    async def step(job: RunningJob) -> int:
        with _recorded(recorder, job):
            number: int = job.args[2]
            if list(job.parent_results) != list(range(number)):
                raise Discard(f"step {number} has the results {job.parent_results}")
            return number

    @worker.handler("kill.holds")
    async def holds(job: RunningJob) -> None:
        with _recorded(recorder, job):
            while not await anyio.Path(go).exists():  # noqa: ASYNC110 - another process makes it
                await anyio.sleep(0.05)

    worker.run(backend="trio" if loop == "trio" else "asyncio")


@contextmanager
def _recorded(recorder: Recorder, job: RunningJob | BlockingJob) -> Iterator[None]:
    """Write down when a handler starts and how it finishes."""
    run = {"job": job.id, "lease": recorder.lease_of(job.id)}
    recorder.write("start", type=job.type, **run)
    try:
        yield
    except Exception:
        recorder.write("failed", **run)
        raise
    except BaseException:
        recorder.write("cancelled", **run)
        raise
    recorder.write("end", **run)


if __name__ == "__main__":
    main()
