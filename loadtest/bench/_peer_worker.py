"""A worker of another library whose handlers do nothing: ``_peer_worker.py KIND URL N OUTPUT C``.

KIND is ``celery``, ``celery-prefetch``, ``celery-threads``, ``rq``, ``rq-simple`` or ``ojs-sdk``.
It runs N jobs, C at a time, acknowledges each after its handler, and writes its time in seconds to
the file OUTPUT. It runs in the environment of the other libraries and imports nothing of this
project. The last acks of Celery and of the SDK are not in the time.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

QUEUE = "bench-peers"
_seen = multiprocessing.Value("q", 0)  # the processes of Celery share it
_began = multiprocessing.Value("d", 0.0)


def noop() -> None:
    """Do nothing."""


def count(jobs: int, output: str) -> bool:
    """Count a job; write the time at the last one, and return whether it is the last one."""
    with _seen.get_lock():
        if not _seen.value:
            _began.value = time.perf_counter()
        _seen.value += 1
        if _seen.value == jobs:
            Path(output).write_text(str(time.perf_counter() - _began.value))
        return bool(_seen.value == jobs)


def run_celery(url: str, jobs: int, output: str, concurrency: int, kind: str) -> None:
    """Run a worker. It goes on until it is killed."""
    app: Any = importlib.import_module("celery").Celery("bench", broker=url)
    app.conf.update(
        task_acks_late=True,
        task_ignore_result=True,
        task_default_queue=QUEUE,
        worker_prefetch_multiplier=4 if kind.endswith("prefetch") else 1,
    )

    @app.task(name="bench.noop")  # type: ignore[untyped-decorator, unused-ignore]
    def task() -> None:
        count(jobs, output)

    for _ in range(jobs):
        task.delay()
    pool = "threads" if kind.endswith("threads") else "prefork"
    app.worker_main(
        ["worker", f"--pool={pool}", f"--concurrency={concurrency}", "--loglevel=ERROR"]
    )


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


def run_ojs_sdk(url: str, jobs: int, output: str, concurrency: int) -> None:
    """Run a worker of the official SDK as its README shows."""
    sdk: Any = importlib.import_module("ojs")
    worker: Any = sdk.Worker(url, queues=[QUEUE], concurrency=concurrency)

    @worker.register("bench.noop")  # type: ignore[untyped-decorator, unused-ignore]
    async def handle(ctx: Any) -> None:
        count(jobs, output)

    asyncio.run(worker.start())


def main() -> None:
    """Run the worker that the arguments describe."""
    kind, url, jobs, output, concurrency = sys.argv[1:]
    if kind.startswith("celery"):
        run_celery(url, int(jobs), output, int(concurrency), kind)
    elif kind == "ojs-sdk":
        run_ojs_sdk(url, int(jobs), output, int(concurrency))
    else:
        run_rq(url, int(jobs), output, "SimpleWorker" if kind.endswith("simple") else "Worker")


if __name__ == "__main__":
    main()
