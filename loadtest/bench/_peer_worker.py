"""A worker of another library whose handlers do nothing: ``_peer_worker.py KIND URL N OUTPUT``.

KIND is ``celery``, ``celery-prefetch``, ``rq``, ``rq-simple`` or ``ojs-sdk``. It runs N jobs one at
a time, acknowledges each after its handler, and writes its time in seconds to the file OUTPUT. It
runs in the environment of the other libraries and imports nothing of this project. The last ack of
Celery and of the SDK is not in the time.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from pathlib import Path
from typing import Any

QUEUE = "bench-peers"
_seen = 0
_began = 0.0


def noop() -> None:
    """Do nothing."""


def count(jobs: int, output: str) -> bool:
    """Count a job; write the time at the last one, and return whether it is the last one."""
    global _seen, _began
    if not _seen:
        _began = time.perf_counter()
    _seen += 1
    if _seen == jobs:
        Path(output).write_text(str(time.perf_counter() - _began))
    return _seen == jobs


def run_celery(url: str, jobs: int, output: str, prefetch: int) -> None:
    """Run a worker with one process. It goes on until it is killed."""
    app: Any = importlib.import_module("celery").Celery("bench", broker=url)
    app.conf.update(
        task_acks_late=True,
        task_ignore_result=True,
        task_default_queue=QUEUE,
        worker_prefetch_multiplier=prefetch,
    )

    @app.task(name="bench.noop")  # type: ignore[untyped-decorator, unused-ignore]
    def task() -> None:
        count(jobs, output)

    for _ in range(jobs):
        task.delay()
    app.worker_main(["worker", "--pool=prefork", "--concurrency=1", "--loglevel=ERROR"])


def run_rq(url: str, jobs: int, output: str, kind: str) -> None:
    """Run a worker until the queue is empty."""
    rq: Any = importlib.import_module("rq")
    connection = importlib.import_module("redis").Redis.from_url(url)
    queue = rq.Queue(QUEUE, connection=connection)
    function = importlib.import_module("_peer_worker").noop
    queue.enqueue_many([rq.Queue.prepare_data(function) for _ in range(jobs)])
    worker = getattr(rq, kind)([queue], connection=connection)
    began = time.perf_counter()
    worker.work(burst=True, logging_level="ERROR")
    Path(output).write_text(str(time.perf_counter() - began))


def run_ojs_sdk(url: str, jobs: int, output: str) -> None:
    """Run a worker of the official SDK as its README shows."""
    worker: Any = importlib.import_module("ojs").Worker(url, queues=[QUEUE], concurrency=1)

    @worker.register("bench.noop")  # type: ignore[untyped-decorator, unused-ignore]
    async def handle(ctx: Any) -> None:
        count(jobs, output)

    asyncio.run(worker.start())


def main() -> None:
    """Run the worker that the arguments describe."""
    kind, url, jobs, output = sys.argv[1:]
    if kind.startswith("celery"):
        run_celery(url, int(jobs), output, 4 if kind.endswith("prefetch") else 1)
    elif kind == "ojs-sdk":
        run_ojs_sdk(url, int(jobs), output)
    else:
        run_rq(url, int(jobs), output, "SimpleWorker" if kind.endswith("simple") else "Worker")


if __name__ == "__main__":
    main()
