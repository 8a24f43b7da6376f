"""Handlers in child processes, and a loop that stands still."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from ojs_client import Client, JobFailed, RetryPolicy, RunningJob, Worker
from ojs_client.testing import FakeServer
from tests.client_library.conftest import Server
from tests.client_library.faults import Watched
from tests.client_library.process_handlers import do
from tests.client_library.workers import QUEUE, error_of, job_in, new_worker, serving_jobs, until

NEVER = RetryPolicy(max_attempts=1)


def process_worker(client: Client, **options: Any) -> Worker:
    """Return a worker that runs ``do`` in processes."""
    worker = new_worker(client, **options)
    worker.handler("t.do", process=True)(do)
    return worker


async def pid_in(file: Path) -> int:
    """Return the process that has written its id. The caller limits the time."""
    return int(await until(lambda: file.exists() and file.read_text()))


def is_alive(pid: int) -> bool:
    """Return whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_results_and_errors_are_those_of_the_handler(server: Server) -> None:
    async def scenario(client: Client) -> None:
        async def failed(*args: Any) -> Any:
            job = await client.enqueue("t.do", *args, queue=QUEUE, retry=NEVER)
            with pytest.raises(JobFailed):
                await client.result(job.id, wait=60)
            return (await client.get(job.id)).error

        async with serving_jobs(process_worker(client, concurrency=2)):
            job = await client.enqueue("t.do", "pid", queue=QUEUE)
            assert await client.result(job.id, wait=60) != os.getpid()
            error = await failed("raise", "no such host")
            assert (error["type"], error["message"]) == ("ValueError", "no such host")
            assert "process_handlers.py" in error["backtrace"][-1]
            assert (await failed("discard"))["code"] == "wrong"
            assert "rate_limit_until" in await failed("hold_key")
            assert (await failed("exit"))["type"] == "SystemExit"
            assert (await failed("object"))["code"] == "invalid_result"
            died = await failed("die")
            assert (died["code"], died["message"][-1]) == ("process_ended", "3")
        assert multiprocessing.active_children() == []

    await server.run(scenario)


async def test_a_hold_ends_on_the_clock_of_the_server() -> None:
    now = datetime(2020, 1, 1, tzinfo=UTC)
    server = FakeServer(now=now)
    async with server.client() as client, server.running(process_worker(client)):
        limit: Any = {"key": "service", "concurrency": 1}
        first = await client.enqueue("t.do", "pause", 3600, queue=QUEUE, rate_limit=limit)
        await job_in(client, first.id, "retryable")
        second = await client.enqueue("t.do", "pid", queue=QUEUE, rate_limit=limit)
        await server.advance(3000)
        assert (await client.get(second.id)).state == "available"
        await server.advance(1200)
        await job_in(client, second.id, "completed")


async def test_a_handler_that_holds_the_gil_keeps_its_lease(server: Server) -> None:
    async def scenario(client: Client) -> None:
        async with serving_jobs(process_worker(client, lease=2, heartbeat=0.2)):
            job = await client.enqueue("t.do", "hold", 5, queue=QUEUE)
            assert await client.result(job.id, wait=60) == 1

    await server.run(scenario)


async def test_a_child_reports_progress_and_saves_checkpoints(server: Server) -> None:
    soon, wire = RetryPolicy(initial_interval=0.01), Watched()

    async def scenario(client: Client) -> None:
        async with serving_jobs(process_worker(client, transport=wire)):
            job = await client.enqueue("t.do", "report", queue=QUEUE, retry=soon)
            assert await client.result(job.id, wait=60) == {"at": 7}

    await server.run(scenario)
    assert wire.counts["workers/progress"] == 1


async def test_a_child_is_replaced_after_some_jobs(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = process_worker(client, concurrency=1, prefetch=0, jobs_per_process=2)
        pids: list[Any] = []
        async with serving_jobs(worker):
            for _ in range(5):
                job = await client.enqueue("t.do", "pid", queue=QUEUE)
                pids.append(await client.result(job.id, wait=60))
        assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]

    await server.run(scenario)


async def test_a_child_ends_when_its_job_is_cancelled_or_takes_too_long(
    server: Server, tmp_path: Path
) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client, heartbeat=0.2)
        worker.handler("t.do", process=True)(do)
        worker.handler("t.short", process=True, timeout=2)(do)
        async with serving_jobs(worker):
            kept = [str(tmp_path / name) for name in ("cancelled", "late")]
            job = await client.enqueue("t.do", "stay", kept[0], queue=QUEUE)
            pid = await pid_in(tmp_path / "cancelled")
            await client.cancel(job.id)
            await until(lambda: not is_alive(pid))
            late = await client.enqueue("t.short", "stay", kept[1], queue=QUEUE, retry=NEVER)
            assert (await error_of(client, late.id))["code"] == "timeout"

    await server.run(scenario)


async def test_a_drain_ends_the_children_and_requeues_their_jobs(
    server: Server, tmp_path: Path
) -> None:
    async def scenario(client: Client) -> None:
        worker = process_worker(client, grace=0.1)
        async with serving_jobs(worker):
            job = await client.enqueue("t.do", "stay", str(tmp_path / "pid"), queue=QUEUE)
            pid = await pid_in(tmp_path / "pid")
        assert not is_alive(pid)
        assert (await job_in(client, job.id, "available")).error is None
        assert multiprocessing.active_children() == []

    await server.run(scenario)


def test_what_a_process_cannot_run_is_refused() -> None:
    worker = Worker()

    async def handle(job: RunningJob) -> None: ...

    with pytest.raises(ValueError, match="only a sync handler"):
        worker.handler("t.a", process=True)(handle)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="function of a module"):
        worker.handler("t.a", process=True)(lambda job: None)
    with pytest.raises(ValueError, match="jobs_per_process"):
        Worker(jobs_per_process=0)


async def test_a_blocked_loop_is_named(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client, lease=1, heartbeat=0.2)

        @worker.handler("t.blocks")
        async def blocks(job: RunningJob) -> None:
            await anyio.sleep(0.2)
            time.sleep(4)  # noqa: ASYNC251 - this is what the test is about
            await anyio.sleep(2)

        async with serving_jobs(worker):
            await client.enqueue("t.blocks", queue=QUEUE)
            found = re.compile(r"stood still for (\d+)")
            await until(lambda: any(int(late) >= 3 for late in found.findall(caplog.text)))
            assert "process=True" in caplog.text

    with caplog.at_level(logging.WARNING):
        await server.run(scenario)
    assert "without an answered heartbeat" not in caplog.text
